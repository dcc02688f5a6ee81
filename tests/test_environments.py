"""The other environments (`make test-oldest`, `make test-colab`) and the other processors (`make test-processors`)."""

import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools import environments
from tools.lessons import ROOT

# What only checks the text, the stored outputs, the site of the newest versions, or a cluster.
NOT_RUN = {
    "distributed",
    "codespell",
    "ruff",
    "nbval",
    "axe-playwright-python",
    "colorspacious",
    "latex2mathml",
    "myst-nb",
    "playwright",
    "sphinx",
    "sphinx-book-theme",
}


def read(name):
    """Return name -> specifier of a requirements file."""
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    found = [Requirement(line) for line in lines if line]
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in found}


def exact(name):
    return {key: specifier.version for key, (specifier,) in ((key, list(value)) for key, value in read(name).items())}


def test_oldest_is_the_lower_bound_of_every_requirement():
    oldest = exact("tests/oldest.txt")
    asked = read("requirements.txt") | {k: v for k, v in read("requirements-dev.txt").items() if k not in NOT_RUN}
    for name, specifier in asked.items():
        (bound,) = [part.version for part in specifier if part.operator in (">=", "==")]
        assert SpecifierSet(f"=={bound}.*").contains(oldest[name]), f"{name}: {oldest[name]} is not the oldest {bound}"


def test_colab_meets_the_requirements():
    asked = read("requirements.txt")
    for name, version in exact("tests/colab.txt").items():
        assert name not in asked or asked[name].contains(version), f"Colab's {name} {version} would be replaced"


def test_python_of_a_version_is_found():
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert environments.find_python(version)
    assert environments.find_python("2.4") is None


def test_replaced_package_is_refused(monkeypatch, tmp_path):
    """What Colab would answer with "restart the runtime" ends the check."""
    states = iter([{"numpy": "2.0.2", "pandas": "2.2.2"}, {"numpy": "2.4.6", "pandas": "2.2.2", "optuna": "5.0.0"}])
    monkeypatch.setattr(environments, "installed", lambda python: next(states))
    monkeypatch.setattr(environments, "pip", lambda *words: "")
    monkeypatch.setattr(environments.subprocess, "run", lambda *words, **more: (tmp_path / "colab").mkdir())
    with pytest.raises(SystemExit, match=r"replaces what Colab brings along: numpy 2\.0\.2 -> 2\.4\.6"):
        environments.fill_environment("colab", sys.executable, tmp_path / "colab")


def test_environment_is_made_once(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(environments, "find_python", lambda version: sys.executable)
    monkeypatch.setattr(environments, "fill_environment", lambda name, base, folder: made.append(folder.mkdir()))
    monkeypatch.setattr(environments.platformdirs, "user_cache_dir", lambda *words, **more: str(tmp_path))
    assert environments.make_environment("oldest") == environments.make_environment("oldest")
    assert len(made) == 1
    monkeypatch.setattr(environments, "find_python", lambda version: None)
    with pytest.raises(SystemExit, match=r"Found no Python 3\.11"):
        environments.make_environment("oldest")


@pytest.mark.slow
def test_processors_tell_red_from_green(tmp_path):
    """On the stored phantom outputs are compared, of solutions as well; on others only a lesson's errors count."""
    code, output = nbformat.v4.new_code_cell, nbformat.v4.new_output
    cells = {
        "01_same": code(
            "import os\nprint(os.environ['OMP_NUM_THREADS'], 0.5)", outputs=[output("stream", text="1 0.7\n")]
        ),
        "02_differs": code("print(5)", outputs=[output("stream", text="6\n")]),
        "03_error": code("import os\nassert os.environ['XRAYS_DATA'] == 'phantom'"),
        "solutions/01_same": code("print(5)", outputs=[output("stream", text="6\n")]),
    }
    for folder in ("tools", "tests", "notebooks/solutions"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("tools/processors.py", "tests/conftest.py", "tests/sanitize.cfg"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name, cell in cells.items():
        cell.execution_count = 1
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebooks" / f"{name}.ipynb")
    command = [sys.executable, "tools/processors.py", "--settings", "one-thread", "--seeds", "0,1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XRAYS", "PYTEST"))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    states = [line.split()[3:5] for line in done.stdout.splitlines() if " min" not in line]
    names = [f"notebooks.{name.replace('/', '.')}" for name in cells]
    wanted = ["green", "RED", "green", "RED", "green", "green", "RED"]
    assert states == [[name, state] for name, state in zip([*names, *names[:3]], wanted, strict=True)], done.stdout
    assert done.returncode == 1

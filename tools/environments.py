"""Run the tests with other versions: `make test-oldest`, `make test-colab`.

An environment lives in the user's cache folder under a name that stands for what is in it: made once, never stale.

- oldest: Python 3.11 and the lower bounds of requirements.txt (tests/oldest.txt); runs the quick part of the tests.
- colab: Python 3.12 and what Colab brings along (tests/colab.txt), then requirements.txt on top, as docs/elsewhere.md
  says. Nothing that was there may be replaced (that would ask for a restart). Runs all lessons with tiny
  parameters; a warning in an output fails.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import platformdirs
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
PYTHON = {"oldest": "3.11", "colab": "3.12"}
PARAMETERS = {"image_size": 33, "epochs": 1, "longest": 2, "seeds": 1, "trials": 2, "optimizers": "sgd", "units": "8"}


def find_python(version: str) -> str | None:
    """Find a Python of this version: this one, one on the PATH, or one of pyenv."""
    candidates = [sys._base_executable, shutil.which(f"python{version}")]
    candidates += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
    for candidate in filter(None, candidates):
        said = subprocess.run(
            [candidate, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True
        )
        if said.stdout.decode().strip() == version:
            return candidate
    return None


def pip(python: Path, *words: str) -> str:
    """Run pip in an environment and return what it said."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *words]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def installed(python: Path) -> dict[str, str]:
    """Return name -> version of what an environment holds."""
    return {entry["name"].lower(): entry["version"] for entry in json.loads(pip(python, "list", "--format=json"))}


def make_environment(name: str) -> Path:
    """Make an environment, or find the one that an earlier call left; return its Python."""
    base = find_python(PYTHON[name])
    if base is None:
        raise SystemExit(f"Found no Python {PYTHON[name]}; install it (for example with pyenv) to run test-{name}.")
    files = [ROOT / "tests" / f"{name}.txt", ROOT / "requirements.txt", Path(__file__)]
    digest = hashlib.sha256(b"".join([base.encode(), *(file.read_bytes() for file in files)])).hexdigest()[:8]
    folder = Path(platformdirs.user_cache_dir("xrayhelpers-environments", appauthor=False)) / f"{name}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # two calls at once: the second finds what the first has made
        if not (folder / "complete").exists():
            print(f"Making the environment {folder.name}: some minutes, once", flush=True)
            fill_environment(name, base, folder)
            (folder / "complete").touch()
    return folder / "bin" / "python"


def fill_environment(name: str, base: str, folder: Path) -> None:
    """Make a new environment from a Python and the list of its name; for Colab, check that nothing is replaced."""
    python = folder / "bin" / "python"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([base, "-m", "venv", str(folder)], check=True)
    pip(python, "install", "--quiet", "--no-compile", "-r", f"tests/{name}.txt")
    if name == "colab":
        before = installed(python)
        have = folder / "have.txt"  # as in docs/elsewhere.md: without it pip takes the newest TensorFlow
        have.write_text(pip(python, "list", "--format=freeze"), "utf-8")
        pip(python, "install", "--quiet", "--no-compile", "-r", "requirements.txt", "-c", str(have))
        after = installed(python)
        replaced = [f"{key} {before[key]} -> {after.get(key)}" for key in before if before[key] != after.get(key)]
        if replaced:
            raise SystemExit(f"requirements.txt replaces what Colab brings along: {', '.join(replaced)}")
    pip(python, "check")


def run_lessons(python: Path) -> None:
    """Run all lessons headless; no cell may leave a warning or anything else on stderr."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("notebooks", "tools", "xrayhelpers"):
            shutil.copytree(ROOT / name, copy / name)
        words = [f"-p{key}={value}" for key, value in PARAMETERS.items()]
        command = [str(python), "tools/run.py", "--data", "phantom:train=40,test=20,val=4", *words]
        subprocess.run(command, cwd=copy, env=environment(copy), check=True)
        for path in sorted(copy.glob("runs/phantom-*/[0-9][0-9]_*.ipynb")):
            for cell in nbformat.read(path, as_version=4).cells:
                for output in cell.get("outputs", []):
                    if output.get("name") == "stderr" or "Warning:" in str(output):
                        raise SystemExit(f"{path.stem} warns:\n{output.get('text', output)}\nafter\n{cell.source}")


def environment(folder: Path) -> dict[str, str]:
    """Return the variables with which the package is read from a folder."""
    return os.environ | {"PYTHONPATH": str(folder), "XRAYS_PROGRESS": "off", "MPLBACKEND": "agg"}


def main(name: str) -> None:
    """Make the environment if need be, say what it holds, and test in it."""
    python = make_environment(name)
    versions = installed(python)
    shown = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "ipywidgets", "kaggle")
    print(f"{name}: Python {PYTHON[name]}, " + ", ".join(f"{key} {versions[key]}" for key in shown), flush=True)
    if name == "colab":
        run_lessons(python)
        print("All lessons ran without a warning; nothing of Colab's was replaced.")
    else:
        # The stored figures were drawn by the newest Matplotlib, which sets text otherwise.
        words = ["-q", "-n", "2", "--dist", "loadfile", "-m", "not slow and not browser", "-k", "not look_as_stored"]
        # What needs the tools of the site, which are not part of this environment.
        words += [f"--ignore=tests/test_{name}.py" for name in ("browser_site", "browser_run", "colours")]
        subprocess.run([str(python), "-m", "pytest", *words, "tests"], cwd=ROOT, env=environment(ROOT), check=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)

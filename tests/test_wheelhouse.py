"""The folder for a USB stick: what is in it, and an installation from it with no network."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from tools import wheelhouse
from tools.lessons import ROOT

pytestmark = pytest.mark.slow
NO_NETWORK = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}


@pytest.fixture(scope="module")
def stick(tmp_path_factory):
    """A folder as `make wheelhouse` makes it, of a small repository that needs two pure wheels."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "xrayhelpers", root / "xrayhelpers", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements-dev.txt", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    (root / "requirements.txt").write_text("platformdirs>=4.3\npsutil>=5.9\ntqdm>=4.67\n")
    (root / "draft.txt").write_text("not committed")
    for words in (["init", "-q"], ["add", ".", ":!draft.txt"], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words], cwd=root, check=True)
    folder = tmp_path_factory.mktemp("stick")
    wheelhouse.collect_wheels(folder / "wheels", root)
    wheelhouse.export_repository(folder / "xray-lessons", root)
    (folder / "cache" / "vgg16").mkdir(parents=True)
    (folder / "cache" / "vgg16" / "weights.npz").write_bytes(b"stands for 56 MB")
    wheelhouse.finish(folder)
    return folder


def install(stick, target, home):
    environment = os.environ | NO_NETWORK | {"HOME": str(home), "XRAYS_CACHE": str(home / "cache")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, str(stick / "install.py"), str(target)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_what_is_on_the_stick(stick):
    names = sorted(path.name for path in stick.iterdir())
    assert names == ["README.txt", "SHA256SUMS", "cache", "install.py", "made-for.txt", "wheels", "xray-lessons"]
    wheels = sorted(path.name.split("-")[0] for path in (stick / "wheels").iterdir())
    assert {"platformdirs", "psutil", "setuptools", "tqdm"} <= set(wheels)
    assert all(path.suffix == ".whl" for path in (stick / "wheels").iterdir()), "nothing is left to build"
    assert (stick / "xray-lessons" / "xrayhelpers" / "__init__.py").is_file()
    assert not (stick / "xray-lessons" / "draft.txt").exists()
    listed = dict(reversed(line.split("  ")) for line in (stick / "SHA256SUMS").read_text().splitlines())
    files = {path.relative_to(stick).as_posix() for path in stick.rglob("*") if path.is_file()} - {"SHA256SUMS"}
    assert set(listed) == files
    assert listed["README.txt"] == hashlib.sha256((stick / "README.txt").read_bytes()).hexdigest()


def test_installation_without_network(stick, tmp_path):
    done = install(stick, tmp_path / "lessons", tmp_path)
    assert done.returncode == 0, done.stderr
    python = tmp_path / "lessons" / ".venv" / "bin" / "python"
    code = "import json, tqdm, xrayhelpers, xrayhelpers._machine; "
    code += "print(json.dumps([tqdm.__version__, xrayhelpers.__file__]))"
    said = subprocess.run([python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    version, place = json.loads(said.stdout)
    assert f"tqdm=={version}\n" in (ROOT / "constraints.txt").read_text()
    assert place == str(tmp_path / "lessons" / "xrayhelpers" / "__init__.py")
    assert (tmp_path / "cache" / "vgg16" / "weights.npz").read_bytes() == b"stands for 56 MB"
    assert os.path.join("tools", "lab.py") in done.stdout
    again = install(stick, tmp_path / "lessons", tmp_path)
    assert again.returncode == 1
    assert "is not empty" in again.stderr


def test_wrong_python_or_bad_stick_is_said_first(stick, tmp_path):
    for n, (name, content, words) in enumerate(
        [
            ("made-for.txt", "Python 2.7, plan9-mips", "are for Python 2.7, plan9-mips. Run install.py with that"),
            ("xray-lessons/LICENSE", "damaged", "xray-lessons/LICENSE was damaged on its way"),
            ("xray-lessons/LICENSE", None, "xray-lessons/LICENSE is missing"),
        ]
    ):
        copy = shutil.copytree(stick, tmp_path / f"stick-{n}")
        if content is None:
            (copy / name).unlink()
        else:
            (copy / name).write_text(content)
        done = install(copy, tmp_path / "lessons", tmp_path)
        assert done.returncode == 1
        assert words in done.stderr
        assert not (tmp_path / "lessons").exists()


def test_cache_of_the_stick_is_found_by_the_package(tmp_path):
    """Without network, and without Keras's own copy, the weights and the phantom come from that folder."""
    wheelhouse.fill_cache(tmp_path / "cache")
    code = "from xrayhelpers import _vgg16, data; print(_vgg16.vgg16_weights().origin)\n"
    code += "print(data.open_data('phantom').folder)"
    environment = os.environ | NO_NETWORK | {"XRAYS_CACHE": str(tmp_path / "cache"), "KERAS_HOME": str(tmp_path)}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.jpeg")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the cache of xrayhelpers" in done.stdout
    assert str(tmp_path / "cache") in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.jpeg")} == before

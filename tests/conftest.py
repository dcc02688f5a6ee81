"""What all tests share: a quiet environment, a cache of their own, a small phantom data set.

The lessons, run by nbval and by test_lessons.py, are the exception: they use the real cache folder, so that the
phantom, the decoded pixels and the VGG16 weights are made once on a machine and not once a test.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

os.environ["XRAYS_PROGRESS"] = "off"
os.environ["XRAYS_DATA"] = "phantom"  # what `data = "auto"` means in the lessons that nbval runs
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["MPLBACKEND"] = "Agg"
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
os.environ["JUPYTER_PATH"] = str(Path(sys.prefix, "share", "jupyter"))  # this environment's kernel, no other

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    """Give the lessons that nbval runs one new run folder; xdist's workers inherit it."""
    if not hasattr(config, "workerinput"):
        os.environ["XRAYS_RUN"] = config.stash[RUN] = tempfile.mkdtemp(prefix="xrays-run-")


def pytest_unconfigure(config):
    if RUN in config.stash:
        shutil.rmtree(config.stash[RUN], ignore_errors=True)


RUN = pytest.StashKey[str]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Say what xdist keeps together: a test file, and all lessons in their order, since 07 reads what 02 to 06 left.

    The runs of test_lessons.py are long and independent, so each is a group of its own.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        group = item.path.stem
        if item.path.suffix == ".ipynb":
            group = item.path.parent.name if item.path.parent.name == "notebooks" else f"solution-{group}"
        elif group == "test_lessons":
            group = item.name
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def own_settings(monkeypatch):
    """No test sees the data or the run of the machine it happens to run on."""
    monkeypatch.delenv("XRAYS_DATA", raising=False)
    monkeypatch.delenv("XRAYS_RUN", raising=False)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, in force for this test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XRAYS_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory):
    """A small phantom folder (train 60, test 30, val 8): read it, do not change it."""
    from xrayhelpers.phantom import phantom_folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XRAYS_CACHE", str(tmp_path_factory.mktemp("phantom-cache")))
        return Path(phantom_folder(train=60, test=30, val=8, progress=False))

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
# What `data = "auto"` means in the lessons that nbval runs; tools/processors.py draws other phantoms.
os.environ["XRAYS_DATA"] = os.environ.get("XRAYS_TEST_DATA", "phantom")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["MPLBACKEND"] = "Agg"
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
os.environ["JUPYTER_PATH"] = str(Path(sys.prefix, "share", "jupyter"))  # this environment's kernel, no other

RUN = pytest.StashKey[str]()


def pytest_configure(config):
    """Give the lessons that nbval runs one new run folder; xdist's workers inherit it."""
    if not hasattr(config, "workerinput"):
        os.environ["XRAYS_RUN"] = config.stash[RUN] = tempfile.mkdtemp(prefix="xrays-run-")


def pytest_unconfigure(config):
    if RUN in config.stash:
        shutil.rmtree(config.stash[RUN], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Say what stays together on one of xdist's workers, in order: a test file, and all lessons.

    The lessons that nbval runs share a run folder, and 07 reads what 02 to 06 left in it. The tests that run one
    lesson each are long and independent, so each goes wherever there is room. (xdist's own `loadgroup` does
    nothing under pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByLesson(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            if file.startswith("notebooks/") and "solutions" not in file:
                return "lessons"
            return nodeid if file.endswith(("test_lessons.py", "test_lesson_exercises.py")) else file

    return ByLesson(config, log)


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
def nothing_planted():
    """Keywords of a phantom in which nothing distinguishes the classes, not even disease: an audit must be silent."""
    return {"quality_shortcut": False, "batch": 0.0, "shift": 0.0, "duplicates": 0, "contrast": 0.0}


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory):
    """A small phantom folder (train 60, test 30, val 8): read it, do not change it."""
    from xrayhelpers._phantom import phantom_folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XRAYS_CACHE", str(tmp_path_factory.mktemp("phantom-cache")))
        return Path(phantom_folder(train=60, test=30, val=8))


# ------------------------------------------------------------------------------------------------ browser tests
SCREENSHOTS = Path(__file__).resolve().parents[1] / "build" / "screenshots"
NO_CHROMIUM = "NOTHING WAS TESTED IN A BROWSER: there is no Chromium. Type `sudo apt-get install chromium`."


@pytest.fixture(scope="module")  # Playwright's event loop must have ended before another file runs a notebook
def browser():
    """Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    program = next(found, None) or pytest.skip(NO_CHROMIUM)
    with sync_playwright() as playwright:
        how = {"args": ["--disable-dev-shm-usage"], "ignore_default_args": ["--hide-scrollbars"]}
        browser = playwright.chromium.launch(executable_path=program, **how)
        yield browser
        browser.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Keep a picture of the page on which a browser test failed."""
    report = yield
    if report.when == "call" and report.failed and "page" in item.funcargs:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        item.funcargs["page"].screenshot(path=SCREENSHOTS / f"{item.name}.png")
    return report


@pytest.fixture
def run_cell(monkeypatch):
    """Run one cell of code in a real kernel, as Jupyter does, and return the notebook with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    def run(code, timeout):
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        NotebookClient(notebook, timeout=timeout).execute()
        return notebook

    return run

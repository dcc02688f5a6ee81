"""Lessons in JupyterLab, as a student opens them.

All are looked at as they are stored. Two are run to their end, with an empty cache and progress shown, and played with
by keyboard: the first lesson, and the first one with a widget. nbval runs all of them; a browser adds what it shows.
`make test-browser` sets XRAYS_TEST_LESSONS=all, and all of them are run here as well.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from tools.lessons import ROOT, choose_parameters, find_lessons, kernel_environment

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TINY = {"data": "phantom:train=40,test=20,val=4", "epochs": 1, "image_size": 33, "seeds": 1}
ALL = find_lessons(ROOT)
WITH_WIDGET = [lesson for lesson in ALL if any("xrayhelpers.widgets" in source for source in lesson.cells)]
CHOSEN = ALL if os.environ.get("XRAYS_TEST_LESSONS") == "all" else (*ALL[:1], *WITH_WIDGET[:1])
LESSONS = list({lesson.name: lesson for lesson in CHOSEN}.values())
MINUTE = 60_000  # milliseconds; a machine with other work to do needs its time
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is on the page, not only those in view
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}

# `connected` and `idle`: a kernel that is neither yet would lose what Run All sends.
READY = """() => {
  const panel = window.jupyterapp?.shell.currentWidget, kernel = panel?.sessionContext?.session?.kernel;
  return panel?.context?.isReady && kernel?.connectionStatus === "connected" && kernel.status === "idle";
}"""
CELLS = """[...jupyterapp.shell.currentWidget.content.model.cells]
  .filter(cell => cell.type === "code" && cell.sharedModel.getSource().trim())"""
ERRORS = f"""() => {CELLS}.flatMap(cell => cell.sharedModel.getOutputs().filter(out => out.output_type === "error")
  .map(out => cell.sharedModel.getSource().split("\\n")[0] + ": " + out.ename + ": " + out.evalue))"""
DONE = f"""() => ({ERRORS})().length > 0 || {CELLS}.every(cell => cell.executionCount !== null)
  && jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === "idle" """
# What a widget shows, without its own handle and number: texts and pictures.
SHOWN = (
    """cell => [...cell.querySelectorAll(".widget-html, .jupyter-widgets-output-area")].map(e => e.innerHTML).join()"""
)

# Pictures without a description, and streams that look like an error: each once more in the words of its cell.
PICTURES = """[...document.querySelectorAll(".jp-OutputArea img")]"""
BARE = f"""() => {PICTURES}.filter(image => !image.alt.trim() || !image.complete || !image.naturalWidth)
  .map(image => image.closest(".jp-Cell").innerText.slice(0, 200))"""
STRIPS = """() => [...document.querySelectorAll('[data-mime-type="application/vnd.jupyter.stderr"]')]
  .map(strip => strip.closest(".jp-Cell").innerText.slice(0, 200))"""

met = {"slider": [], "quiz": []}


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """A JupyterLab server over copies of the lessons with tiny parameters, without outputs; yields its address."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    (folder / "stored").mkdir()
    for lesson in ALL:
        shutil.copy(lesson.path, folder / "stored")
    for lesson in LESSONS:
        given = {name: value for name, value in TINY.items() if name in lesson.parameters}
        notebook = load_notebook_node(str(lesson.path))
        values = choose_parameters([lesson], given)[lesson.name]
        notebook = parameterize_notebook(notebook, values, kernel_name="python3", language="python")
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, folder / "notebooks" / lesson.path.name)
    for name, values in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    own = {name: str(folder / name) for name in own} | {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    own |= {"XRAYS_CACHE": str(folder / "cache"), "XRAYS_PROGRESS": "on"}  # each step takes its time, and shows it
    options = [
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=tiny",
        "--allow-root",
    ]
    options += ["--no-browser", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}"]
    log = (folder / "server.log").open("w")
    with kernel_environment(folder / "run", **own):
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=log)
    try:
        wait_for_server(server, f"http://127.0.0.1:{port}/api", Path(log.name))
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?reset&token=tiny"
    finally:
        server.terminate()
        server.wait(60)
        log.close()


def wait_for_server(server, address, log):
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"JupyterLab did not answer: {log.read_text()}")


@pytest.fixture
def page(browser, lab):
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(2 * MINUTE)
    yield page
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")  # its memory is needed
    context.close()


def test_no_stored_picture_is_without_a_description(lab, page):
    """Nothing is run, and JupyterLab does not trust what it opens: it shows what its sanitizer leaves."""
    pictures, bare = {}, {}
    for lesson in ALL:
        page.goto(lab.format(f"stored/{lesson.path.name}"))
        page.wait_for_function(READY, timeout=3 * MINUTE)
        page.wait_for_function(f"{PICTURES}.length && {PICTURES}.every(image => image.complete)")
        pictures[lesson.name] = page.evaluate(f"{PICTURES}.length")
        bare |= {lesson.name: page.evaluate(BARE)} if page.evaluate(BARE) else {}
        page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    assert bare == {}
    stored = {lesson.name: lesson.path.read_text().count('"image/') // 2 for lesson in ALL}  # data and metadata
    assert pictures == stored


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_lesson_runs_in_jupyterlab(lesson, lab, page):
    page.goto(lab.format(f"notebooks/{lesson.path.name}"))
    page.wait_for_function(READY, timeout=3 * MINUTE)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(DONE, timeout=5 * MINUTE)
    assert page.evaluate(ERRORS) == []
    assert page.evaluate(f"{CELLS}.length") == len([source for source in sources(lesson) if source.strip()]) + 1
    assert page.evaluate(f"{PICTURES}.length") > 0
    assert page.evaluate(BARE) == []
    assert page.evaluate(STRIPS) == [], "progress, or a warning, that looks like an error"
    if page.locator(".jp-OutputArea [role=slider]").count():
        move_slider(page)
        met["slider"].append(lesson.name)
    if page.locator(".jp-Notebook details").count():
        open_quiz(page)
        met["quiz"].append(lesson.name)


def sources(lesson):
    cells = nbformat.read(lesson.path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def move_slider(page):
    """An arrow key moves the lesson's first slider, and what the cell shows follows."""
    slider = page.locator(".jp-OutputArea [role=slider]").first
    cell = page.locator(".jp-CodeCell", has=slider).first
    slider.scroll_into_view_if_needed()
    value, shown = slider.get_attribute("aria-valuenow"), cell.evaluate(SHOWN)
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(f"([cell, shown]) => ({SHOWN})(cell) !== shown", arg=[cell.element_handle(), shown])
    assert slider.get_attribute("aria-valuenow") != value


def open_quiz(page):
    """Enter on an answer unfolds its explanation."""
    answer = page.locator(".jp-Notebook details:not([open])").first.element_handle()
    answer.scroll_into_view_if_needed()
    folded = answer.bounding_box()["height"]
    answer.query_selector("summary").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("answer => answer.open", arg=answer)
    assert answer.bounding_box()["height"] > folded + 10


def test_a_slider_and_a_quiz_were_met():
    """Runs after the lessons: without one of each, the tests above have tried nothing."""
    assert met["slider"], "no lesson shows a slider"
    assert met["quiz"], "no lesson has a quiz with answers to unfold"

"""The runner, driven on small notebooks made here."""

import functools
import json
import os
import platform
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import pytest
from click.testing import CliRunner

from tools import lessons, runner, waiting
from tools.pages import Pages
from tools.run import main
from xrayhelpers import results

PARAMETERS = 'data = "auto"\nepochs = 5\nrate = 0.5\nflip = True'
RESULT = """import json, os, pathlib
folder = pathlib.Path(os.environ["XRAYS_RUN"])
with open(folder / "log.txt", "a") as log:
    log.write(f"{NAME} {data} {epochs}\\n")"""


def write_lesson(root, name, *cells, parameters=PARAMETERS, text="", **xrays):
    """Write notebooks/<name>.ipynb; each lesson adds a line to log.txt in the run's folder."""
    folder = root / "notebooks"
    folder.mkdir(exist_ok=True)
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    rest = [nbformat.v4.new_code_cell(source) for source in (f"NAME = {name!r}\n{RESULT}", *cells)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {name}\n\n{text}"), first, *rest])
    notebook.metadata["xrays"] = xrays
    nbformat.write(notebook, folder / f"{name}.ipynb")


def log_of(finished):
    return (finished.folder / "log.txt").read_text().splitlines()


def states(finished):
    return {name: outcome.state for name, outcome in finished.outcomes.items()}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    return folder


def test_run_leaves_notebooks_pages_and_index(root, capsys):
    write_lesson(root, "01_first", 'print("x" * 3)', text="[next](02_second.ipynb)")
    write_lesson(root, "02_second", "assert pathlib.Path.cwd().joinpath('notebooks').is_dir()")
    finished = runner.run_lessons(data=None, root=root)
    assert states(finished) == {"01_first": "done", "02_second": "done"}
    assert finished.complete
    assert log_of(finished) == ["01_first auto 5", "02_second auto 5"]
    page = (finished.folder / "01_first.html").read_text()
    assert "xxx" in page
    assert 'href="02_second.html"' in page
    loads = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?!data:)[^"#][^"]*"|import .* from .http', page)
    assert loads == []
    index = (finished.folder / "index.html").read_text("utf-8")
    assert 'href="02_second.html"' in index
    assert "No lesson has left a result yet" in index
    assert os.readlink(root / "runs" / "latest") == finished.folder.name
    assert json.loads((finished.folder / "status.json").read_text())["lessons"]["01_first"]["state"] == "done"
    assert "01_first: no measured time" in capsys.readouterr().out


def test_every_link_leads_somewhere_from_where_the_page_is(root):
    """To the next lesson, run or not, the solution, the glossary and what it links to, a picture, and a card."""
    for name in ("glossary", "more"):
        path = root / "docs" / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            "# A word\n\n[more](more.md#a-word), [a lesson](../notebooks/02_second.ipynb), ![curve](curve.png)\n"
        )
    (root / "docs" / "curve.png").touch()
    write_lesson(root, "02_second", text="[before](01_first.ipynb)")
    (root / "notebooks" / "solutions").mkdir()
    shutil.copy(root / "notebooks" / "02_second.ipynb", root / "notebooks" / "solutions" / "01_first.ipynb")
    links = "[next](02_second.ipynb) [words](../docs/glossary.md) [solution](solutions/01_first.ipynb)"
    card = "(folder / 'cards').mkdir()\n(folder / 'cards' / 'data.md').write_text('# Data card\\n\\n<script>')"
    write_lesson(root, "01_first", card, text=links)
    finished = runner.run_lessons(["1"], data=None, root=root)
    pages = {page.relative_to(finished.folder).as_posix(): page for page in finished.folder.rglob("*.html")}
    ours = {"index", "01_first", "02_second", "docs/glossary", "docs/more", "solutions/01_first", "cards/data"}
    assert ours == {name.removesuffix(".html") for name in pages}
    count = 0
    for name, page in pages.items():
        for address in re.findall(r'(?:href|src)="(?!data:|http)([^"#]+)', page.read_text("utf-8")):
            count += 1
            assert (page.parent / address).is_file(), f"{name} links to {address}"
    assert count > 15
    assert "<script>" not in pages["cards/data.html"].read_text()
    assert 'id="a-word"' in pages["docs/more.html"].read_text(), "a heading has the name that GitHub gives it"


def test_index_says_what_ran_where_and_how_long(root):
    write_lesson(root, "01_first")
    write_lesson(root, "02_second")
    entries = '[[lesson]]\nname = "0{}"\ntitle = "Title <{}>"\nshort = "Why?"\nminutes = 2.0\n'
    (root / "docs").mkdir()
    (root / "docs" / "lessons.toml").write_text(entries.format("1_first", 1) + entries.format("2_second", 2))
    finished = runner.run_lessons(["1"], data="phantom:train=4,test=4,val=2", root=root)
    index = (finished.folder / "index.html").read_text("utf-8")
    assert "1. Title &lt;1&gt;" in index
    for words in ("Why?", "not run", time.strftime("%Y-%m-"), " cores", "Python 3.", "tensorflow 2", "10 images"):
        assert words in index
    assert not re.search(rf"\b{re.escape(platform.node())}\b", index.partition("<main>")[2])
    assert 'class="state done">done' in index


def test_peak_memory_of_a_lesson_is_noted(root, capsys):
    write_lesson(root, "01_small", "import time, numpy\ntime.sleep(2.5)")
    write_lesson(root, "02_large", "import time, numpy\nlarge = numpy.ones(75_000_000)\ntime.sleep(2.5)\ndel large")
    finished = runner.run_lessons(root=root, data=None)
    small, large = (finished.outcomes[name].memory for name in ("01_small", "02_large"))
    assert 0 < small < 0.4
    assert large - small == pytest.approx(0.6, abs=0.1)
    shown = f"{large:.1f} GB"
    assert shown in capsys.readouterr().out
    assert shown in (finished.folder / "index.html").read_text("utf-8")
    assert shown in runner.show_status(root=root)
    assert runner.run_lessons(root=root, data=None).outcomes["02_large"].memory == large  # kept


def test_start_of_a_lesson_says_how_long_it_takes(root, capsys):
    entry = {"minutes": 2.0, "real_minutes": 8.0}
    assert lessons.expected_minutes(entry, lessons.PHANTOM_IMAGES, True) == 2
    assert lessons.expected_minutes(entry, lessons.REAL_IMAGES, False) == 8
    assert 4.9 < lessons.expected_minutes(entry, 3060, False) < 5.1
    assert lessons.expected_minutes({"minutes": 2.0}, 2 * lessons.PHANTOM_IMAGES, True) == 4
    assert lessons.expected_minutes({"minutes": 2.0}, 5544, False) is None
    write_lesson(root, "01_first")
    write_lesson(root, "02_second", parameters="epochs = 7")
    (root / "docs").mkdir()
    measured = '[[lesson]]\nname = "{}"\ntitle = "A"\nshort = "B"\nminutes = 5760\n'
    (root / "docs" / "lessons.toml").write_text(measured.format("01_first") + measured.format("02_second"))
    runner.run_lessons(data="phantom:train=4,test=4,val=2", parameters={"epochs": "7"}, root=root)
    said = capsys.readouterr().out
    assert "01_first: about 100 minutes on 10 images with its default parameters (started" in said
    assert "02_second: about 100 minutes on 10 images (started" in said


TRAIN = """import hashlib
keras.utils.set_random_seed(0)
x = np.random.rand(40, 8)
slow = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: time.sleep(0.7))
network = keras.Sequential([keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.Dense(1)], name="tiny")
network.compile("adam", "mse")
past = network.fit(x, x.sum(axis=1), epochs=5, verbose=0, callbacks=slow)
print(hashlib.sha256(b"".join(w.tobytes() for w in network.get_weights())).hexdigest(), past.history)"""


@pytest.mark.slow
def test_training_is_shown_and_comes_out_the_same(root, monkeypatch, capsys, run_cell):
    """To the last bit what a kernel computes that nobody watches; also where the disk refuses to note anything."""
    load = "import time\nimport keras\nimport numpy as np"
    write_lesson(root, "01_first", load, TRAIN)
    write_lesson(root, "02_second", "(folder / '.training.json').mkdir()", load, TRAIN)
    monkeypatch.setenv("XRAYS_PROGRESS", "on")
    monkeypatch.setattr(waiting, "MINUTE", 1.0)
    finished = runner.run_lessons(data=None, root=root)
    assert finished.complete
    outputs = [nbformat.read(finished.folder / f"{name}.ipynb", 4).cells[-1].outputs for name in finished.outcomes]
    (alone,) = run_cell(f"{load}\n{TRAIN}", 120).cells[0].outputs
    assert [output.text for (output,) in outputs] == [alone.text] * 2
    said = capsys.readouterr()
    assert "\r" not in said.out + said.err
    assert re.search(r"01_first 0:\d\d  code cell 4 of 4; tiny: epoch [2345] of 5, about \d+ seconds? left\n", said.out)
    assert re.search(r"02_second 0:\d\d  code cell 5 of 5\n", said.out)


def test_terminal_shows_one_line_that_goes_away(root, monkeypatch):
    write_lesson(root, "01_first")
    (lesson,) = lessons.find_lessons(root)
    ours, theirs = os.openpty()
    monkeypatch.setenv("XRAYS_PROGRESS", "on")
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with waiting.Watch(lesson, root, print) as watch:
            watch.on_cell(nbformat.v4.new_code_cell("one = 1\ntwo = 2"), cell_index=1)
            shown = os.read(ours, 1000).decode()
            assert watch.place == "code cell 1 of 2 `one = 1`"
        rest = os.read(ours, 1000).decode()
    assert re.match(r"\r01_first 0:0\d  code cell 1 of 2 +$", shown)
    assert re.search(r"\r +\r$", rest)
    assert "\n" not in shown + rest


def test_kernel_is_this_environments(root, monkeypatch, tmp_path):
    """A kernel called python3 that the user registered elsewhere is not taken."""
    kernel = tmp_path / "share" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["false"], "display_name": "no", "language": "python"}
    kernel.joinpath("kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    write_lesson(root, "01_first", f"import sys; assert sys.prefix == {sys.prefix!r}, sys.prefix")
    assert runner.run_lessons(data=None, root=root).complete
    assert os.environ["JUPYTER_PATH"] == str(tmp_path / "share")


def test_same_command_keeps_what_is_complete(root):
    write_lesson(root, "01_first")
    write_lesson(root, "02_second")
    first = runner.run_lessons(only=["1"], data=None, root=root)
    again = runner.run_lessons(data=None, root=root)
    assert again.folder == first.folder
    assert states(again) == {"01_first": "kept", "02_second": "done"}
    assert log_of(again) == ["01_first auto 5", "02_second auto 5"]
    assert states(runner.run_lessons(data=None, force=True, root=root)) == {"01_first": "done", "02_second": "done"}


def test_changed_lesson_and_those_that_read_it_run_again(root):
    write_lesson(root, "01_first")
    write_lesson(root, "02_second")
    write_lesson(root, "07_reader", reads=["01_first"])
    runner.run_lessons(data=None, root=root)
    write_lesson(root, "01_first", "changed = 1")
    again = runner.run_lessons(data=None, root=root)
    assert states(again) == {"01_first": "done", "02_second": "kept", "07_reader": "done"}


def test_other_parameters_are_another_run(root):
    write_lesson(root, "01_first")
    write_lesson(root, "02_second", parameters='data = "auto"\nepochs = 7\nseed = 3')
    default = runner.run_lessons(data=None, root=root)
    other = runner.run_lessons(data=None, parameters={"seed": "4"}, root=root)
    assert other.folder != default.folder
    assert log_of(other) == ["01_first auto 5", "02_second auto 7"]
    same = runner.run_lessons(data=None, parameters={"seed": "3"}, root=root)
    assert same.folder == default.folder, "a default typed out is the same run"


def test_failure_is_named_and_others_still_run(root, capsys):
    write_lesson(root, "01_first", "ok = 1", 'raise ValueError("the disk is green")')
    write_lesson(root, "02_second")
    write_lesson(root, "03_needs", needs=["01_first"])
    write_lesson(root, "04_needs_too", needs=["03_needs"])
    finished = runner.run_lessons(data=None, root=root)
    assert states(finished) == {
        "01_first": "failed",
        "02_second": "done",
        "03_needs": "skipped",
        "04_needs_too": "skipped",
    }
    assert not finished.complete
    line = next(line for line in capsys.readouterr().out.splitlines() if re.match("01_first +failed", line))
    assert "code cell 4" in line
    assert 'raise ValueError("the disk is green")' in line
    assert "ValueError: the disk is green" in line
    assert "the disk is green" in (finished.folder / "01_first.html").read_text()
    assert states(runner.run_lessons(data=None, root=root))["01_first"] == "failed", "a failed lesson is tried again"


def test_killed_kernel_is_a_failure(root):
    """papermill leaves a file that looks complete; only its return counts."""
    write_lesson(root, "01_first", "os.kill(os.getpid(), 9)")
    finished = runner.run_lessons(data=None, root=root)
    assert states(finished) == {"01_first": "failed"}
    place = "code cell 3 of 3 `os.kill(os.getpid(), 9)`"
    assert (
        f"{place}: DeadKernelError: it was killed from outside, or the memory was full"
        in finished.outcomes["01_first"].message
    )
    assert states(runner.run_lessons(data=None, root=root)) == {"01_first": "failed"}


@pytest.mark.parametrize(("unlucky", "state"), [(2, "done"), (3, "failed")])
def test_kernel_that_does_not_come_up_is_started_again(root, monkeypatch, unlucky, state):
    """Kernels of two processes that start at the same moment may choose the same ports."""
    starts, start = [], papermill.execute_notebook

    def maybe(*args, **how):
        starts.append(args)
        if len(starts) <= unlucky:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return start(*args, **how)

    monkeypatch.setattr(papermill, "execute_notebook", maybe)
    write_lesson(root, "01_first")
    assert states(runner.run_lessons(data=None, root=root)) == {"01_first": state}
    assert len(starts) == 3


@pytest.mark.slow
@pytest.mark.parametrize("way", ["SIGKILL", "SIGINT", "SIGTERM"])
def test_stopped_run_says_so_and_goes_on_where_it_was(root, way):
    """After Ctrl-C and a polite kill the run itself writes down that it stopped, else the next one to look."""
    write_lesson(root, "01_first")
    wait = "import time\n(folder / 'there').touch()\nif not (folder / 'go').exists():\n    time.sleep(600)"
    write_lesson(root, "02_second", wait)
    shutil.copytree(lessons.ROOT / "tools", root / "tools")  # a repository of its own
    typed = [sys.executable, "tools/run.py", "--data", "phantom:train=4,test=4,val=2", "--classes", "A=0, B=1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([*typed, "--force"], cwd=root, **pipes)
    until = time.monotonic() + 120
    try:
        while time.monotonic() < until and not [*root.glob("runs/phantom-*/there")]:
            time.sleep(0.2)
        (folder,) = root.glob("runs/phantom-*")
        assert runner.show_status(root=root).startswith(f"runs/{folder.name}: running, written 20")
        process.send_signal(getattr(signal, way))
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == (-9 if way == "SIGKILL" else 1)
    place = "code cell 3 of 3 `import time`"
    if way == "SIGKILL":
        assert json.loads((folder / "status.json").read_text())["state"] == "running"
        assert "stopped" in runner.show_status(root=root).partition("\n")[0]
    else:
        assert output.endswith(f"To continue, type:\n  {shlex.join(typed)}\n")
        assert f"Error: Stopped in 02_second, {place}. Complete lessons are kept" in output
        assert "Traceback" not in output, output
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == status["lessons"]["02_second"]["state"] == "stopped"
    assert 'class="state stopped">stopped' in (folder / "index.html").read_text()
    (folder / "go").touch()
    again = subprocess.run(typed, cwd=root, **pipes)
    assert again.returncode == 0, again.stdout
    status = json.loads((folder / "status.json").read_text())
    assert {name: outcome["state"] for name, outcome in status["lessons"].items()} == {
        "01_first": "kept",
        "02_second": "done",
    }


def test_two_runs_of_one_name_do_not_mix(root, cache):
    write_lesson(root, "01_first")
    folder = root / "runs" / "mine"
    folder.mkdir(parents=True)
    with runner.FileLock(folder / ".lock"), pytest.raises(ValueError, match="Another run is writing to runs/mine"):
        runner.run_lessons(data=None, name="mine", root=root)
    first = runner.run_lessons(data="phantom:train=4,test=4,val=2", name="mine", root=root)
    with pytest.raises(ValueError, match=r"runs/mine holds results of other data\. Type `--name mine-2`"):
        runner.run_lessons(data="phantom:train=6,test=4,val=2", name="mine", root=root)
    assert len(log_of(first)) == 1
    assert states(runner.run_lessons(data="phantom:train=4,test=4,val=2", name="mine", root=root)) == {
        "01_first": "kept"
    }


def test_what_a_run_finds_in_its_folder_is_not_trusted(tmp_path, capsys):
    path = tmp_path / "status.json"
    assert runner.read_status(path) == ({}, {})
    assert capsys.readouterr().out == ""
    whole = {"state": "done", "seconds": 1, "digest": "abc", "message": ""}
    path.write_text(json.dumps({"identity": "i", "lessons": {"01_first": whole, "<script>": whole, "../evil": whole}}))
    assert runner.read_status(path) == ({"identity": "i"}, {"01_first": runner.Outcome("done", 1.0, "abc")})
    for content in ("", "{", "[]", "null", '{"lessons": 3}', '{"lessons": {"01_first": {}}}', "\udcff", "[" * 100_000):
        path.write_bytes(content.encode(errors="surrogateescape"))
        assert runner.read_status(path) == ({}, {})
        assert "status.json is damaged" in capsys.readouterr().out


def test_what_data_wrote_into_an_output_is_shown_on_the_page_and_never_run(root):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>[x](javascript:alert(3))"
    show = f"from IPython.display import HTML, Javascript, Markdown, display\nevil = {evil!r}"
    rich = "display(HTML(f'<p onclick=alert(4)>{evil}</p>'), Javascript('al' + 'ert(5)'), Markdown(evil))"
    write_lesson(root, "01_first", show, rich, "raise ValueError(evil)")
    finished = runner.run_lessons(data=None, root=root)
    (finished.folder / "results").mkdir()
    (finished.folder / "results" / "cnn-report.json").write_text('{"model": "<script>"}')
    with pytest.warns(UserWarning, match="no result"):
        Pages(finished.folder, root).write_index({"state": "done", "data": evil}, finished.outcomes)
    for page in ("01_first.html", "index.html"):
        text = (finished.folder / page).read_text("utf-8")
        assert "&lt;script&gt;alert(1)" in text
        live = r"<script>\s*alert|<[^>]*\son\w+=[\"']?alert|href=[\"']?javascript|alert\(5\)"
        assert re.findall(live, text) == [], page
    noted = nbformat.read(finished.folder / "01_first.ipynb", 4).metadata["papermill"]
    assert (noted["input_path"], noted["output_path"]) == ("01_first.ipynb", "01_first.ipynb")


def test_a_full_disk_stops_one_lesson_and_says_what_to_do(root, monkeypatch):
    """A lesson's notebook does not fit, nor does the status once: the other lessons run all the same."""
    write_lesson(root, "01_first", "print('x' * 3_000_000)")
    write_lesson(root, "02_second")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))
    try:
        finished = runner.run_lessons(data=None, root=root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert states(finished) == {"01_first": "failed", "02_second": "done"}
    said = finished.outcomes["01_first"].message
    executed = finished.folder / "01_first.ipynb"
    assert said.startswith(f"{executed} cannot be written (File too large). What is complete is kept: make room"), said
    assert states(runner.run_lessons(data=None, root=root)) == {"01_first": "done", "02_second": "kept"}


def test_force_forgets_the_checkpoints_and_the_search_of_the_lessons_that_it_runs(root, tmp_path):
    write_lesson(root, "01_first", 'Input((64, 64, 3), name="image")')
    write_lesson(root, "04_second", 'Resume(run_folder() / "checkpoints", data, name=f"cnn-{way}")')
    write_lesson(root, "06_third", "run_folder() / 'search.db'")
    write_lesson(root, "09_last", 'Resume(run_folder() / "checkpoints", data, fit=how, name="crops")')
    ours = {"checkpoints/cnn-report-01ab", "checkpoints/crops-01ab", "search.db", "search.db-journal"}
    for only, ends in {"1": "-", "4": "checkpoints/cnn", "6": "search", "9": "checkpoints/crops"}.items():
        for name in (*ours, "results/cnn-report.json"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).mkdir(exist_ok=True) if "checkpoints" in name else (tmp_path / name).touch()
        runner.forget(tmp_path, lessons.find_lessons(root, [only]))
        left = {name for name in ours if (tmp_path / name).exists()}
        assert left == {name for name in ours if not name.startswith(ends)}, only
        assert (tmp_path / "results/cnn-report.json").exists()


def test_every_lesson_names_its_checkpoints_so_that_force_finds_them():
    text = "\n".join(cell for lesson in lessons.find_lessons() for cell in lesson.cells)
    assert text.count("Resume(") == len(re.findall(r'Resume\(.*\bname=f?"\w+', text)) > 0


def test_results_know_the_cells_that_made_them(root):
    """In a kernel, with a parameter injected: the digest is that of the lesson's own cells so far."""
    know = (
        "from xrayhelpers import results\n(folder / 'digest').write_text(results._cells_digest(results._cells_run()))"
    )
    write_lesson(root, "04_cnn", "a = 1\n", know, "a = 2")
    finished = runner.run_lessons(data=None, parameters={"epochs": 2}, root=root)
    assert finished.complete
    cells = [
        cell.source for cell in nbformat.read(root / "notebooks" / "04_cnn.ipynb", 4).cells if cell.cell_type == "code"
    ]
    assert (finished.folder / "digest").read_text() == results._cells_digest(cells[:-1])
    assert results._cells_digest(cells[:-1]) != results._cells_digest(cells)


def test_classes_reach_the_lessons_and_are_a_part_of_the_run(root, phantom_root, monkeypatch):
    write_lesson(root, "01_first", "print(os.environ.get('XRAYS_CLASSES'))")
    monkeypatch.setattr(runner, "run_lessons", functools.partial(runner.run_lessons, root=root))
    monkeypatch.setenv("XRAYS_CLASSES", "")
    for classes in ("", "NORMAL=0,PNEUMONIA=1"):
        words = ["--data", str(phantom_root), *(["--classes", classes] if classes else [])]
        asked = CliRunner().invoke(main, words)
        assert asked.exit_code == 0, asked.output
    said = {nbformat.read(path, 4).cells[-1].outputs[0]["text"] for path in root.glob("runs/folder-*/01_first.ipynb")}
    assert said == {"\n", "NORMAL=0,PNEUMONIA=1\n"}
    for wrong in ("healthy", "a=0,b=0", "a=0,b=2", "a=0,b=1,c"):
        asked = CliRunner().invoke(main, ["--classes", wrong])
        assert asked.exit_code == 1
        assert "healthy=0,ill=1" in asked.output


def test_wrong_request_is_refused_before_anything_runs(root):
    write_lesson(root, "01_first")
    for given, words in [
        ({"epoch": "2"}, "No parameter is called epoch. Known in 01_first: data, epochs, flip, rate"),
        ({"epochs": "two"}, "epochs is 'two', but a value like 5 (int)"),
        ({"epochs": "2.5"}, "a value like 5 (int)"),
        ({"epochs": "True"}, "a value like 5 (int)"),
        ({"flip": "1"}, "a value like True (bool)"),
        ({"rate": "fast"}, "a value like 0.5 (float)"),
        ({"epochs": "0"}, "The parameter epochs is 0; expected more than 0, for example `-p epochs=5`"),
        ({"rate": "-1"}, "The parameter rate is -1.0; expected more than 0"),
    ]:
        with pytest.raises(ValueError, match=re.escape(words)):
            runner.run_lessons(data=None, parameters=given, root=root)
    for name in ("..", "a/b", "latest", ".hidden", "/tmp"):
        with pytest.raises(ValueError, match="is not the name of a folder for a run"):
            runner.run_lessons(data=None, name=name, root=root)
    with pytest.raises(ValueError, match=r"05\. The lessons are 01_first"):
        runner.run_lessons(["5"], data=None, root=root)
    with pytest.raises((ValueError, FileNotFoundError), match="nothing"):
        runner.run_lessons(data=str(root / "nothing"), root=root)
    assert not (root / "runs").exists()


def test_values_take_the_type_of_the_default():
    assert lessons.convert_value("rate", "1", 0.5) == 1.0
    assert lessons.convert_value("flip", "False", True) is False
    assert lessons.convert_value("units", "[1, 2]", [3]) == [1, 2]
    assert lessons.convert_value("units", "128,256", "8") == "128,256"
    assert lessons.convert_value("limit", "7", None) == 7


def test_parameters_cell_must_be_literals(root):
    write_lesson(root, "01_first", parameters="epochs = 2 * 3")
    with pytest.raises(ValueError, match=r"01_first.ipynb holds 'epochs = 2 \* 3'"):
        lessons.find_lessons(root)


def test_lessons_are_found_by_number_and_an_empty_repository_is_named(root):
    with pytest.raises(FileNotFoundError, match="whole clone"):
        lessons.find_lessons(root)
    write_lesson(root, "04_cnn")
    assert [lesson.name for lesson in lessons.find_lessons(root, ["4"])] == ["04_cnn"]


def test_data_of_a_folder_reaches_the_lessons(root, phantom_root):
    write_lesson(root, "01_first", "assert pathlib.Path(data, 'train').is_dir(), data")
    finished = runner.run_lessons(data=str(phantom_root), root=root)
    assert finished.complete
    assert finished.folder.name.startswith("folder-")


def test_latest_is_a_text_file_where_links_are_refused(root, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("A required privilege is not held by the client")

    (root / "runs" / "one").mkdir(parents=True)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    runner.point_latest(root / "runs" / "one")
    assert (root / "runs" / "latest").read_text() == "one\n"


def test_a_run_belongs_to_what_the_images_hold(root, phantom_root, tmp_path):
    """Litter beside them changes nothing; an image that was exchanged for one of the same size is another run."""
    data = Path(shutil.copytree(phantom_root, tmp_path / "data"))
    write_lesson(root, "01_first")
    first = runner.run_lessons(data=str(data), root=root)
    for name in ("train/.DS_Store", "Thumbs.db", "train/NORMAL/desktop.ini", "train/NORMAL/.DS_Store"):
        (data / name).write_bytes(b"123")
    assert states(runner.run_lessons(data=str(data), root=root)) == {"01_first": "kept"}
    image = min(data.glob("train/NORMAL/*.jpeg"))
    content = bytearray(image.read_bytes())
    content[content.index(b"\xff\xdb") + 5] ^= 1  # a step of the quantization
    image.write_bytes(content)
    assert runner.run_lessons(data=str(data), root=root).folder != first.folder


def test_command_line_shows_one_paragraph_and_its_status(root, monkeypatch):
    write_lesson(root, "01_first", "assert epochs < 9, 'too long'")
    monkeypatch.setattr(runner, "run_lessons", functools.partial(runner.run_lessons, root=root))
    tiny = ["--data", "phantom:train=4,test=4,val=2"]
    for words, status, said in [
        ([], 0, "No lesson of this run has scored a model.\n\nLook at "),
        (["-p", "epochs=9"], 1, "AssertionError: too long"),
        (["-p", "epochs"], 2, "is not of the form name=value"),
        (["--only", "7"], 1, "Error: There is no lesson 07."),
    ]:
        asked = CliRunner().invoke(main, [*tiny, *words])
        assert asked.exit_code == status, asked.output
        assert said in asked.output


def test_status_of_no_run_says_what_to_type(root, monkeypatch):
    monkeypatch.setattr(runner, "show_status", functools.partial(runner.show_status, root=root))
    asked = CliRunner().invoke(main, ["--status"])
    assert asked.exit_code == 1
    assert "Error: There is no run in runs/latest. Type `python tools/run.py`" in asked.output


def test_mistakes_are_refused_before_anything_large_is_imported(tmp_path):
    code = "import sys; sys.argv[0] = 'run.py'; from tools.run import main\ntry: main()\nfinally: print(*sys.modules)"
    for words, said in {
        ("--data", str(tmp_path / "no")): "does not exist. Expected: a folder with train/ and test/",
        ("--data", "phantom:train=1"): "train=1",
        ("--only", "12"): "There is no lesson 12",
        ("-p", "epoch=3"): "No parameter is called epoch",
        ("--name", "../x"): "--name '../x' is not the name of a folder",
        ("--sweep", str(tmp_path / "no.yaml")): "There is no file",
    }.items():
        command = [sys.executable, "-c", code, *words]
        asked = subprocess.run(command, cwd=lessons.ROOT, capture_output=True, text=True, check=False)
        assert asked.returncode == 1
        assert said in asked.stderr
        assert "data=" not in asked.stderr, "a shell has no variable `data`"
        assert not {"tensorflow", "papermill", "nbconvert", "nbformat", "matplotlib"} & set(asked.stdout.split())

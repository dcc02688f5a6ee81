"""The runner, driven on small notebooks made here."""

import functools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

from tools import lessons, runner
from tools.run import main

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
    write_lesson(root, "01_first", 'print("x" * 3)', text="[next](02_second.ipynb), [words](../docs/glossary.md)")
    write_lesson(root, "02_second", "assert pathlib.Path.cwd().joinpath('notebooks').is_dir()")
    finished = runner.run_lessons(data=None, root=root)
    assert states(finished) == {"01_first": "done", "02_second": "done"}
    assert finished.complete
    assert log_of(finished) == ["01_first auto 5", "02_second auto 5"]
    page = (finished.folder / "01_first.html").read_text()
    assert "xxx" in page
    assert 'href="02_second.html"' in page
    assert 'href="../../docs/glossary.md"' in page
    loads = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?!data:)[^"#][^"]*"|import .* from .http', page)
    assert loads == []
    index = (finished.folder / "index.html").read_text("utf-8")
    assert 'href="02_second.html"' in index
    assert "No lesson has left a result yet" in index
    assert os.readlink(root / "runs" / "latest") == finished.folder.name
    assert json.loads((finished.folder / "status.json").read_text())["lessons"]["01_first"]["state"] == "done"
    assert "01_first" in capsys.readouterr().out


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
    assert "code cell 3 `os.kill(os.getpid(), 9)`: DeadKernelError" in finished.outcomes["01_first"].message
    assert states(runner.run_lessons(data=None, root=root)) == {"01_first": "failed"}


@pytest.mark.slow
def test_killed_run_goes_on_where_it_was(root):
    write_lesson(root, "01_first")
    write_lesson(root, "02_second", "import time\nif not (folder / 'go').exists():\n    time.sleep(600)")
    code = f"from tools import runner; runner.run_lessons(data=None, root={str(root)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=lessons.ROOT, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    try:
        while time.monotonic() < until and not any("02_second" in p.read_text() for p in root.glob("runs/*/log.txt")):
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    (folder,) = [path.parent for path in root.glob("runs/*/log.txt") if path.parent.name != "latest"]
    (folder / "go").touch()
    again = runner.run_lessons(data=None, root=root)
    assert again.folder == folder
    assert states(again) == {"01_first": "kept", "02_second": "done"}


def test_two_runs_of_one_name_do_not_mix(root):
    write_lesson(root, "01_first")
    folder = root / "runs" / "mine"
    folder.mkdir(parents=True)
    with runner.FileLock(folder / ".lock"), pytest.raises(ValueError, match="Another run is writing to runs/mine"):
        runner.run_lessons(data=None, name="mine", root=root)


def test_wrong_request_is_refused_before_anything_runs(root):
    write_lesson(root, "01_first")
    for given, words in [
        ({"epoch": "2"}, "No parameter is called epoch. Known in 01_first: data, epochs, flip, rate"),
        ({"epochs": "two"}, "epochs is 'two', but a value like 5 (int)"),
        ({"epochs": "2.5"}, "a value like 5 (int)"),
        ({"epochs": "True"}, "a value like 5 (int)"),
        ({"flip": "1"}, "a value like True (bool)"),
        ({"rate": "fast"}, "a value like 0.5 (float)"),
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


def test_litter_beside_the_images_is_not_a_part_of_the_data(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("train/a.jpeg", "train/.DS_Store", "Thumbs.db", "train/desktop.ini"):
        (tmp_path / name).write_bytes(b"123")
    assert runner.list_files(tmp_path) == [("train/a.jpeg", 3)]


def test_command_line_shows_one_paragraph_and_its_status(root, monkeypatch):
    write_lesson(root, "01_first", "assert epochs < 9, 'too long'")
    monkeypatch.setattr(runner, "run_lessons", functools.partial(runner.run_lessons, root=root))
    tiny = ["--data", "phantom:train=4,test=4,val=2"]
    for words, status, said in [
        ([], 0, "No lesson has left a result.\n\nLook at "),
        (["-p", "epochs=9"], 1, "AssertionError: too long"),
        (["-p", "epochs"], 2, "is not of the form name=value"),
        (["--only", "7"], 1, "Error: There is no lesson 07."),
    ]:
        asked = CliRunner().invoke(main, [*tiny, *words])
        assert asked.exit_code == status, asked.output
        assert said in asked.output


def test_interruption_says_what_to_type(monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_lessons", interrupt)
    asked = CliRunner().invoke(main, [])
    assert asked.exit_code == 1
    assert "the same command continues" in asked.output

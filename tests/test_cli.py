"""The command line: what a student types, and what comes back."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from tools import doctor, run
from xrayhelpers.__main__ import main
from xrayhelpers.data import open_data

ROOT = Path(__file__).resolve().parents[1]


def call(*words):
    return CliRunner().invoke(main, list(words))


def test_help_is_there_and_nothing_of_it_is_cut_off():
    ours = [(main, [*path]) for path in paths_of(main)]
    assert len(ours) == 7
    for command, words in [*ours, (run.main, [])]:
        result = CliRunner().invoke(command, [*words, "--help"], terminal_width=80)
        assert result.exit_code == 0
        assert "Usage:" in result.output
        assert "..." not in result.output.partition("\n")[2]
        assert max(map(len, result.output.splitlines())) <= 80


def paths_of(group):
    """Every way to type one of the commands."""
    yield ()
    for name, command in getattr(group, "commands", {}).items():
        yield from ((name, *rest) for rest in paths_of(command))


def test_help_answers_without_loading_anything_heavy():
    code = "import sys; sys.argv = ['x']; import xrayhelpers.__main__; print(*(m for m in sys.modules if '.' not in m))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"tensorflow", "papermill", "pandas", "matplotlib", "cv2"} & set(out.stdout.split())


def test_mistakes_get_one_paragraph(cache, monkeypatch):
    monkeypatch.setenv("XRAYS_CLASSES", "")  # the command sets it
    for words, text in {
        ("fetch", "folder", "/no/such/folder"): "does not exist",
        ("fetch", "folder", str(ROOT / "docs")): "No train/ and test/ in",
        ("fetch", "folder", "phantom:train=1"): "train=1",
        ("fetch", "folder", str(ROOT), "--classes", "ill"): "do not give label 0",
        ("run",): "No such command",
    }.items():
        result = call(*words)
        assert result.exit_code != 0
        assert text in result.output
        assert "Traceback" not in result.output
        assert isinstance(result.exception, SystemExit)


def test_look_at_a_folder_and_clear_the_cache(cache):
    looked = call("fetch", "folder", str(open_data("phantom:train=6,test=4,val=2,seed=5").folder))
    assert looked.exit_code == 0
    assert "12 images" in looked.output
    assert "phantom" in call("cache", "list").output
    (cache / "mine.txt").write_text("mine")
    assert call("cache", "clear").exit_code == 1, "asked, and not answered with yes"
    cleared = call("cache", "clear", "--yes")
    assert cleared.exit_code == 0
    assert "1 other files or folders there are not from this package: they stay." in cleared.output
    assert [path.name for path in cache.iterdir()] == ["mine.txt"]


def test_what_is_printed_can_be_pasted_and_paths_may_have_quotes(cache, phantom_root, tmp_path, monkeypatch):
    folder = tmp_path / "my films $HOME 'x'"
    folder.symlink_to(phantom_root)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XRAYS_CLASSES", "")
    for typed in (str(folder), f'"{folder}"', f"~/{folder.name}"):
        looked = call("fetch", "folder", typed, "--classes", "NORMAL=0,PNEUMONIA=1")
        assert looked.exit_code == 0, looked.output
        command = looked.output.partition("Use it: python tools/run.py ")[2].partition(", or data")[0]
        assert shlex.split(command) == ["--data", typed, "--classes", "NORMAL=0,PNEUMONIA=1"]
    assert "when these have more than 5 GB" in call("cache", "list").output


def test_a_folder_that_is_gone_is_told(tmp_path):
    code = "import os, sys; os.rmdir(os.getcwd()); from xrayhelpers.__main__ import main; main()"
    for words in (["fetch", "folder", "x"], ["cache", "list"]):
        (tmp_path / "gone").mkdir()
        command = [sys.executable, "-c", code, *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        said = subprocess.run(
            command, cwd=tmp_path / "gone", env=environment, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in said.stderr
        assert said.returncode == 0 or said.stderr == "Error: The folder you are in is gone. Type: cd ~\n", said.stderr


def test_doctor_names_what_it_must(cache, monkeypatch):
    monkeypatch.setenv("XRAYS_DATA", "/no/such/folder")
    checks = {check.name: check for check in doctor.check_all()}
    assert {"python", "tensorflow", "device", "memory", "data", "VGG16 weights", "disk, here"} <= set(checks)
    assert "does not exist" in checks["data"].advice
    monkeypatch.setenv("XRAYS_DATA", "phantom:train=6")
    said = subprocess.run([sys.executable, ROOT / "tools" / "doctor.py"], capture_output=True, text=True, check=True)
    assert "the embedded phantom  -> for the real images: python -m xrayhelpers fetch kaggle" in said.stdout
    assert not cache.exists(), "nothing is drawn or downloaded"


def test_doctor_advises_where_something_does_not_fit(cache, monkeypatch):
    before = {check.name: check for check in doctor.check_all()}
    monkeypatch.setenv("XRAYS_VGG16_WEIGHTS", "/no/such/file")
    monkeypatch.setattr(doctor, "LEAST_MEMORY", float("inf"))
    monkeypatch.setattr(doctor, "LEAST_FREE", float("inf"))
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    monkeypatch.setattr(doctor.sys, "version_info", (3, 14, 0))
    monkeypatch.setitem(sys.modules, "cv2", None)  # as on a bare Debian
    after = {check.name: check.advice for check in doctor.check_all()}
    assert before["python"].advice == ""
    assert "3.11, 3.12 or 3.13" in after["python"]
    assert "close other programs" in after["memory"]
    assert "XRAYS_CACHE" in after["disk, cache"]
    assert "requirements.txt" in after["no-such-package"]
    assert "apt-get install libgl1" in after["opencv"]
    assert after["VGG16 weights"] == "no such file: unset it"

"""The command line: what a student types, and what comes back."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from xrayhelpers import doctor, lessons
from xrayhelpers.__main__ import main
from xrayhelpers.doctor import check_all


def call(*words):
    return CliRunner().invoke(main, list(words))


@pytest.mark.parametrize("words", [(), ("run",), ("fetch",), ("fetch", "phantom"), ("cache",), ("doctor",)])
def test_help_is_there(words):
    result = call(*words, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run", "--data", "/no/such/folder"), "does not exist"),
        (("run", "--only", "42"), "There is no lesson 42"),
        (("run", "-p", "epochz=1"), "No parameter is called epochz"),
        (("run", "-p", "epochs"), "not of the form name=value"),
        (("run", "--data", "phantom:trains=3"), "cannot be read"),
        (("fetch", "folder", "/no/such/folder"), "does not exist"),
    ],
)
def test_mistakes_get_one_paragraph(words, text, cache):
    result = call(*words)
    assert result.exit_code != 0
    assert text in result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)


def test_fetch_phantom_and_look_at_it(cache):
    drawn = call("fetch", "phantom", "--train", "6", "--test", "4", "--val", "2", "--seed", "5")
    assert drawn.exit_code == 0, drawn.output
    assert "phantom:train=6,test=4,val=2,seed=5" in drawn.output
    folder = drawn.output.splitlines()[0]
    looked = call("fetch", "folder", folder)
    assert looked.exit_code == 0
    assert "12 images" in looked.output


def test_cache_list_and_clear(cache):
    call("fetch", "phantom", "--train", "6", "--test", "4", "--val", "2")
    assert "phantom" in call("cache", "list").output
    assert call("cache", "clear", "--yes").exit_code == 0
    assert not list(cache.glob("phantom*"))


def test_doctor_names_what_it_must(cache, monkeypatch):
    monkeypatch.setenv("XRAYS_DATA", "/no/such/folder")
    checks = {check.name: check for check in check_all()}
    assert {"python", "tensorflow", "device", "memory", "data", "VGG16 weights", "disk, here"} <= set(checks)
    assert "does not exist" in checks["data"].advice
    assert call("doctor").exit_code == 0


def test_doctor_advises_where_memory_or_python_do_not_fit(monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 0)
    assert [check.advice for check in (doctor.check_memory(), doctor.check_versions()[1])] == ["", ""]
    monkeypatch.setattr(doctor, "LEAST_MEMORY", float("inf"))
    monkeypatch.setattr(doctor.sys, "version_info", (3, 14, 0))
    assert "close other programs" in doctor.check_memory().advice
    assert "3.11, 3.12 or 3.13" in doctor.check_versions()[1].advice


def test_help_answers_without_loading_anything_heavy():
    code = "import sys; sys.argv = ['x']; import xrayhelpers.__main__; print(*(m for m in sys.modules if '.' not in m))"
    out = subprocess.run([sys.executable, "-c", code], cwd=lessons.ROOT, capture_output=True, text=True, check=True)
    assert not {"tensorflow", "papermill", "pandas", "matplotlib", "cv2"} & set(out.stdout.split())

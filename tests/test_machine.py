"""Folders, settings, the one atomic write, what `cache clear` may delete, the errors, and quick and quiet imports."""

import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import platformdirs
import pytest

from xrayhelpers import _machine
from xrayhelpers.data import load_images, load_index, open_data

ROOT = Path(__file__).resolve().parents[1]


def test_folders_come_from_settings_in_which_home_and_quotes_are_understood(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, folder in {"XRAYS_CACHE": _machine.cache_folder, "XRAYS_RUN": _machine.run_folder}.items():
        for value in ("~/my folder", '"~/my folder"', f" '{tmp_path}/my folder' ", "my folder"):
            monkeypatch.setenv(name, value)
            assert folder() == tmp_path / "my folder"
        monkeypatch.setenv(name, "")
    assert _machine.cache_folder() == Path(platformdirs.user_cache_dir("xrayhelpers", appauthor=False))
    assert not (tmp_path / "my folder").exists()


def test_runs_stand_in_the_repository_wherever_the_lesson_is_opened(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert _machine.run_folder() == tmp_path / "runs" / "interactive"
    (tmp_path / "xrayhelpers").mkdir()
    (tmp_path / "xrayhelpers" / "__init__.py").touch()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "shared").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert _machine.run_folder() == tmp_path / "runs" / "interactive"
    assert _machine.resolve("shared") == tmp_path / "shared"  # found from the root and from notebooks/
    assert _machine.resolve("nowhere") == tmp_path / "notebooks" / "nowhere"


def test_progress_is_shown_for_what_takes_time_and_can_be_switched_off(monkeypatch, capsys):
    for switch, pause in (("off", 0.3), ("on", 0.3), ("on", 0)):
        monkeypatch.setenv("XRAYS_PROGRESS", switch)
        for _ in _machine.progress(range(3), desc="counting", unit="image"):
            time.sleep(pause)
        said = capsys.readouterr()
        assert said.out == ""
        assert ("counting" in said.err) == (switch == "on" and pause > 0)
        assert said.err == "" or said.err.endswith("\r")


# ------------------------------------------------------------------------------------------- the one atomic write
def test_write_atomic_writes_text_bytes_and_what_a_function_writes(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    for content in ("ü\n", b"\xc3\xbc\n", lambda file: file.write(b"\xc3\xbc\n")):
        _machine.write_atomic(path, content)
        assert path.read_bytes() == b"\xc3\xbc\n"
        assert os.listdir(path.parent) == ["file"]
    assert _machine.sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def broken(file):
        file.write(b"half")
        raise RuntimeError("while making it")

    with pytest.raises(RuntimeError, match="while making it"):
        _machine.write_atomic(path, broken)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            with pytest.raises(_machine.StorageError) as error:
                _machine.write_atomic(path, "new")
        assert str(error.value) == (
            f"{path} cannot be written (No space left on device). What is complete is kept: make room "
            "(python -m xrayhelpers cache clear), or use another folder."
        )
        assert error.value.errno == errno.ENOSPC
    with pytest.raises(_machine.StorageError, match="File exists"):
        _machine.write_atomic(path / "below a file", "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_killed_at_each_step_of_a_write(tmp_path):
    """No reader ever finds half a file: before the rename the old one is whole, after it the new one."""
    code = """
import os, signal, sys
from xrayhelpers._machine import write_atomic

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

real = os.replace
step = {"fsync": die, "replace": die, "replaced": lambda *paths: (real(*paths), die())}[sys.argv[2]]
setattr(os, sys.argv[2].removesuffix("d"), step)
write_atomic(sys.argv[1], b"new" * 100_000)
"""
    path = tmp_path / "file"
    for step, expected in {"fsync": b"old", "replace": b"old", "replaced": b"new" * 100_000}.items():
        path.write_bytes(b"old")
        run = subprocess.run([sys.executable, "-c", code, path, step], cwd=ROOT, check=False)
        assert run.returncode == -signal.SIGKILL
        assert path.read_bytes() == expected


def test_the_litter_of_dead_processes_goes_and_that_of_living_ones_stays(tmp_path):
    """A zombie is dead, too: in a container without init nobody ever asks how it ended."""
    path = tmp_path / "file"
    code = "import pathlib, sys; from xrayhelpers._machine import commit\n"
    code += "slowly = lambda file: (file.write(b'half'), print(flush=True), sys.stdin.read())\n"
    code += "commit(pathlib.Path(sys.argv[1]), slowly)"
    runs, pipe = {}, subprocess.PIPE
    for kind in ("alive", "zombie", "gone"):
        runs[kind] = subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT, stdin=pipe, stdout=pipe)
        runs[kind].stdout.readline()
    parts = {kind: next(tmp_path.glob(f".file.{_machine.HOST}-{run.pid}-*.part")) for kind, run in runs.items()}
    for kind in ("zombie", "gone"):
        runs[kind].kill()
    runs["gone"].wait()
    os.waitid(os.P_PID, runs["zombie"].pid, os.WEXITED | os.WNOWAIT)
    foreign = tmp_path / ".file.0000abcd-1-1.part"  # of another machine: nobody here knows whether it lives
    foreign.touch()
    assert _machine.committed(path) is None
    _machine.commit(path, lambda file: file.write(b"whole"))
    found = set(tmp_path.iterdir())
    runs["alive"].kill()
    for run in runs.values():
        run.communicate()
    assert found == {path, path.with_suffix(".json"), parts["alive"], foreign}
    assert _machine.committed(path)["sha256"] == hashlib.sha256(b"whole").hexdigest()
    path.write_bytes(b"whale")
    assert _machine.committed(path) is None


def test_storage_that_fails_is_told_in_one_way(tmp_path, monkeypatch, cache):
    """Where, why, what is kept, what to type: a file in the way, a name that is too long, a place that is no disk."""
    monkeypatch.setenv("XRAYS_RUN", str(tmp_path / "run"))
    (tmp_path / "run").touch()
    for path, reason, way in [
        (
            cache / ("n" * 300),
            "File name too long",
            "let XRAYS_CACHE name another folder (export XRAYS_CACHE=/another/",
        ),
        (
            tmp_path / "run" / "results" / "x",
            "Not a directory|File exists",
            "let XRAYS_RUN name another folder (export",
        ),
        (Path("/proc/xrays/file"), "No such file or directory", "use another folder."),
    ]:
        with pytest.raises(_machine.StorageError) as error:
            _machine.write_atomic(path, "new")
        text = rf"{re.escape(str(path))} cannot be written \(({reason})\)\. What is complete is kept: {re.escape(way)}"
        assert re.match(text, str(error.value)), str(error.value)


# ------------------------------------------------------------------------------------------------ the cache
def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 1000)


KEY = "0123456789abcdef0123"
PHANTOM = "phantom-4-train6-test4-val2-seed0-shift2"
OURS = [
    *(f"pixels/64px-3ch-area-{KEY}.{end}" for end in ("npy", "json", "lock")),
    f"pixels/.64px-3ch-area-{KEY}.npy.12-34.part",
    f"pixels/.64px-3ch-area-{KEY}.npy.0a1b2c3d-12-34.part",
    f"{PHANTOM}/phantom.json",
    f"{PHANTOM}/chest_xray/train/NORMAL/IM-0115-0001.jpeg",
    f"{PHANTOM}/chest_xray/test/PNEUMONIA/person3_virus_7.jpeg",
    f"{PHANTOM}.partial/chest_xray/val/NORMAL/NORMAL2-IM-1427-0001.jpeg",
    f"{PHANTOM}.lock",
    "vgg16/imagenet-d9a27cc1fc7f.npz",
    "features/features-0123456789abcdef.npy",
]
THEIRS = [
    "thesis.docx",
    "photos/IM-0115-0001.jpeg",
    "pixels/art.png",
    "pixels/64px-3ch-area-mine.npy",
    "features/my_thesis.csv",
    "vgg16/notes.txt",
    "phantom-of-the-opera/act1.txt",
    f"{PHANTOM}/notes.txt",
    f"{PHANTOM}/chest_xray/train/NORMAL/drawn by me.jpeg",
]


def test_clear_deletes_what_this_package_made_and_nothing_else(cache):
    assert _machine.clear_cache() == (0, 0)  # there is no folder yet
    fill(cache, OURS + THEIRS)
    outside = cache.parent / "outside"
    fill(outside, ["IM-0115-0001.jpeg"])
    (cache / f"{PHANTOM}/chest_xray/val").mkdir()
    (cache / f"{PHANTOM}/chest_xray/val/NORMAL").symlink_to(outside)
    assert _machine.list_cache() == {
        PHANTOM: 3000,
        f"{PHANTOM}.partial": 1000,
        f"pixels/64px-3ch-area-{KEY}": 2000,
        "features": 1000,
        "vgg16": 1000,
    }
    assert _machine.clear_cache() == (1000 * len(OURS), len(THEIRS))
    found = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    assert found == set(THEIRS)
    assert os.listdir(outside) == ["IM-0115-0001.jpeg"]
    assert not (cache / f"{PHANTOM}.partial").exists()
    assert _machine.list_cache() == {}
    assert _machine.clear_cache() == (0, len(THEIRS))


def test_clear_leaves_nothing_of_a_cache_that_is_all_ours(cache, phantom_root):
    index = load_index(phantom_root)
    load_images(index, 16)
    open_data("phantom:train=4,test=2,val=0")
    deleted, left = _machine.clear_cache()
    assert deleted > 10_000
    assert left == 0
    assert os.listdir(cache) == []


def test_the_stores_used_least_lately_go_when_there_are_too_many(cache, monkeypatch):
    """Never one of the last day, never a file that is not ours, and the record first."""
    monkeypatch.setattr(_machine, "MOST_CACHE", 2500)
    names = [f"pixels/6{number}px-3ch-area-{KEY}" for number in range(4)] + ["features/features-0123456789abcdef"]
    fill(cache, [f"{name}{end}" for name in names for end in (".npy", ".json", ".lock")] + ["pixels/mine.json"])
    now = time.time()
    for days, name in enumerate(names):
        os.utime(cache / f"{name}.json", (now, now - days * 86_400 - 60))
    os.utime(cache / "pixels/mine.json", (now, 0))
    _machine.trim_cache()
    left = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    assert left == {f"{name}{end}" for name in names[:2] for end in (".npy", ".json", ".lock")} | {"pixels/mine.json"}
    monkeypatch.setattr(_machine, "MOST_CACHE", 0)
    _machine.trim_cache()
    assert (cache / f"{names[0]}.npy").exists(), "used today"


def test_killed_while_the_cache_is_cleared(cache, phantom_root):
    """What is half deleted does not count: it is made again, and the same."""
    wanted = load_images(load_index(phantom_root), 16).tobytes()
    drawn = load_index(open_data("phantom:train=4,test=2,val=0").folder)["bytes"].tolist()
    code = """
import os, pathlib, signal, sys
from xrayhelpers._machine import clear_cache
real, left = pathlib.Path.unlink, iter(range(int(sys.argv[1])))
def unlink(*args, **how):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*args, **how)
pathlib.Path.unlink = unlink
clear_cache()
"""
    for files in (0, 1, 2, 4):
        run = subprocess.run([sys.executable, "-c", code, str(files)], cwd=ROOT, check=False)
        assert run.returncode == -signal.SIGKILL
        assert load_images(load_index(phantom_root), 16).tobytes() == wanted
        assert load_index(open_data("phantom:train=4,test=2,val=0").folder)["bytes"].tolist() == drawn


# ------------------------------------------------------------------------------------------ errors and imports
def test_errors_fit_the_built_ins():
    assert issubclass(_machine.DataNotFoundError, FileNotFoundError)
    assert issubclass(_machine.StorageError, OSError)
    for kind in (_machine.DataNotFoundError, _machine.StorageError, _machine.FetchError):
        assert issubclass(kind, _machine.DataError)
        assert issubclass(kind, ValueError)
        assert str(kind("some words")) == "some words"


def python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)


def test_data_is_imported_without_what_it_does_not_need():
    heavy = {"tensorflow", "keras", "sklearn", "matplotlib", "optuna", "scipy"}
    out = python("import sys, xrayhelpers.data; print(*sys.modules)")
    assert not heavy & set(out.stdout.split())
    assert out.stderr == ""


def test_tensorflow_starts_without_a_word():
    out = python("from xrayhelpers._keras import keras, tf; print(tf.reduce_sum(keras.ops.ones(3)).numpy())")
    assert (out.stdout, out.stderr) == ("3.0\n", "")

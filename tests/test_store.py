"""Decoded once, and never wrong pixels: kills, neighbors, full and read-only disks, changed and damaged files."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xrayhelpers import _images, _store
from xrayhelpers._images import read_resized
from xrayhelpers._machine import DataError, DataWarning, StorageError
from xrayhelpers.data import load_images, load_index, load_parts, split_index

ROOT = Path(__file__).resolve().parents[1]
BUILD = (
    "import sys; from xrayhelpers.data import load_images, load_index;"
    "images = load_images(load_index(sys.argv[1]), int(sys.argv[2]));"
    "print(images.shape, images.sum(dtype='int64'))"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 noisy color images, so that every wrong, lost or exchanged pixel shows."""
    root = tmp_path_factory.mktemp("images")
    random_numbers = np.random.default_rng(0)
    for split, n in {"train": 14, "test": 6}.items():
        for i in range(n):
            number = i + (100 if split == "test" else 0)
            for name in (f"NORMAL/IM-{number:04d}-0001.jpeg", f"PNEUMONIA/person{number}_virus_{i}.jpeg"):
                path = root / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                small = random_numbers.integers(0, 256, (30, 40, 3), dtype=np.uint8)
                Image.fromarray(small).resize((400 + 7 * i, 300)).save(path, quality=80)
    return root


@pytest.fixture
def index(folder):
    return load_index(folder)


@pytest.fixture
def truth(index):
    """What the pixels must be, without any store."""
    return np.stack([read_resized(path, 64, 3, "area") for path in index["path"]])


def build(folder, cache, size=64, **options):
    """Start a process of its own that builds the store."""
    env = {**os.environ, "XRAYS_CACHE": str(cache), "XRAYS_PROGRESS": "off"}
    command = [sys.executable, "-c", BUILD, str(folder), str(size)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen(command, env=env, **pipes, **options)


def linked(folder, root, times):
    """Make a folder that holds each image `times` times, by hard links."""
    for source in folder.rglob("*.jpeg"):
        target = root / source.relative_to(folder).parent
        target.mkdir(parents=True, exist_ok=True)
        for i in range(times):
            os.link(source, target / f"{source.stem}-{i}.jpeg")
    return root


def stores(cache):
    return sorted(path.name for path in (cache / "pixels").glob("*") if path.suffix != ".lock")


def count_decodes(monkeypatch):
    """Count how many images are decoded from here on."""
    decoded = []
    real = _store.read_resized
    monkeypatch.setattr(_store, "read_resized", lambda *a: (decoded.append(a[0]), real(*a))[1])
    return decoded


def test_shape_order_and_read_only(index, truth, cache, monkeypatch):
    decoded = count_decodes(monkeypatch)
    images = load_images(index, 64)
    np.testing.assert_array_equal(images, truth)
    assert isinstance(images, np.memmap)
    assert images.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        images[0, 0, 0, 0] = 1
    again = load_images(index, 64)
    np.testing.assert_array_equal(again, truth)
    assert sorted(decoded) == sorted(index["path"])  # each image once, and never again


def test_rows_chosen_and_shuffled_stay_in_order(index, truth, cache):
    order = np.random.default_rng(1).permutation(len(index))[:17]
    np.testing.assert_array_equal(load_images(index.iloc[order], 64), truth[order])


def test_each_image_is_decoded_once_over_all_parts(index, cache, monkeypatch):
    decoded, real = [], _images._open_upright
    monkeypatch.setattr(_images, "_open_upright", lambda path, **how: (decoded.append(path), real(path, **how))[1])
    split = split_index(load_index(Path(index["path"].iloc[0]).parents[2]))
    assert decoded == [], "an index is made from headers alone"
    for _ in range(2):  # the second time, everything is found in the store
        images, labels = load_parts(split, 24, interpolation="nearest")
    assert Counter(decoded) == Counter(split["path"])
    for part in ("train", "validation", "test"):
        rows = split[split["part"] == part]
        np.testing.assert_array_equal(images[part], [read_resized(path, 24, 3, "nearest") for path in rows["path"]])
        np.testing.assert_array_equal(labels[part], rows["label"])
        assert labels[part].dtype == np.int64
    with pytest.raises(DataError, match=r"index = split_index\(index\)"):
        load_parts(index, 24)


def test_a_store_for_each_setting(index, cache):
    shapes = [
        load_images(index, size, channels=channels, interpolation=interpolation).shape
        for size, channels, interpolation in [(32, 3, "nearest"), (32, 1, "nearest"), (16, 3, "area"), (32, 3, "area")]
    ]
    assert shapes == [(40, 32, 32, 3), (40, 32, 32, 1), (40, 16, 16, 3), (40, 32, 32, 3)]
    assert len(stores(cache)) == 8


# ------------------------------------------------------------------------------------- what a store must survive


@pytest.mark.slow
def test_killed_at_random_moments(folder, tmp_path):
    root = linked(folder, tmp_path / "many", 8)
    whole, cache = tmp_path / "whole", tmp_path / "cache"

    def wait_for_start(process, cache):
        while not list(cache.glob("pixels/.*.part")) and process.poll() is None:
            time.sleep(0.002)
        return time.monotonic()

    process = build(root, whole)
    start = wait_for_start(process, whole)
    said = process.communicate()
    assert process.returncode == 0, said
    seconds = time.monotonic() - start
    moments, killed = random.Random(0), 0
    while killed < 6:
        process = build(root, cache)  # each finds what the killed ones before it left
        wait_for_start(process, cache)
        time.sleep(moments.uniform(0, 0.8 * seconds))
        process.kill()
        if process.wait() == 0:  # was faster: begin again
            shutil.rmtree(cache)
        killed += process.returncode == -signal.SIGKILL
        process.communicate()
    process = build(root, cache)
    assert process.communicate()[0] == said[0]
    (first,), (second,) = whole.glob("pixels/*.npy"), cache.glob("pixels/*.npy")
    assert first.read_bytes() == second.read_bytes()


DIE = """
import os, signal, sys, numpy
from xrayhelpers.data import load_images, load_index

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

def die_at_the_second(*args, real=os.replace, calls=[]):
    calls.append(args)
    die() if len(calls) == 2 else real(*args)

index = load_index(sys.argv[1])
if sys.argv[2] == "write":
    numpy.ascontiguousarray = die
elif sys.argv[2] == "flush":
    os.fsync = die
else:
    os.replace = die if sys.argv[2] == "rename" else die_at_the_second
load_images(index, 64)
"""


def test_killed_at_each_step(index, folder, truth, cache):
    """The same, aimed: the process is killed at each step of writing, before any clean-up can run."""
    for step in ("write", "flush", "rename", "commit"):
        shutil.rmtree(cache, ignore_errors=True)
        run = subprocess.run([sys.executable, "-c", DIE, str(folder), step], cwd=ROOT, capture_output=True, check=False)
        assert run.returncode == -signal.SIGKILL, run.stderr
        assert list((cache / "pixels").glob(".*.part"))
        assert not list((cache / "pixels").glob("*.json"))
        np.testing.assert_array_equal(load_images(index, 64), truth)
        assert [Path(name).suffix for name in stores(cache)] == [".json", ".npy"]


def test_two_processes_one_builds_one_waits(index, folder, truth, cache):
    first, second = build(folder, cache, 300), build(folder, cache, 300)
    said = [process.communicate()[0] for process in (first, second)]
    assert first.returncode == second.returncode == 0
    assert said[0] == said[1] != ""
    assert len(stores(cache)) == 2


def test_the_one_that_waits_decodes_nothing(index, cache, monkeypatch):
    decoded = count_decodes(monkeypatch)
    real = _store.filelock.FileLock

    @contextlib.contextmanager
    def slow_lock(path):
        with monkeypatch.context() as patch:
            patch.setattr(_store.filelock, "FileLock", real)
            load_images(index, 64)  # the neighbor, who was first
        with real(path):
            yield

    monkeypatch.setattr(_store.filelock, "FileLock", slow_lock)
    load_images(index, 64)
    assert len(decoded) == len(index)


def test_full_disk_by_limit(index, truth, cache):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot be written \(File too large\).*cache clear.*XRAYS_CACHE"):
            load_images(index, 64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert stores(cache) == []
    np.testing.assert_array_equal(load_images(index, 64), truth)


def mounted(path):
    return shutil.which("mount") and os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], capture_output=True
    ).returncode == 0  # fmt: skip


def test_full_disk_for_real(index, cache, monkeypatch):
    cache.mkdir()
    if not mounted(cache):
        pytest.skip("a small tmpfs cannot be mounted here (only root may); the limit of file size is tested above")
    try:
        with pytest.raises(StorageError, match="too little room on the disk"):
            load_images(index, 128)
        free = shutil._ntuple_diskusage(10**12, 0, 10**12)
        monkeypatch.setattr(_store.shutil, "disk_usage", lambda path: free)  # the disk fills while we write
        with pytest.raises(StorageError, match="No space left"):
            load_images(index, 128)
        assert stores(cache) == []
    finally:
        subprocess.run(["umount", "-l", str(cache)], check=True)


@pytest.fixture
def open_folder():
    """A folder that every user can enter, as pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp(prefix="xrays-open-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_read_only_cache_falls_back_to_memory(folder, truth, open_folder, monkeypatch):
    copy = shutil.copytree(folder, open_folder / "images")
    copy.chmod(0o755)
    index = load_index(copy)
    cache = open_folder / "cache"
    cache.mkdir(mode=0o555)
    monkeypatch.setenv("XRAYS_CACHE", str(cache))
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # to root nothing is read-only
    try:
        with pytest.warns(DataWarning, match=r"cannot be written .*let XRAYS_CACHE name another.* in memory"):
            images = load_images(index, 64)
    finally:
        os.seteuid(user)
    np.testing.assert_array_equal(images, truth)
    assert not images.flags.writeable


def test_cache_below_a_file_falls_back_to_memory(index, truth, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XRAYS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(DataWarning, match="let XRAYS_CACHE name another"):
        np.testing.assert_array_equal(load_images(index, 64), truth)


def test_changed_image_is_seen(folder, cache, tmp_path):
    for keep_times in (True, False):
        copy = Path(shutil.copytree(folder, tmp_path / f"copy{keep_times}"))
        index = load_index(copy)
        before = np.array(load_images(index, 64))
        path, other = Path(index["path"].iloc[3]), Path(index["path"].iloc[4])
        stat, content = path.stat(), path.read_bytes()
        path.write_bytes(other.read_bytes())
        if keep_times:  # replaced by a file of equal size and time, as cp -p and rsync do
            image = Image.open(path)
            image.save(path, quality=40)
            path.write_bytes(path.read_bytes()[:-2].ljust(len(content) - 2, b"\xff") + b"\xff\xd9")
            assert path.stat().st_size == len(content)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        after = load_images(load_index(copy), 64)
        np.testing.assert_array_equal(after[3], read_resized(path, 64, 3, "area"))
        assert (after[3] != before[3]).any()
        np.testing.assert_array_equal(np.delete(after, 3, 0), np.delete(before, 3, 0))


def test_change_while_building_is_an_error(folder, cache, tmp_path, monkeypatch):
    index = load_index(shutil.copytree(folder, tmp_path / "copy"))
    real = _store.commit

    def commit_and_change(*args):
        real(*args)
        shutil.copy(index["path"].iloc[1], index["path"].iloc[0])

    monkeypatch.setattr(_store, "commit", commit_and_change)
    with pytest.raises(DataError, match="changed while they were read"):
        load_images(index, 64)


def test_older_version_is_ignored(index, truth, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_store, "VERSION", 0)
        patch.setattr(_store, "read_resized", lambda *args: np.full((64, 64, 3), 7, np.uint8))
        assert (load_images(index, 64) == 7).all()
    np.testing.assert_array_equal(load_images(index, 64), truth)


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGES = {
    "one bit": lambda npy, record: flip(npy, 5000),
    "last bit": lambda npy, record: flip(npy, -1),
    "magic": lambda npy, record: flip(npy, 3),
    "header": lambda npy, record: flip(npy, 60),
    "short": lambda npy, record: npy.write_bytes(npy.read_bytes()[:-100]),
    "empty": lambda npy, record: npy.write_bytes(b""),
    "no array": lambda npy, record: npy.unlink(),
    "pickle": lambda npy, record: np.save(npy, np.array([{}], object), allow_pickle=True),
    "no record": lambda npy, record: record.unlink(),
    "half a record": lambda npy, record: record.write_text("{"),
    "another record": lambda npy, record: record.write_text("[]"),
    "checksum": lambda npy, record: edit(record, sha256="0"),
}


def test_damaged_store_is_rebuilt(index, truth, cache, monkeypatch):
    load_images(index, 64)
    npy = next((cache / "pixels").glob("*.npy"))
    for name, damage in DAMAGES.items():
        damage(npy, npy.with_suffix(".json"))
        with monkeypatch.context() as patch:
            decoded = count_decodes(patch)
            for _ in range(2):
                np.testing.assert_array_equal(load_images(index, 64), truth)
                assert len(decoded) == len(index), name


WATCH = """
import re, sys, threading, time
from pathlib import Path
import numpy as np
from xrayhelpers.augment import training_data
from xrayhelpers._keras import keras
from xrayhelpers.data import load_images, load_index

peak, index = 0, load_index(sys.argv[1])

def watch():
    global peak
    while True:
        peak = max(peak, int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
        time.sleep(0.005)

threading.Thread(target=watch, daemon=True).start()
load_images(index, 128)
built, images = peak, np.load(sys.argv[2], mmap_mode="r")
# The input and its warp are the package's own; the network is tiny, because its arithmetic is not what is measured.
layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, "sigmoid")]
model = keras.Sequential([keras.Input(images.shape[1:]), *layers])
model.compile("adam", "binary_crossentropy", jit_compile=False)
model.fit(training_data(images, np.arange(len(images)) % 2, batch_size=64), epochs=1, verbose=0)
print(built, peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_images(folder, cache, tmp_path):
    """Peak anonymous memory in processes of their own: while a store of 20 or 98 MB is built, and in training on it.

    Training reads a sparse file of 28 or 166 MB, so that no disk is filled.
    """
    peaks = []
    for times in (10, 50):
        root, file = linked(folder, tmp_path / str(times), times), tmp_path / f"{times}.npy"
        np.lib.format.open_memmap(file, "w+", np.uint8, (120 * times - 200, 96, 96, 3)).flush()
        run = subprocess.run([sys.executable, "-c", WATCH, str(root), str(file)], cwd=ROOT, capture_output=True)
        assert run.returncode == 0, run.stderr
        peaks.append([int(number) for number in run.stdout.split()])
    built, trained = np.diff(peaks, axis=0)[0]
    assert built < 35, peaks
    assert trained < 60, peaks


def test_no_warning_on_good_data(index, cache):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_images(index, 64)

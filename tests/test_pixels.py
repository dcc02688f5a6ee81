"""Decoded once, and never wrong pixels: kills, neighbours, full and read-only disks, changed and damaged files."""

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
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xrayhelpers import dataset, decode, pixels, sources

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "chest_xray_originals"
BUILD = (
    "import sys; from xrayhelpers import dataset, pixels;"
    "images = pixels.load_pixels(dataset.load_index(sys.argv[1]), size=int(sys.argv[2]));"
    "print(images.shape, images.sum(dtype='int64'))"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 noisy colour images, so that every wrong, lost or exchanged pixel shows."""
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
    return dataset.load_index(folder)


@pytest.fixture
def truth(index):
    """What the pixels must be, without any store."""
    return np.stack([decode.read_resized(path, 64, 3, "nearest") for path in index["path"]])


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
    real = pixels.read_resized
    monkeypatch.setattr(pixels, "read_resized", lambda *a: (decoded.append(a[0]), real(*a))[1])
    return decoded


# What the pixels are


def test_shape_order_and_read_only(index, truth, cache, monkeypatch):
    decoded = count_decodes(monkeypatch)
    images = pixels.load_pixels(index)
    np.testing.assert_array_equal(images, truth)
    assert isinstance(images, np.memmap)
    assert images.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        images[0, 0, 0, 0] = 1
    again = pixels.load_pixels(index)
    np.testing.assert_array_equal(again, truth)
    assert sorted(decoded) == sorted(index["path"])  # each image once, and never again


def test_rows_chosen_and_shuffled_stay_in_order(index, truth, cache):
    order = np.random.default_rng(1).permutation(len(index))[:17]
    np.testing.assert_array_equal(pixels.load_pixels(index.iloc[order]), truth[order])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [17, 64, 150])
def test_nearest_is_keras(index, cache, channels, size):
    from xrayhelpers._quiet import keras

    load = keras.utils.load_img
    mode = "rgb" if channels == 3 else "grayscale"
    for path in [*index["path"][:5], *sorted(map(str, REAL.rglob("*.jpeg")))[::9]]:
        expected = np.asarray(load(path, color_mode=mode, target_size=(size, size), interpolation="nearest"))
        found = decode.read_resized(path, size, channels, "nearest")
        np.testing.assert_array_equal(found, expected.reshape(size, size, channels))


def test_bilinear_is_cv2_as_the_report_used_it(index, cache):
    for path in [*index["path"][:5], *sorted(map(str, REAL.rglob("*.jpeg")))[::9]]:
        expected = cv2.resize(cv2.imread(path), (32, 32))
        np.testing.assert_array_equal(decode.read_resized(path, 32, 3, "bilinear")[..., ::-1], expected)


def test_area_is_the_average_and_only_it_decodes_reduced(index, cache, monkeypatch):
    drafts = []
    real = Image.Image.draft
    path = index["path"].iloc[0]
    monkeypatch.setattr(
        "PIL.JpegImagePlugin.JpegImageFile.draft", lambda self, *a: drafts.append(a) or real(self, *a), raising=True
    )
    for interpolation in ("nearest", "bilinear"):
        decode.read_resized(path, 32, 3, interpolation)
    assert drafts == []
    decode.read_resized(path, 32, 3, "area")
    assert drafts == [(None, (96, 96))]
    monkeypatch.undo()
    average = cv2.resize(decode.read_image(path), (32, 32), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(decode.read_resized(path, 32, 3, "area") - average).mean() < 2


def test_a_store_for_each_setting(index, cache):
    shapes = [
        pixels.load_pixels(index, size, channels, interpolation).shape
        for size, channels, interpolation in [(32, 3, "nearest"), (32, 1, "nearest"), (16, 3, "area"), (32, 3, "area")]
    ]
    assert shapes == [(40, 32, 32, 3), (40, 32, 32, 1), (40, 16, 16, 3), (40, 32, 32, 3)]
    assert len(stores(cache)) == 8


# Kinds of files


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


RAMP = np.tile(np.arange(256, dtype=np.uint16), (32, 1))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(RAMP.astype(np.uint8), RAMP, id="8 bits"),
        pytest.param(RAMP * 256, RAMP, id="16 bits"),
        pytest.param(RAMP * 16, RAMP, id="12 bits in 16"),
    ],
)
def test_png_depths(tmp_path, values, expected):
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode.read_image(tmp_path / "a.png"), grey(expected))
    np.testing.assert_array_equal(decode.read_image(tmp_path / "a.png", channels=1)[..., 0], expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotated_comes_upright(tmp_path, orientation):
    upright = np.zeros((32, 48), np.uint8)
    upright[:16, :24] = 255  # bright above left
    turn = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: np.rot90,
        7: lambda a: np.rot90(a.T, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[dataset.ORIENTATION] = orientation
    Image.fromarray(np.ascontiguousarray(turn(upright))).save(tmp_path / "a.jpeg", exif=exif, quality=95)
    found = decode.read_image(tmp_path / "a.jpeg", channels=1)[..., 0]
    assert found.shape == (32, 48)
    assert np.abs(found.astype(int) - upright).mean() < 3
    assert dataset.read_header(tmp_path / "a.jpeg")[:2] == (48, 32)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_modes(tmp_path, mode):
    path = tmp_path / ("a.jpeg" if mode == "CMYK" else "a.png")
    Image.fromarray(grey(np.where(RAMP < 128, 0, 255))).convert(mode).save(path)
    found = decode.read_image(path).astype(int)
    assert np.abs(found - grey(np.where(RAMP < 128, 0, 255))).mean() < 4


def dicom(path, values, bits=16, photometric="MONOCHROME2", **tags):
    pydicom = pytest.importorskip("pydicom", reason="pydicom is an optional extra")
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.3", "1.2.3.4"
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns = values.shape[:2]
    data.SamplesPerPixel, data.PlanarConfiguration = (3, 0) if values.ndim == 3 else (1, 0)
    data.BitsAllocated, data.BitsStored, data.HighBit = values.itemsize * 8, bits, bits - 1
    data.PixelRepresentation, data.PhotometricInterpretation = int(values.dtype.kind == "i"), photometric
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = values.tobytes()
    data.save_as(path)
    return path


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        pytest.param(RAMP.astype(np.uint8), {"bits": 8}, RAMP, id="8 bits"),
        pytest.param(RAMP * 257, {}, RAMP, id="16 bits"),
        pytest.param(RAMP * 16, {"bits": 12}, RAMP * 16 / 4095 * 255, id="12 bits"),
        pytest.param(RAMP.astype(np.uint8), {"bits": 8, "photometric": "MONOCHROME1"}, 255 - RAMP, id="inverted"),
        pytest.param(
            RAMP + 1000, {"bits": 12, "WindowCenter": 1127.5, "WindowWidth": 255}, RAMP, id="window"
        ),
        pytest.param(
            RAMP, {"bits": 12, "WindowCenter": [-872.5], "WindowWidth": [255], "RescaleSlope": 1,
                   "RescaleIntercept": -1000}, RAMP, id="rescaled, windowed"),
        pytest.param(grey(RAMP), {"bits": 8, "photometric": "RGB"}, RAMP, id="RGB"),
    ],
)  # fmt: skip
def test_dicom(tmp_path, values, options, expected):
    path = dicom(tmp_path / "a.dcm", values, **options)
    found = decode.read_image(path)
    np.testing.assert_allclose(found, grey(np.round(expected)), atol=1)
    assert dataset.read_header(path)[:2] == (256, 32)


# What a store must survive


@pytest.mark.slow
def test_killed_at_ten_random_moments(folder, tmp_path):
    root = linked(folder, tmp_path / "many", 15)
    whole, cache = tmp_path / "whole", tmp_path / "cache"

    def wait_for_start(process, cache):
        while not list(cache.glob("pixels/*.part")) and process.poll() is None:
            time.sleep(0.002)
        return time.monotonic()

    process = build(root, whole)
    start = wait_for_start(process, whole)
    said = process.communicate()
    assert process.returncode == 0, said
    seconds = time.monotonic() - start
    moments, killed = random.Random(0), 0
    while killed < 10:
        process = build(root, cache)  # each finds what the killed ones before it left
        wait_for_start(process, cache)
        time.sleep(moments.uniform(0, 0.8 * seconds))
        process.kill()
        if process.wait() == 0:  # was faster: begin anew
            shutil.rmtree(cache)
        killed += process.returncode == -signal.SIGKILL
        process.communicate()
    process = build(root, cache)
    assert process.communicate()[0] == said[0]
    (first,), (second,) = whole.glob("pixels/*.npy"), cache.glob("pixels/*.npy")
    assert first.read_bytes() == second.read_bytes()


DIE = """
import os, signal, sys, zlib
from xrayhelpers import dataset, pixels

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

def die_at_the_second(*args, real=os.replace, calls=[]):
    calls.append(args)
    die() if len(calls) == 2 else real(*args)

if sys.argv[2] == "write":
    zlib.crc32 = die
elif sys.argv[2] == "flush":
    os.fsync = die
else:
    os.replace = die if sys.argv[2] == "rename" else die_at_the_second
pixels.load_pixels(dataset.load_index(sys.argv[1]))
"""


@pytest.mark.parametrize("step", ["write", "flush", "rename", "commit"])
def test_killed_at_each_step(index, folder, truth, cache, step):
    """The same, aimed: the process is killed at each step of writing, before any clean-up can run."""
    run = subprocess.run([sys.executable, "-c", DIE, str(folder), step], cwd=ROOT, capture_output=True, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert list((cache / "pixels").glob("*.part"))
    assert not list((cache / "pixels").glob("*.json"))
    np.testing.assert_array_equal(pixels.load_pixels(index), truth)
    assert [Path(name).suffix for name in stores(cache)] == [".json", ".npy"]


def test_two_processes_one_builds_one_waits(index, folder, truth, cache):
    first, second = build(folder, cache, 300), build(folder, cache, 300)
    said = [process.communicate()[0] for process in (first, second)]
    assert first.returncode == second.returncode == 0
    assert said[0] == said[1] != ""
    assert len(stores(cache)) == 2


def test_the_one_that_waits_decodes_nothing(index, cache, monkeypatch):
    decoded = count_decodes(monkeypatch)
    real = pixels.filelock.FileLock

    @contextlib.contextmanager
    def slow_lock(path):
        with monkeypatch.context() as patch:
            patch.setattr(pixels.filelock, "FileLock", real)
            pixels.load_pixels(index)  # the neighbour, who was first
        with real(path):
            yield

    monkeypatch.setattr(pixels.filelock, "FileLock", slow_lock)
    pixels.load_pixels(index)
    assert len(decoded) == len(index)


def test_full_disk_by_limit(index, truth, cache):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(
            sources.StorageError, match=r"cannot be written \(File too large\).*needs 0 MB.*cache clear"
        ):
            pixels.load_pixels(index)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert stores(cache) == []
    np.testing.assert_array_equal(pixels.load_pixels(index), truth)


def mounted(path):
    return shutil.which("mount") and os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], capture_output=True
    ).returncode == 0  # fmt: skip


@pytest.mark.parametrize("known", [True, False])
def test_full_disk_for_real(index, cache, monkeypatch, known):
    cache.mkdir()
    if not mounted(cache):
        pytest.skip("a small tmpfs cannot be mounted here (only root may); the limit of file size is tested above")
    try:
        if not known:  # the disk fills while we write
            monkeypatch.setattr(pixels.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 10**12))
        with pytest.raises(sources.StorageError, match="No space left" if not known else "too little room on the disk"):
            pixels.load_pixels(index, size=128)
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
    index = dataset.load_index(copy)
    cache = open_folder / "cache"
    cache.mkdir(mode=0o555)
    monkeypatch.setenv("XRAYS_CACHE", str(cache))
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # to root nothing is read-only
    try:
        with pytest.warns(sources.DataWarning, match=r"cannot be written .* decoded into memory. Set XRAYS_CACHE"):
            images = pixels.load_pixels(index)
    finally:
        os.seteuid(user)
    np.testing.assert_array_equal(images, truth)
    assert not images.flags.writeable


def test_cache_below_a_file_falls_back_to_memory(index, truth, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XRAYS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(sources.DataWarning, match="Set XRAYS_CACHE"):
        np.testing.assert_array_equal(pixels.load_pixels(index), truth)


@pytest.mark.parametrize("keep_times", [True, False])
def test_changed_image_is_seen(folder, cache, tmp_path, keep_times):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    index = dataset.load_index(copy)
    before = np.array(pixels.load_pixels(index))
    path = Path(index["path"].iloc[3])
    stat = path.stat()
    content = path.read_bytes()
    other = Path(index["path"].iloc[4]).read_bytes()
    path.write_bytes(other)
    if keep_times:  # replaced by a file of equal size and time, as cp -p and rsync do
        image = Image.open(path)
        image.save(path, quality=40)
        path.write_bytes(path.read_bytes()[:-2].ljust(len(content) - 2, b"\xff") + b"\xff\xd9")
        assert path.stat().st_size == len(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = pixels.load_pixels(dataset.load_index(copy))
    np.testing.assert_array_equal(after[3], decode.read_resized(path, 64, 3, "nearest"))
    assert (after[3] != before[3]).any()
    np.testing.assert_array_equal(np.delete(after, 3, 0), np.delete(before, 3, 0))


def test_change_while_building_is_an_error(folder, cache, tmp_path, monkeypatch):
    index = dataset.load_index(shutil.copytree(folder, tmp_path / "copy"))
    real = pixels._build_store

    def build_and_change(*args):
        real(*args)
        os.utime(index["path"].iloc[0], (1, 1))

    monkeypatch.setattr(pixels, "_build_store", build_and_change)
    with pytest.raises(sources.DataError, match="changed while they were read"):
        pixels.load_pixels(index)


def test_older_version_is_ignored(index, truth, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pixels, "VERSION", 0)
        patch.setattr(pixels, "read_resized", lambda *args: np.full((64, 64, 3), 7, np.uint8))
        assert (pixels.load_pixels(index) == 7).all()
    np.testing.assert_array_equal(pixels.load_pixels(index), truth)


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda npy, record: flip(npy, 5000), id="one bit"),
        pytest.param(lambda npy, record: flip(npy, -1), id="last bit"),
        pytest.param(lambda npy, record: flip(npy, 3), id="magic"),
        pytest.param(lambda npy, record: flip(npy, 60), id="header"),
        pytest.param(lambda npy, record: npy.write_bytes(npy.read_bytes()[:-100]), id="short"),
        pytest.param(lambda npy, record: npy.write_bytes(b""), id="empty"),
        pytest.param(lambda npy, record: npy.unlink(), id="no array"),
        pytest.param(lambda npy, record: np.save(npy, np.array([{}], object), allow_pickle=True), id="pickle"),
        pytest.param(lambda npy, record: record.unlink(), id="no record"),
        pytest.param(lambda npy, record: record.write_text("{"), id="half a record"),
        pytest.param(lambda npy, record: record.write_text("[]"), id="another record"),
        pytest.param(lambda npy, record: edit(record, version=99), id="later version"),
        pytest.param(lambda npy, record: edit(record, crc32=1), id="checksum"),
    ],
)
def test_damaged_store_is_rebuilt(index, truth, cache, monkeypatch, damage):
    pixels.load_pixels(index)
    npy = next((cache / "pixels").glob("*.npy"))
    damage(npy, npy.with_suffix(".json"))
    decoded = count_decodes(monkeypatch)
    np.testing.assert_array_equal(pixels.load_pixels(index), truth)
    assert len(decoded) == len(index)
    np.testing.assert_array_equal(pixels.load_pixels(index), truth)
    assert len(decoded) == len(index)


WATCH = """
import re, sys, threading, time
from pathlib import Path
from xrayhelpers import dataset, pixels

peak, index = 0, dataset.load_index(sys.argv[1])

def watch():
    global peak
    while True:
        peak = max(peak, int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
        time.sleep(0.005)

threading.Thread(target=watch, daemon=True).start()
images = pixels.load_pixels(index, size=128)
print(peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_images(folder, cache, tmp_path):
    """Peak anonymous memory while building, in a process of its own: 400 and 3,200 images, 20 and 157 MB of pixels."""
    peaks = []
    for times in (10, 80):
        root = linked(folder, tmp_path / str(times), times)
        run = subprocess.run([sys.executable, "-c", WATCH, str(root)], cwd=ROOT, capture_output=True, text=True)
        peaks.append(int(run.stdout))
    assert peaks[1] - peaks[0] < 60, peaks


def test_no_warning_on_good_data(index, cache):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels.load_pixels(index)


# ---------------------------------------------------------------------------------------- the most alike
def test_nearest_image_of_a_copy_is_its_original(folder, cache, tmp_path):
    """Copies that were brightened, shrunk and recompressed are found, and what is unrelated does not look like them."""
    root = tmp_path / "copied"
    shutil.copytree(folder, root)
    pairs = {}
    for path in sorted((root / "train/NORMAL").iterdir())[:5]:
        copy = root / "test/NORMAL" / f"IM-9{path.name[3:]}"
        image = Image.open(path).resize((200, 150)).point(lambda value: 40 + 0.7 * value)
        image.save(copy, quality=50)
        pairs[f"test/NORMAL/{copy.name}"] = f"train/NORMAL/{path.name}"
    index = dataset.load_index(root)
    found = pixels.find_nearest(index)
    assert found.index.equals(index.index)
    assert (found["name"] != found["nearest"]).all()
    by_name = found.set_index("name")
    assert {name: by_name.loc[name, "nearest"] for name in pairs} == pairs
    likeness = by_name["correlation"]
    assert likeness[list(pairs)].min() > 0.99
    assert likeness.drop([*pairs, *pairs.values()]).max() < 0.6
    across = pixels.find_nearest(index[index["split"] == "test"], index[index["split"] == "train"])
    assert across.set_index("name").loc[list(pairs), "nearest"].to_dict() == pairs
    assert across["nearest"].str.startswith("train/").all()


def test_nearest_in_chunks_is_nearest(index, cache, monkeypatch):
    whole = pixels.find_nearest(index)
    monkeypatch.setattr(pixels, "CHUNK", 7)
    pd.testing.assert_frame_equal(pixels.find_nearest(index), whole)


def test_nearest_needs_another_image(index, cache):
    with pytest.raises(ValueError, match="expected one more"):
        pixels.find_nearest(index.iloc[:1])

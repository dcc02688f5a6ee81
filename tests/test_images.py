"""Any file of a hospital or a web page: which pixels it gives, or the words with which it is refused."""

import faulthandler
import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset

from xrayhelpers import _images
from xrayhelpers._images import UnreadableError, inspect, read_image, read_resized
from xrayhelpers._machine import cores

ORIGINALS = Path(__file__).resolve().parents[2] / "shared" / "data" / "chest_xray_originals"
RAMP = np.tile(np.arange(256, dtype=np.uint16), (32, 1))


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def header(path):
    return tuple(inspect(path)[name] for name in ("width", "height", "mode"))


def originals(every):
    """Some of the files as first published, up to 2000 px wide, where they are at hand."""
    return sorted(map(str, ORIGINALS.rglob("*.jpeg")))[::every]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Noisy color images, so that every wrong or exchanged pixel shows."""
    folder, rng, paths = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for i in range(5):
        small = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        paths.append(str(folder / f"{i}.jpeg"))
        Image.fromarray(small).resize((400 + 7 * i, 300)).save(paths[-1], quality=80)
    return paths


# ---------------------------------------------------------------------------------------------------- resizing
def test_nearest_is_keras(noisy):
    from xrayhelpers._keras import keras

    for path in [*noisy, *originals(9)]:
        for channels, mode in {1: "grayscale", 3: "rgb"}.items():
            for size in (17, 64, 150):
                how = {"color_mode": mode, "target_size": (size, size), "interpolation": "nearest"}
                expected = np.asarray(keras.utils.load_img(path, **how)).reshape(size, size, channels)
                np.testing.assert_array_equal(read_resized(path, size, channels, "nearest"), expected)


def test_bilinear_is_cv2_as_the_report_used_it(noisy):
    for path in [*noisy, *originals(9)]:
        expected = cv2.resize(cv2.imread(path), (32, 32))
        np.testing.assert_array_equal(read_resized(path, 32, 3, "bilinear")[..., ::-1], expected)


def test_area_is_the_average_and_only_it_decodes_reduced(noisy, monkeypatch):
    drafts, real, path = [], Image.Image.draft, noisy[0]
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda self, *a: drafts.append(a) or real(self, *a))
    for interpolation in ("nearest", "bilinear"):
        read_resized(path, 32, 3, interpolation)
    assert drafts == []
    read_resized(path, 32, 3, "area")
    assert drafts == [(None, (96, 96))]
    monkeypatch.undo()
    for path in [noisy[0], *originals(9)]:
        average = cv2.resize(read_image(path), (32, 32), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(read_resized(path, 32, 3, "area") - average).mean() < 2


# ----------------------------------------------------------------------------------------------- kinds of files
def film(height=120, width=150):
    """A chest-like gray picture, 0 to 255, with noise."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    lungs = sum(np.exp(-(((x - side) / 0.25) ** 2) - (y / 0.55) ** 2) for side in (-0.45, 0.45))
    noise = np.random.default_rng(0).normal(0, 8, x.shape)
    return (40 + 200 * np.exp(-(x**2)) - 130 * lungs + noise).clip(0, 255).astype(np.uint8)


def png16(path, values):
    """Write gray (height x width), gray with alpha, RGB or RGBA (last axis 2, 3 or 4) with 16 bits."""
    height, width, color = *values.shape[:2], {1: 0, 2: 4, 3: 2, 4: 6}[values[0, 0].size]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)}
    chunks |= {b"IDAT": zlib.compress(rows), b"IEND": b""}
    sums = {kind: struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks.items()}
    body = b"".join(struct.pack(">I", len(part)) + kind + part + sums[kind] for kind, part in chunks.items())
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_many_threads_look_at_png_files(tmp_path):
    """NumPy 2.0 and 2.2 crash where threads compare an array with an integer too large for it: see test-oldest."""
    png16(tmp_path / "deep.png", film().astype(np.uint16) * 16)
    Image.fromarray(film().astype(np.uint8)).save(tmp_path / "plain.png")
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(inspect, [tmp_path / "deep.png", tmp_path / "plain.png"] * 400))
    assert {facts["mode"] for facts in seen} == {"I;12", "L"}


def test_png_depths(tmp_path):
    path = tmp_path / "a.png"
    for values in (RAMP.astype(np.uint8), RAMP * 256, RAMP * 16):  # 8 bits, 16 bits, 12 bits in 16
        Image.fromarray(values).save(path)
        np.testing.assert_array_equal(read_image(path), grey(RAMP))
        np.testing.assert_array_equal(read_image(path, channels=1)[..., 0], RAMP)


def test_one_film_is_one_picture_in_every_depth(tmp_path):
    expected, path = film(), tmp_path / "a.png"
    for bits in (8, 10, 12, 14, 16):
        deep = (expected / 255 * (2**bits - 1)).round().astype(np.uint16)
        marked, opaque = deep.copy(), np.full_like(deep, 65535)
        marked[2:6, 2:6] = 65535  # a side marker, burnt in
        kinds = {"gray": deep, "marked": marked, "alpha": np.dstack([deep, opaque]), "color": np.dstack([deep] * 3)}
        kinds["color, alpha"] = np.dstack([deep, deep, deep, opaque])
        for kind, values in kinds.items():
            png16(path, values)
            mode = inspect(path)["mode"]
            assert mode == f"{'RGB' if 'color' in kind else 'I'};{bits}"
            for how in ("", mode):
                found = read_image(path, 1, how)[..., 0].astype(int)
                assert np.abs(found - expected).mean() < 0.5, (bits, kind)
                assert (kind == "marked") <= (found[3, 3] == 255)
        one_more = deep.copy()
        one_more[0, 0] = min(2**bits, 65535)
        assert np.abs(read_image(png16(path, one_more), 1)[1:, :, 0] - expected[1:].astype(int)).mean() < 0.5


def test_exif_rotated_comes_upright(tmp_path):
    upright, path = np.zeros((32, 48), np.uint8), tmp_path / "a.jpeg"
    upright[:16, :24] = 255  # bright above left
    turns = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: np.rot90,
        7: lambda a: np.rot90(a.T, 2),
        8: lambda a: np.rot90(a, -1),
    }
    for orientation, turn in turns.items():
        exif = Image.Exif()
        exif[_images.ORIENTATION] = orientation
        Image.fromarray(np.ascontiguousarray(turn(upright))).save(path, exif=exif, quality=95)
        found = read_image(path, channels=1)[..., 0]
        assert found.shape == (32, 48)
        assert np.abs(found.astype(int) - upright).mean() < 3, orientation
        assert header(path)[:2] == (48, 32)


def test_modes(tmp_path):
    black_and_white = grey(np.where(RAMP < 128, 0, 255))
    for mode in ("L", "RGB", "RGBA", "LA", "P", "1", "CMYK"):
        path = tmp_path / ("a.jpeg" if mode == "CMYK" else "a.png")
        Image.fromarray(black_and_white).convert(mode).save(path)
        for channels in (1, 3):
            found = read_image(path, channels).astype(int)
            assert np.abs(found - black_and_white[..., :channels]).mean() < 4, mode
            for interpolation in _images.INTERPOLATIONS:
                assert read_resized(path, 16, channels, interpolation).shape == (16, 16, channels)
        assert header(path)[:2] == (256, 32)


def dicom(path, values, bits=16, photometric="MONOCHROME2", **tags):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.3", "1.2.3.4"
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns = values.shape[:2]
    data.SamplesPerPixel, data.PlanarConfiguration = (3, 0) if values.ndim == 3 else (1, 0)
    data.BitsAllocated, data.BitsStored, data.HighBit = values.itemsize * 8, bits, bits - 1
    data.PixelRepresentation, data.PhotometricInterpretation = int(values.dtype.kind == "i"), photometric
    data.PixelData = values.tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        elif name.endswith("Sequence"):
            entries, first, depth, lut = value
            item = pydicom.Dataset()
            item.LUTDescriptor, item.LUTData = [entries, first, depth], [int(number) for number in lut]
            item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
            setattr(data, name, [item])
        else:
            setattr(data, name, value)
    data.save_as(path)
    return path


def test_dicom(tmp_path):
    byte, fall = RAMP.astype(np.uint8), 255 - np.arange(256)
    ycbcr = np.dstack([byte, np.full_like(byte, 128), np.full_like(byte, 128)])
    window = {"WindowCenter": [-872.5], "WindowWidth": [255], "RescaleSlope": 1, "RescaleIntercept": -1000}
    cases = {
        "8 bits": (byte, {"bits": 8}, RAMP),
        "16 bits": (RAMP * 257, {}, RAMP),
        "12 bits": (RAMP * 16, {"bits": 12}, RAMP * 16 / 4095 * 255),
        "signed": ((RAMP.astype(np.int16) - 128) * 256, {}, RAMP),
        "inverted": (byte, {"bits": 8, "photometric": "MONOCHROME1"}, 255 - RAMP),
        "window": (RAMP + 1000, {"bits": 12, "WindowCenter": 1127.5, "WindowWidth": 255}, RAMP),
        "rescaled, windowed": (RAMP, {"bits": 12, **window}, RAMP),
        "RGB": (grey(RAMP), {"bits": 8, "photometric": "RGB"}, RAMP),
        "YBR": (ycbcr, {"bits": 8, "photometric": "YBR_FULL"}, RAMP),
        "empty window": (byte, {"bits": 8, "WindowCenter": "", "WindowWidth": ""}, RAMP),
        "inverted, as its LUT shape says": (
            byte, {"bits": 8, "photometric": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, 255 - RAMP),
        "inverted by LUT shape alone": (byte, {"bits": 8, "PresentationLUTShape": "INVERSE"}, 255 - RAMP),
        "LUT shape of no effect": (byte, {"bits": 8, "PresentationLUTShape": "IDENTITY"}, RAMP),
        "presentation table": (byte, {"bits": 8, "PresentationLUTSequence": (256, 0, 8, 255 - fall)}, RAMP),
        "slope -1": (byte, {"bits": 8, "RescaleSlope": -1, "RescaleIntercept": 255}, 255 - RAMP),
        "slope -1, windowed": (
            byte, {"bits": 8, "RescaleSlope": -1, "RescaleIntercept": 255, "WindowCenter": 128, "WindowWidth": 256},
            255 - RAMP),
        "modality table": (byte, {"bits": 8, "ModalityLUTSequence": (256, 0, 16, fall * 257)}, 255 - RAMP),
        "window table": (byte, {"bits": 8, "VOILUTSequence": (256, 0, 12, fall * 16)}, (255 - RAMP) * 16 / 4095 * 255),
        "window table, rescaled": (
            byte, {"bits": 8, "VOILUTSequence": (256, 100, 8, fall), "RescaleSlope": 1, "RescaleIntercept": 100},
            255 - RAMP),
        "sigmoid": (
            RAMP, {"bits": 8, "VOILUTFunction": "SIGMOID", "WindowCenter": 128, "WindowWidth": 128},
            255 / (1 + np.exp(-4 * (RAMP.astype(float) - 128) / 128))),
        "padding": (byte, {"bits": 8, "photometric": "MONOCHROME1", "PixelPaddingValue": 0}, np.where(
            RAMP == 0, 0, 255 - RAMP)),
    }  # fmt: skip
    for name, (values, options, expected) in cases.items():
        path = dicom(tmp_path / "a.dcm", values, **options)
        np.testing.assert_allclose(read_image(path), grey(np.round(expected)), atol=1, err_msg=name)
        assert header(path)[:2] == (256, 32)
    path = dicom(tmp_path / "series.dcm", np.zeros((40, 20), np.uint8), bits=8, NumberOfFrames=2)
    with pytest.raises(UnreadableError, match="a DICOM series of 2 frames; one image expected"):
        inspect(path)
    for reason, tags in {
        "unknown depth or polarity": {"PhotometricInterpretation": None},
        "unknown depth or polarity: BitsStored None": {"BitsStored": None},
        "MONOCHROME1, LUT shape IDENTITY": {
            "PhotometricInterpretation": "MONOCHROME1",
            "PresentationLUTShape": "IDENTITY",
        },
        "Window Width": {"WindowCenter": 128, "WindowWidth": 0},
    }.items():
        with pytest.raises(UnreadableError, match=reason):
            inspect(dicom(tmp_path / "a.dcm", byte, bits=8, **tags))


def test_a_damaged_jpeg_inside_dicom(tmp_path):
    save = io.BytesIO()
    Image.fromarray(film()).save(save, "JPEG")
    half, path = len(save.getvalue()) // 2, dicom(tmp_path / "a.dcm", film(), bits=8)
    for content, reason in {save.getvalue(): "", save.getvalue()[:half] + b"\xff\xd9": "premature end"}.items():
        data = pydicom.dcmread(path)
        data.PixelData = pydicom.encaps.encapsulate([content])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
        data.save_as(path)
        if reason:
            with pytest.raises(UnreadableError, match=reason):
                inspect(path)
        else:
            assert inspect(path)["damage"] == ""


def test_a_large_mark_says_nothing_of_the_depth(tmp_path):
    values = film().astype(np.uint16) * 16
    values[:20, :30] = 65535
    assert inspect(png16(tmp_path / "a.png", values))["mode"] == "I;12"


def test_what_is_refused_says_its_name_and_why(tmp_path):
    path = tmp_path / "IM-0001.jpeg"
    path.write_bytes(b"no image")
    with pytest.raises(UnreadableError, match=r"^not a JPEG, PNG or DICOM image$"):
        inspect(path)
    with pytest.raises(UnreadableError, match=r"^IM-0001\.jpeg: not a JPEG"):
        read_image(path)


# ------------------------------------------------------------------------------------------------- damaged files
MUTATIONS = 700


def mutate(content, rng):
    """Return a damaged copy, in one of the ways in which disks, networks and people damage files."""
    content = bytearray(content)
    at = int(rng.integers(len(content)))
    head = int(rng.integers(min(700, len(content))))
    how = int(rng.integers(7))
    if how == 0:  # a few bytes anywhere
        for i in rng.integers(0, len(content), int(rng.integers(1, 20))):
            content[i] = int(rng.integers(256))
    elif how == 1:  # a few bytes in the header: sizes, tables
        for i in rng.integers(0, min(700, len(content)), int(rng.integers(1, 8))):
            content[i] = int(rng.integers(256))
    elif how == 2:  # truncated, with and without an end that looks good
        del content[at:]
        content += b"\xff\xd9" if rng.random() < 0.5 else b""
    elif how == 3:  # a piece is missing
        del content[at : at + int(rng.integers(1, 5000))]
    elif how == 4:  # a piece stands twice
        content[at:at] = content[at : at + int(rng.integers(1, 5000))]
    elif how == 5:  # a block of zeros, as after a crash
        content[at : at + 4096] = bytes(len(content[at : at + 4096]))
    else:  # a marker where there should be none
        content[head : head + 2] = bytes([0xFF, int(rng.integers(0xC0, 0xFF))])
    return bytes(content)


def pixels(content):
    """What Pillow decodes, without a second look; None where it refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return np.asarray(Image.open(io.BytesIO(content), formats=_images.FORMATS).convert("L")).astype(int)
        except Exception:
            return None


def looks_wrong(found, expected):
    """Whether a person sees the difference: another shape, or spots of more than a twentieth of the range."""
    return found.shape != expected.shape or (np.abs(found - expected) > 12).mean() > 0.002


def test_damage_is_reported_and_no_clean_image_accused(tmp_path, phantom_root):
    """No crash, no hang; of what looks wrong 95 % are named; what the look refuses is never decoded.

    On originals where they are at hand. What is refused altogether counts for nothing here.
    """
    files = [Path(path) for path in originals(1)] or sorted(phantom_root.rglob("*.jpeg"))
    contents = [file.read_bytes() for file in files]
    assert [inspect(file)["damage"] for file in files] == [""] * len(files)
    outcomes = Counter()

    def one(seed):
        original = contents[seed % len(contents)]
        path, refused, damage, image, said = tmp_path / f"{seed}.jpeg", None, "", None, ""
        path.write_bytes(mutate(original, np.random.default_rng(seed)))
        try:
            damage = inspect(path)["damage"]
        except UnreadableError as error:
            refused = str(error)
        try:
            image = read_resized(path, 32, (1, 3)[seed % 2], _images.INTERPOLATIONS[seed % 3])
        except UnreadableError as error:
            said = str(error)
        if refused is None:
            assert image.shape == (32, 32, (1, 3)[seed % 2])
            if looks_wrong(pixels(path.read_bytes()), pixels(original)):
                outcomes["named" if damage else "missed"] += 1
        else:
            assert (image is None) <= said.startswith(path.name)
            outcomes["refused"] += 1
        path.unlink()

    faulthandler.dump_traceback_later(300, exit=True)  # a hang ends with the place where it hangs
    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as pool:
        warnings.simplefilter("ignore")
        for future in [pool.submit(one, seed) for seed in range(MUTATIONS)]:
            future.result()
    faulthandler.cancel_dump_traceback_later()
    assert outcomes["refused"] > 0
    wrong = outcomes["named"] + outcomes["missed"]
    assert wrong > MUTATIONS / 4
    # Small files (the phantom's) are mostly header, where a changed byte is a picture of another kind.
    assert outcomes["named"] / wrong > (0.95 if originals(1) else 0.85), outcomes


def test_no_kind_of_jpeg_is_accused(tmp_path):
    """Noise, black and white in gray, color and four inks, in all ways to save them."""
    values, path = np.random.default_rng(0).integers(0, 256, (40, 48, 4), dtype=np.uint8), tmp_path / "a.jpeg"
    pictures = [
        values,
        np.where(values > 127, 255, 0).astype(np.uint8),
        np.zeros_like(values),
        np.full_like(values, 255),
    ]
    ways = [{"quality": quality} for quality in (1, 5, 30, 75, 100)]
    ways += [{"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 2}, {"qtables": [[255] * 64]}]
    ways += [{"keep_rgb": True}]
    for way in ways:
        for picture in pictures:
            for image in (picture[..., 0], picture[..., :3], Image.fromarray(picture, "CMYK")):
                image = image if isinstance(image, Image.Image) else Image.fromarray(image)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    image.save(path, **way)
                assert inspect(path)["damage"] == "", (way, image.mode)


def test_subsampled_inks_are_not_accused(tmp_path):
    """Pillow subsamples four inks in ways that simplejpeg does not know; Pillow itself finds an end that is missing."""
    path = tmp_path / "a.jpeg"
    for way in ({"subsampling": 1}, {"subsampling": 2}, {"subsampling": 2, "progressive": True}):
        Image.fromarray(film()).convert("CMYK").save(path, **way)
        assert inspect(path)["damage"] == "", way
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UnreadableError, match="truncated"):
            inspect(path)


def test_drift_is_heard(tmp_path):
    """A wrong byte of which libjpeg says nothing: all blocks after it are of another brightness."""
    save, path, found = io.BytesIO(), tmp_path / "a.jpeg", Counter()
    Image.fromarray(film(224, 224)).save(save, "JPEG")
    whole = save.getvalue()
    start = whole.index(b"\xff\xda") + 12
    for at in range(start, len(whole) - 2, 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :])
        if looks_wrong(pixels(path.read_bytes()), pixels(whole)):
            found[inspect(path)["damage"].partition(": ")[2][:16]] += 1
    assert found["blocks of pixels"] > 3
    assert found[""] < 0.3 * found.total()


def test_broken_off_and_repaired(tmp_path):
    """A download that broke off, with an end that was put there; holes; a thumbnail's end; a piece of another file."""
    save = io.BytesIO()
    Image.fromarray(film(600, 800)).save(save, "JPEG")
    whole, path = save.getvalue(), tmp_path / "a.jpeg"
    at = [int(len(whole) * share) for share in (0.4, 0.8)]
    damaged = {
        "end put there": whole[: at[0]] + b"\xff\xd9",
        "a thumbnail's end": whole[: at[0]] + b"\xff\xd8\xff\xd9",
        "hole of zeros": whole[: at[0]] + bytes(at[1] - at[0]) + whole[at[1] :],
        "hole of ones": whole[: at[0]] + b"\xff" * 4096 + whole[at[0] + 4096 :],
        "a piece twice": whole[: at[1]] + whole[at[0] :],
        "a piece is missing": whole[: at[0]] + whole[at[0] + 5000 :],
        "text inside": whole[: at[0]] + b"404 Not Found\n" * 100 + whole[at[0] + 1400 :],
    }
    for name, content in damaged.items():
        path.write_bytes(content)
        try:
            reason = inspect(path)["damage"]
        except UnreadableError as error:
            reason = str(error)
        assert "damaged: " in reason or "cannot be decoded: " in reason, name
    path.write_bytes(whole)
    assert inspect(path)["damage"] == ""
    whole = png16(tmp_path / "a.png", film().astype(np.uint16) * 16).read_bytes()
    for share in (0.2, 0.5, 0.9):
        (tmp_path / "a.png").write_bytes(whole[: int(share * len(whole))] + b"x" + whole[int(share * len(whole)) + 1 :])
        with pytest.raises(UnreadableError, match="cannot be decoded: "):
            inspect(tmp_path / "a.png")


LIMITS = """
import resource, sys, time
from xrayhelpers._images import UnreadableError, inspect
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    print(inspect(sys.argv[1]))
except UnreadableError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - start)
"""


def test_files_that_cost_too_much_are_refused(tmp_path):
    """Few bytes that become many, in processes of their own: less than 50 MB and a second for each."""
    scans = io.BytesIO()
    Image.fromarray(np.full((2000, 2000), 128, np.uint8)).save(scans, "JPEG", progressive=True)
    start = scans.getvalue().rindex(b"\xff\xda")
    again = scans.getvalue()[start:-2]
    os.mkfifo(tmp_path / "pipe.jpeg")
    png16(tmp_path / "large.png", np.zeros((8000, 8000), np.uint16))
    (tmp_path / "scans.jpeg").write_bytes(scans.getvalue()[:-2] + 1000 * again + b"\xff\xd9")
    with open(tmp_path / "long.png", "wb") as file:
        file.truncate(10**9)
    for name, words in {
        "pipe.jpeg": "a folder, pipe or device; an image file expected",
        "large.png": "8000 x 8000 pixels; at least 16 x 16 and at most 25,000,000",
        "scans.jpeg": "scans of 2000 x 2000 pixels; at most",
        "long.png": "1,000,000,000 bytes; at most 200,000,000 expected",
    }.items():
        run = subprocess.run([sys.executable, "-c", LIMITS, str(tmp_path / name)], capture_output=True, timeout=60)
        said, cost = run.stdout.decode().splitlines()
        kilobytes, seconds = map(float, cost.split())
        assert words in said
        assert kilobytes < 50_000, name
        assert seconds < 1, name

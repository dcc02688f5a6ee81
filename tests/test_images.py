"""Any file of a hospital or a web page: which pixels it gives, or the words with which it is refused."""

import faulthandler
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from xrayhelpers import _images
from xrayhelpers._images import UnreadableError, read_header, read_image, read_resized
from xrayhelpers._machine import cores

ORIGINALS = Path(__file__).resolve().parents[2] / "shared" / "data" / "chest_xray_originals"
RAMP = np.tile(np.arange(256, dtype=np.uint16), (32, 1))


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


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
def test_png_depths(tmp_path):
    path = tmp_path / "a.png"
    for values in (RAMP.astype(np.uint8), RAMP * 256, RAMP * 16):  # 8 bits, 16 bits, 12 bits in 16
        Image.fromarray(values).save(path)
        np.testing.assert_array_equal(read_image(path), grey(RAMP))
        np.testing.assert_array_equal(read_image(path, channels=1)[..., 0], RAMP)


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
        assert read_header(path)[:2] == (48, 32)


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
        assert read_header(path)[:2] == (256, 32)


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


def test_dicom(tmp_path):
    byte = RAMP.astype(np.uint8)
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
    }
    for name, (values, options, expected) in cases.items():
        path = dicom(tmp_path / "a.dcm", values, **options)
        np.testing.assert_allclose(read_image(path), grey(np.round(expected)), atol=1, err_msg=name)
        assert read_header(path)[:2] == (256, 32)
    path = dicom(tmp_path / "series.dcm", np.zeros((40, 20), np.uint8), bits=8, NumberOfFrames=2)
    with pytest.raises(UnreadableError, match="a DICOM series of 2 frames; one image expected"):
        read_header(path)


def test_what_is_refused_says_its_name_and_why(tmp_path):
    path = tmp_path / "IM-0001.jpeg"
    path.write_bytes(b"no image")
    with pytest.raises(UnreadableError, match=r"^not a JPEG, PNG or DICOM image$"):
        read_header(path)
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


def test_mutated_files_decode_or_are_refused_in_words(tmp_path, phantom_root):
    """No crash, no hang, and what the header refuses is never decoded; on originals where they are at hand."""
    files = [Path(path) for path in originals(1)] or sorted(phantom_root.rglob("*.jpeg"))
    contents, outcomes = [file.read_bytes() for file in files], Counter()

    def one(seed):
        path, refused, image, said = tmp_path / f"{seed}.jpeg", None, None, ""
        path.write_bytes(mutate(contents[seed % len(contents)], np.random.default_rng(seed)))
        try:
            read_header(path)
        except UnreadableError as error:
            refused = str(error)
        try:
            image = read_resized(path, 32, (1, 3)[seed % 2], _images.INTERPOLATIONS[seed % 3])
        except UnreadableError as error:
            said = str(error)
        path.unlink()
        if image is None:
            assert said.startswith(path.name)
            assert refused is None or refused in said
        else:
            assert refused is None
            assert image.shape == (32, 32, (1, 3)[seed % 2])
            assert image.dtype == np.uint8
        outcomes["decoded" if image is not None else "refused by header" if refused else "refused by decoder"] += 1

    faulthandler.dump_traceback_later(300, exit=True)  # a hang ends with the place where it hangs
    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as pool:
        warnings.simplefilter("ignore")
        for future in [pool.submit(one, seed) for seed in range(MUTATIONS)]:
            future.result()
    faulthandler.cancel_dump_traceback_later()
    assert sum(outcomes.values()) == MUTATIONS
    assert len(outcomes) == 3, outcomes

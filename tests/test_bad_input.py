"""What can be wrong with a reader's folder, and the words each must give: never a bare stack trace, never silence."""

import os
import shutil
import struct
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xrayhelpers import dataset, pixels, sources

FILE = "train/NORMAL/IM-0500-0001.jpeg"


def noise(size=(64, 48), mode="L"):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(values).convert("RGB").convert(mode)


def save(path, size=(64, 48), mode="L", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(size, mode).save(path, **options)


@pytest.fixture
def tree():
    """A good folder of 30 images. Not below pytest's own folder, which another user (see `rights_of`) cannot enter."""
    root = Path(tempfile.mkdtemp(prefix="xrays-bad-"))
    root.chmod(0o755)
    for split, n in {"train": 10, "test": 4, "val": 1}.items():
        for i in range(n):
            number = 100 * len(split) + i
            save(root / split / "NORMAL" / f"IM-{number:04d}-0001.jpeg")
            save(root / split / "PNEUMONIA" / f"person{number}_virus_{i}.jpeg")
    yield root
    shutil.rmtree(root, ignore_errors=True)


USER = os.geteuid()


def rights_of(user):
    """Give up the rights of root, to whom no file is unreadable, or take them back."""
    if USER == 0:
        os.seteuid(user)


@pytest.fixture(autouse=True)
def rights_back():
    yield
    rights_of(USER)


def write(name, content):
    def spoil(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    return spoil


def remove(name):
    return lambda root: shutil.rmtree(root / name)


def rename(name, to):
    def spoil(root):
        (root / name).rename(root / to)

    return spoil


def picture(name, size=(64, 48), mode="L", **options):
    return lambda root: save(root / name, size, mode, **options)


def cut(share):
    def spoil(root):
        content = (root / FILE).read_bytes()
        (root / FILE).write_bytes(content[: int(len(content) * share)])

    return spoil


def empty_class(name):
    def spoil(root):
        for file in (root / name).iterdir():
            file.unlink()

    return spoil


def class_is_a_file(root):
    shutil.rmtree(root / "test" / "NORMAL")
    (root / "test" / "NORMAL").write_bytes(b"x")


def all_broken(root):
    for file in (root / "train" / "NORMAL").iterdir():
        file.write_bytes(b"x" * 100)


def animation(root):
    frames = [noise() for _ in range(3)]
    frames[1].paste(255, (0, 0, 20, 20))
    frames[2].paste(0, (0, 0, 20, 20))
    frames[0].save(root / "train/NORMAL/IM-0600-0001.png", save_all=True, append_images=frames[1:])


def huge_png(root):
    """A header that claims 60,000 x 60,000 pixels and holds none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (root / "train/NORMAL/IM-0600-0001.png").write_bytes(content)


def no_permission(root):
    (root / FILE).chmod(0)
    rights_of(65534)


def closed_folder(root):
    (root / "train" / "NORMAL").chmod(0)
    rights_of(65534)


def closed_root(root):
    root.chmod(0)
    rights_of(65534)


def loop(name):
    def spoil(root):
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(Path(name).name)

    return spoil


def folder_loop(root):
    shutil.rmtree(root / "train" / "NORMAL")
    (root / "train" / "NORMAL").symlink_to("NORMAL")


def dangling(root):
    (root / FILE).unlink()
    (root / FILE).symlink_to("not there")


def no_utf8(root):
    shutil.copy(root / FILE, os.fsencode(root / "train/NORMAL") + b"/IM-\xff-0001.jpeg")


def move(to):
    """Return a step that moves the whole tree below a new folder name, and the path to give."""

    def spoil(root):
        target = root / to
        target.mkdir(parents=True)
        for split in ("train", "test", "val"):
            (root / split).rename(target / split)
        return target

    return spoil


def same_names(root):
    for i in range(3):
        shutil.copy(root / f"train/NORMAL/IM-050{i}-0001.jpeg", root / "test/NORMAL")


def film(root):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.3", "1.2.3.4"
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns, data.SamplesPerPixel, data.NumberOfFrames = 20, 20, 1, 2
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation, data.PhotometricInterpretation = 7, 0, "MONOCHROME2"
    data.PixelData = bytes(800)
    data.save_as(root / "train/NORMAL/IM-0600-0001.dcm")


ERROR, LISTED, DECODED, SAID, FINE = "error", "listed", "decoded", "said", "fine"
# name, how to spoil a good folder, what must happen, the words that say it
#   error: load_index raises; listed: it leaves the file out and warns; decoded: load_pixels raises;
#   said: all images are kept, with a warning; fine: nothing is wrong with it
TABLE = [
    ("no folder", lambda root: root / "nowhere", ERROR, "does not exist. Expected: a folder with train/ and test/"),
    ("a file", lambda root: root / FILE, ERROR, "is a file. Expected: a folder"),
    ("empty folder", lambda root: (root / "new").mkdir() or root / "new", ERROR, "Give the folder above it"),
    ("the train folder", lambda root: root / "train", ERROR, "is a part of a data set. Give the folder above it"),
    ("train missing", remove("train"), ERROR, "No train/ and test/ in"),
    ("test missing", remove("test"), ERROR, "No train/ and test/ in"),
    ("test misspelt", rename("test", "tset"), ERROR, "found train/, tset/, val/"),
    ("nested two deeper", move("a/b"), FINE, ""),
    ("nested too deep", lambda root: move("a/b/c")(root).parents[1], ERROR, "No train/ and test/ in"),
    ("class missing", remove("train/NORMAL"), ERROR, "No folder train/NORMAL; found PNEUMONIA. Add it"),
    ("class empty", empty_class("train/NORMAL"), ERROR, "train/NORMAL holds no image"),
    ("test class empty", empty_class("test/PNEUMONIA"), ERROR, "test/PNEUMONIA holds no image"),
    ("val class empty", empty_class("val/NORMAL"), FINE, ""),
    ("val class missing", remove("val/NORMAL"), ERROR, "No folder val/NORMAL"),
    ("class misspelt", rename("train/PNEUMONIA", "train/PNUEMONIA"), ERROR, "Is PNUEMONIA meant? Rename it"),
    ("class in small letters", rename("train/NORMAL", "train/normal"), ERROR, "Is normal meant? Rename it to NORMAL"),
    ("class unknown", lambda root: (root / "train/COVID").mkdir(), ERROR, "Folder train/COVID is no class"),
    ("class is a file", class_is_a_file, ERROR, "No folder test/NORMAL; found PNEUMONIA"),
    ("class is a loop", folder_loop, ERROR, "No folder train/NORMAL"),
    ("class closed", closed_folder, ERROR, "cannot be read (Permission denied)"),
    ("root closed", closed_root, ERROR, "cannot be read (Permission denied)"),
    ("all of a class broken", all_broken, ERROR, "At most 5% are left out"),
    ("zero bytes", write(FILE, b""), LISTED, "empty file (0 bytes)"),
    ("one byte", write(FILE, b"\xff"), LISTED, "not a JPEG, PNG or DICOM image"),
    ("text", write(FILE, b"This is no image.\n"), LISTED, "not a JPEG, PNG or DICOM image"),
    ("a web page", write(FILE, b"<html><title>404 Not Found</title></html>"), LISTED, "not a JPEG, PNG"),
    ("JPEG header, random bytes", write(FILE, b"\xff\xd8\xff\xe0\0\x10JFIF\0\1" + os.urandom(4000)), LISTED, ""),
    ("PNG header alone", write(FILE, b"\x89PNG\r\n\x1a\n"), LISTED, "not a JPEG, PNG or DICOM image"),
    ("a GIF", picture("train/NORMAL/IM-0600-0001.jpeg", format="GIF"), LISTED, "not a JPEG, PNG or DICOM image"),
    ("a TIFF", picture("train/NORMAL/IM-0600-0001.tiff"), LISTED, "ends in .tiff; expected .jpeg"),
    ("DICOM mark alone", write(FILE, bytes(128) + b"DICM"), LISTED, ""),
    ("DICOM film", film, LISTED, "a DICOM film of 2 frames"),
    ("another file", write("train/NORMAL/notes.txt", b"x"), LISTED, "ends in .txt; expected .jpeg"),
    ("a folder in a class", lambda root: (root / "train/NORMAL/more").mkdir(), LISTED, "a folder; images expected"),
    ("1 x 1", picture(FILE, (1, 1)), LISTED, "1 x 1 pixels; at least 16 x 16 expected"),
    ("20000 x 10", picture(FILE, (20000, 10)), LISTED, "20000 x 10 pixels; at least 16 x 16 expected"),
    ("60000 x 60000", huge_png, LISTED, "broken header|60000 x 60000 pixels; at most"),
    ("animation", animation, LISTED, "an animation of 3 frames; one image expected"),
    ("no permission", no_permission, LISTED, "Permission denied"),
    ("link to itself", loop(FILE), LISTED, "symbolic links"),
    ("link to nowhere", dangling, LISTED, "No such file"),
    ("name not UTF-8", no_utf8, LISTED, "name is not UTF-8"),
    ("same names in train and test", same_names, SAID, "6 images share their file name with another"),
    ("same stem, two formats", picture(FILE.replace(".jpeg", ".png")), SAID, "2 images share their file name"),
    ("foreign name", picture("train/NORMAL/röntgen 1.jpeg"), SAID, "1 file names say no patient"),
    ("very long name", picture(f"train/NORMAL/IM-0600-{'0' * 230}.jpeg"), FINE, ""),
    ("line break in a name", picture("train/NORMAL/IM-0600-\n1.jpeg"), FINE, ""),
    ("spaces and umlauts in the path", move("Röntgen Bilder/Kinder ü"), FINE, ""),
    ("16-bit PNG", lambda root: Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(
        root / "train/NORMAL/IM-0600-0001.png"), FINE, ""),
    ("CMYK", picture(FILE, mode="CMYK"), FINE, ""),
    ("palette", picture("train/NORMAL/IM-0600-0001.png", mode="P"), FINE, ""),
    ("black and white", picture("train/NORMAL/IM-0600-0001.png", mode="1"), FINE, ""),
    ("grey with alpha", picture("train/NORMAL/IM-0600-0001.png", mode="LA"), FINE, ""),
    ("PNG named .jpeg", picture(FILE, format="PNG"), FINE, ""),
    ("no suffix", rename(FILE, "train/NORMAL/IM-0500-0001"), FINE, ""),
    ("progressive JPEG", picture(FILE, progressive=True), FINE, ""),
    *[(f"JPEG cut at {100 * share:.0f} %", cut(share), LISTED, "truncated|not a JPEG|broken header")
      for share in np.linspace(0.01, 0.99, 25)],
]  # fmt: skip


def check_words(words, text):
    assert any(word in text for word in words.split("|")), text


@pytest.mark.parametrize(("spoil", "outcome", "words"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_bad_input(tree, cache, spoil, outcome, words):
    path = spoil(tree)
    path = path if isinstance(path, Path) else tree
    if outcome == ERROR:
        with pytest.raises(sources.DataError) as error:
            dataset.load_index(path)
        check_words(words, str(error.value))
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        index = dataset.load_index(path)
    said = " ".join(str(w.message) for w in said)
    if outcome == LISTED:
        assert len(index.attrs["unreadable"]) == 1
        check_words(words, next(iter(index.attrs["unreadable"].values())))
        assert "They are left out" in said
        check_words(words, said)
    elif outcome == SAID:
        check_words(words, said)
        assert index.attrs["unreadable"] == {}
    else:
        assert said == ""
    rights_of(0)
    images = pixels.load_pixels(index, size=32)  # what the index keeps can be decoded
    assert images.shape == (len(index), 32, 32, 3)
    assert images.reshape(len(images), -1).max(axis=1).min() > 0  # no image came out black


def test_table_is_large_enough():
    assert len(TABLE) >= 40
    assert len({row[0] for row in TABLE}) == len(TABLE)


def test_broken_inside_is_said_when_decoded(tree, cache):
    png = tree / "train/NORMAL/IM-0600-0001.png"
    save(png)
    content = bytearray(png.read_bytes())
    content[len(content) // 2] ^= 0xFF
    png.write_bytes(content)
    index = dataset.load_index(tree)
    with pytest.raises(sources.DataError, match=r"1 of 31 images .* decoded: train/NORMAL/IM-0600") as error:
        pixels.load_pixels(index, size=32)
    fix = str(error.value).partition("leave them out: ")[2]
    assert fix.startswith("index = index[")
    scope = {"index": index}
    exec(fix, scope)  # the next thing to type works when typed
    assert len(pixels.load_pixels(scope["index"], size=32)) == 30


def test_too_many_unreadable_is_an_error(tree):
    for i in range(3):
        (tree / f"train/NORMAL/IM-050{i}-0001.jpeg").write_bytes(b"")
    with pytest.raises(sources.DataError, match=r"3 of 30 files are unreadable .*At most 5% are left out"):
        dataset.load_index(tree)
    with pytest.warns(sources.DataWarning, match="3 of 30 files"):
        assert len(dataset.load_index(tree, max_unreadable=0.2)) == 27


@pytest.mark.parametrize("classes", [{}, {"NORMAL": 0}, {"NORMAL": 0, "PNEUMONIA": 2}])
def test_bad_classes(tree, classes):
    with pytest.raises(sources.DataError, match="label 0"):
        dataset.load_index(tree, classes=classes)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"size": 0}, "size 1 to 4096"),
        ({"size": 10**6}, "size 1 to 4096"),
        ({"channels": 4}, "channels=3 or channels=1"),
        ({"interpolation": "cubic"}, "nearest, bilinear, area"),
    ],
)
def test_bad_settings(tree, cache, settings, text):
    with pytest.raises(ValueError, match=text):
        pixels.load_pixels(dataset.load_index(tree), **settings)


def test_image_gone_after_the_index(tree, cache):
    index = dataset.load_index(tree)
    (tree / FILE).unlink()
    with pytest.raises(sources.DataError, match=r"cannot be read any more .*load_index\(root\)"):
        pixels.load_pixels(index)
    with pytest.raises(sources.DataError, match="no rows"):
        pixels.load_pixels(index.iloc[:0])

"""The way from a wish to split images: which data "auto" means, any tree a reader may have, the index, both splits."""

import os
import re
import shutil
import struct
import sys
import tempfile
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from xrayhelpers import _images, _machine, data
from xrayhelpers._images import ORIENTATION, UnreadableError
from xrayhelpers._machine import DataError, DataNotFoundError, DataWarning
from xrayhelpers.data import load_images, load_index, open_data, split_index

FILE = "train/NORMAL/IM-0500-0001.jpeg"


def noise(size=(64, 48), mode="L"):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(values).convert("RGB").convert(mode)


def save(path, size=(64, 48), mode="L", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(size, mode).save(path, **options)


def make_tree(root, counts):
    for split, n in counts.items():
        for i in range(n):
            number = 100 * len(split) + i
            save(root / split / "NORMAL" / f"IM-{number:04d}-0001.jpeg")
            save(root / split / "PNEUMONIA" / f"person{number - i % 2}_virus_{i}.jpeg")
    return root


@pytest.fixture(autouse=True)
def own_cache(cache):
    """What is remembered of these files goes with them."""


@pytest.fixture
def tree(tmp_path):
    """A small valid tree, to be spoiled or changed."""
    return make_tree(tmp_path / "chest_xray", {"train": 4, "test": 3, "val": 1})


def counts(index):
    return index["split"].value_counts().reindex(["train", "test", "val"], fill_value=0).tolist()


# ------------------------------------------------------------------------------------------------ where they are
@pytest.fixture
def phantom(monkeypatch, tree):
    """A phantom that only takes down what it was asked for."""
    asked = []

    def phantom_folder(**options):
        asked.append(options)
        return tree

    monkeypatch.setattr("xrayhelpers.data.phantom_folder", phantom_folder)
    return asked


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Neither the working folder nor the repository of the machine holds data."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(_machine, "__file__", str(tmp_path / "repository" / "xrayhelpers" / "_machine.py"))
    monkeypatch.setattr(_machine, "KAGGLE_INPUT", tmp_path / "input")
    return tmp_path


def test_what_auto_means(tree, phantom, elsewhere, monkeypatch):
    """The weaker wishes first: the phantom, Kaggle's own folder, the repository, the working folder, XRAYS_DATA."""
    source = open_data()
    assert phantom == [{}]
    assert (source.name, source.record) == ("phantom", None)
    assert str(source).endswith("its numbers teach the method and say nothing about medicine")
    for twice in ("chest_xray/chest_xray", "chest_xray"):  # Kaggle's archive holds the images twice
        kept = shutil.copytree(tree, elsewhere / "input" / twice, dirs_exist_ok=True)
        assert open_data().folder == kept
        assert len(load_index(kept)) == 16
    for home in (elsewhere / "repository", Path.cwd()):
        shutil.copytree(tree, home / "data" / "chest_xray")
        assert open_data("auto").folder == home / "data" / "chest_xray"
    monkeypatch.setenv("HOME", str(elsewhere))
    for value in (str(tree), "~/chest_xray", '"~/chest_xray"', "../chest_xray"):
        monkeypatch.setenv("XRAYS_DATA", value)
        assert open_data().folder.samefile(tree)
        assert open_data(value.strip('"')).folder.samefile(tree)
    monkeypatch.setenv("XRAYS_DATA", "phantom:train=5")
    assert open_data().name == "phantom"
    monkeypatch.setenv("XRAYS_DATA", str(tree / "nowhere"))
    with pytest.raises(DataNotFoundError, match="does not exist"):  # and not quietly the phantom
        open_data()


def test_auto_does_not_pass_over_a_broken_folder(phantom, elsewhere):
    Path("data/chest_xray").mkdir(parents=True)
    with pytest.raises(DataNotFoundError, match="No train/ and test/ in"):
        open_data()


def test_phantom_options(phantom):
    open_data("phantom:train=60, test=30,val=8,seed=1,quality_shortcut=False")
    assert phantom == [{"train": 60, "test": 30, "val": 8, "seed": 1, "quality_shortcut": False}]


def test_wrong_phantom_options_are_refused_before_anything_is_drawn(cache):
    for wish in ("train", "color=3", "train=many", "train=(", 'cache="/any/where"', "progress=False"):
        with pytest.raises(DataError, match=r"cannot be read .*Type for example --data phantom:train=60"):
            open_data(f"phantom:{wish}")
    assert not cache.exists()


def test_wrong_numbers_and_a_full_disk_are_said(monkeypatch, cache):
    with pytest.raises(DataError, match="train=1: expected a whole number"):
        open_data("phantom:train=1")

    def full(**_):
        raise OSError("no room")

    monkeypatch.setattr("xrayhelpers.data.phantom_folder", full)
    with pytest.raises(OSError, match=r"^no room$"):
        open_data("phantom")


def test_errors_speak_the_words_of_where_the_reader_is(monkeypatch, run_cell):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with pytest.raises(DataNotFoundError, match="or --data phantom for"):
        open_data("/no/such/folder")
    with pytest.raises(DataError, match=r"Give their labels: --classes healthy=0,ill=1\.$"):
        load_index("phantom", classes="a=1,b=1")
    code = "from xrayhelpers.data import open_data\ntry: open_data('/no')\nexcept OSError as error: print(error)"
    (said,) = run_cell(code, 60).cells[0].outputs
    assert 'or data = "phantom" for' in said.text


def test_folder_says_what_it_holds_and_no_path(tree, tmp_path):
    for litter in ("._IM-0500-0001.jpeg", ".DS_Store", "Thumbs.db", "notes.txt"):
        (tree / "train" / "NORMAL" / litter).touch()
    source = open_data(tree)
    assert str(source) == ("folder data: 16 images (train 8, test 6, val 2); Kaggle chest-xray-pneumonia has 5856")
    assert str(tmp_path) not in str(source)
    assert open_data(tree.parent) == source  # the folder above will do


def test_record_is_complete():
    assert data.KAGGLE.address.startswith("https://")
    assert data.KAGGLE.license == "CC BY 4.0"
    assert "10.17632/rscbjbr9sj" in data.KAGGLE.citation
    assert data.KAGGLE.counts == {"train": 5216, "test": 624, "val": 16}


# ----------------------------------------------------------------------------------------- one row per image
def test_index_of_a_tree(tree):
    index = load_index(tree)
    assert tuple(index.columns) == data.COLUMNS
    assert index["name"].is_monotonic_increasing
    assert index.groupby(["split", "label"]).size().to_dict() == {
        ("test", 0): 3, ("test", 1): 3, ("train", 0): 4, ("train", 1): 4, ("val", 0): 1, ("val", 1): 1
    }  # fmt: skip
    first = index.iloc[0]
    assert first["name"] == "test/NORMAL/IM-0400-0001.jpeg"
    assert (first["width"], first["height"], first["mode"]) == (64, 48, "L")
    assert first["bytes"] == os.path.getsize(first["path"])
    assert index.attrs["unreadable"] == {}


def test_the_folder_above_and_a_doubled_tree_and_litter(tree):
    index = load_index(tree)
    shutil.copytree(tree, tree / "chest_xray")
    (tree / "train" / "NORMAL" / "._IM-0500-0001.jpeg").write_bytes(b"x")
    (tree / "train" / ".DS_Store").write_bytes(b"x")
    (tree / "train" / "NORMAL" / "Thumbs.db").write_bytes(b"x")
    (tree / "__MACOSX").mkdir()
    pd.testing.assert_frame_equal(index, load_index(tree.parent))
    assert open_data(tree).folder == tree


def test_without_val_and_with_other_class_names(tree, monkeypatch):
    shutil.rmtree(tree / "val")
    assert counts(load_index(tree)) == [8, 6, 0]
    for split in ("train", "test"):
        (tree / split / "NORMAL").rename(tree / split / "gesund")
        (tree / split / "PNEUMONIA").rename(tree / split / "krank")
    index = load_index(tree, classes={"gesund": 0, "krank": 1})
    assert counts(index) == [8, 6, 0]
    assert index["label"].sum() == 7
    for classes in ("gesund", {"gesund": 0}, {"gesund": 0, "krank": 2}, "gesund=0,krank=0", "gesund=0,krank=ja"):
        with pytest.raises(DataError, match="label 0"):
            load_index(tree, classes=classes)
    save(tree / "train" / "COVID" / "IM-0001-0001.jpeg")
    for classes in ("gesund=0, krank=1", {"Gesund": 0, "KRANK": 1}):
        with pytest.warns(DataWarning, match=r"1 images are outside of the classes .*train/COVID/: they are left out"):
            pd.testing.assert_frame_equal(load_index(tree, classes), index)
    monkeypatch.setenv("XRAYS_CLASSES", "'gesund=0,krank=1,covid=1'")
    assert load_index(tree)["label"].sum() == 8
    assert open_data(tree).note.startswith("15 images (train 9, test 6, val 0)")
    with pytest.warns(DataWarning, match="they are left out"):
        assert open_data(tree, "gesund=0,krank=1").note.startswith("14 images")
    assert load_index(tree)["label"].sum() == 7


def test_names_say_patient_and_cause(tree):
    names = {
        "NORMAL/IM-0115-0001.jpeg": ("IM-0115", "normal"),
        "NORMAL/IM-0439-0001-0002.jpeg": ("IM-0439", "normal"),
        "NORMAL/NORMAL2-IM-1427-0001.jpeg": ("NORMAL2-IM-1427", "normal"),
        "PNEUMONIA/person1024_bacteria_2955.jpeg": ("person1024", "bacteria"),
        "PNEUMONIA/person1000_virus_1681.jpeg": ("person1000", "virus"),
        "PNEUMONIA/scan 7.png": ("scan 7", "unknown"),
    }
    for name in names:
        save(tree / "train" / name)
    with pytest.warns(DataWarning, match=r"1 file names say no patient \(as train/PNEUMONIA/scan 7.png.*own-data.md"):
        index = load_index(tree).set_index("name")
    for name, expected in names.items():
        assert tuple(index.loc[f"train/{name}", ["patient", "cause"]]) == expected
    classes = {"NORMAL": 0, "PNEUMONIA": 1}
    for split in ("train", "test", "val"):
        (tree / split / "PNEUMONIA").rename(tree / split / "Bacteria")
    with pytest.warns(DataWarning):
        index = load_index(tree, {"NORMAL": 0, "Bacteria": 1}).set_index("name")
    assert index.loc["train/Bacteria/scan 7.png", "cause"] == "bacteria"
    assert classes == data.CLASSES


def test_kinds_of_files(tree):
    folder = tree / "train" / "NORMAL"
    save(folder / "IM-0900-0001.png", mode="RGBA")
    save(folder / "IM-0901-0001.jpg", mode="CMYK")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    save(folder / "IM-0902-0001.jpeg", exif=exif)
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(16, 25)).save(folder / "IM-0903-0001.png")
    with pytest.warns(DataWarning, match=r"1 PNG files of 16 bits \(1 look like 10 bits, as train/N"):
        index = load_index(tree).set_index("patient")
    assert index["mode"][["IM-0900", "IM-0901", "IM-0902"]].tolist() == ["RGBA", "CMYK", "L"]
    assert index["mode"]["IM-0903"] == "I;10"
    assert index.loc["IM-0902", ["width", "height"]].tolist() == [48, 64]  # upright


def test_duplicates_and_fingerprint(tree):
    index = load_index(tree)
    first = data.fingerprint(index)
    assert len(first) == 12
    assert first == data.fingerprint(index.sample(frac=1, random_state=0))
    assert first != data.fingerprint(index.iloc[1:])
    for litter in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tree / "train" / "NORMAL" / litter).touch()
    shutil.copytree(tree, tree.parent / "copy")
    for path in (tree / "train").rglob("*.jpeg"):  # touched, and nothing else
        path.touch()
        path.chmod(0o600)
    assert [data.fingerprint(load_index(folder)) for folder in (tree, tree.parent / "copy")] == [first, first]
    one = tree.parent / "copy" / FILE  # repaired: another picture of the same name, size and date
    stat, content = one.stat(), bytearray(one.read_bytes())
    content[-4] ^= 1
    one.write_bytes(content)
    os.utime(one, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert data.fingerprint(load_index(tree.parent / "copy")) != first
    assert data.fingerprint(index.assign(label=1 - index["label"])) != first
    for i, path in enumerate(index["path"]):
        save(Path(path), size=(64 + i, 48))  # no two files alike
    index = load_index(tree)
    assert first != data.fingerprint(index)
    assert data.find_duplicates(index).empty
    shutil.copy(tree / FILE, tree / "test" / "NORMAL" / "IM-0777-0001.jpeg")
    shutil.copy(tree / FILE, tree / "train" / "NORMAL" / "IM-0778-0001.jpeg")
    shutil.copy(tree / "train/NORMAL/IM-0501-0001.jpeg", tree / "train" / "NORMAL" / "IM-0779-0001.jpeg")
    found = data.find_duplicates(load_index(tree)).set_index("patient")
    assert set(found.index) == {"IM-0777", "IM-0500", "IM-0778", "IM-0501", "IM-0779"}
    assert found["across"].to_dict() == {name: name not in ("IM-0501", "IM-0779") for name in found.index}


# ------------------------------------------------------------------------------------ whatever can be wrong with it
USER = os.geteuid()


def rights_of(user):
    """Give up the rights of root, to whom no file is unreadable, or take them back."""
    if USER == 0:
        os.seteuid(user)


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


def truncate(share):
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


def one_class_unreadable(root):
    """Too few files to be more than 5 % of all, and yet all of their class."""
    for file in sorted((root / "test" / "NORMAL").iterdir())[1:]:
        file.unlink()
    next((root / "test" / "NORMAL").iterdir()).write_bytes(b"x")


def animation(root):
    frames = [noise() for _ in range(3)]
    frames[1].paste(255, (0, 0, 20, 20))
    frames[2].paste(0, (0, 0, 20, 20))
    frames[0].save(root / "train/NORMAL/IM-0600-0001.png", save_all=True, append_images=frames[1:])


def huge_png(root):
    """A header that claims 60,000 x 60,000 pixels and holds none."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (root / "train/NORMAL/IM-0600-0001.png").write_bytes(content)


def closed(name):
    def spoil(root):
        (root / name).chmod(0)
        rights_of(65534)

    return spoil


def link(name, target):
    def spoil(root):
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()
        (root / name).symlink_to(target)

    return spoil


def no_utf8(root):
    shutil.copy(root / FILE, os.fsencode(root / "train/NORMAL") + b"/IM-\xff-0001.jpeg")


def move(to):
    """Return a step that moves the whole tree below a new folder name, and the path to give."""

    def spoil(root):
        target = Path(os.fsdecode(os.fsencode(root) + b"/" + (to if isinstance(to, bytes) else to.encode())))
        target.mkdir(parents=True)
        for split in ("train", "test", "val"):
            (root / split).rename(target / split)
        return target

    return spoil


def same_names(root):
    for i in range(3):
        shutil.copy(root / f"train/NORMAL/IM-050{i}-0001.jpeg", root / "test/NORMAL")


ERROR, LISTED, SAID, FINE = "error", "listed", "said", "fine"
# name, how to spoil a good folder, what must happen, the words that say it
#   error: load_index raises; listed: it leaves the file out and warns; said: all images are kept, with a warning;
#   fine: nothing is wrong with it
TABLE = [
    ("no folder", lambda root: root / "nowhere", ERROR, "does not exist. Expected: a folder with train/ and test/"),
    ("a name too long", lambda root: root / ("x" * 300), ERROR, "does not exist. Expected: a folder"),
    ("a zero in a name", lambda root: root / "a\0b", ERROR, "does not exist. Expected: a folder"),
    ("a file", lambda root: root / FILE, ERROR, "cannot be read (Not a directory). Expected: a folder"),
    ("empty folder", lambda root: (root / "new").mkdir() or root / "new", ERROR, "found no folder at all"),
    ("the train folder", lambda root: root / "train", ERROR, "is a part of a data set. Give the folder above it"),
    ("train missing", remove("train"), ERROR, "train holds no readable image of normal"),
    ("test missing", remove("test"), SAID, "No test folder: 4 images of whole patients become test"),
    ("test misspelt", rename("test", "tset"), SAID, "No test folder"),
    ("nested two deeper", move("a/b"), FINE, ""),
    ("nested too deep", lambda root: move("a/b/c/d")(root).parents[2], ERROR, "No train/ and test/ in"),
    ("class missing", remove("train/NORMAL"), ERROR, "train holds no readable image of normal"),
    ("class empty", empty_class("train/NORMAL"), ERROR, "train holds no readable image of normal. Put some there"),
    ("test class empty", empty_class("test/PNEUMONIA"), ERROR, "test holds no readable image of pneumonia"),
    ("val class empty", empty_class("val/NORMAL"), FINE, ""),
    ("val class missing", remove("val/NORMAL"), FINE, ""),
    ("class misspelt", rename("train/PNEUMONIA", "train/PNUEMONIA"), ERROR, "train/PNUEMONIA/. Is pneumonia meant?"),
    ("class in small letters", rename("train/NORMAL", "train/normal"), FINE, ""),
    ("class unknown", picture("train/COVID/IM-0001-0001.jpeg"), ERROR, "1 images are outside of the classes"),
    ("class unknown, empty", lambda root: (root / "train/COVID").mkdir(), FINE, ""),
    ("class is a file", class_is_a_file, ERROR, "test holds no readable image of normal"),
    ("class is a loop", link("train/NORMAL", "NORMAL"), ERROR, "train holds no readable image of normal"),
    ("class holds a loop", lambda root: (root / "train/NORMAL/all").symlink_to(root), FINE, ""),
    ("class closed", closed("train/NORMAL"), ERROR, "cannot be read (Permission denied)"),
    ("root closed", closed("."), ERROR, "cannot be read (Permission denied)"),
    ("all of a class broken", all_broken, ERROR, "at most 5% are left out"),
    ("a small class broken", one_class_unreadable, ERROR, "test holds no readable image of normal"),
    ("path not UTF-8", move(b"\xff"), ERROR, "path is not UTF-8"),
    ("two data sets", lambda root: shutil.copytree(root, root.parent / f"{root.name}-two" / "b") and shutil.copytree(
        root, root.parent / f"{root.name}-two" / "a").parent, ERROR, "Which one? Give its path"),
    ("zero bytes", write(FILE, b""), LISTED, "empty file (0 bytes)"),
    ("one byte", write(FILE, b"\xff"), LISTED, "not a JPEG, PNG or DICOM image"),
    ("text", write(FILE, b"This is no image.\n"), LISTED, "not a JPEG, PNG or DICOM image"),
    ("a web page", write(FILE, b"<html><title>404 Not Found</title></html>"), LISTED, "not a JPEG, PNG"),
    ("JPEG header, random bytes", write(FILE, b"\xff\xd8\xff\xe0\0\x10JFIF\0\1" + os.urandom(4000)), LISTED, ""),
    ("PNG header alone", write(FILE, b"\x89PNG\r\n\x1a\n"), LISTED, "not a JPEG, PNG or DICOM image"),
    ("a GIF", picture("train/NORMAL/IM-0600-0001.jpeg", format="GIF"), LISTED, "not a JPEG, PNG or DICOM image"),
    ("a TIFF", picture("train/NORMAL/IM-0600-0001.tiff"), LISTED, "ends in .tiff; expected .jpeg"),
    ("DICOM mark alone", write(FILE, bytes(128) + b"DICM"), LISTED, ""),
    ("another file", write("train/NORMAL/notes.txt", b"x"), LISTED, "ends in .txt; expected .jpeg"),
    ("a folder in a class", lambda root: (root / "train/NORMAL/more").mkdir(), FINE, ""),
    ("images in it", rename("train/NORMAL", "train/more"), ERROR, "as in train/more/"),
    ("a pipe in a class", lambda root: os.mkfifo(root / "train/NORMAL/IM-0600-0001.jpeg"), LISTED, "pipe"),
    ("1 x 1", picture(FILE, (1, 1)), LISTED, "1 x 1 pixels; at least 16 x 16"),
    ("20000 x 10", picture(FILE, (20000, 10)), LISTED, "20000 x 10 pixels; at least 16 x 16"),
    ("60000 x 60000", huge_png, LISTED, "broken header|60000 x 60000 pixels; at least"),
    ("animation", animation, LISTED, "animation of 3 frames; one image expected"),
    ("no permission", closed(FILE), LISTED, "Permission denied"),
    ("link to itself", link(FILE, Path(FILE).name), LISTED, "symbolic links"),
    ("link to nowhere", link(FILE, "not there"), LISTED, "No such file"),
    ("name not UTF-8", no_utf8, LISTED, "path is not UTF-8"),
    ("same names in train and test", same_names, SAID, "6 images share their file name with another"),
    ("same stem, two formats", picture(FILE.replace(".jpeg", ".png")), SAID, "2 images share their file name"),
    ("foreign name", picture("train/NORMAL/röntgen 1.jpeg"), SAID, "1 file names say no patient"),
    ("very long name", picture(f"train/NORMAL/IM-0600-{'0' * 230}.jpeg"), FINE, ""),
    ("line break in a name", picture("train/NORMAL/IM-0600-\n1.jpeg"), FINE, ""),
    ("spaces and umlauts in the path", move("Röntgen Bilder/Kinder ü"), FINE, ""),
    ("16-bit PNG", lambda root: Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(
        root / "train/NORMAL/IM-0600-0001.png"), SAID, "1 PNG files of 16 bits (1 look like 16 bits, as"),
    ("pneumonia by its name", picture("train/NORMAL/person9_virus_1.jpeg"), SAID, "1 images of label 0 are named as"),
    *[(f"litter {name!r}", write(f"train/NORMAL/{name}", b"x"), FINE, "")
      for name in ("desktop.ini", "thumbs.db", "Thumbs.db", "ehthumbs.db", "._a.jpeg", ".DS_Store", "Icon\r")],
    *[(f"litter {name}/", write(f"{where}/{name}/x.jpeg", b"x"), FINE, "")
      for name in ("@eaDir", ".ipynb_checkpoints", "__MACOSX", "masks") for where in ("train", "train/NORMAL")],
    ("CMYK", picture(FILE, mode="CMYK"), FINE, ""),
    ("palette", picture("train/NORMAL/IM-0600-0001.png", mode="P"), FINE, ""),
    ("black and white", picture("train/NORMAL/IM-0600-0001.png", mode="1"), FINE, ""),
    ("grey with alpha", picture("train/NORMAL/IM-0600-0001.png", mode="LA"), FINE, ""),
    ("PNG named .jpeg", picture(FILE, format="PNG"), FINE, ""),
    ("no suffix", rename(FILE, "train/NORMAL/IM-0500-0001"), FINE, ""),
    ("progressive JPEG", picture(FILE, progressive=True), FINE, ""),
    *[(f"JPEG truncated at {100 * share:.0f} %", truncate(share), LISTED, "truncated|not a JPEG|broken header")
      for share in np.linspace(0.01, 0.99, 25)],
]  # fmt: skip


@pytest.fixture
def good(monkeypatch):
    """A good folder of 30 images. Not below pytest's own folder, which another user (see `rights_of`) cannot enter."""
    root = Path(tempfile.mkdtemp(prefix="xrays-good-"))
    root.chmod(0o755)
    monkeypatch.setenv("XRAYS_CACHE", str(root / "cache"))
    yield make_tree(root / "data", {"train": 10, "test": 4, "val": 1})
    rights_of(USER)
    shutil.rmtree(root, ignore_errors=True)


def check_spoilt(root, spoil, outcome, words):
    """Spoil a good folder and see that exactly what should happen does, in words that help."""
    path = spoil(root)
    path = path if isinstance(path, Path) else root
    if outcome == ERROR:
        with warnings.catch_warnings(action="ignore"), pytest.raises(DataError) as error:
            load_index(path)
        rights_of(USER)
        assert words in str(error.value)
        assert "delete" not in str(error.value).lower()
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        index = load_index(path)
    rights_of(USER)
    said = " ".join(str(w.message) for w in said)
    assert len(index.attrs["unreadable"]) == (outcome == LISTED), index.attrs["unreadable"]
    if outcome == LISTED:
        assert "They are left out" in said
        assert "delete" not in said.lower()
        said = next(iter(index.attrs["unreadable"].values()))
    assert (said == "") == (outcome == FINE), said
    assert any(word in said for word in words.split("|")), said
    images = load_images(index, 32)  # what the index keeps can be decoded
    assert images.shape == (len(index), 32, 32, 3)
    assert images.reshape(len(images), -1).max(axis=1).min() > 0  # no image came out black


def test_bad_input(good):
    """Never a bare stack trace, never silence."""
    failed = {}
    for number, (name, spoil, outcome, words) in enumerate(TABLE):
        root = good.parent / str(number)
        shutil.copytree(good, root)
        try:
            check_spoilt(root, spoil, outcome, words)
        except Exception as error:
            failed[name] = repr(error)[:500]
        finally:
            rights_of(USER)
    assert not failed, "\n".join(f"{name}: {error}" for name, error in failed.items())


def damage(path):
    """Make a hole in the middle of an image file, which can be decoded still."""
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(300) + content[middle + 300 :])


def test_damaged_images_are_left_out_kept_or_an_error(good, monkeypatch):
    name = "train/NORMAL/IM-0600-0001.jpeg"
    save(good / name, size=(200, 200))
    whole = load_index(good)
    damage(good / name)
    with pytest.warns(DataWarning, match=r"1 of 31 files are unreadable or damaged \(train/NORMAL/IM-0600.*They are"):
        index = load_index(good)
    assert len(index) == 30
    reason = index.attrs["damaged"][name]
    assert reason.startswith("damaged: Corrupt JPEG data")
    assert index.attrs["unreadable"] == {name: reason}
    pd.testing.assert_frame_equal(index, whole[whole["name"] != name].reset_index(drop=True))
    assert len(load_images(index, 32)) == 30
    with pytest.warns(DataWarning, match="0 are left out"):
        kept = load_index(good, on_damage="keep")
    assert len(kept) == 31
    assert kept.attrs == {"unreadable": {}, "damaged": {name: reason}}
    assert len(load_images(kept, 32)) == 31
    monkeypatch.setenv("XRAYS_ON_DAMAGE", '"error"')
    with pytest.raises(DataError, match=r"IM-0600-0001.jpeg: damaged: .*on_damage=\"leave out\""):
        load_index(good)
    with pytest.raises(ValueError, match='"error", "leave out" or "keep"'):
        load_index(good, on_damage="ignore")
    monkeypatch.delenv("XRAYS_ON_DAMAGE")
    shutil.copy(whole["path"].iloc[0], good / name)  # repaired: nothing is remembered of the damage
    assert load_index(good).attrs == {"unreadable": {}, "damaged": {}}


def test_images_that_break_after_indexing_are_all_said_when_decoded(good, monkeypatch):
    index, read = load_index(good), _images._content

    def break_two(path):
        if path in set(index["path"].iloc[[3, 20]]):
            raise UnreadableError("cannot be decoded: of no known reason")
        return read(path)

    monkeypatch.setattr(_images, "_content", break_two)
    said = r"^2 of 30 images cannot be read: IM-0403-0001.jpeg: cannot be decoded: .*; \S+\.jpeg: cannot be decoded: "
    with pytest.raises(DataError, match=said) as error:
        load_images(index, 32)
    scope = {"index": index}
    exec(str(error.value).partition("Leave them out: ")[2], scope)  # the next thing to type works when typed
    assert len(load_images(scope["index"], 32)) == len(index) - 2


def test_more_than_five_percent_unreadable_is_an_error_until_one_chooses(good):
    for i in range(3):
        (good / f"train/NORMAL/IM-050{i}-0001.jpeg").write_bytes(b"")
    with pytest.raises(DataError, match=r"3 of 30 files are unreadable .*at most 5% are left out"):
        load_index(good)
    with pytest.warns(DataWarning, match="3 of 30 files"):
        assert len(load_index(good, on_damage="leave out")) == 27


# ---------------------------------------------------------------------------------------- what other collections do
def filled(root, splits=("train", "test"), classes=("NORMAL", "PNEUMONIA"), inside="", n=8):
    """A tree of other names: eight images of four patients in each folder."""
    for split in splits:
        for label, name in enumerate(classes):
            for i in range(n):
                person = 100 * len(split) + i // 2
                file = f"person{person}_virus_{i}.png" if label else f"IM-{person:04d}-{i:04d}.png"
                save(root / split / name / inside / file)
    return root


def test_trees_as_people_have_them(tmp_path):
    """Each way to name and nest the same images gives the same labels and folders; a missing part is cut and said."""
    nfd = "Lungenentzu\u0308ndung"
    shapes = {
        "lower case": ({"classes": ("normal", "pneumonia")}, None),
        "as on a Mac": ({"classes": ("Normal", nfd)}, {"normal": 0, "Lungenentz\u00fcndung": 1}),
        "typed on a Mac": ({"classes": ("Normal", "Lungenentz\u00fcndung")}, f"normal=0,{nfd}=1"),
        "numbers": ({"classes": ("0", "1")}, "0=0,1=1"),
        "three words": ({"classes": ("No Finding", "Viral Pneumonia")}, " no finding =0, viral pneumonia = 1"),
        "training": ({"splits": ("training", "testing")}, None),
        "Training Data": ({"splits": ("Training Data", "testing-data")}, None),
        "trainset": ({"splits": ("trainset", "Test Images"), "classes": ("normal cases", "Pneumonia_images")}, None),
        "Train": ({"splits": ("Train", "TEST")}, None),
        "folders in the classes": ({"inside": "images"}, None),
        "deeper": ({"inside": "export/2026"}, None),
    }
    expected = {("test", 0): 8, ("test", 1): 8, ("train", 0): 8, ("train", 1): 8}
    for name, (shape, classes) in shapes.items():
        filled(tmp_path / name / "data" / "chest", **shape)
        for above in (tmp_path / name, tmp_path / name / "data" / "chest"):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                index = load_index(above, classes)
            assert index.groupby(["split", "label"]).size().to_dict() == expected, name
            assert [str(w.message) for w in said if "share their file name" not in str(w.message)] == [], name
            assert index["patient"].nunique() == 16 if "ing" not in name else 8
    for splits in (("train",), ("train", "valid"), ("training", "validation"), ("",)):
        root = filled(tmp_path / f"cut {splits}", splits, n=40)
        with pytest.warns(DataWarning, match=r"No test folder: \d+ images of whole patients become test"):
            index, again = load_index(root), load_index(root)
        pd.testing.assert_frame_equal(index, again)
        test, train = (index[index["split"] == split] for split in ("test", "train"))
        assert len(test) + len(train) == 80 * len(splits)
        assert 0.1 < len(test) / len(index) < 0.2
        assert not set(test["patient"]) & set(train["patient"])
        assert test["label"].mean() == 0.5
    root = filled(tmp_path / "linked")
    for split in ("train", "test"):
        (root / split / "NORMAL").rename(tmp_path / split)
        (root / split / "NORMAL").symlink_to(tmp_path / split)
    assert counts(load_index(root)) == [16, 16, 0]
    for name, target in {"a": "train/NORMAL", "zzz": "train", "valid": "test", "VAL": "train"}.items():
        (root / name).symlink_to(root / target)  # the real folders count, wherever a link to them stands
        assert counts(load_index(root)) == [16, 16, 0], name
    root = filled(tmp_path / "three")
    for split in ("train", "test"):
        shutil.copytree(root / split / "PNEUMONIA", root / split / "ABNORMAL")
    with pytest.raises(DataError, match=r"as in test/ABNORMAL/\. Move them away, or give their labels"):
        load_index(root)  # not: rename it to NORMAL
    with pytest.warns(DataWarning, match=r"as in test/ABNORMAL/: they are left out"):
        assert counts(load_index(root, "NORMAL=0,PNEUMONIA=1")) == [16, 16, 0]
    outer = tmp_path / "half unpacked"
    inner = filled(outer / "chest_xray")
    for part in ("train/NORMAL", "test"):
        (outer / part).mkdir(parents=True)
    with pytest.raises(DataError, match=r"There are 2 data sets in .*half unpacked.*, or move the other away"):
        load_index(outer)
    assert counts(load_index(inner)) == [16, 16, 0]
    root = filled(tmp_path / "beside", ("training_set", "test_set", "dev"))
    with pytest.warns(DataWarning, match="dev/ beside train and test is left out"):
        assert counts(load_index(root)) == [16, 16, 0]
    (root / "dev" / "NORMAL").rename(root / "test_set" / "PNEUMONIA" / "NORMAL")
    with pytest.raises(DataError, match="test_set/PNEUMONIA/NORMAL/ is both"):
        load_index(root)
    root = filled(tmp_path / "class first", ("NORMAL", "PNEUMONIA"), ("train", "test"))
    assert load_index(root).groupby(["split", "label"]).size().to_dict() == expected


def test_names_that_say_nothing_of_patients(tmp_path):
    """One number for everybody, or each image its own: a warning with the way out, and no empty validation."""
    number = iter(range(10**6))
    names = {
        "a viewer": lambda label, i: f"IM-0001-{next(number):04d}.jpeg",
        "a bulk rename": lambda label, i: f"{('IM-1', 'person1')[label]} ({next(number)}).jpeg",
        "most of one class": lambda label, i: f"person{i % 2 * i * label}_{next(number)}.jpeg",
        "numbers": lambda label, i: f"{next(number):08d}_000.png",
        "counted in each folder": lambda label, i: f"{i}.png",
        "three renames": lambda label, i: f"person{i % 3} ({next(number)}).jpeg",
    }
    for name, file in names.items():
        for split in ("train", "test"):
            for label in (0, 1):
                for i in range(20):
                    save(tmp_path / name / split / ("NORMAL", "PNEUMONIA")[label] / file(label, i))
        with pytest.warns(DataWarning, match=r"say no patient.*each image counts as a patient of its own.*own-data"):
            index = load_index(tmp_path / name)
        assert index["patient"].is_unique
        part = split_index(index)["part"]
        assert part.value_counts().to_dict() == {"train": 34, "test": 40, "validation": 6}
    for split in ("train", "test"):
        for label in (0, 1):
            for _ in range(20):
                save(tmp_path / "own" / split / ("NORMAL", "PNEUMONIA")[label] / f"person{next(number)}.jpeg")
    with pytest.warns(DataWarning, match="as many patients as images"):
        load_index(tmp_path / "own")


def test_a_table_instead_of_folders(tmp_path):
    images = [save(tmp_path / "set" / "images" / f"{i:03d}.png") or f"images/{i:03d}.png" for i in range(40)]
    table = pd.DataFrame({"path": images, "label": [0, 1] * 20, "patient": [f"p{i // 4}" for i in range(40)]})
    file = tmp_path / "set" / "index.csv"
    table.to_csv(file, index=False)
    with pytest.warns(DataWarning, match="No test folder: 4 images"):
        index = load_index(tmp_path / "set")
    for folder in ("set/images", ""):  # beside or above
        pd.testing.assert_frame_equal(load_index(tmp_path / folder), index)
        assert open_data(tmp_path / folder).folder == tmp_path / "set"
    assert index["name"].tolist() == images
    assert index["label"].tolist() == table["label"].tolist()
    assert index["patient"].tolist() == table["patient"].tolist()
    assert not set(index["patient"][index["split"] == "test"]) & set(index["patient"][index["split"] == "train"])
    assert set(index["cause"]) == {"normal", "unknown"}
    splits = ["Training", "validation"] + ["train"] * 18 + ["TEST"] * 20
    full = table.assign(split=splits, cause="bacteria", label=["Sain", "malade"] * 20)
    full.rename(columns=str.upper).to_csv(file, index=False, sep=";", encoding="utf-8-sig")  # as a French Excel does
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index = load_index(tmp_path / "set", "sain=0,malade=1")
    assert counts(index) == [19, 20, 1]
    assert index["cause"].tolist() == ["normal", "bacteria"] * 20
    file.write_text("path,label\nimages/000.png,0\nimages/001.png,2\n")
    wrong = {
        "path,label\nimages/000.png,0\nimages/001.png,2\n": "line 3: images/001.png, 2",
        "path,label\nimages/000.png,0\nimages/000.png,1\n": "line 3: images/000.png, 1",
        "path,label,split\nimages/000.png,0,later\n": "line 2: images/000.png, 0, later",
        "file,label\nimages/000.png,0\n": "cannot be read as a table with columns path and label",
        "": "cannot be read as a table",
        "path,label\nnot there.png,0\nimages/001.png,1\n": "not there.png: No such file",
        "path,label\n../../x,0\nimages/001.png,1\n": "x: No such file",
        "path,label\nimages/000.png,0\n.\\images\\000.png,1\n": "line 3: .\\images\\000.png, 1",
        "path\tlabel\n\n images/000.png \t2\n": "line 3: images/000.png, 2",
        "path,label\nimages/000.png,2,\n": "line 2: images/000.png, 2",
        "path,label,patient\nimages/000.png,1,Doe, John\n": "Length of header",
        "path,label\n": "holds no readable image",
        "path,label,patient\nimages/000.png,0,?\nimages/001.png,1,?\n": "1 patients may be too few for a test set",
    }
    for text, words in wrong.items():
        file.write_text(text)
        with pytest.raises(DataError) as error:
            load_index(tmp_path / "set")
        assert words in str(error.value)


DOCS = Path(__file__).resolve().parents[1] / "docs" / "own-data.md"


def collection(name, root):
    """A made-up tree of a published collection's shape; what a program of ten lines must make of it."""
    if name == "NIH ChestX-ray14":
        findings = ["No Finding", "Pneumonia", "Edema|Pneumonia", "Hernia", "No Finding", "Pneumonia"] * 4
        files = [f"{i // 2:08d}_{i % 2:03d}.png" for i in range(24)]
        for i, file in enumerate(files[:20]):  # of twelve archives somebody has fetched ten
            save(root / f"images_{1 + i // 10:03d}" / "images" / file)
        table = {"Image Index": files, "Finding Labels": findings, "Patient ID": [i // 2 for i in range(24)]}
        pd.DataFrame(table).to_csv(root / "Data_Entry_2017.csv", index=False)
        return 17, sum("Pneumonia" in finding for finding in findings[:20]), 10
    if name == "Shenzhen":
        for i in range(20):
            save(root / "CXR_png" / f"CHNCXR_{i:04d}_{i % 2}.png")
        return 20, 10, 20
    if name == "RSNA Pneumonia Detection Challenge":
        for i in range(20):
            save(root / "stage_2_train_images" / f"{i:04x}-a1b2.dcm", format="PNG")
        names = [f"{i:04x}-a1b2" for i in range(20) for _ in range(1 + i % 2)]
        rows = {"patientId": names, "x": 1.0, "Target": [int(int(name[:4], 16) % 2) for name in names]}
        pd.DataFrame(rows).to_csv(root / "stage_2_train_labels.csv", index=False)
        return 20, 10, 20
    for folder in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"):
        for i in range(10):
            for kind in ("images", "masks"):
                save(root / folder / kind / f"{folder}-{i + 1}.png")
    return 20, 10, 20


def test_the_programs_that_write_a_table(tmp_path, monkeypatch):
    """Each of docs/own-data.md is run in a made-up tree of its collection's shape."""
    programs = dict(re.findall(r"^### (.+?)\n.*?```python\n(.+?)```", DOCS.read_text(), re.DOTALL | re.MULTILINE))
    assert len(programs) == 4
    for name, program in programs.items():
        root = tmp_path / name
        expected = collection(name, root)
        assert len([line for line in program.splitlines() if line and "import" not in line]) <= 10
        with pytest.raises(DataError, match=r"(own-data\.md|outside of the classes)"):
            load_index(root)
        with monkeypatch.context() as patch:
            patch.chdir(root)
            exec(program, {})
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            index = load_index(root)
        assert (len(index), index["label"].sum(), index["patient"].nunique()) == expected, name
        assert ["No test folder" in str(w.message) for w in said] == [True], [str(w.message) for w in said]


def test_one_depth_for_a_folder(tmp_path):
    """A burnt-in mark must not darken the films that have it, nor a dark film be read with another depth."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in (0, 1):
            for i in range(10):
                values = rng.integers(500, 3500, (40, 40), dtype=np.uint16)
                values[2:4, 2:4] = 65535 if label else 3000
                person = 100 * len(split) + i // 2
                file = f"person{person}_virus_{i}.png" if label else f"IM-{person:04d}-{i:04d}.png"
                (tmp_path / split / ("NORMAL", "PNEUMONIA")[label]).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(tmp_path / split / ("NORMAL", "PNEUMONIA")[label] / file)
    with pytest.warns(
        DataWarning, match=r"40 PNG files of 16 bits \(40 look like 12 bits, as .*\): all are read as 12"
    ):
        index = load_index(tmp_path)
    images = load_images(index, 40, channels=1, interpolation="nearest")
    for label in (0, 1):
        assert images[(index["label"] == label).to_numpy()][:, 5:].mean() == pytest.approx(125, abs=2)
    dark, other = (tmp_path / name for name in index["name"].iloc[:2])
    Image.fromarray((values // 8).astype(np.uint16)).save(dark)
    with pytest.warns(DataWarning, match=r"\(39 look like 12 bits, .*, 1 look like 10 bits, .*\): all are read as 12"):
        index = load_index(tmp_path)
    assert set(index["mode"]) == {"I;12"}
    assert load_images(index, 40, channels=1)[0].mean() == pytest.approx(125 / 8, abs=3)
    # One file of another depth darkens none of the others; marks may be larger, softer, and below the very top.
    Image.fromarray(rng.integers(0, 65536, (40, 40)).astype(np.uint16)).save(dark)
    values[:2, :40], values[2, :6] = 60000, np.linspace(3000, 60000, 6)
    Image.fromarray(values).save(other)
    with pytest.warns(
        DataWarning, match=r"\(39 look like 12 bits, .*, 1 look like 16 bits, as test/NORMAL/IM-0400-0000"
    ):
        index = load_index(tmp_path)
    images = load_images(index, 40, channels=1, interpolation="nearest")
    assert images[1, 8:].mean() == pytest.approx(125, abs=3)
    assert images[0].mean() > 200  # and the odd one is white, which the warning says
    # Any library reads what the index names as the package does.
    for path, image in zip(index["path"], images, strict=True):
        np.testing.assert_array_equal(cv2.imread(path, cv2.IMREAD_UNCHANGED), image[..., 0])
        np.testing.assert_array_equal(Image.open(path).convert("L"), image[..., 0])


def test_a_photograph_on_its_side_is_upright_for_every_library(tree):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    save(tree / FILE, size=(64, 48), exif=exif)
    index = load_index(tree)
    (row,) = index[index["name"] == FILE].itertuples()
    assert (row.width, row.height) == (48, 64) == Image.open(row.path).size
    assert row.path != str(tree / FILE)
    assert set(index["path"]) & {str(tree / name) for name in index["name"]} == {*index["path"]} - {row.path}
    folder = open_data(tree).class_folders(index)  # not the reader's own: there it lies on its side
    found = sorted(path.parent.name for path in folder.glob("*/*.jpeg"))
    assert found == sorted(name.split("/")[1] for name in index["name"] if name.startswith("train/"))


def test_bad_settings_and_an_image_that_went_away(tree, cache):
    index = load_index(tree)
    for how, text in (
        ({"size": 0}, "size 1 to 4096"),
        ({"size": 10**6}, "size 1 to 4096"),
        ({"size": 64, "channels": 4}, "channels=3 or channels=1"),
        ({"size": 64, "interpolation": "cubic"}, "nearest, bilinear, area"),
    ):
        with pytest.raises(ValueError, match=text):
            load_images(index, **how)
    with pytest.raises(DataError, match="no rows"):
        load_images(index.iloc[:0], 64)
    (tree / FILE).unlink()
    with pytest.raises(DataError, match=r"cannot be read any more .*load_index\(folder\)"):
        load_images(index, 64)


# ------------------------------------------------------------------------------------------------------- splitting
def row(name):
    split, folder, file = name.split("/")
    patient = data.PATIENT.match(file).group()
    cause = "normal" if folder == "NORMAL" else data.CAUSE.search(file).group()
    label = data.CLASSES[folder]
    return {"path": f"/x/{name}", "name": name, "split": split, "label": label, "patient": patient, "cause": cause}


@st.composite
def indexes(draw):
    """Any index: few or many patients, one or six images each, of one cause or of several."""
    rows = []
    for split in ("train", "test", "val"):
        for label, causes in {0: ["normal"], 1: ["bacteria", "virus"]}.items():
            for patient in range(draw(st.integers(1, 12))):
                for i in range(draw(st.integers(1, 6))):
                    cause = draw(st.sampled_from(causes))
                    name = f"IM-{patient:04d}-{i:04d}" if label == 0 else f"person{patient}_{cause}_{i}"
                    rows.append(row(f"{split}/{('NORMAL', 'PNEUMONIA')[label]}/{name}.jpeg"))
    order = draw(st.permutations(range(len(rows))))
    return pd.DataFrame([rows[i] for i in order]).drop_duplicates("name")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(indexes(), st.floats(0.01, 0.99), st.integers(0, 5), st.sampled_from(["report", "patient"]), st.randoms())
def test_split_is_right_for_any_index(index, fraction, seed, protocol, random):
    before = index.copy(deep=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "FRACTION", fraction)
        split = split_index(index, protocol, seed)
        shuffled = split_index(index.iloc[random.sample(range(len(index)), len(index))], protocol, seed)
    # Every image is on exactly one side; nothing is lost, doubled or moved.
    pd.testing.assert_frame_equal(index, before)
    pd.testing.assert_frame_equal(split[index.columns], index)
    part, validation = split["part"], split["part"] == "validation"
    assert set(part) <= {"train", "validation", "test", "unused"}
    assert ((part == "unused") == (split["split"] == "val")).all()
    assert (part == split["split"])[~validation & (part != "unused")].all()
    assert set(split["split"][validation]) <= {"test" if protocol == "report" else "train"}
    # The order of the rows does not matter.
    pd.testing.assert_series_equal(shuffled["part"].sort_index(), part.sort_index())
    if protocol == "report":
        for label in (0, 1):
            rows = split[(split["split"] == "test") & (split["label"] == label)].sort_values("name")
            count = max(1, int(len(rows) * fraction)) if len(rows) else 0
            assert (rows["part"] == "validation").tolist() == [True] * count + [False] * (len(rows) - count)
        return
    # No patient is on two sides, and each stratum is split in proportion, to the patient.
    train = split[split["split"] == "train"]
    assert not set(train["patient"][train["part"] == "train"]) & set(train["patient"][train["part"] == "validation"])
    kinds = train.groupby("patient")[["label", "cause"]].apply(
        lambda p: "+".join(sorted(set(p["label"].astype(str) + p["cause"])))
    )
    for _, rows in train.groupby(train["patient"].map(kinds)):
        found, largest = (rows["part"] == "validation").sum(), rows["patient"].value_counts().max()
        assert abs(found - fraction * len(rows)) <= largest
        if rows["patient"].nunique() > 1:
            assert 0 < found < len(rows)


def official_test_names():
    normal = [f"IM-{i:04d}-0001.jpeg" for i in range(1, 115)] + [f"NORMAL2-IM-{i:04d}-0001.jpeg" for i in range(1, 121)]
    bacteria = [f"person{80 + i // 3}_bacteria_{380 + i}.jpeg" for i in range(242)]
    virus = [f"person{1 + i}_virus_{6 + i}.jpeg" for i in range(148)]
    return [f"test/NORMAL/{n}" for n in normal] + [f"test/PNEUMONIA/{n}" for n in bacteria + virus]


def test_the_reports_93_and_531_on_official_names():
    index = pd.DataFrame([row(name) for name in official_test_names()])
    assert len(index) == 624
    split = split_index(index, "report")
    assert split["part"].value_counts().to_dict() == {"test": 531, "validation": 93}
    parts = split.groupby(["part", "label"]).size().to_dict()
    assert parts == {("validation", 0): 35, ("validation", 1): 58, ("test", 0): 199, ("test", 1): 332}
    normals = split[(split["part"] == "validation") & (split["label"] == 0)]
    assert normals["patient"].str.startswith("IM-").all()  # none of NORMAL2-: what lesson 03 is about


def test_patient_split_depends_on_the_seed_and_refuses_nonsense():
    index = pd.DataFrame([row(f"train/NORMAL/IM-{i:04d}-0001.jpeg") for i in range(200)])
    splits = [tuple(split_index(index, seed=seed)["part"]) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    assert splits[0].count("validation") == 30
    with pytest.raises(ValueError, match='"patient" or protocol="report"'):
        split_index(index, "random")


def test_count_patients_by_both_readings():
    names = ["train/PNEUMONIA/person1_bacteria_1.jpeg", "train/PNEUMONIA/person1_virus_2.jpeg"]
    names += ["train/NORMAL/IM-0001-0001.jpeg", "test/PNEUMONIA/person1_virus_3.jpeg"]
    names += ["test/PNEUMONIA/person2_bacteria_3.jpeg", "test/PNEUMONIA/person2_bacteria_4.jpeg"]
    table = data.count_patients(pd.DataFrame([row(name) for name in names]))
    assert table.loc["coarse"].tolist() == [2, 2, 1, 1]
    assert table.loc["fine"].tolist() == [3, 2, 1, 1]
    names[3] = "test/PNEUMONIA/person1_bacteria_9.jpeg"
    table = data.count_patients(pd.DataFrame([row(name) for name in names[1:]]))
    assert table["shared"].to_dict() == {"coarse": 1, "fine": 0}


def test_few_images_make_small_parts_or_an_error_in_words(tmp_path):
    for n, too_few in {1: True, 2: False, 6: False}.items():
        index = load_index(filled(tmp_path / str(n), n=2 * n))
        index = index[index.groupby(["split", "label"]).cumcount() < max(n, 2 * (n < 2) - 1)]
        for protocol in ("report", "patient") if n > 2 else ("report",):
            split = split_index(index, protocol)
            if too_few:
                with pytest.raises(DataError, match=r"of label 0 for test; test has 1, train has 1: too few to be"):
                    data.load_parts(split, 16)
            else:
                assert min(len(labels) for labels in data.load_parts(split, 16)[1].values()) > 0


def test_phantom_from_wish_to_parts(phantom_root, cache):
    index = load_index(phantom_root)
    assert counts(index) == [60, 30, 8]
    images, labels = data.load_parts(split_index(index), 16)
    assert list(images) == list(labels) == ["train", "validation", "test"]
    assert len(images["test"]) == 30
    assert len(images["train"]) + len(images["validation"]) == 60
    assert 0 < labels["validation"].mean() < 1

"""Where the images come from: what "auto" means, what a source says of itself, and what a wrong wish gives."""

import shutil
from pathlib import Path

import platformdirs
import pytest

from xrayhelpers import sources


@pytest.fixture
def folder(tmp_path):
    """A tree with file names alone; sources never open a file."""
    root = tmp_path / "chest_xray"
    for split, n in {"train": 3, "test": 2, "val": 1}.items():
        for kind in ("NORMAL", "PNEUMONIA"):
            (root / split / kind).mkdir(parents=True)
            for i in range(n):
                (root / split / kind / f"{kind}{i}.jpeg").touch()
    return root


@pytest.fixture
def phantom(monkeypatch, folder):
    """A phantom that only takes down what it was asked for."""
    asked = []

    def phantom_folder(train=400, test=160, val=16, seed=0, progress=True):
        asked.append({"train": train, "test": test, "val": val, "seed": seed})
        return folder

    monkeypatch.setattr("xrayhelpers.phantom.phantom_folder", phantom_folder)
    return asked


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """Neither the working folder nor the repository of the machine holds data."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "repository" / "xrayhelpers" / "sources.py"))


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XRAYS_CACHE", str(tmp_path / "mine"))
    assert sources.cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("XRAYS_CACHE", "relative")
    assert sources.cache_folder().is_absolute()
    monkeypatch.delenv("XRAYS_CACHE")
    assert sources.cache_folder() == Path(platformdirs.user_cache_dir("xrayhelpers", appauthor=False))


@pytest.mark.parametrize("switch", ["off", "on"])
def test_progress(monkeypatch, capsys, switch):
    monkeypatch.setenv("XRAYS_PROGRESS", switch)
    assert list(sources.progress(range(3), desc="counting", unit="image")) == [0, 1, 2]
    said = capsys.readouterr()
    assert said.out == ""
    assert ("counting" in said.err) == (switch == "on")


def test_auto_is_the_phantom_where_nothing_else_is(phantom):
    source = sources.open_data()
    assert phantom == [{"train": 400, "test": 160, "val": 16, "seed": 0}]
    assert source.name == "phantom"
    assert str(source).endswith("its numbers teach the method and say nothing about medicine")


def test_auto_takes_the_folder_below_the_working_folder(folder, phantom):
    shutil.copytree(folder, "data/chest_xray")
    assert sources.open_data().folder == Path.cwd() / "data" / "chest_xray"
    assert phantom == []


def test_auto_takes_the_folder_of_the_repository(folder, tmp_path):
    home = tmp_path / "repository" / "data" / "chest_xray"
    shutil.copytree(folder, home)
    assert sources.open_data("auto").folder == home


def test_auto_takes_xrays_data_first(folder, monkeypatch, phantom):
    shutil.copytree(folder, "data/chest_xray")
    monkeypatch.setenv("XRAYS_DATA", str(folder))
    assert sources.open_data().folder == folder
    monkeypatch.setenv("XRAYS_DATA", "phantom:train=5")
    assert sources.open_data().name == "phantom"
    monkeypatch.setenv("XRAYS_DATA", str(folder / "nowhere"))
    with pytest.raises(sources.DataNotFoundError, match="does not exist"):  # and not quietly the phantom
        sources.open_data()


def test_auto_does_not_pass_over_a_broken_folder(phantom):
    Path("data/chest_xray").mkdir(parents=True)
    with pytest.raises(sources.DataNotFoundError, match="No train/ and test/ in"):
        sources.open_data()


def test_phantom_options(phantom):
    sources.open_data("phantom:train=60, test=30,val=8,seed=1")
    assert phantom == [{"train": 60, "test": 30, "val": 8, "seed": 1}]


@pytest.mark.parametrize("wish", ["phantom:train", "phantom:colour=3", "phantom:train=many", "phantom:train=("])
def test_wrong_phantom_options(phantom, wish):
    with pytest.raises(sources.DataError, match=r'cannot be read .*Expected e\.g\. "phantom:train=60'):
        sources.open_data(wish)


def test_folder_says_what_it_holds_and_no_path(folder, tmp_path):
    source = sources.open_data(folder)
    assert str(source) == (
        "folder data: 12 images (train 6, test 4, val 2); against Kaggle chest-xray-pneumonia: "
        "5210 fewer in train, 620 fewer in test, 14 fewer in val"
    )
    assert str(tmp_path) not in str(source)
    assert source.record is sources.KAGGLE
    assert sources.fetch_folder(folder) == source
    assert sources.open_data(folder.parent) == source  # the folder above will do


def test_home_sign(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.open_data("~/chest_xray").folder == folder


def test_doubled_tree_takes_the_outer(folder):
    shutil.copytree(folder, folder.parent / "copy")
    shutil.move(folder.parent / "copy", folder / "chest_xray")
    assert sources.find_tree(folder) == folder
    assert sum(sources.count_files(folder).values()) == 12


def test_counting_leaves_out_litter(folder):
    for litter in ("._NORMAL0.jpeg", ".DS_Store", "Thumbs.db", "notes.txt"):
        (folder / "train" / "NORMAL" / litter).touch()
    assert sources.count_files(folder) == {"train": 6, "test": 4, "val": 2}


def test_counts_are_compared_both_ways():
    assert sources.compare_counts({"train": 5216, "test": 624, "val": 16}, sources.KAGGLE).endswith("as "
        "Kaggle chest-xray-pneumonia should have")  # fmt: skip
    assert "1 more in train, 24 fewer in test" in sources.compare_counts({"train": 5217, "test": 600}, sources.KAGGLE)


@pytest.mark.parametrize("record", [sources.KAGGLE, sources.MENDELEY])
def test_records_are_complete(record):
    assert record.address.startswith("https://")
    assert record.licence == "CC BY 4.0"
    assert "10.17632/rscbjbr9sj" in record.citation
    assert record.version
    assert record.counts["test"] == 624


def test_errors_fit_the_built_ins():
    assert issubclass(sources.DataNotFoundError, FileNotFoundError)
    assert issubclass(sources.StorageError, OSError)
    for kind in (sources.DataNotFoundError, sources.StorageError, sources.FetchError):
        assert issubclass(kind, sources.DataError)
        assert issubclass(kind, ValueError)
        assert str(kind("some words")) == "some words"

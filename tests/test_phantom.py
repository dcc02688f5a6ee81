"""The embedded data set: official layout and names, one seed one data set, every trap there and removable."""

import hashlib
import json
import multiprocessing
import os
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xrayhelpers import _phantom
from xrayhelpers._machine import StorageError
from xrayhelpers._phantom import Traps, draw_case, lesion_mask, phantom_folder, plan_cases

OFFICIAL = re.compile(
    r"(train|test|val)/(NORMAL/(NORMAL2-)?IM-\d{4}-\d{4}(-\d{4})?|PNEUMONIA/person\d+_(bacteria|virus)_\d+)\.jpeg"
)


def draw(cache: Path, **keywords) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XRAYS_CACHE", str(cache))
        return phantom_folder(**keywords)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.jpeg"))}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("phantom"), train=40, test=20, val=4)


def test_layout_counts_and_names(small):
    names = list(contents(small))
    assert all(OFFICIAL.fullmatch(name) for name in names), names
    counts = Counter(tuple(name.split("/")[:2]) for name in names)
    assert counts == {
        ("train", "NORMAL"): 10, ("train", "PNEUMONIA"): 30, ("test", "NORMAL"): 8, ("test", "PNEUMONIA"): 12,
        ("val", "NORMAL"): 2, ("val", "PNEUMONIA"): 2,
    }  # fmt: skip


def test_images_are_grey_jpegs_with_a_picture_in_them(small):
    for path in small.rglob("*.jpeg"):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "L")
            assert 160 <= image.width < 600
            assert np.asarray(image).std() > 30


def test_one_seed_one_data_set_whatever_the_threads(small, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert contents(draw(tmp_path, train=40, test=20, val=4)) == contents(small)
    assert contents(draw(tmp_path, train=40, test=20, val=4, seed=1)) != contents(small)


def test_tiny_and_odd_sizes(tmp_path):
    for train, test, val in [(12, 6, 2), (2, 2, 0), (7, 3, 1), (13, 11, 5)]:
        names = [name.split("/")[:2] for name in contents(draw(tmp_path, train=train, test=test, val=val))]
        assert Counter(split for split, _ in names) == Counter({"train": train, "test": test, "val": val})
        assert {("train", "NORMAL"), ("train", "PNEUMONIA"), ("test", "NORMAL"), ("test", "PNEUMONIA")} <= set(
            map(tuple, names)
        )


def test_default_plan_has_the_prevalence_and_the_patients_of_the_real_data():
    for seed in range(4):
        check_plan(seed)


def check_plan(seed):
    cases = plan_cases(400, 160, 16, seed, Traps())
    names = [case.name for case in cases]
    assert len(set(names)) == 576
    assert all(OFFICIAL.fullmatch(name) for name in names)
    counts = Counter(tuple(name.split("/")[:2]) for name in names)
    assert [counts[split, "PNEUMONIA"] for split in ("train", "test", "val")] == [296, 100, 8]
    fine, coarse = defaultdict(set), defaultdict(set)
    for name in names:
        split, label, file = name.split("/")
        if label == "PNEUMONIA":
            person, cause, _ = file.split("_")
            fine[person, cause].add(split)
            coarse[person].add(split)
    assert all(len(splits) == 1 for splits in fine.values())
    assert sum({"train", "test"} <= splits for splits in coarse.values()) >= 10
    assert len(fine) < 404 * 0.75  # several images a patient
    causes = Counter((name.split("/")[2].split("_")[0], case.cause) for name, case in zip(names, cases, strict=True))
    assert max(causes.values()) >= 3
    series = [re.match(r"(NORMAL2-)?IM-\d{4}", name.split("/")[2]).group() for name in names if "/NORMAL/" in name]
    splits = defaultdict(set)
    for stem, name in zip(series, (name for name in names if "/NORMAL/" in name), strict=True):
        splits[stem].add(name.split("/")[0])
    assert all(len(where) == 1 for where in splits.values())


def test_a_large_plan_is_unique_and_official():
    names = [case.name for case in plan_cases(20_000, 1000, 16, 0, Traps())]
    assert len(set(names)) == len(names) == 21_016


def test_duplicates_are_planted_and_removable(tmp_path):
    def pairs(folder):
        hashes = Counter(hashlib.sha256(data).hexdigest() for data in contents(folder).values())
        return sum(n - 1 for n in hashes.values())

    assert pairs(draw(tmp_path, train=24, test=12, val=0)) == 4
    assert pairs(draw(tmp_path, train=24, test=12, val=0, duplicates=0)) == 0


def widths(folder: Path, label: str) -> np.ndarray:
    found = []
    for path in (folder / "train" / label).iterdir():
        with Image.open(path) as image:
            found.append(image.width)
    return np.array(found)


def test_the_shortcut_of_size_is_planted_and_removable(tmp_path, nothing_planted):
    planted = draw(tmp_path, train=300, test=2, val=0, prevalence=0.5)
    wins = widths(planted, "NORMAL")[:, None] > widths(planted, "PNEUMONIA")
    assert 0.57 < wins.mean() < 0.85  # clearly, but not perfectly, as in the originals
    removed = draw(tmp_path, train=300, test=2, val=0, prevalence=0.5, **nothing_planted)
    wins = widths(removed, "NORMAL")[:, None] > widths(removed, "PNEUMONIA")
    assert 0.38 < wins.mean() < 0.62


def test_shift_changes_the_normals_of_test_alone():
    strong, none = (plan_cases(40, 20, 4, 0, Traps(shift=shift)) for shift in (1.0, 0.0))
    shifted = {(case.name.split("/")[0], case.cause == "normal") for case in strong if case.shift}
    assert shifted == {("test", True)}
    assert [replace(case, shift=0.0) for case in strong] == list(none)


def test_train_is_the_same_byte_for_byte_under_any_shift(small, tmp_path):
    other = contents(draw(tmp_path, train=40, test=20, val=4, shift=2.0))
    same = {name for name, data in contents(small).items() if other[name] == data}
    assert {name for name in other if name.startswith(("train/", "val/"))} <= same
    assert any(name not in same for name in other if name.startswith("test/NORMAL/"))


def test_contrast_moves_only_what_the_mask_names_and_the_haze_around():
    for cause in ("bacteria", "virus"):
        check_lesion(cause)


def check_lesion(cause):
    case = next(case for case in plan_cases(40, 20, 4, 0, Traps()) if case.cause == cause)
    ill, mask = draw_case(case)
    well, none = draw_case(replace(case, contrast=0.0))
    brighter = ill.astype(float) - well
    assert ill.shape == mask.shape
    assert mask.dtype == bool
    assert 0.005 < mask.mean() < 0.35
    assert not none.any()
    assert brighter[mask].mean() > 15
    assert abs(brighter[~mask].mean()) < brighter[mask].mean() / 3
    again, _ = draw_case(replace(case, cause="normal"))
    assert np.array_equal(again, well)  # without contrast the sick are drawn like the healthy


def test_heart_is_on_the_right_of_the_image():
    halves = []
    for case in plan_cases(60, 20, 4, 0, Traps(contrast=0.0))[:60]:
        image = draw_case(case)[0].astype(float)
        height, width = image.shape
        band = image[int(0.5 * height) : int(0.65 * height)]
        halves.append(band[:, width // 2 : 3 * width // 4].mean() - band[:, width // 4 : width // 2].mean())
    assert np.mean(halves) > 10


def test_lesion_mask_of_a_written_file(small):
    ill = sorted((small / "train/PNEUMONIA").iterdir())[0]
    mask = lesion_mask(ill)
    with Image.open(ill) as image:
        assert mask.shape == (image.height, image.width)
    assert mask.any()
    assert not lesion_mask(str(sorted((small / "train/NORMAL").iterdir())[0])).any()


def test_lesion_mask_says_what_is_wrong(small, tmp_path):
    with pytest.raises(ValueError, match=r"No phantom\.json"):
        lesion_mask(tmp_path / "chest_xray/train/NORMAL/IM-0115-0001.jpeg")
    with pytest.raises(ValueError, match="none of the 64 images"):
        lesion_mask(small / "train/NORMAL/other.jpeg")
    (tmp_path / "phantom.json").write_text(json.dumps({"version": 0}))
    with pytest.raises(ValueError, match="version 0"):
        lesion_mask(tmp_path / "chest_xray/train/NORMAL/IM-0115-0001.jpeg")


def test_a_complete_folder_is_reused_and_a_damaged_one_drawn_again(tmp_path, monkeypatch):
    folder = draw(tmp_path, train=6, test=4, val=0)
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(_phantom, "draw_case", lambda case: pytest.fail("drawn again"))
        assert draw(tmp_path, train=6, test=4, val=0) == folder
    next(folder.rglob("*.jpeg")).unlink()
    assert contents(draw(tmp_path, train=6, test=4, val=0)) == before


def test_nothing_half_done_is_left(tmp_path, monkeypatch):
    def full(case, file):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_phantom, "_write", full)
        with pytest.raises(OSError, match="No space"):
            draw(tmp_path, train=6, test=4, val=0)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    with pytest.raises(StorageError, match="XRAYS_CACHE name another folder"):
        draw(Path(__file__) / "no folder", train=6, test=4, val=0)
    (tmp_path / f"phantom-{_phantom.VERSION}-train6-test4-val0-seed0.partial" / "x").mkdir(parents=True)  # a killed run
    assert len(contents(draw(tmp_path, train=6, test=4, val=0))) == 10


def test_two_processes_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XRAYS_CACHE", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    how = {"train": 30, "test": 4, "val": 0}
    both = [context.Process(target=phantom_folder, kwargs=how) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(list(tmp_path.glob("phantom-*/chest_xray/*/*/*.jpeg"))) == 34


def test_wrong_keywords_are_named(tmp_path):
    for keywords, message in [
        ({"train": 1}, "train=1: expected a whole number of at least 2"),
        ({"test": 0}, "test=0"),
        ({"val": -1}, "val=-1"),
        ({"train": 2.5}, "train=2.5"),
        ({"seed": -3}, "seed=-3"),
        ({"prevalence": 1.0}, "prevalence=1.0"),
        ({"contrast": "high"}, "contrast='high'"),
        ({"contrast": float("nan")}, "contrast=nan"),
        ({"batch": -1}, "batch=-1"),
        ({"duplicates": 1.5}, "duplicates=1.5"),
        ({"contrst": 1.0}, "no keyword contrst. Use one of: train, test"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            draw(tmp_path, **keywords)
    assert list(tmp_path.iterdir()) == []

"""The benchmarks run on a few images and yield their rows. How long anything takes is not tested."""

from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import __main__ as bench
from benchmarks import better, ways
from xrayhelpers import models


@pytest.fixture(autouse=True)
def _precision():
    """Ways choose a precision for their whole process, which here is that of the other tests as well."""
    yield
    models.set_precision("float32")


@pytest.mark.slow
def test_ways_yield_their_figures(phantom_root, cache):
    """In this process, on one epoch."""
    epoch = {"images", "input_seconds", "input_cpu_seconds", "epoch_seconds", "epoch_cpu_seconds"}
    how = {"folder": str(phantom_root), "size": 32}
    assert set(ways.report_epoch(**how)) == epoch
    assert set(ways.our_epoch(**how)) == epoch | {"decode_once_seconds", "decode_once_cpu_seconds"}
    assert set(ways.ready_epoch(**how)) == {"images", "epoch_seconds", "epoch_cpu_seconds"}


@pytest.mark.slow
def test_the_whole_report_is_the_same_work_both_ways(phantom_root, tmp_path, cache, monkeypatch):
    parts = {"neighbors", "cnn", "vgg16", "grid", "all"}
    timed = {f"{part}_{kind}" for part in parts for kind in ("seconds", "cpu_seconds")}
    folder, build = str(bench.take(phantom_root, tmp_path, 20)), models.report_vgg16
    monkeypatch.setattr(models, "report_vgg16", lambda size: build(size, 8, weights=None))
    monkeypatch.setattr(ways.pruned_search, "__defaults__", (2, 32, 1))
    for ours, search in ((False, False), (True, False), (True, True)):
        figures = ways.whole_report(folder, ours, search, epochs=1, side=16)
        assert set(figures) == timed | {"validation_auc"}
        assert 0 <= figures["validation_auc"] <= 1
        assert figures["all_seconds"] == pytest.approx(sum(figures[f"{part}_seconds"] for part in parts - {"all"}))


@pytest.mark.slow
def test_the_better_model_sees_as_many_images_either_way(phantom_root, tmp_path, cache, monkeypatch):
    folder, build = str(bench.take(phantom_root, tmp_path, 20)), better.keras.applications.VGG16
    monkeypatch.setattr(
        better,
        "vgg16_weights",
        lambda: type("Random", (), {"arrays": build(weights=None, include_top=False).get_weights()}),
    )
    figures = [ways.better_epoch(folder, ready, size=32) for ready in (False, True)]
    assert figures[0].keys() == figures[1].keys() >= {"input_images_per_second", "epoch_images_per_second"}
    assert figures[0]["images"] == figures[1]["images"] == len(list((tmp_path / "train").glob("*/*")))


def test_many_images_are_copies_of_a_few(phantom_root, cache):
    figures = ways.many_images(str(phantom_root), 150)
    steps = {f"{step}_{turn}" for step in ("index", "decode") for turn in ("first", "again")}
    assert set(figures) == {"images"} | {f"{step}_{kind}" for step in steps for kind in ("seconds", "cpu_seconds")}
    assert figures["images"] == 150


@pytest.mark.slow
def test_command_writes_tables_without_a_path(phantom_root, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    words = ["--data", str(phantom_root), "--images", "20", "--repeats", "1", "--only", "start-up"]
    done = CliRunner().invoke(bench.main, words)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "results" / "start-up-phantom.md").read_text("utf-8")
    assert text.strip() == done.output.strip()
    assert "20 training images" in text
    assert all(f"| {name} " in text for name in ("python", "import", "first image", "tensorflow", "doctor"))
    assert "/" not in text.partition("\n\n")[2].replace(" / ", ""), "no path of a machine in the results"
    with pytest.raises(RuntimeError, match="start_up failed"):
        bench.run_way("start_up", {"code": "no such thing"})


def test_ways_take_turns_and_ratios_by_hand(monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "run_way", lambda name, _: seen.append(name) or {"all_seconds": len(seen), "images": 4})
    table = bench.take_turns({"slow": ("a", {}), "fast": ("b", {})}, repeats=3)
    assert seen == ["a", "b"] * 3
    row = table.set_index(["way", "figure"]).loc[("fast", "all_seconds")]
    assert row.tolist() == [4, 2, 6]
    assert bench.ratios(table, [("slow", "fast")]).values.tolist() == [["slow / fast", "all_seconds", 0.75]]


def test_part_of_a_folder_keeps_its_classes(phantom_root, tmp_path):
    tree = bench.take(phantom_root, tmp_path / "tree", 20)
    counts = Counter(path.parent.name for path in tree.glob("train/*/*"))
    whole = Counter(path.parent.name for path in phantom_root.glob("train/*/*"))
    assert sum(counts.values()) == 20
    assert all(abs(counts[name] / 20 - whole[name] / 60) < 0.1 for name in whole)
    assert len(list(tree.glob("test/*/*"))) == 30


def test_the_few_originals_get_a_test_folder_and_many_names(phantom_root, tmp_path):
    few = tmp_path / "few"
    (few / "train").parent.mkdir()
    (few / "train").symlink_to(phantom_root / "train")
    tree = bench.take(few, tmp_path / "tree", 100)
    test, train = ({path: path.resolve() for path in tree.glob(f"{split}/*/*")} for split in ("test", "train"))
    assert len(train) == 100
    assert Counter(path.parent.name for path in test) == {"NORMAL": 8, "PNEUMONIA": 8}
    assert not set(test.values()) & set(train.values())
    assert len(set(train.values())) == 60 - 16
    assert all(path.parent.name == file.parent.name for path, file in {**test, **train}.items())


@pytest.mark.slow
def test_neighbors_find_the_same_twice(phantom_root, cache):
    for ours in (False, True):
        figures = ways.neighbors(str(phantom_root), ours)
        assert figures["first_accuracy"] == figures["again_accuracy"] > 0.5


def test_the_better_model_gets_the_threshold_of_the_highest_specificity_at_a_sensitivity():
    labels, scores = np.array([0, 0, 0, 1, 0, 1, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
    assert better.choose_threshold(labels, scores, 1.0) == pytest.approx(0.35)
    assert better.choose_threshold(labels, scores, 0.75) == pytest.approx(0.65)
    assert better.choose_threshold([0, 1], [0.9, 0.1], 1.0) < 0.1

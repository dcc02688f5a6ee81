"""Every section of the benchmark runs on a few images and yields its rows. How long anything takes is not tested."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # benchmarks/ stands beside the installed package

from benchmarks import folders, measure, sections, ways  # noqa: E402
from benchmarks.measure import Ratio, Way  # noqa: E402

EPOCH = {
    "input_seconds",
    "epoch_seconds",
    "epoch_cpu_seconds",
    "decode_once_seconds",
    "peak_mb",
    "added_mb",
    "images",
}
ROWS = {
    "1-epoch": EPOCH,
    "2-limit": EPOCH,
    "3-vgg16": {
        "training_seconds",
        "training_cpu_seconds",
        "features_seconds",
        "tail_seconds",
        "auc",
        "auc_low",
        "auc_high",
        "images",
    },
    "4-whole-report": {f"{stage}_seconds" for stage in ("knn", "cnn", "vgg16", "tuning", "all")},
    "5-size": {f"{stage}_ms_an_image" for stage in ("index", "decode", "input", "epoch")}
    | {"peak_mb", "added_mb", "store_mb", "images"},
    "6-search": {"wall_seconds", "training_seconds", "epochs", "trials", "best_val_auc"},
    "7-start-up": {"wall_seconds"},
}


@pytest.fixture
def plan(phantom_root, tmp_path):
    """Twelve images, one epoch, one repetition."""
    return sections.Plan(phantom_root, tmp_path, images=24, repeats=1, epochs=1, small=44, large=48, sizes=(10, 130))


@pytest.fixture
def in_process(cache, monkeypatch):
    """Run the ways in this process, with random weights for VGG16: quicker, and nothing is fetched."""
    from xrayhelpers import models, weights

    rng, arrays, before = np.random.default_rng(0), [], 3
    for convolutions, filters in weights.VGG16_BLOCKS:
        for _ in range(convolutions):
            arrays += [rng.normal(0, 0.02, (3, 3, before, filters)).astype(np.float32), np.zeros(filters, np.float32)]
            before = filters
    monkeypatch.setattr(models, "vgg16_weights", lambda: weights.VGG16Weights(tuple(arrays), "random", ""))
    monkeypatch.setenv("XRAYS_RUN", str(cache / "run"))
    monkeypatch.setattr(measure, "run_way", lambda way: getattr(ways, way.function)(**way.arguments))


@pytest.mark.filterwarnings("ignore:Your input ran out of data", "ignore:Please import `affine_transform`")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name[0] in "3467" else ()) for name in sections.SECTIONS]
)
def test_section_yields_its_rows(name, plan, in_process, tmp_path):
    table, ratios, note, folder = sections.SECTIONS[name](plan)
    assert set(table["figure"]) == ROWS[name]
    assert (table["median"] >= 0).all()
    assert (table["values"].map(len) == 1).all()
    about = {"data": folders.describe(folder, "phantom", 60), "note": note}
    path = measure.write_section(name, "A title", about, table, ratios, tmp_path / "results")
    text = path.read_text() + path.with_suffix(".md").read_text()
    assert str(tmp_path) not in text, "no path of a machine in the results"
    assert len(json.loads(path.read_text())["rows"]) == len(table)
    if name == "6-search":
        trials = table[table["figure"] == "trials"].set_index("way")["median"]
        assert trials["grid"] == trials["grid, 2 workers"] == 8


def test_a_way_runs_in_a_process_of_its_own(cache):
    figures = measure.run_way(Way("empty", "start_up", {"what": "python"}))
    assert set(figures) == {"wall_seconds"}
    with pytest.raises(RuntimeError, match="'broken' failed"):
        measure.run_way(Way("broken", "start_up", {"what": "no such thing"}))


def test_ways_take_turns(monkeypatch):
    seen = []
    monkeypatch.setattr(measure, "run_way", lambda way: seen.append(way.name) or {"seconds": len(seen)})
    table = measure.take_turns([Way("a", "f"), Way("b", "f")], repeats=3)
    assert seen == ["a", "b"] * 3
    row = table.set_index("way").loc["b"]
    assert (row["median"], row["min"], row["max"], row["values"]) == (4, 2, 6, [2, 4, 6])


def test_ratios_by_hand():
    rows = [("slow", "s", 9.0, 8, 12, [9, 8, 12]), ("fast", "s", 3.0, 2, 4, [3, 4, 2])]
    table = pd.DataFrame(rows, columns=["way", "figure", "median", "min", "max", "values"])
    wanted = [Ratio("slow", "fast", "s", 3), Ratio("slow", "fast", "s", 2.9, at_most=True), Ratio("slow", "fast", "s")]
    ratios = measure.compare(table, wanted)
    assert ratios["value"].tolist() == [3.0] * 3
    assert (ratios["min"][0], ratios["max"][0]) == (2.0, 6.0)
    assert ratios["reached"].tolist() == ["yes", "no", ""]


@pytest.mark.parametrize(("train", "test"), [(10, 6), (60, None), (200, 90)])
def test_fraction_keeps_classes_and_repeats_by_link(train, test, phantom_root, tmp_path):
    before = {path: path.stat().st_ctime_ns for path in phantom_root.rglob("*.jpeg")}
    tree = folders.take(phantom_root, tmp_path / "tree", train, test)
    for split, wanted, whole in (("train", train, 60), ("test", test or 30, 30)):
        files = list(tree.glob(f"{split}/*/*"))
        assert abs(len(files) - wanted) <= 2
        sick = sum(path.parent.name == "PNEUMONIA" for path in files) / len(files)
        sick_before = len(list((phantom_root / split / "PNEUMONIA").iterdir())) / whole
        assert abs(sick - sick_before) < 0.12
        inodes = {path.stat().st_ino for path in files}
        assert len(inodes) == min(len(files), whole)
    assert before == {path: path.stat().st_ctime_ns for path in before}, "a reader's files stay as they are"


def test_phantom_at_the_size_of_originals(cache, tmp_path):
    tree = folders.large_phantom(tmp_path / "large", train=4, test=4)
    text = folders.describe(tree, "phantom", 4)
    width = int(text.split("median ")[1].split(" x ")[0])
    assert 1000 < width < 1600
    assert text.startswith("phantom: 4 training images (1.00 of the folder's 4)")


def test_summary_holds_what_must_be_reached(tmp_path):
    rows = [("a", "s", 9.0, 9, 9, [9]), ("b", "s", 3.0, 3, 3, [3])]
    table = pd.DataFrame(rows, columns=["way", "figure", "median", "min", "max", "values"])
    ratios = measure.compare(table, [Ratio("a", "b", "s", 3.5), Ratio("b", "a", "s")])
    measure.write_section("1-x-copies", "t", {"data": "copies: 9 images", "note": ""}, table, ratios, tmp_path)
    lines = measure.write_summary(tmp_path).read_text().splitlines()
    assert lines[2:] == ["| 1 | copies | a / b | s | 3 | 3.0 to 3.0 | at least 3.5 | no |"]


def test_the_docs_show_what_was_measured():
    written = (measure.RESULTS / "summary.md").read_text()
    assert "| 1 | copies |" in written
    assert written in (measure.ROOT / "docs" / "speed.md").read_text()

"""The cards say what the results and the index say, and change when these change."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xrayhelpers import cards, dataset, evaluate, results, sources


def make_result(tmp_path, draw=0, threshold=0.5, **more):
    rng = np.random.default_rng(draw)
    labels = np.repeat([0, 1, 1], 20)
    table = {"name": [f"test/{i:03}.jpeg" for i in range(60)], "label": labels, "patient": np.arange(60) // 2}
    table["cause"] = np.repeat(["normal", "bacteria", "virus"], 20)
    scores = np.clip(0.3 * labels + rng.uniform(0, 0.7, 60), 0, 1)
    index = pd.DataFrame(table)
    results.write_result("cnn", "report", index, scores, threshold, folder=tmp_path, n_resamples=100, **more)
    return results.read_results(tmp_path)[0]


def section(card, heading):
    return card.split(f"## {heading}\n")[1].split("\n## ")[0]


def cells(card, first):
    """The cells of the one table row that begins with `first`."""
    (row,) = re.findall(rf"^\| {re.escape(first)} \|(.*)\|$", card, re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


def test_model_card_holds_the_values_of_the_result(tmp_path):
    history = pd.DataFrame({"epoch": [1, 2, 3]})
    result = make_result(tmp_path, threshold=0.4, parameters={"units": 77}, data="drawn", seed=5, history=history)
    card = cards.model_card(result, prevalences=[0.1], notes=["Scores follow the file size."])
    assert card.startswith("# Model card: cnn-report\n")
    assert "not for diagnosis" in card
    for metric, row in result.metrics.iterrows():
        assert cells(card, metric) == [f"{row['value']:.3f}", f"[{row['low']:.3f}, {row['high']:.3f}]"]
    for cause, scores in result.scores.groupby("cause"):
        called = (scores["score"] >= 0.4).mean()
        shown = [float(cell) for cell in cells(card, cause)]
        assert shown == pytest.approx([20, 10, called], abs=5e-4)
    hit, spared = result.metrics.loc[["sensitivity", "specificity"], "value"]
    for share in (0.1, 2 / 3):
        expected = evaluate.predictive_values(hit, spared, share).loc[0, ["ppv", "npv"]]
        assert [float(cell) for cell in cells(card, f"{share:.1%}")] == pytest.approx(expected, abs=5e-4)
    for text in (
        "lesson 04_cnn, 3 epochs, seed 5",
        "- units: 77",
        "0.400 or more",
        "drawn",
        "60 images of 30 patients",
    ):
        assert text in card
    assert section(card, "What the audit found").strip() == "- Scores follow the file size."


def test_model_card_follows_its_result(tmp_path):
    one, other = make_result(tmp_path / "a"), make_result(tmp_path / "b", draw=1)
    assert cards.model_card(one) == cards.model_card(one)
    assert section(cards.model_card(one), "How good it is") != section(cards.model_card(other), "How good it is")
    assert section(cards.model_card(one), "For whom it fails") != section(cards.model_card(other), "For whom it fails")
    assert "Nothing was audited" in cards.model_card(one)
    assert cards.model_card(replace(one, seed=99)) == cards.model_card(one).replace("seed 0", "seed 99")


def test_data_card_counts_the_index(phantom_root):
    index = dataset.load_index(phantom_root)
    source = sources.DataSource("folder", phantom_root, sources.KAGGLE, "98 images")
    card = cards.data_card(index, source)
    counts = dataset.class_counts(index)
    for split in counts.index:
        assert cells(card, split) == [str(number) for number in counts.loc[split]]
    for reading, row in dataset.count_patients(index).iterrows():
        assert cells(card, reading) == [str(number) for number in row]
    for cause, rows in index.groupby("cause"):
        bits = (8 * rows["bytes"] / (rows["width"] * rows["height"])).median()
        shown = [float(cell) for cell in cells(card, cause)]
        middle = rows[["width", "height"]].median()
        assert shown == pytest.approx([len(rows), rows["patient"].nunique(), *middle, bits], abs=5e-4)
    copies = dataset.find_duplicates(index)
    assert len(copies) > 0
    assert f"{len(copies)} files in {copies['sha256'].nunique()} groups" in card
    for text in (dataset.fingerprint(index), sources.KAGGLE.licence, "10.17632/rscbjbr9sj", "98 images"):
        assert text in card
    assert str(phantom_root) not in card


def test_data_card_follows_its_index(phantom_root):
    index = dataset.load_index(phantom_root)
    half = index[index["split"] != "val"]
    assert cells(cards.data_card(half), "val") == ["0", "0", "0"]
    assert dataset.fingerprint(index) not in cards.data_card(half)
    half.attrs["unreadable"] = {"test/NORMAL/x.jpeg": "empty file (0 bytes)"}
    assert "unreadable: 1" in cards.data_card(half)
    assert "Licence" not in cards.data_card(half)


def load_tool():
    path = Path(__file__).resolve().parents[1] / "tools" / "cards.py"
    spec = importlib.util.spec_from_file_location("cards_tool", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_cards_of_the_phantom_are_copied(tmp_path):
    tool, target = load_tool(), tmp_path / "docs"
    run = tmp_path / "run" / "cards"
    run.mkdir(parents=True)
    target.mkdir()
    (target / "old.md").write_text("# Old\n")
    (run / "cnn-report.md").write_text("# Model card\n")
    (run / "data.md").write_text("# Data card\n\n- folder data: 5856 images\n")
    with pytest.raises(ValueError, match="no data card of the phantom"):
        tool.copy_cards(run.parent, target)
    assert (target / "old.md").exists()
    (run / "data.md").write_text("# Data card\n\n- phantom data: drawn images\n")
    assert tool.copy_cards(run.parent, target) == ["cnn-report.md", "data.md"]
    assert sorted(path.name for path in target.iterdir()) == ["cnn-report.md", "data.md"]
    assert (target / "cnn-report.md").read_text() == "# Model card\n"

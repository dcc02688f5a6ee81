"""What is written to results/ is read back, what cannot be read says which lesson to run, and cards follow results."""

import importlib.util
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from xrayhelpers import evaluate, results
from xrayhelpers.data import (
    KAGGLE,
    DataNotFoundError,
    DataSource,
    DataWarning,
    count_patients,
    find_duplicates,
    fingerprint,
    load_index,
)

SOURCE = DataSource("phantom", Path("/home/me/chest"), None, "60 images")
SCORES = np.random.default_rng(0).uniform(size=40).astype("float32")


def make_index(**columns):
    """Twenty images of train, forty of test (20 and 20), two per patient."""
    labels = np.r_[np.repeat([0, 1], 10), np.repeat([0, 1], 20)]
    part = np.repeat(["train", "test"], [20, 40])
    names = [f"{part[i]}/{('NORMAL', 'PNEUMONIA')[label]}/{i:03}.jpeg" for i, label in enumerate(labels)]
    table = {"name": names, "label": labels, "patient": [f"p{i // 2}" for i in range(60)], "part": part, "bytes": 7}
    cause = np.where(labels == 0, "normal", np.where(np.arange(60) % 2, "virus", "bacteria"))
    return pd.DataFrame(table | {"cause": cause, "path": names} | columns, index=range(100, 160))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of an empty run, in force for this test; fewer resamples than a lesson takes."""
    monkeypatch.setenv("XRAYS_RUN", str(tmp_path))
    monkeypatch.setattr(evaluate, "RESAMPLES", 50)
    return tmp_path


def write(model="cnn", protocol="report", index=None, scores=SCORES, threshold=0.5, **more):
    index = make_index() if index is None else index
    return results.write_result(model, protocol, index, scores, threshold, source=SOURCE, **more)


# -------------------------------------------------------------------------------------------- the files
def test_result_is_read_back(run, monkeypatch):
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    index, history = make_index(), SimpleNamespace(epoch=[0, 1], history={"loss": [0.5, float("nan")]})
    parameters = {"size": np.int64(64), "data": Path("/home/me/chest")}
    written = write(
        "cnn", "report", index, SCORES[:, None], 0.4, parameters=parameters, seed=np.int32(3), history=history
    )
    (result,) = results.read_results()
    assert [path.name for path in (run / "results").iterdir()] == ["cnn-report.json"]
    assert (result.name, result.lesson, result.threshold, result.seed) == ("cnn-report", "04_cnn", 0.4, 3)
    assert (result.parameters, result.fingerprint) == ({"size": 64, "data": "chest"}, fingerprint(index))
    assert {"python", "numpy", "keras"} <= set(result.versions)
    assert "precision" not in result.versions, "nothing was calculated with Keras"
    network = SimpleNamespace(config=SimpleNamespace(dtype_policy=lambda: SimpleNamespace(name="mixed_bfloat16")))
    monkeypatch.setitem(sys.modules, "keras", network)
    assert write("knn").versions["precision"] == "mixed_bfloat16"
    assert result.data == "phantom data: 60 images"
    assert result.scores.columns.tolist() == ["name", "label", "patient", "cause", "score"]
    assert result.scores["name"].tolist() == index["name"][20:].tolist()
    np.testing.assert_array_equal(result.scores["score"], SCORES.astype(float))
    expected = evaluate.measure(index["label"][20:], SCORES, 0.4, index["patient"][20:])
    pd.testing.assert_frame_equal(result.metrics, expected, check_index_type=False)
    pd.testing.assert_frame_equal(result.metrics, written.metrics)
    assert result.history["epoch"].tolist() == [1, 2]
    assert np.isnan(result.history["loss"].iloc[1])
    table = pd.DataFrame({"epoch": [1], "loss": [0.5]})
    pd.testing.assert_frame_equal(write(history=table).history, table)


def test_file_is_strict_json_without_absolute_paths(run):
    """One patient per class has no interval: NaN must not reach the file, which browsers could not read."""
    index = make_index()
    index["patient"] = index["label"]
    write(index=index, parameters={"x": float("nan"), "where": str(run / "deep" / "data"), "shape": (1, 2)})

    def refuse(constant):
        raise AssertionError(constant)

    text = (run / "results" / "cnn-report.json").read_text()
    assert json.loads(text, parse_constant=refuse)["parameters"] == {"x": None, "where": "data", "shape": [1, 2]}
    assert str(run) not in text
    assert "/home/" not in text
    assert np.isnan(results.read_results()[0].metrics.loc["sensitivity", "low"])


def test_writing_is_all_or_nothing(run, monkeypatch):
    write()
    before = (run / "results" / "cnn-report.json").read_text()

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(scores=1 - SCORES)
    assert [path.read_text() for path in (run / "results").iterdir()] == [before]


def test_what_does_not_fit_is_refused(run):
    for wrong, message in (
        ({"scores": SCORES[:-1]}, "one score per image"),
        ({"scores": SCORES + 1}, "probabilities"),
        ({"model": "../evil"}, "cannot be the name of this file"),
        ({"threshold": 1e308}, "schema or threshold"),
    ):
        with pytest.raises(ValueError, match=message):
            write(**wrong)
    assert not (run / "results").exists()


def edited(**changes):
    def edit(content):
        content = json.loads(content)
        for key, value in changes.items():
            (content["scores"] if key in content["scores"] else content)[key] = value
        return json.dumps(content)

    return edit


BAD = {
    "empty": lambda content: "",
    "half": lambda content: content[: len(content) // 2],
    "a list": lambda content: "[]",
    "null": lambda content: "null",
    "deep": lambda content: "[" * 100_000,
    "another schema": edited(schema=99),
    "nothing else": lambda content: '{"schema": 1}',
    "no UTF-8": lambda content: content.replace("phantom", "\udcff"),
    "a key twice": lambda content: content.replace('"seed": 0', '"seed": 0, "seed": 1'),
    "NaN": edited(score=[float("nan")] * 40),
    "infinity": lambda content: content.replace('"threshold": 0.5', '"threshold": 1e999'),
    "a huge score": edited(score=[1e308] * 40),
    "text as a score": edited(score=["<b>"] * 40),
    "text as a threshold": edited(threshold="0.5"),
    "label 7": edited(label=[7] * 40),
    "an image twice": edited(name=["test/NORMAL/1.jpeg"] * 40),
    "one label too few": edited(label=[0, 1] * 19 + [0]),
    "no metrics": edited(metrics={}),
    "a metric of 7": lambda content: content.replace('"value": [', '"value": [7, ').replace('"low": [', '"low": [0, '),
    "a path as a name": edited(model="../../../evil"),
    "another's name": edited(model="cnn", protocol="patient"),
    "a name with HTML": edited(model="<script>alert(1)</script>"),
}


def test_a_file_that_is_no_result_is_left_out_with_its_name_and_the_reason(run):
    """Wherever it comes from: the others are read, nothing ends, and the lesson to run is named."""
    with pytest.raises(DataNotFoundError, match="02_knn, 04_cnn, 05_vgg16, 06_tuning"):
        results.read_results(run / "none")
    write()
    content = (run / "results" / "cnn-report.json").read_text().replace('"model": "cnn"', '"model": "vgg16"')
    bad = run / "results" / "vgg16-report.json"
    for name, damage in BAD.items():
        bad.write_bytes(damage(content).encode(errors="surrogateescape"))
        with pytest.warns(DataWarning, match=r"vgg16-report\.json is no result .*left out.* the lesson 05_vgg16 again"):
            found = results.read_results()
        assert [result.name for result in found] == ["cnn-report"], name
    bad.write_text(content)
    assert [result.name for result in results.read_results()] == ["cnn-report", "vgg16-report"]
    (run / "results" / "cnn-report.json").unlink()
    bad.write_text("{}")
    with pytest.warns(DataWarning), pytest.raises(DataNotFoundError, match="Run a lesson first"):
        results.read_results()


def test_the_table_says_what_cannot_be_compared(run, monkeypatch):
    """Other parameters, other code of the package or of the lesson, other data: each is there to be read."""
    cells = ["x = 1", 'data = "auto"\nepochs = 5', "y = 2", "write_result(...)", "z = 3"]
    notebook = {"cells": [{"cell_type": "code", "source": [cell]} for cell in cells]}
    (run / "xrayhelpers").mkdir()
    (run / "xrayhelpers" / "__init__.py").touch()
    (run / "notebooks").mkdir()
    (run / "notebooks" / "04_cnn.ipynb").write_text(json.dumps(notebook))
    monkeypatch.chdir(run)

    def note(ran, package="same", **more):
        monkeypatch.setattr(results, "_cells_run", lambda: ran)
        with monkeypatch.context() as patch:
            if package != "same":
                patch.setattr(results, "package_digest", lambda: package)
            write(**more)
        return (
            results.results_table(results.read_results()).set_index("model").loc["cnn", ["note", "parameters"]].tolist()
        )

    for ran in (cells[:4], ["", *cells[:2], "# Parameters\nepochs = 2", *cells[2:4]], [*cells[:3], "y = 2 ", cells[3]]):
        assert note(ran, parameters={"epochs": 2}, seed=3) == ["", "epochs 2, seed 3"]
    assert note([])[0] == "", "nbval keeps no history: nothing is known"
    assert note(["x = 2", *cells[1:4]])[0] == "other code"
    assert note(cells[:4], package="before an edit")[0] == "other code"
    write("knn", index=make_index(bytes=8))
    first, second = (result.fingerprint for result in results.read_results())
    assert first != second
    assert note(cells[:4])[0] == f"data {second}"


def test_results_table(run):
    for model in ("vgg16", "knn", "mine"):
        write(model)
    found = results.read_results()
    text = results.results_table(found)
    assert text["model"].tolist() == ["knn", "vgg16", "mine"]  # in the order of the lessons
    assert text["images"].tolist() == [40, 40, 40]
    assert text["roc_auc"].str.fullmatch(r"\d\.\d{3} \[\d\.\d\d, \d\.\d\d\]").all()


def test_same_images(run):
    index = make_index()
    fewer = index.copy()
    fewer.iloc[20:25, fewer.columns.get_loc("part")] = "validation"
    write("knn", "report", index)
    write("cnn", "report", fewer.iloc[::-1], SCORES[5:][::-1])
    table = results.same_images(results.read_results())
    assert len(table) == 35
    assert table.columns.tolist() == ["label", "patient", "cause", "knn-report", "cnn-report"]
    np.testing.assert_array_equal(table["knn-report"], table["cnn-report"])  # joined by name, not by place
    write("vgg16", "report", index.assign(bytes=8))
    with pytest.raises(ValueError, match=r"different images.*vgg16-report: "):
        results.same_images(results.read_results())


# -------------------------------------------------------------------------------------------- the cards
def section(card, heading):
    return card.split(f"## {heading}\n")[1].split("\n## ")[0]


def cells(card, first):
    """The cells of the one table row that begins with `first`."""
    (row,) = re.findall(rf"^\| {re.escape(first)} \|(.*)\|$", card, re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


def test_model_card_holds_the_values_of_the_result(run):
    history = pd.DataFrame({"epoch": [1, 2, 3]})
    result = write(threshold=0.4, parameters={"units": 77}, seed=5, history=history)
    card = results.model_card(result, prevalences=[0.1], notes=["Scores follow the file size."])
    assert card.startswith("# Model card: cnn-report\n")
    for metric, row in result.metrics.iterrows():
        assert cells(card, metric) == [f"{row['value']:.3f}", f"[{row['low']:.3f}, {row['high']:.3f}]"]
    for cause, scores in result.scores.groupby("cause"):
        *shown, interval = cells(card, cause)
        expected = [len(scores), scores["patient"].nunique(), (scores["score"] >= 0.4).mean()]
        assert [float(cell) for cell in shown] == pytest.approx(expected, abs=5e-4)
        sizes = scores["patient"].value_counts()
        limits = proportion_confint(expected[2] * (n := sizes.sum() ** 2 / (sizes**2).sum()), n, method="wilson")
        assert interval == "[{:.3f}, {:.3f}]".format(*limits)
    hit, spared = (result.metrics.loc[metric] for metric in ("sensitivity", "specificity"))
    for share in (0.1, 0.5):
        expected = evaluate.predictive_values(hit, spared, share).iloc[0]
        assert [float(cell) for cell in cells(card, f"{share:.1%}")] == pytest.approx(expected.tolist(), abs=5e-4)
    assert "| prevalence | ppv | ppv_low | ppv_high | npv | npv_low | npv_high |" in card
    facts = ["lesson 04_cnn, 3 epochs, seed 5", "- units: 77", "0.400 or more", "phantom data: 60 images"]
    for text in [*facts, "40 images of 20 patients", "not for diagnosis"]:
        assert text in card
    assert section(card, "What the audit found").strip() == "- Scores follow the file size."


def test_a_card_gives_no_interval_to_what_is_certain(run):
    """A constant answer predicts pneumonia for everybody, whoever comes."""
    card = results.model_card(write("constant", scores=np.full(len(SCORES), 0.7)))
    causes = card.partition("## For whom it fails")[2].partition("\n## ")[0]
    assert causes.count("| 1.000 | [1.000, 1.000] |") == 3


def test_model_card_follows_its_result(run):
    one, other = write(), write(scores=1 - SCORES)
    for heading in ("How good it is", "For whom it fails"):
        assert section(results.model_card(one), heading) != section(results.model_card(other), heading)
    assert "Nothing was audited" in results.model_card(one)
    assert results.model_card(replace(one, seed=99)) == results.model_card(one).replace("seed 0", "seed 99")


def test_data_card_counts_the_index(phantom_root):
    index = load_index(phantom_root)
    card = results.data_card(index, DataSource("folder", phantom_root, KAGGLE, "98 images"))
    counts = pd.crosstab(index["split"], index["label"])
    for split in counts.index:
        assert cells(card, split) == [str(number) for number in counts.loc[split]]
    for reading, row in count_patients(index).iterrows():
        assert cells(card, reading) == [str(number) for number in row]
    for cause, rows in index.groupby("cause"):
        bits = (8 * rows["bytes"] / (rows["width"] * rows["height"])).median()
        shown = [float(cell) for cell in cells(card, cause)]
        middle = rows[["width", "height"]].median()
        assert shown == pytest.approx([len(rows), rows["patient"].nunique(), *middle, bits], abs=5e-4)
    copies = find_duplicates(index)
    assert len(copies) > 0
    assert f"{len(copies)} files in {copies['sha256'].nunique()} groups" in card
    for text in (fingerprint(index), KAGGLE.license, "10.17632/rscbjbr9sj", "98 images"):
        assert text in card
    assert str(phantom_root) not in card


def test_data_card_follows_its_index(phantom_root):
    index = load_index(phantom_root)
    half = index[index["split"] != "val"]
    half.attrs["unreadable"] = {"test/NORMAL/x.jpeg": "empty file (0 bytes)"}
    half.attrs["damaged"] = {half["name"].iloc[0]: "damaged: it was kept"}
    card = results.data_card(half, SOURCE)
    assert "| val |" not in card
    assert fingerprint(index) not in card
    assert f"unreadable files: 2 of {len(half) + 1} ({2 / (len(half) + 1):.2%}), left out: 1" in card
    assert "License" not in card


def load_tool():
    path = Path(__file__).resolve().parents[1] / "tools" / "cards.py"
    spec = importlib.util.spec_from_file_location("cards_tool", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cards_of_the_site_are_those_that_the_stored_lesson_wrote():
    root = Path(__file__).resolve().parents[1]
    lesson = nbformat.read(root / "notebooks" / "09_another_batch.ipynb", 4)
    outputs = [output for cell in lesson.cells for output in cell.get("outputs", [])]
    shown = [output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {})]
    (said,) = [o.text for o in outputs if o.get("text", "").startswith("written: ")]
    stored = {path.name: path.read_text("utf-8") for path in (root / "docs" / "cards").glob("*.md")}
    assert sorted(stored) == said.partition(": ")[2].strip().split(", ")
    assert [stored["crops-patient.md"], stored["data.md"]] == shown
    (mark,) = {re.search(r"Fingerprint (\w+)", text)[1] for text in stored.values()}
    assert len(mark) == 12
    assert all(f"| {metric} |" in stored["cnn-patient.md"] for metric in evaluate.METRICS)


def test_only_cards_of_the_phantom_are_copied(tmp_path):
    tool, target, run = load_tool(), tmp_path / "docs", tmp_path / "run" / "cards"
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

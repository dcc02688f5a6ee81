"""What is written to results/ is read back; what cannot be read says which lesson to run."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xrayhelpers import evaluate, results


@pytest.fixture
def index():
    labels = np.repeat([0, 1], 20)
    names = [f"test/{('NORMAL', 'PNEUMONIA')[label]}/{i:03}.jpeg" for i, label in enumerate(labels)]
    columns = {"name": names, "label": labels, "patient": [f"p{i // 2}" for i in range(40)], "cause": "normal"}
    return pd.DataFrame({"path": [f"/data/{name}" for name in names], **columns}, index=range(100, 140))


@pytest.fixture
def scores():
    return np.random.default_rng(0).uniform(size=40).astype("float32")


def test_result_is_read_back(index, scores, tmp_path):
    history = pd.DataFrame({"epoch": [0, 1], "loss": [0.5, np.nan]})
    path = results.write_result(
        "cnn", "report", index, scores[:, None], 0.4, parameters={"size": np.int64(64), "data": Path("/home/me/chest")},
        fingerprint="abc", data="phantom", seed=np.int32(3), history=history, folder=tmp_path, n_resamples=100,
    )  # fmt: skip
    assert path == tmp_path / "cnn-report.json"
    (result,) = results.read_results(tmp_path)
    assert (result.name, result.lesson, result.threshold, result.seed) == ("cnn-report", "04_cnn", 0.4, 3)
    assert result.parameters == {"size": 64, "data": "chest"}
    assert {"python", "numpy"} <= set(result.versions)
    assert result.scores.columns.tolist() == ["name", "label", "patient", "cause", "score"]
    np.testing.assert_array_equal(result.scores["score"], scores.astype(float))
    expected = evaluate.measure(index["label"], scores, 0.4, index["patient"], n_resamples=100)
    pd.testing.assert_frame_equal(result.metrics, expected, check_index_type=False)
    assert np.isnan(result.history["loss"].iloc[1])


def test_file_is_strict_json_without_absolute_paths(index, scores, tmp_path):
    """One patient a class has no interval: NaN must not reach the file, which browsers could not read."""
    index = index.assign(patient=index["label"])
    parameters = {"x": float("nan"), "where": str(tmp_path / "deep" / "data")}
    path = results.write_result("cnn", "report", index, scores, parameters=parameters, folder=tmp_path, n_resamples=20)

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content["parameters"] == {"x": None, "where": "data"}
    assert str(tmp_path) not in path.read_text()
    assert "/data/" not in path.read_text()
    assert np.isnan(results.read_results(tmp_path)[0].metrics.loc["sensitivity", "low"])


def test_writing_is_all_or_nothing(index, scores, tmp_path, monkeypatch):
    path = results.write_result("cnn", "report", index, scores, folder=tmp_path, n_resamples=20)
    before = path.read_text()

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        results.write_result("cnn", "report", index, 1 - scores, folder=tmp_path, n_resamples=20)
    monkeypatch.undo()
    assert path.read_text() == before
    assert len(results.read_results(tmp_path)) == 1  # what the killed writer left is not taken for a result


def test_run_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XRAYS_RUN", str(tmp_path / "run"))
    assert results.run_folder() == tmp_path / "run"
    monkeypatch.delenv("XRAYS_RUN")
    (tmp_path / "xrayhelpers").mkdir()
    (tmp_path / "xrayhelpers" / "__init__.py").touch()
    (tmp_path / "notebooks").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert results.run_folder() == tmp_path / "runs" / "interactive"
    assert not (tmp_path / "runs").exists()


def test_default_folder_is_that_of_the_run(index, scores, tmp_path, monkeypatch):
    monkeypatch.setenv("XRAYS_RUN", str(tmp_path))
    assert results.write_result("knn", "report", index, scores, n_resamples=20).parent == tmp_path / "results"
    assert results.read_results()[0].model == "knn"


def test_nothing_there_says_which_lesson_to_run(index, scores, tmp_path):
    with pytest.raises(results.ResultError, match="02_knn, 04_cnn, 05_vgg16, 06_tuning"):
        results.read_results(tmp_path / "none")
    results.write_result("cnn", "report", index, scores, folder=tmp_path, n_resamples=20)
    with pytest.raises(FileNotFoundError, match=r"no result of vgg16-report in .*\(05_vgg16\)"):
        results.read_results(tmp_path, need=["cnn-report", "vgg16-report"])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 99}', '{"schema": 1}', "null"])
def test_broken_file_says_which_lesson_to_run(content, tmp_path):
    (tmp_path / "vgg16-patient.json").write_text(content)
    with pytest.raises(results.ResultError, match=r"vgg16-patient\.json cannot be read .* 05_vgg16"):
        results.read_results(tmp_path)


def test_results_table(index, scores, tmp_path):
    for model in ("vgg16", "knn", "mine"):
        results.write_result(model, "report", index, scores, folder=tmp_path, n_resamples=20)
    found = results.read_results(tmp_path)
    text = results.results_table(found)
    assert text["model"].tolist() == ["knn", "vgg16", "mine"]  # in the order of the lessons
    assert text["images"].tolist() == [40, 40, 40]
    assert text["roc_auc"].str.fullmatch(r"\d\.\d{3} \[\d\.\d\d, \d\.\d\d\]").all()
    numbers = results.results_table(found, intervals="columns")
    assert (numbers["accuracy_low"] < numbers["accuracy"]).all()
    assert {f"{name}_high" for name in evaluate.METRICS} <= set(numbers.columns)
    with pytest.raises(ValueError, match="'text' or 'columns'"):
        results.results_table(found, intervals="both")


def test_same_images(index, scores, tmp_path):
    results.write_result("knn", "report", index, scores, folder=tmp_path, n_resamples=20)
    results.write_result("cnn", "report", index.iloc[5:][::-1], scores[5:][::-1], folder=tmp_path, n_resamples=20)
    table = results.same_images(results.read_results(tmp_path))
    assert len(table) == 35
    assert table.columns.tolist() == ["label", "patient", "cause", "knn-report", "cnn-report"]
    np.testing.assert_array_equal(table["knn-report"], table["cnn-report"])  # joined by name, not by place

    results.write_result("vgg16", "report", index, scores, fingerprint="other", folder=tmp_path, n_resamples=20)
    with pytest.raises(ValueError, match=r"different images.*05_vgg16: other"):
        results.same_images(results.read_results(tmp_path))


def test_scores_of_other_rows_are_refused(index, scores, tmp_path):
    with pytest.raises(ValueError, match="one score an image"):
        results.write_result("cnn", "report", index, scores[:-1], folder=tmp_path)
    assert not list(tmp_path.iterdir())

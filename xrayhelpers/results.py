"""What a model leaves behind: one JSON file per model in the folder `results/` of a run, and cards made from it.

Lessons 02, 04 to 07, and 09 write results; later lessons and the index page of a run read them. A file holds
everything that is needed to judge the model again: a score for each image, not only the metrics. The cards follow
Mitchell et al. (2019, doi:10.1145/3287560.3287596) for models and Gebru et al. (2021, doi:10.1145/3458723) for data.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
from IPython import get_ipython
from numpy.typing import ArrayLike

from xrayhelpers import _machine
from xrayhelpers._intervals import check_scores, effective_size, wilson_interval
from xrayhelpers._machine import DataNotFoundError, DataWarning, package_digest, repository, run_folder, write_atomic
from xrayhelpers.data import CLASSES, DataSource, count_patients, find_duplicates, fingerprint
from xrayhelpers.evaluate import measure, predictive_values

SCHEMA = 1
LESSONS = {"knn": "02_knn", "cnn": "04_cnn", "vgg16": "05_vgg16", "tuned": "06_tuning"}
LESSONS |= {"constant": "07_trust", "header": "07_trust", "crops": "09_another_batch"}
COLUMNS = ["accuracy", "sensitivity", "specificity", "balanced_accuracy", "roc_auc"]
PACKAGES = ("numpy", "pandas", "scikit-learn", "tensorflow", "keras")
TABLES = ("metrics", "scores", "history")
KINDS = {  # of the values in a file, besides the tables
    **dict.fromkeys(("model", "protocol", "lesson", "data", "fingerprint"), str),
    **{"schema": int, "threshold": int | float, "seed": int, "parameters": dict, "versions": dict, "code": dict},
}
NOT_FOR = "For learning, not for diagnosis. Do not use it on patients."


@dataclass(frozen=True, repr=False)
class Result:
    """One model on one set of test images.

    Attributes
    ----------
    model, protocol : str
        For example "cnn" and "report".
    lesson : str
        The lesson that made it, for example "04_cnn"; "" if it is not known.
    data : str
        The line that says which images these are.
    fingerprint : str
        Of the index that the images come from.
    threshold : float
    metrics : DataFrame
        As `evaluate.measure` returns.
    scores : DataFrame
        One row per image: name, label, patient, cause, score.
    parameters, versions : dict
    code : dict
        Digests of the "package" and of the cells of the "lesson" that had run.
    seed : int
    history : DataFrame
        One row per epoch; empty for a model without epochs.
    """

    model: str
    protocol: str
    lesson: str
    data: str
    fingerprint: str
    threshold: float
    metrics: pd.DataFrame
    scores: pd.DataFrame
    parameters: dict[str, Any]
    versions: dict[str, str]
    code: dict[str, str]
    seed: int
    history: pd.DataFrame

    @property
    def name(self) -> str:
        """Model and protocol, as in the name of the file: "cnn-report"."""
        return f"{self.model}-{self.protocol}"

    def __repr__(self) -> str:
        return f"Result({self.name!r}, {len(self.scores)} images, threshold {self.threshold:.3g})"


def write_result(
    model: str,
    protocol: str,
    index: pd.DataFrame,
    scores: ArrayLike,
    threshold: float = 0.5,
    *,
    source: DataSource,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
    history: Any = None,
) -> Result:
    """Measure a model on the test images and store the result as `results/<model>-<protocol>.json` in the run's folder.

    Parameters
    ----------
    model : str
        "knn", "cnn", "vgg16", "tuned" or another name without a slash.
    protocol : str
        "report" or "patient".
    index : DataFrame
        The whole index with its column `part`, as `data.split_index` returns.
    scores : (N,) or (N, 1) array of float in [0, 1]
        Scores of the rows `index[index["part"] == "test"]`, in this order.
    threshold : float
        Chosen before these images were scored.
    source : DataSource
        As `data.open_data` returns.
    parameters : mapping, optional
        What the lesson ran with. Of an absolute path only the last part is kept.
    seed : int
    history : keras.callbacks.History or DataFrame, optional

    Returns
    -------
    Result
        As stored; `result.metrics` holds the metrics. An older result of the same name is replaced in one step.

    Raises
    ------
    ValueError
        If the scores are not those of the test images, or a name contains a slash.
    StorageError
        If the file cannot be written.
    """
    rows = index.loc[index["part"] == "test", ["name", "label", "patient", "cause"]].reset_index(drop=True)
    labels, scores, _ = check_scores(rows["label"], scores, rows["patient"])
    if hasattr(history, "history"):  # of Keras
        history = pd.DataFrame({"epoch": [epoch + 1 for epoch in history.epoch], **history.history})
    tables = (measure(labels, scores, threshold, rows["patient"]).reset_index(), rows.assign(score=scores))
    tables = (*tables, pd.DataFrame() if history is None else history)
    versions = dict(sorted((d.name, d.version) for d in distributions() if d.name in PACKAGES))
    if "keras" in sys.modules:
        versions["precision"] = sys.modules["keras"].config.dtype_policy().name
    content = {
        "code": {"package": package_digest(), "lesson": _cells_digest(_cells_run())},
        "schema": SCHEMA,
        "model": model,
        "protocol": protocol,
        "lesson": LESSONS.get(model, ""),
        "data": str(source),
        "fingerprint": fingerprint(index),
        "threshold": float(threshold),
        "seed": int(seed),
        "parameters": dict(parameters or {}),
        "versions": {"python": platform.python_version(), **versions},
        **{key: table.to_dict("list") for key, table in zip(TABLES, tables, strict=True)},
    }
    content = _plain(content)
    result = _result(content, f"{model}-{protocol}")
    write_atomic(run_folder() / "results" / f"{result.name}.json", json.dumps(content, allow_nan=False, indent=1))
    return result


def save_model(model: Any, result: Result) -> Path:
    """Save the model of a result as ``models/<name>.keras`` in the run's folder, with a JSON card beside it.

    Parameters
    ----------
    model : keras.Model
        Any model that Keras can save.
    result : Result
        As `write_result` returns. The card names its data, seed, parameters, threshold, metrics, and versions.

    Returns
    -------
    pathlib.Path
        The ``.keras`` file.
    """
    path = run_folder() / "models" / f"{result.name}.keras"
    card = {key: getattr(result, key) for key in ("seed", "parameters", "threshold", "versions")}
    card |= {"data": result.fingerprint, "metrics": result.metrics["value"].to_dict()}
    with tempfile.TemporaryDirectory(prefix="xrays-") as folder:
        model.save(Path(folder, path.name))
        _machine.commit(path, lambda file: file.write(Path(folder, path.name).read_bytes()), card)
    return path


def read_results(folder: Path | None = None) -> list[Result]:
    """Read all results of a run, sorted by lesson and protocol; a file that is none is left out with a `DataWarning`.

    Parameters
    ----------
    folder : Path, optional
        Default: `run_folder() / "results"`.

    Returns
    -------
    list of Result

    Raises
    ------
    DataNotFoundError
        If there is no result; the message names the lessons to run.
    """
    folder = run_folder() / "results" if folder is None else Path(folder)
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_bytes(), object_pairs_hook=_unique, parse_constant=int)  # no NaN
            found.append(_result(content, path.stem))
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            lesson = LESSONS.get(path.stem.rsplit("-", 1)[0], "that wrote it")
            text = f"{path.name} is no result ({type(error).__name__}: {error}) and is left out. Move it away, or run"
            warnings.warn(f"{text} the lesson {lesson} again.", DataWarning, stacklevel=2)
    if not found:
        where, lessons = f"{folder.parent.name}/{folder.name}", ", ".join(dict.fromkeys(LESSONS.values()))
        raise DataNotFoundError(f"Found no result in {where}. Run a lesson first ({lessons}), or all: make run.")
    return sorted(found, key=lambda result: (result.lesson or "later", result.protocol, result.model))


def results_table(results: Sequence[Result]) -> pd.DataFrame:
    """Put results into a table with one row per model.

    Parameters
    ----------
    results : sequence of Result

    Returns
    -------
    DataFrame
        lesson, model, protocol, images, threshold, five metrics ("0.853 [0.82, 0.88]"), parameters, and a note where
        the package or the lesson's cells have changed since, or where the results come from different data.
    """
    rows, mixed = [], len({result.fingerprint for result in results}) > 1
    for r in results:
        row = {"lesson": r.lesson, "model": r.model, "protocol": r.protocol, "images": len(r.scores)}
        row["threshold"], figures = f"{r.threshold:.2f}", r.metrics.loc[COLUMNS, ["value", "low", "high"]]
        row |= {name: f"{value:.3f} [{low:.2f}, {high:.2f}]" for name, value, low, high in figures.itertuples()}
        row["parameters"] = ", ".join(f"{name} {value}" for name, value in {**r.parameters, "seed": r.seed}.items())
        note = [f"data {r.fingerprint}"] * mixed + ["other code"] * (not _same_code(r))
        rows.append(row | {"note": ", ".join(note)})
    return pd.DataFrame(rows)


def same_images(results: Sequence[Result]) -> pd.DataFrame:
    """Put the scores of several models side by side, for the test images that all of them scored.

    Parameters
    ----------
    results : sequence of Result

    Returns
    -------
    DataFrame
        Index name; columns label, patient, cause, and one column of scores per result ("cnn-report" and so on).

    Raises
    ------
    ValueError
        If the results come from different data or have no image in common.
    """
    prints = {result.fingerprint: f"{result.name}: {result.fingerprint}" for result in results}
    if len(prints) > 1:
        text = f"The results come from different images ({', '.join(prints.values())})"
        raise ValueError(f"{text}. Run these lessons again with the same value of `data`.")
    tables = [result.scores.set_index("name") for result in results]
    scores = [table["score"].rename(result.name) for table, result in zip(tables, results, strict=True)]
    table = pd.concat([tables[0][["label", "patient", "cause"]], *scores], axis=1, join="inner")
    if table.empty:
        raise ValueError(f"{', '.join(table.columns[3:])} have no test image in common. Run them with one protocol.")
    return table


def model_card(result: Result, prevalences: Sequence[float] = (0.1,), notes: Sequence[str] = ()) -> str:
    """Describe a model by what its lesson stored.

    Parameters
    ----------
    result : Result
    prevalences : sequence of float in [0, 1]
        Shares of pneumonia for which predictive values are given, besides the share in the test images.
    notes : sequence of str
        What an audit found, one sentence each. Without notes the card says that nothing was audited.

    Returns
    -------
    str
        Markdown with one heading of level 1.
    """
    scores, metrics = result.scores, result.metrics
    share, called = scores["label"].mean(), scores["score"] >= result.threshold
    rows, exact = {}, (metrics["method"] == "exact").all()  # a constant answer leaves nothing to chance
    for cause, group in scores.assign(called=called).groupby("cause"):
        value, patients = group["called"].mean(), group["patient"]
        low, high = (value, value) if exact else wilson_interval(value, effective_size(patients, value, 0.0))
        rows[cause] = [len(group), patients.nunique(), value, f"[{low:.3f}, {high:.3f}]"]
    columns = ["images", "patients", "predicted pneumonia", "interval"]
    by_cause = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    values = predictive_values(metrics.loc["sensitivity"], metrics.loc["specificity"], [share, *prevalences])
    values.index = values.index.map("{:.1%}".format)
    interval = [f"[{row.low:.3f}, {row.high:.3f}]" for row in metrics.itertuples()]
    epochs = f"{len(result.history)} epochs, " if len(result.history) else ""
    lines = [
        f"# Model card: {result.name}\n\n## Intended use\n\n{NOT_FOR}\n\n## The model\n",
        f"- Trained in lesson {result.lesson or '(unknown)'}, {epochs}seed {result.seed}, protocol `{result.protocol}`",
        *(f"- {key}: {value}" for key, value in result.parameters.items()),
        f"- Predicts pneumonia at a score of {result.threshold:.3f} or more",
        f"- Made with {', '.join(f'{name} {number}' for name, number in result.versions.items())}",
        f"\n## The data\n\n- {result.data}\n- Fingerprint {result.fingerprint}",
        f"- Tested on {len(scores)} images of {scores['patient'].nunique()} patients, {share:.1%} with pneumonia",
        f"\n## How good it is\n\n{_table(metrics.assign(interval=interval)[['value', 'interval']], 'metric')}",
        "\nThe 95 % intervals are ranges of true values that fit these patients; they say nothing about another place.",
        f"\n## For whom it fails\n\n{_table(by_cause, 'cause')}",
        "\n## What a prediction means\n\nppv: the share with pneumonia among those predicted to have it.",
        f"npv: the share without pneumonia among those predicted to be normal.\n\n{_table(values, 'prevalence')}",
        "\n## What the audit found\n",
        *([f"- {note}" for note in notes] or ["- Nothing was audited."]),
    ]
    return "\n".join(lines) + "\n"


def data_card(index: pd.DataFrame, source: DataSource) -> str:
    """Describe a data set by its index.

    Parameters
    ----------
    index : DataFrame
        As `data.load_index` returns. The files are read only to find exact copies.
    source : DataSource
        As `data.open_data` returns: origin, license and citation.

    Returns
    -------
    str
        Markdown with one heading of level 1.
    """
    copies, record = find_duplicates(index), source.record
    left, kept = index.attrs.get("unreadable", {}), {*index.attrs.get("damaged", {})} & {*index["name"]}
    odd, files = len(left) + len(kept), len(left) + len(index)
    counts = pd.crosstab(index["split"], index["label"]).rename(columns={v: k for k, v in CLASSES.items()})
    figures = {"images": ("name", "size"), "patients": ("patient", "nunique")}
    figures |= {name: (name, "median") for name in ("width", "height", "bits per pixel")}
    bits = 8 * index["bytes"] / (index["width"] * index["height"])
    by_cause = index.assign(**{"bits per pixel": bits}).groupby("cause").agg(**figures)
    published = f"\n- Compared with: {record.name}, version {record.version}, {record.address}" if record else ""
    published += f"\n- License: {record.license}\n- Cite: {record.citation}" if record else ""
    lines = [
        f"# Data card\n\n{NOT_FOR}\n\n## Origin\n\n- {source}\n- Fingerprint {fingerprint(index)}{published}",
        f"\n## Images\n\n{_table(counts, 'folder')}",
        f"\n- Color modes: {', '.join(f'{n} {mode}' for mode, n in index['mode'].value_counts().items())}",
        f"- Damaged or unreadable files: {odd} of {files} ({odd / files:.2%}), left out: {len(left)}",
        f"- Exact copies of another file: {len(copies)} files in {copies['sha256'].nunique()} groups; "
        f"{copies['across'].sum()} of these files are in groups that cross folders",
        f"\n## By cause\n\n{_table(by_cause, 'cause')}",
        "\nWidth, height and bits per pixel are medians. Where they differ, the file itself tells the label.",
        f"\n## Patients\n\n{_table(count_patients(index), 'reading of the file names')}",
        "\n`shared`: patients with images in train and in test. Which reading is right is not known.",
        "\n## What is not known\n",
        "- Age, sex, device, exposure and clinical findings of each child: the files do not contain them.",
        "- How each label was decided: only the folder and the file name tell it.\n",
    ]
    return "\n".join(lines)


def _table(table: pd.DataFrame, corner: str) -> str:
    """Write a table in Markdown: whole numbers as such, others with three digits."""

    def text(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return "" if math.isnan(value) else f"{value:.0f}" if value > 1 and value.is_integer() else f"{value:.3f}"

    rows = [[corner, *table], ["---", *["---:"] * table.shape[1]], *table.reset_index().astype(object).to_numpy()]
    return "\n".join("| " + " | ".join(text(value) for value in row) + " |" for row in rows)


def _cells_run() -> list[str]:
    """Return what was run in this notebook so far."""
    shell = get_ipython()
    return shell.history_manager.input_hist_raw if shell else []


def _cells_digest(cells: Sequence[str]) -> str:
    """Hash cells, each once, but not those that set the parameters."""
    kept = dict.fromkeys(cell.strip() for cell in cells if not re.match(r"\s*(# Parameters\n|data = |$)", cell))
    return hashlib.sha256("\0".join(kept).encode()).hexdigest()[:12]


def _same_code(result: Result) -> bool:
    """Tell whether the package, and the lesson up to the cell that wrote a result, are as they were then."""
    path = repository() / "notebooks" / f"{result.lesson}.ipynb"
    cells = json.loads(path.read_bytes())["cells"] if path.is_file() else []
    cells = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    known = [_cells_digest(cells[:number]) for number in range(len(cells) + 1)]  # 0: where no history is kept (nbval)
    return result.code.get("package") == package_digest() and (not cells or result.code.get("lesson") in known)


def _unique(pairs: list[tuple[str, Any]]) -> dict:
    """Build an object of a JSON file; a key that is there twice is an error, for which one would count?"""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


def _result(content: dict, name: str) -> Result:
    """Check the content of a file, which may come from anywhere, and return it with its tables as DataFrames."""
    wrong = [key for key, kind in KINDS.items() if not isinstance(dict(content).get(key, {}), kind)]
    if wrong or content["schema"] != SCHEMA or not -1 <= content["threshold"] <= 2:
        raise ValueError(f"missing, or not as it should be: {', '.join(wrong) or 'schema or threshold'}")
    if name != f"{content['model']}-{content['protocol']}" or not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"'{content['model']}-{content['protocol']}' cannot be the name of this file")
    metrics, scores, history = (pd.DataFrame(content[key]) for key in TABLES)
    metrics = metrics.set_index("metric").astype(dict.fromkeys(("value", "low", "high"), float))
    check_scores(scores["label"], scores["score"], scores["patient"])
    figures = metrics.loc[COLUMNS, ["value", "low", "high"]]
    if not (figures.isna() | figures.ge(0) & figures.le(1)).all(axis=None) or scores["name"].duplicated().any():
        raise ValueError("a metric is not within 0 and 1, or an image is there twice")
    scores = scores[["name", "label", "patient", "cause", "score"]].astype({"score": float, "label": int})
    fields = {key: content.get(key, {}) for key in KINDS if key != "schema"}
    return Result(**fields, metrics=metrics, scores=scores, history=history)


def _plain(value: Any) -> Any:
    """Return a value in JSON's own types: NaN and infinity become null, an absolute path its last part."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # of NumPy
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, PurePath) or (isinstance(value, str) and PurePath(value).is_absolute()):
        return PurePath(value).name
    return value if value is None or isinstance(value, str | int) else str(value)

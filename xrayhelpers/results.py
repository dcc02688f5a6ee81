"""What a model left behind: one JSON file a model in the folder `results/` of a run.

Lessons 02 to 06 write, lesson 07 and the index page of a run read. A file holds everything needed to judge the model
again: a score for each image, not only the metrics.
"""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd

from xrayhelpers.evaluate import METRICS, check_scores, measure

SCHEMA = 1
LESSONS = {"knn": "02_knn", "cnn": "04_cnn", "vgg16": "05_vgg16", "tuned": "06_tuning"}
COLUMNS = ["accuracy", "sensitivity", "specificity", "balanced_accuracy", "roc_auc"]
_PACKAGES = ("numpy", "pandas", "scikit-learn", "tensorflow", "keras")


class ResultError(FileNotFoundError):
    """A result is missing or cannot be used; the message names the lesson to run."""


@dataclass(frozen=True)
class Result:
    """One model on one set of test images.

    Attributes
    ----------
    model, protocol : str, e.g. "cnn" and "report"
    lesson : str, e.g. "04_cnn"
    data : str, the line that says which images these are
    fingerprint : str, of the index that the images come from
    threshold : float
    metrics : DataFrame as `evaluate.measure` returns
    scores : DataFrame, one row an image: name, label, patient, cause, score
    parameters, versions : dict
    seed : int
    history : DataFrame of the training, empty for a model without epochs
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
    seed: int
    history: pd.DataFrame

    @property
    def name(self) -> str:
        """Model and protocol, as in the file's name: "cnn-report"."""
        return f"{self.model}-{self.protocol}"


def run_folder() -> Path:
    """Where this run keeps its files: `XRAYS_RUN` if set, else `runs/interactive` of the repository.

    The repository is the working folder or the nearest folder above it that holds `xrayhelpers/`; without one,
    the working folder. Nothing is created.
    """
    if os.environ.get("XRAYS_RUN"):
        return Path(os.environ["XRAYS_RUN"])
    here = Path.cwd()
    root = next((p for p in (here, *here.parents) if (p / "xrayhelpers" / "__init__.py").is_file()), here)
    return root / "runs" / "interactive"


def write_result(
    model: str,
    protocol: str,
    index: pd.DataFrame,
    scores: Sequence[float],
    threshold: float = 0.5,
    *,
    parameters: Mapping[str, Any] | None = None,
    fingerprint: str = "",
    data: str = "",
    lesson: str = "",
    seed: int = 0,
    history: pd.DataFrame | None = None,
    n_resamples: int = 2000,
    folder: Path | None = None,
) -> Path:
    """Measure a model on its test images and store the result as `results/<model>-<protocol>.json`.

    Parameters
    ----------
    model : "knn", "cnn", "vgg16", "tuned" or another name
    protocol : "report" or "patient"
    index : DataFrame, the rows of the index that were scored: name, label, patient, cause
    scores : (N,) float in [0, 1], in the order of these rows
    threshold : float, chosen before these images were seen
    parameters : what the lesson ran with; absolute paths are shortened to their last part
    fingerprint : `dataset.fingerprint(index)` of the whole index
    data : `str(source)`
    lesson : e.g. "04_cnn"; known for the models above
    history : what `training.train` returned
    folder : default `run_folder() / "results"`

    Returns
    -------
    Path of the file. It appears in one piece (written beside, then renamed); an older one of that name is replaced.
    """
    labels, scores, _ = check_scores(index["label"], scores, index["patient"])
    table = index[["name", "label", "patient", "cause"]].assign(score=scores)
    content = {
        "schema": SCHEMA,
        "model": model,
        "protocol": protocol,
        "lesson": lesson or LESSONS.get(model, ""),
        "data": str(data),
        "fingerprint": fingerprint,
        "threshold": float(threshold),
        "seed": int(seed),
        "parameters": dict(parameters or {}),
        "versions": {"python": platform.python_version(), **_versions()},
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "metrics": measure(labels, scores, threshold, table["patient"], n_resamples).reset_index().to_dict("records"),
        "scores": table.to_dict("list"),
        "history": (pd.DataFrame() if history is None else history).to_dict("list"),
    }
    folder = run_folder() / "results" if folder is None else Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model}-{protocol}.json"
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, suffix=".part", delete=False) as file:
        json.dump(_plain(content), file, allow_nan=False, indent=1)
    os.replace(file.name, path)
    return path


def read_results(folder: Path | None = None, need: Iterable[str] = ()) -> list[Result]:
    """Read all results of a run, sorted by lesson and protocol.

    Parameters
    ----------
    folder : default `run_folder() / "results"`
    need : names such as "cnn-report" that must be there

    Raises
    ------
    ResultError
        Nothing there, something of `need` missing, or a file that cannot be read; says which lesson to run.
    """
    folder = run_folder() / "results" if folder is None else Path(folder)
    found = [_read(path) for path in sorted(folder.glob("*.json"))]
    missing = sorted(set(need) - {result.name for result in found})
    if missing or not found:
        models = [name.rsplit("-", 1)[0] for name in missing] or list(LESSONS)
        lessons = ", ".join(f"{LESSONS.get(model, model)}" for model in dict.fromkeys(models))
        what = f"no result of {', '.join(missing)}" if missing else "no results"
        raise ResultError(
            f"{what} in {folder.parent.name}/{folder.name}: run the lesson first ({lessons}), "
            "or all of them with: python -m xrayhelpers run"
        )
    order = list(LESSONS.values())
    return sorted(
        found, key=lambda r: (order.index(r.lesson) if r.lesson in order else len(order), r.protocol, r.model)
    )


def results_table(results: Sequence[Result], intervals: str = "text") -> pd.DataFrame:
    """One row a model: lesson, model, protocol, images, threshold, then the metrics.

    Parameters
    ----------
    intervals : "text" ("0.853 [0.82, 0.88]") for reading, or "columns" (accuracy, accuracy_low, accuracy_high, ...; all
        eight metrics) for computing
    """
    if intervals not in ("text", "columns"):
        raise ValueError(f"intervals is {intervals!r}; expected 'text' or 'columns'.")
    rows = []
    for result in results:
        row = {
            "lesson": result.lesson,
            "model": result.model,
            "protocol": result.protocol,
            "images": len(result.scores),
        }
        row["threshold"] = result.threshold
        if intervals == "text":
            row["threshold"] = f"{result.threshold:.2f}"
            for name in COLUMNS:
                m = result.metrics.loc[name]
                row[name] = f"{m['value']:.3f} [{m['low']:.2f}, {m['high']:.2f}]"
        else:
            for name in METRICS:
                m = result.metrics.loc[name]
                row |= {name: m["value"], f"{name}_low": m["low"], f"{name}_high": m["high"]}
        rows.append(row)
    return pd.DataFrame(rows)


def same_images(results: Sequence[Result]) -> pd.DataFrame:
    """Scores of several models on the test images that all of them scored.

    Returns
    -------
    DataFrame, index name: label, patient, cause, and a column of scores for each result ("cnn-report", ...)

    Raises
    ------
    ValueError
        The results come from different data or have no image in common.
    """
    prints = {result.fingerprint: result.lesson for result in results}
    if len(prints) > 1:
        raise ValueError(
            f"the results come from different images ({', '.join(f'{v}: {k}' for k, v in prints.items())}); "
            "run these lessons again with the same data parameter."
        )
    table = results[0].scores.set_index("name")[["label", "patient", "cause"]]
    for result in results:
        table = table.join(result.scores.set_index("name")["score"].rename(result.name), how="inner")
    if table.empty:
        raise ValueError(
            f"{', '.join(r.name for r in results)} have no test image in common; run them with one protocol."
        )
    return table


def _read(path: Path) -> Result:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']} instead of {SCHEMA}")
        tables = {key: pd.DataFrame(content[key]) for key in ("metrics", "scores", "history")}
        tables["metrics"] = tables["metrics"].set_index("metric")
        tables["scores"] = tables["scores"].astype({"score": float, "label": int})
        fields = {key: content[key] for key in Result.__dataclass_fields__ if key not in tables}
        return Result(**fields, **tables)
    except (ValueError, KeyError, TypeError) as error:
        model = path.stem.rsplit("-", 1)[0]
        raise ResultError(
            f"{path.name} cannot be read ({type(error).__name__}: {error}); "
            f"delete it and run lesson {LESSONS.get(model, model)} again."
        ) from error


def _plain(value: Any) -> Any:
    """JSON's own types only: numpy's become Python's, NaN and infinity become null, no machine's absolute path."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, np.ndarray, pd.Series)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, PurePath) or (isinstance(value, str) and PurePath(value).is_absolute()):
        return PurePath(value).name
    return value if value is None or isinstance(value, (str, int)) else str(value)


def _versions() -> dict[str, str]:
    """Versions of the packages that a result depends on, as far as they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

"""Every figure is drawn on fixed input and compared with a small stored picture.

`XRAYS_BASELINE=write pytest tests/test_plots.py` draws the pictures anew: look at each of them before committing.
"""

import os
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.testing.compare import compare_images

from xrayhelpers import evaluate, plots

BASELINE = Path(__file__).parent / "baseline"
# Root of the mean squared difference of grey values (0 to 255). Another version of matplotlib moves letters by a pixel:
# up to about 6. A bar or curve that is wrong by a tenth gives more than 10 (test_wrong_figure_is_noticed).
TOLERANCE = 8.0


def fixed_scores(seed: int, n: int = 120, shift: float = 2.0) -> SimpleNamespace:
    rng = np.random.default_rng(seed)
    label = np.repeat([0, 1], [n // 3, n - n // 3])
    score = 1 / (1 + np.exp(-(rng.normal(size=n) + shift * (label - 0.5))))
    return SimpleNamespace(scores=pd.DataFrame({"label": label, "score": score}), threshold=0.5)


def counts() -> pd.DataFrame:
    return pd.DataFrame({"NORMAL": [1341, 234, 8], "PNEUMONIA": [3875, 390, 8]}, index=["train", "test", "val"])


def draw_roc():
    results = [fixed_scores(seed, shift=shift) for seed, shift in ((1, 1.0), (2, 2.0), (3, 3.0))]
    for result, name in zip(results, ("knn-report", "cnn-report", "vgg16-report"), strict=True):
        result.name = name
    return plots.roc(results)


def draw_history():
    table = pd.DataFrame(
        {"epoch": range(5), "accuracy": [0.8, 0.88, 0.91, 0.92, 0.94], "loss": [0.5, 0.3, 0.24, 0.2, 0.17]}
    )
    return plots.history(table.assign(val_accuracy=[0.7, 0.84, 0.8, 0.86, 0.85], val_loss=[0.6, 0.4, 0.45, 0.38, 0.44]))


def draw_heat_map():
    values = [[0.879, 0.842, 0.896, 0.827], [0.817, 0.836, 0.842, 0.844]]
    table = pd.DataFrame(values, index=["adam", "sgd"], columns=[128, 256, 512, 1024])
    return plots.heat_map(table.rename_axis(index="optimizer", columns="units"))


def draw_forest():
    table = pd.DataFrame({"value": [0.82, 0.91, 0.95], "low": [0.78, 0.88, 0.92], "high": [0.86, 0.94, 0.97]})
    return plots.forest(table.set_axis(["02_knn report", "04_cnn report", "05_vgg16 patient"]), reference=0.9)


def draw_reliability():
    s = fixed_scores(4, 400).scores
    ax = plots.reliability(evaluate.reliability_table(s["label"], s["score"], 5), name="as trained")
    calm = evaluate.apply_temperature(s["score"], 0.6)
    return plots.reliability(evaluate.reliability_table(s["label"], calm, 5), ax=ax, name="T = 0.6")


def draw_threshold_curve():
    s = fixed_scores(5).scores
    return plots.threshold_curve(evaluate.expected_cost(s["label"], s["score"], 2.0, 1.0), chosen=0.42)


def draw_image_grid():
    ramp = np.linspace(0, 255, 48 * 48).reshape(48, 48)
    rounds = (np.hypot(*np.mgrid[-24:24, -24:24]) * 10).clip(0, 255)
    images = [ramp.astype(np.uint8), (rounds / 255)[..., None], np.dstack([ramp, rounds, ramp.T]).astype(np.uint8)]
    return plots.image_grid(images, ["NORMAL", "PNEUMONIA\nscore 0.93", "three channels"], columns=3)


FIGURES = {
    "case_counts": lambda: plots.case_counts(counts()),
    "image_grid": draw_image_grid,
    "confusion": lambda: plots.confusion(*(fixed_scores(0).scores[k] for k in ("label", "score"))),
    "history": draw_history,
    "roc": draw_roc,
    "heat_map": draw_heat_map,
    "forest": draw_forest,
    "reliability": draw_reliability,
    "threshold_curve": draw_threshold_curve,
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def as_figure(drawn):
    return drawn if isinstance(drawn, plt.Figure) else drawn.get_figure()


@pytest.mark.parametrize("name", FIGURES)
def test_figure_looks_as_stored(name, tmp_path):
    stored, drawn = BASELINE / f"{name}.png", tmp_path / f"{name}.png"
    drawn.write_bytes(plots.png(as_figure(FIGURES[name]())))
    if os.environ.get("XRAYS_BASELINE") == "write":
        stored.write_bytes(drawn.read_bytes())
    assert stored.stat().st_size < 30_000
    assert compare_images(str(stored), str(drawn), tol=TOLERANCE) is None

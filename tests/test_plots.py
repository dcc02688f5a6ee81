"""Every figure is drawn on fixed input and compared with a small stored picture.

`XRAYS_BASELINE=write pytest tests/test_plots.py` draws the pictures anew: look at each of them before committing.
"""

import os
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.testing.compare import compare_images
from nbclient import NotebookClient

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


def draw_history(swapped=False):
    table = pd.DataFrame(
        {"epoch": range(5), "accuracy": [0.8, 0.88, 0.91, 0.92, 0.94], "loss": [0.5, 0.3, 0.24, 0.2, 0.17]}
    )
    if swapped:
        table.loc[[1, 3], "accuracy"] = [0.92, 0.88]
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


def draw_heat_grid():
    rounds = (np.hypot(*np.mgrid[-24:24, -24:24]) * 10).clip(0, 255).astype(np.uint8)
    spot = np.exp(-np.hypot(*np.mgrid[-12:36, -30:18]) / 8)
    return plots.heat_grid([rounds, np.dstack([rounds] * 3)], [spot, 0 * spot], ["hot spot", "no heat"], columns=2)


FIGURES = {
    "case_counts": lambda: plots.case_counts(counts()),
    "image_grid": draw_image_grid,
    "heat_grid": draw_heat_grid,
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


def test_wrong_figure_is_noticed(tmp_path):
    """The tolerance is not so wide that nothing fails: one bar of six a tenth off, two epochs swapped."""
    wrong = counts()
    wrong.loc["train", "PNEUMONIA"] = 3488
    for name, figure in {"case_counts": plots.case_counts(wrong), "history": draw_history(swapped=True)}.items():
        drawn = tmp_path / f"{name}.png"
        drawn.write_bytes(plots.png(as_figure(figure)))
        assert "Error" in compare_images(str(BASELINE / f"{name}.png"), str(drawn), tol=TOLERANCE)


def test_no_function_changes_settings():
    before = dict(mpl.rcParams)
    for draw in FIGURES.values():
        draw()
    assert dict(mpl.rcParams) == before


def test_history_without_validation_has_one_curve():
    table = pd.DataFrame({"epoch": [1], "accuracy": [0.8], "loss": [0.5]})
    figure = plots.history(table)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["train"]
    assert [ax.get_ylabel() for ax in figure.axes] == ["accuracy", "loss"]


def test_history_calls_validation_validation():
    labels = [text.get_text() for text in draw_history().axes[0].get_legend().get_texts()]
    assert labels == ["train", "validation"]


@pytest.mark.parametrize("name", sorted(set(FIGURES) - {"image_grid", "heat_grid"}))
def test_axes_are_labelled(name):
    for ax in as_figure(FIGURES[name]()).axes:
        bar = ax.get_label() == "<colorbar>"
        assert ax.get_ylabel() or name == "forest"
        assert ax.get_xlabel() or bar or name == "threshold_curve"


def test_curves_differ_by_more_than_colour():
    result = fixed_scores(0)
    result.name = "x"
    ax = plots.roc([result] * 8)
    curves = [line for line in ax.get_lines() if line.get_label().startswith("x ")]
    assert len({(line.get_linestyle(), line.get_color()) for line in curves}) == 8
    markers = [line.get_marker() for line in ax.get_lines() if line.get_marker() not in ("None", "")]
    assert len(set(markers)) == len(markers) == 8


@pytest.mark.parametrize("alt", ["", "  \n"])
def test_show_wants_a_description(alt):
    with pytest.raises(ValueError, match="alt is empty"):
        plots.show(plots.case_counts(counts()), alt=alt)


def test_noisy_pictures_stay_small():
    noise = np.random.default_rng(0).integers(0, 256, (12, 224, 224, 3), dtype=np.uint8)
    figure = plots.image_grid(list(noise), [f"image {i}" for i in range(12)], columns=6)
    assert len(plots.png(figure)) <= plots.LARGEST


CELL = """
%matplotlib inline
import pandas as pd
from xrayhelpers import plots
counts = pd.DataFrame({"NORMAL": [3, 4], "PNEUMONIA": [5, 6]}, index=["train", "test"])
axes = plots.case_counts(counts)
plots.show(axes, alt="Bars: 3 normal & 5 pneumonia in <train>,\\n 4 and 6 in test.")
"""


@pytest.mark.slow
def test_notebook_shows_the_figure_once_with_its_text(monkeypatch):
    """A real kernel with the inline backend, which shows every figure that is left open."""
    monkeypatch.setenv("PYTHONPATH", str(Path(plots.__file__).parents[1]))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    NotebookClient(notebook, timeout=120).execute()
    pictures = [output for output in notebook.cells[0].outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == len(notebook.cells[0].outputs) == 1
    text = "Bars: 3 normal & 5 pneumonia in <train>, 4 and 6 in test."
    assert pictures[0]["metadata"]["image/png"]["alt"] == text
    nbformat.validate(notebook)

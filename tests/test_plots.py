"""Every figure is drawn on fixed input and compared with a small stored picture.

`XRAYS_BASELINE=write pytest tests/test_plots.py` draws the pictures again: look at each of them before committing.
"""

import io
import os
from html import escape
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.testing.compare import compare_images
from PIL import Image
from sklearn.metrics import ConfusionMatrixDisplay

from xrayhelpers import plots

BASELINE = Path(__file__).parent / "baseline"
# Root of the mean squared difference of gray values (0 to 255). Another version of matplotlib moves letters by a pixel:
# up to about 6. An interval that is wrong by a tenth gives more (test_wrong_figure_is_noticed).
TOLERANCE = 8.0
ROUNDS = (np.hypot(*np.mgrid[-24:24, -24:24]) * 10).clip(0, 255)


def draw_forest(low=0.78):
    table = pd.DataFrame({"value": [0.82, 0.91, 0.95], "low": [low, 0.88, 0.92], "high": [0.86, 0.94, 0.97]})
    return plots.forest(table.set_axis(["02_knn report", "04_cnn report", "05_vgg16 $"]), "ROC AUC", 0.9).figure


def draw_image_grid():
    ramp = np.linspace(0, 255, 48 * 48).reshape(48, 48)
    images = [ramp.astype(np.uint8), ROUNDS[..., None], np.dstack([ramp, ROUNDS, ramp.T]).astype(np.uint8)]
    return plots.image_grid(images, ["NORMAL", "PNEUMONIA $ 1\nscore 0.93", "three channels"])


def draw_heat_grid(strength=1.0):
    spot = np.exp(-np.hypot(*np.mgrid[-3:9, -7.5:4.5]) / 4)  # 12 x 12, stretched over the image
    images = [ROUNDS.astype(np.uint8), np.dstack([ROUNDS] * 3)]
    return plots.heat_grid(images, [spot, 0 * spot], ["hot spot", "no heat"], 2, strength)


FIGURES = {"forest": draw_forest, "image_grid": draw_image_grid, "heat_grid": draw_heat_grid}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    """What `show` hands to the notebook."""
    outputs = []
    monkeypatch.setattr(plots, "display", lambda data, raw, metadata: outputs.append((data, metadata)))
    return outputs


def test_figures_look_as_stored(tmp_path):
    for name, draw in FIGURES.items():
        stored, drawn = BASELINE / f"{name}.png", tmp_path / f"{name}.png"
        Image.open(io_of(draw())).convert("RGB").save(drawn)
        if os.environ.get("XRAYS_BASELINE") == "write":
            stored.write_bytes(drawn.read_bytes())
        assert stored.stat().st_size < 60_000
        assert compare_images(str(stored), str(drawn), tol=TOLERANCE) is None


def io_of(figure):
    return io.BytesIO(plots._encode(figure)[1])


def test_wrong_figure_is_noticed(tmp_path):
    """The tolerance is not so wide that nothing fails: one limit a tenth off, no heat."""
    for name, figure in {"forest": draw_forest(0.70), "heat_grid": draw_heat_grid(0)}.items():
        drawn = tmp_path / f"{name}.png"
        Image.open(io_of(figure)).convert("RGB").save(drawn)
        assert "Error" in compare_images(str(BASELINE / f"{name}.png"), str(drawn), tol=TOLERANCE)


def test_no_function_changes_settings():
    before = dict(mpl.rcParams)
    for draw in FIGURES.values():
        draw()
    assert dict(mpl.rcParams) == before


def test_grids_are_wide_and_tiles_and_titles_large_enough_to_read():
    """Also with seven images in a row, as no figure has; films of any shape leave no wide empty margins."""
    for columns, shape in ((1, (48, 48)), (2, (40, 60)), (4, (48, 48)), (5, (60, 40)), (7, (48, 48))):
        figure = plots.image_grid([np.zeros(shape)] * (columns + 1), ["film\nin two lines"] * (columns + 1), columns)
        figure.canvas.draw()
        width, height = figure.canvas.get_width_height()
        assert width >= 1200
        tiles = [ax.get_window_extent() for ax in figure.axes[: columns + 1]]
        assert min(tile.width for tile in tiles) >= 0.85 * width / columns
        assert min(tile.width for tile in tiles) >= 150
        assert sum(tile.height for tile in (tiles[0], tiles[-1])) >= 0.7 * height
        assert figure.axes[0].title.get_fontsize() * 100 / 72 >= 15, "pixels; a page may show 1240 of them on 800"


def test_pixels_from_0_to_1_are_refused():
    with pytest.raises(ValueError, match="expected 0 to 255"):
        plots.image_grid([ROUNDS / 255])


def test_no_heat_leaves_the_image_as_it_is():
    gray, _ = (ax.images[0].get_array() for ax in draw_heat_grid(strength=0).axes[:2])
    np.testing.assert_array_equal(gray, np.dstack([ROUNDS.astype(np.uint8)] * 3))
    hot = draw_heat_grid().axes[0]
    colored = np.ptp(np.asarray(hot.images[0].get_array(), int), axis=2) > 100
    rows, columns = np.nonzero(colored)
    assert abs(rows.mean() - 12) < 3  # the spot is at row 3.5, column 8 of 12, four times enlarged
    assert abs(columns.mean() - 32) < 3
    assert hot.collections, "a line surrounds the hot spot"


def test_show_takes_what_libraries_return(shown):
    table = pd.DataFrame({"a": [1, 2], "b": [2, 1]})
    for figure in (
        ConfusionMatrixDisplay.from_predictions([0, 1, 1], [0, 1, 0]),
        table.plot(),
        table.plot(subplots=True),
        plt.figure(),
        plt.subplots(2, 2)[1],
    ):
        plots.show(figure, alt="A figure.\n In two lines.")
    words = "A figure. In two lines."
    assert [metadata["image/png"]["alt"] for _, metadata in shown] == [words] * 5
    for data, _ in shown:
        assert f'<img alt="{words}"' in data["text/html"], "JupyterLab and VS Code read the words here"
        assert data["image/png"] in data["text/html"], "the same picture"
        assert data["text/plain"] == words
    assert plt.get_fignums() == [], "every figure is closed"
    for alt in ("", "  \n"):
        with pytest.raises(ValueError, match="alt is empty"):
            plots.show(plt.figure(), alt=alt)


def test_pictures_stay_small_and_keep_their_pixels():
    """Full color where that is small; films become gray JPEGs of good quality. No picture loses a pixel."""
    kind, few = plots._encode(draw_heat_grid())
    assert (kind, Image.open(io.BytesIO(few)).mode) == ("image/png", "RGB")
    rng = np.random.default_rng(0)
    soft = [np.kron(rng.integers(0, 200, (28, 28)), np.ones((8, 8))) + rng.normal(0, 4, (224, 224)) for _ in range(8)]
    noise = rng.integers(0, 256, (8, 224, 224), dtype=np.uint8)  # cannot be small
    for films, most in ((soft, 150_000), (noise, 1_000_000)):
        figure = plots.image_grid(films, [f"image {i}" for i in range(8)])
        kind, content = plots._encode(figure)
        picture, drawn = Image.open(io.BytesIO(content)), io.BytesIO()
        assert (kind, picture.format, picture.mode) == ("image/jpeg", "JPEG", "L")
        assert len(content) <= most
        figure.savefig(drawn, format="png", dpi=100)
        assert picture.size == Image.open(drawn).size
        assert picture.width >= 1200


CELL = """
%matplotlib inline
import pandas as pd
from xrayhelpers import plots
axes = pd.DataFrame({"NORMAL": [3, 4], "PNEUMONIA": [5, 6]}, index=["train", "test"]).plot.bar(color=plots.COLORS)
plots.show(axes, alt="Bars: 3 normal & 5 pneumonia in <train>,\\n 4 and 6 in test.")
"""


@pytest.mark.slow
def test_notebook_shows_the_figure_once_with_its_text(run_cell):
    """A real kernel with the inline backend, which shows every figure that is left open."""
    notebook = run_cell(CELL, 300)
    pictures = [output for output in notebook.cells[0].outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == len(notebook.cells[0].outputs) == 1
    text = "Bars: 3 normal & 5 pneumonia in <train>, 4 and 6 in test."
    assert pictures[0]["metadata"]["image/png"]["alt"] == text
    assert f'<img alt="{escape(text)}"' in pictures[0]["data"]["text/html"]
    nbformat.validate(notebook)


def test_stored_lessons_stay_small():
    """A figure is stored twice: once as HTML for JupyterLab and VS Code, once as a picture for all others."""
    sizes = {path.name: path.stat().st_size for path in Path(__file__).parents[1].glob("notebooks/**/*.ipynb")}
    assert len(sizes) >= 9
    assert max(sizes.values()) < 2_000_000, sizes

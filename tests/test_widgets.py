"""The widgets without a browser: move them, then read what the picture and the sentence say."""

import base64
import re
from html import unescape
from io import BytesIO

import matplotlib as mpl

mpl.use("Agg")

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from statsmodels.stats.contingency_tables import mcnemar

from xrayhelpers import plots, widgets

LABELS = np.repeat([0, 1], [40, 80])
rng = np.random.default_rng(0)
SCORES = 1 / (1 + np.exp(-(rng.normal(size=120) + 2 * (LABELS - 0.5))))
FILMS = rng.integers(0, 256, (120, 12, 12, 1), dtype=np.uint8)


@pytest.fixture
def board(monkeypatch):
    """Call a function of `widgets`: returns its widgets, and keeps the alt texts of the figures behind them."""
    shown, alts = [], []

    def show(figure, alt):
        figure.canvas.draw()  # a figure that cannot be drawn fails here
        plt.close(figure)
        alts.append(alt)

    monkeypatch.setattr(widgets, "_display", shown.append)
    monkeypatch.setattr(plots, "show", show)

    def build(function, *arguments, **settings):
        function(*arguments, **settings)
        assert len(alts) == len(shown) == 1, "one figure stays without a kernel, one board is shown"
        return shown[0]

    build.alts = alts
    yield build
    assert plt.get_fignums() == [], "every figure is closed"


def screen(board):
    return next(child for child in board.children if isinstance(child, ipywidgets.HTML))


def words(board):
    return unescape(re.search(r'<p role="status" aria-live="polite"[^>]*>(.*?)</p>', screen(board).value)[1])


def picture(board):
    data = re.search(r'<img alt="[^"]{10,}"[^>]*src="data:image/png;base64,([^"]+)"', screen(board).value)[1]
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def control(board, name):
    return next(child for child in board.children if getattr(child, "description", "") == name)


def changes(board, name, value):
    """Set a control; say whether the picture and the sentence follow."""
    before = picture(board), words(board)
    control(board, name).value = value
    assert before[1] != words(board)
    return before[0].shape != picture(board).shape or (before[0] != picture(board)).any()


# ----------------------------------------------------------------------------------------- augmentation
def test_augmentation_follows_its_knobs(board):
    film = np.random.default_rng(2).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    shown = board(widgets.explore_augmentation, film)
    assert "a pixel changes by 0.0 of 255" in words(shown)
    assert changes(shown, "mirrored", True)
    change = np.abs(film.astype(int) - film[:, ::-1]).mean()
    assert f"mirrored: a pixel changes by {change:.1f} of 255" in words(shown)
    assert changes(shown, "shear (degrees)", 20.0)
    assert changes(shown, "zoom of width", 0.8)
    assert "drawn 1.25 times as wide and 1.00 times as high" in words(shown)
    assert changes(shown, "zoom of height", 1.25)
    assert "1.25 times as wide and 0.80 times as high" in words(shown)


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 1)])
def test_zoom_enlarges_as_it_says(board, shape):
    """A bar of 8 of 32 columns, drawn 1/0.6 times as wide, covers 13 to 14 of them: seen in the picture itself."""
    film = np.zeros(shape, np.uint8)
    film[:, 12:20] = 200
    shown = board(widgets.explore_augmentation, film)
    control(shown, "zoom of width").value = 0.6
    row = picture(shown)[160].mean(axis=1)
    dark = np.flatnonzero(row < 50)
    wide = ((row > 100) & (row < 230) & (np.arange(row.size) > row.size / 2)).sum() / (np.ptp(dark) / 2)
    assert wide == pytest.approx(13.3 / 32, abs=0.05)


# ------------------------------------------------------------------------------------------------- heat
def test_heat_follows_film_and_strength(board):
    maps = np.zeros((3, 4, 6))
    maps[0, 3, 0] = maps[1, 0, 5] = 1.0
    shown = board(widgets.explore_heat, FILMS[:3], maps, ["NORMAL a", "PNEUMONIA <b>", "c"], [0.25, 0.875, 0.5])
    assert words(shown).startswith("Image 1 of 3, NORMAL a, score 0.25. The lower left is hottest")
    assert "4% of the image" in words(shown)
    assert changes(shown, "image", 2)
    assert words(shown).startswith("Image 2 of 3, PNEUMONIA <b>, score 0.88. The upper right is hottest")
    with_heat = picture(shown)
    control(shown, "strength of heat").value = 0.0
    assert (picture(shown) != with_heat).any()
    control(shown, "image").value = 3
    assert "The map is empty" in words(shown)


def test_heat_lies_where_the_map_says(board):
    """The right panel is red where the map is hot: in the upper right, not mirrored, not upside down."""
    maps = np.zeros((1, 3, 3))
    maps[0, 0, 2] = 1.0
    shown = board(widgets.explore_heat, np.full((1, 30, 30), 60, np.uint8), maps, ["x"], [0.5])
    colourful = np.ptp(picture(shown), axis=2)
    rows, columns = np.nonzero(colourful > 60)
    height, width = colourful.shape
    assert rows.mean() < 0.4 * height
    assert columns.mean() > 0.8 * width


def test_heat_wants_one_of_each():
    with pytest.raises(ValueError, match="3 images, 2 maps, 3 titles and 3 scores; expected one"):
        widgets.explore_heat(FILMS[:3], np.zeros((2, 4, 4)), ["a", "b", "c"], [0.1, 0.2, 0.3])


# -------------------------------------------------------------------------------------------- read films
PATIENTS = np.arange(120) // 2  # two films each; 40 is even, so that no patient has both labels


def test_chosen_films_are_a_small_picture_of_all(monkeypatch):
    monkeypatch.setattr(widgets, "READ", 21)
    chosen = widgets._choose_films(LABELS, PATIENTS)
    assert len(set(PATIENTS[chosen])) == len(chosen) == 21
    assert LABELS[chosen].sum() == 14
    assert 0 < LABELS[chosen][:7].sum() + LABELS[chosen][14:].sum() < 14, "shuffled"
    np.testing.assert_array_equal(chosen, widgets._choose_films(LABELS, PATIENTS))
    rare = np.r_[1, np.zeros(99, int)]
    assert rare[widgets._choose_films(rare, np.arange(100))].sum() == 1
    assert sorted(widgets._choose_films(LABELS[35:45], np.arange(10))) == list(range(10))


def press(board, *names):
    buttons = {button.description: button for button in board.children[1].children}
    for name in names:
        buttons[name].click()


def test_reading_all_films_shows_both_readers(board, monkeypatch):
    monkeypatch.setattr(widgets, "READ", 12)
    shown = board(widgets.read_films, FILMS, LABELS, SCORES, PATIENTS)
    chosen = widgets._choose_films(LABELS, PATIENTS)
    assert words(shown) == "Film 1 of 12: normal or pneumonia?"
    first = picture(shown)
    press(shown, "one back", "pneumonia")  # nothing to take back yet
    assert words(shown) == "Film 2 of 12: normal or pneumonia?"
    assert (picture(shown) != first).any()
    press(shown, "one back")
    assert words(shown) == "Film 1 of 12: normal or pneumonia?"
    press(shown, *["pneumonia"] * 12)
    sick, network = LABELS[chosen].sum(), ((SCORES >= 0.5) == LABELS)[chosen].sum()
    assert f"You: {sick} of 12 right" in words(shown)
    assert f"The network: {network} of 12 right" in words(shown)
    press(shown, "normal")  # after the last film
    assert f"You: {sick} of 12 right" in words(shown)
    press(shown, "one back", "normal")
    assert f"You: {sick + (1 if LABELS[chosen][-1] == 0 else -1)} of 12 right" in words(shown)


def test_readers_are_compared_by_mcnemar():
    labels = np.repeat([0, 1], 10)
    answers = 1 - labels
    answers[:3] = 0
    figure, text = widgets._compare_readers(labels, {"you": answers, "the network": labels})
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows[:2] == ["accuracy, you", "accuracy, the network"]
    assert text.startswith("You: 3 of 20 right (95 % interval ")
    p = mcnemar([[3, 0], [17, 0]], exact=True).pvalue
    assert text.endswith(f"Only you were right on 0 films, only the network on 17: McNemar's p = {p:.3f}.")
    answers = labels.copy()
    answers[:5] = 1
    assert "too few for any test" in widgets._compare_readers(labels, {"you": answers, "the network": labels})[1]
    answers[5] = 1
    assert "McNemar's p = 0.031" in widgets._compare_readers(labels, {"you": answers, "the network": labels})[1]
    plt.close("all")


def test_threshold_of_the_network_counts(board):
    labels, scores = np.array([0, 1] * 5), np.array([0.6, 0.8] * 5)
    shown = board(widgets.read_films, FILMS[:10], labels, scores, threshold=0.7)
    press(shown, *["normal"] * 10)
    assert "You: 5 of 10 right" in words(shown)
    assert "The network: 10 of 10 right" in words(shown)


def test_images_and_labels_must_agree():
    with pytest.raises(ValueError, match="Found 119 images and 120 labels"):
        widgets.read_films(FILMS[1:], LABELS, SCORES)


# ------------------------------------------------------------------------------------- kept in a notebook
def test_every_control_is_named_and_standard(board):
    for child in board(widgets.explore_augmentation, FILMS[0]).children[:-1]:
        assert child.description
        assert type(child).__module__.startswith("ipywidgets.")


CELL = """
import numpy as np
from xrayhelpers import widgets
labels = np.repeat([0, 1], 10)
scores = np.linspace(0.1, 0.9, 20)
films = np.zeros((20, 8, 8), np.uint8)
widgets.explore_augmentation(films[0])
widgets.explore_heat(films, np.ones((20, 3, 3)) / 2, ["film"] * 20, scores)
widgets.read_films(films, labels, scores)
"""


@pytest.mark.slow
def test_stored_notebook_keeps_pictures_and_only_views_beside_them(run_cell):
    """A real kernel without a browser: no warning, three pictures with text, three views without any text of theirs."""
    notebook = run_cell(CELL, 900)
    outputs = notebook.cells[0].outputs
    assert not [output for output in outputs if output.output_type in ("stream", "error")]
    views = [output.data for output in outputs if widgets.VIEW in output.data]
    assert len(views) == 3
    assert all(set(view) == {widgets.VIEW} for view in views), "no text to be left where the view cannot be drawn"
    kinds = [(output, kind) for output in outputs for kind in output.data if kind.startswith("image/")]
    alts = [output.metadata[kind]["alt"] for output, kind in kinds]
    assert len(alts) == 3
    assert all(alts)

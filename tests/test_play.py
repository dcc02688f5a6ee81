"""The widgets without a browser: move them, then read what the picture and the sentence say."""

import base64
import importlib.util
import re
from html import unescape
from io import BytesIO
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import ipywidgets as widgets
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from statsmodels.stats.contingency_tables import mcnemar

from xrayhelpers import augment, evaluate, play, plots
from xrayhelpers.lessons import ROOT, WIDGET_VIEW
from xrayhelpers.run import write_page

LABELS = np.repeat([0, 1], [40, 80])
rng = np.random.default_rng(0)
SCORES = 1 / (1 + np.exp(-(rng.normal(size=120) + 2 * (LABELS - 0.5))))
FILMS = rng.integers(0, 256, (120, 12, 12, 1), dtype=np.uint8)


@pytest.fixture
def board(monkeypatch):
    """Call a function of `play`: returns its widgets, and keeps the alt texts of the figures behind them."""
    shown, alts = [], []

    def show(figure, alt):
        figure.canvas.draw()  # a figure that cannot be drawn fails here
        plt.close(figure)
        alts.append(alt)

    monkeypatch.setattr(play, "_display", shown.append)
    monkeypatch.setattr(plots, "show", show)

    def build(function, *arguments, **settings):
        function(*arguments, **settings)
        assert len(alts) == len(shown) == 1, "one figure stays without a kernel, one board is shown"
        return shown[0]

    build.alts = alts
    yield build
    assert plt.get_fignums() == [], "every figure is closed"


def screen(board):
    return next(child for child in board.children if isinstance(child, widgets.HTML))


def words(board):
    return unescape(re.search(r'<p role="status" aria-live="polite"[^>]*>(.*?)</p>', screen(board).value)[1])


def picture(board):
    data = re.search(r'<img alt="[^"]{10,}"[^>]*src="data:image/png;base64,([^"]+)"', screen(board).value)[1]
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def control(board, name):
    return next(child for child in board.children if getattr(child, "description", "") == name)


def changes(board, name, value):
    """Set a control; tell whether the picture and the sentence follow."""
    before = picture(board), words(board)
    control(board, name).value = value
    assert before[1] != words(board)
    return before[0].shape != picture(board).shape or (before[0] != picture(board)).any()


# -------------------------------------------------------------------------------------------- threshold
def test_threshold_says_what_it_does(board):
    shown = board(play.threshold, LABELS, SCORES)
    assert changes(shown, "threshold", 0.3)
    found, alarms = (SCORES[40:] >= 0.3).sum(), (SCORES[:40] >= 0.3).sum()
    assert 0 < found < 80
    text = words(shown)
    assert text.startswith(f"Threshold 0.30: {found} of 80 pneumonias are found, {80 - found} missed; {alarms} of 40")
    assert f"this costs {(10 * (80 - found) + alarms) / 120:.3f} an image" in text

    assert changes(shown, "cost of a miss", 1)
    assert f"this costs {(80 - found + alarms) / 120:.3f} an image" in words(shown)
    cheapest = evaluate.expected_cost(LABELS, SCORES, 1)["cost"].min()
    assert words(shown).endswith(f"costs {cheapest:.3f}.")


def test_cost_is_that_of_evaluate():
    points = evaluate.expected_cost(LABELS, SCORES, 7)
    costs = [play.counts_at(LABELS, SCORES, t, 7)["cost"] for t in points["threshold"]]
    np.testing.assert_allclose(costs, points["cost"])


def test_threshold_at_its_ends(board):
    shown = board(play.threshold, LABELS, SCORES, start=1.0)
    assert "0 of 80 pneumonias are found" in words(shown)
    control(shown, "threshold").value = 0.0
    assert "80 of 80 pneumonias are found, 0 missed; 40 of 40" in words(shown)


# ------------------------------------------------------------------------------------------- neighbours
@pytest.fixture
def points():
    rng = np.random.default_rng(1)
    train, asked = rng.normal(size=(90, 3)), rng.normal(size=(50, 3))
    return train, (train[:, 0] > -0.4).astype(int), asked, (asked[:, 0] > -0.4).astype(int)


def test_votes_are_those_of_scikit_learn(points):
    train, labels, asked, _ = points
    votes = play.neighbour_votes(train, labels, asked, 9)
    for k in (1, 4, 9):
        model = KNeighborsClassifier(k).fit(train, labels)
        np.testing.assert_allclose(votes[k - 1], model.predict_proba(asked)[:, 1])


def test_neighbours_follow_k(board, points):
    shown = board(play.neighbours, *points)
    assert words(shown).startswith("k = 3: ")
    assert changes(shown, "k", 20)
    figures = evaluate.measure(points[3], KNeighborsClassifier(20).fit(*points[:2]).predict_proba(points[2])[:, 1])
    hit, spared, balanced = figures["value"].iloc[:3]
    assert f"sensitivity {hit:.3f}" in words(shown)
    assert f"specificity {spared:.3f}" in words(shown)
    assert f"balanced accuracy {balanced:.3f}, over 50 films" in words(shown)


def test_fewer_films_than_neighbours(board, points):
    train, labels, asked, truth = points
    shown = board(play.neighbours, train[:4], labels[:4], asked, truth, start=9)
    assert control(shown, "k").max == control(shown, "k").value == 4
    assert "k = 1, 4." in board.alts[0]


# ----------------------------------------------------------------------------------------- augmentation
@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1), (16, 16, 3)])
def test_augmentation_follows_its_knobs(board, shape):
    film = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    shown = board(play.augmentation, film)
    assert "a pixel changes by 0.0 of 255" in words(shown)
    assert changes(shown, "mirrored", True)
    change = np.abs(film.astype(int) - film[:, ::-1]).mean()
    assert f"mirrored: a pixel changes by {change:.1f} of 255" in words(shown)
    assert changes(shown, "shear (degrees)", 20.0)
    assert changes(shown, "zoom of width", 0.8)
    assert "drawn 1.25 times as wide and 1.00 times as high" in words(shown)
    assert changes(shown, "zoom of height", 1.25)
    assert "1.25 times as wide and 0.80 times as high" in words(shown)


def test_zoom_enlarges_as_it_says():
    """A bar of 8 columns, drawn twice as wide, has 16."""
    film = np.zeros((32, 32, 1), np.uint8)
    film[:, 12:20] = 200
    assert (play.warped(film, 0, 0.5, 1, False)[16, :, 0] > 100).sum() == 16


def test_warp_is_the_lessons(board):
    film = FILMS[0]
    matrices = augment.random_matrices(1, 12, augment.Augmentation(shear=0, zoom=0, flip=False))
    np.testing.assert_array_equal(play.warped(film, 0, 1, 1, False), augment.warp(film[None], matrices)[0])


# ------------------------------------------------------------------------------------------------- heat
def test_heat_follows_film_and_strength(board):
    maps = np.zeros((3, 4, 6))
    maps[0, 3, 0] = maps[1, 0, 5] = 1.0
    shown = board(play.heat, FILMS[:3], maps, ["NORMAL a", "PNEUMONIA <b>", "c"], [0.25, 0.875, 0.5])
    assert words(shown).startswith("Film 1 of 3, NORMAL a, score 0.25. Hottest in the lower left")
    assert "4% of it" in words(shown)
    assert changes(shown, "film", 2)
    assert words(shown).startswith("Film 2 of 3, PNEUMONIA <b>, score 0.88. Hottest in the upper right")
    with_heat = picture(shown)
    control(shown, "strength of heat").value = 0.0
    assert (picture(shown) != with_heat).any()
    control(shown, "film").value = 3
    assert "The map is empty" in words(shown)


def test_heat_lies_where_the_map_says(board):
    """The right panel is red where the map is hot: in the upper right, not mirrored, not upside down."""
    maps = np.zeros((1, 3, 3))
    maps[0, 0, 2] = 1.0
    shown = board(play.heat, np.full((1, 30, 30), 60, np.uint8), maps, ["x"], [0.5])
    colourful = np.ptp(picture(shown), axis=2)
    rows, columns = np.nonzero(colourful > 60)
    height, width = colourful.shape
    assert rows.mean() < 0.4 * height
    assert columns.mean() > 0.8 * width


def test_heat_wants_one_of_each():
    with pytest.raises(ValueError, match=r"3 images, maps of shape \(2, 4, 4\), 3 titles and 3 scores; expected one"):
        play.heat(FILMS[:3], np.zeros((2, 4, 4)), ["a", "b", "c"], [0.1, 0.2, 0.3])


# ------------------------------------------------------------------------------ you against the network
PATIENTS = np.arange(120) // 2  # two films each; 40 is even, so that no patient has both labels


def test_chosen_films_are_a_small_picture_of_all():
    chosen = play.choose_films(LABELS, PATIENTS, n=21, seed=4)
    assert len(set(PATIENTS[chosen])) == len(chosen) == 21
    assert LABELS[chosen].sum() == 14
    assert 0 < LABELS[chosen][:7].sum() + LABELS[chosen][14:].sum() < 14, "shuffled"
    np.testing.assert_array_equal(chosen, play.choose_films(LABELS, PATIENTS, n=21, seed=4))
    assert set(chosen) != set(play.choose_films(LABELS, PATIENTS, n=21, seed=5))


def test_rare_class_is_there_and_few_films_are_enough():
    labels = np.r_[1, np.zeros(99, int)]
    assert labels[play.choose_films(labels, np.arange(100))].sum() == 1
    assert sorted(play.choose_films(LABELS[35:45], np.arange(10))) == list(range(10))


def press(board, *names):
    buttons = {button.description: button for button in board.children[1].children}
    for name in names:
        buttons[name].click()


def test_reading_all_films_shows_both_readers(board):
    shown = board(play.you_against_the_network, FILMS, LABELS, SCORES, PATIENTS, n=12, seed=3)
    chosen = play.choose_films(LABELS, PATIENTS, n=12, seed=3)
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
    assert f"Network: {network} of 12 right" in words(shown)
    press(shown, "normal")  # after the last film
    assert f"You: {sick} of 12 right" in words(shown)
    press(shown, "one back", "normal")
    assert f"You: {sick + (1 if LABELS[chosen][-1] == 0 else -1)} of 12 right" in words(shown)


def test_readers_are_compared_by_wilson_and_mcnemar():
    labels = np.repeat([0, 1], 10)
    answers, scores = 1 - labels, labels * 0.5 + 0.2
    answers[:3] = 0
    table, text = play.compare_readers(labels, answers, scores)
    assert table["value"].tolist() == [0.15, 1.0, 0.0, 1.0, 0.3, 1.0]
    low, high = table.loc["accuracy, you", ["low", "high"]]
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3604)  # Wilson, 3 of 20
    p = mcnemar([[3, 0], [17, 0]], exact=True).pvalue
    assert text.endswith(f"Only you were right on 0, only the network on 17 films: McNemar's p = {p:.3f}.")


def test_too_few_differences_get_no_test():
    labels = np.repeat([0, 1], 10)
    answers = labels.copy()
    answers[:5] = 1
    assert "too few for any test" in play.compare_readers(labels, answers, labels.astype(float))[1]
    answers[5] = 1
    assert "McNemar's p = 0.031" in play.compare_readers(labels, answers, labels.astype(float))[1]


def test_threshold_of_the_network_counts(board):
    labels, scores = np.array([0, 1] * 5), np.array([0.6, 0.8] * 5)
    shown = board(play.you_against_the_network, FILMS[:10], labels, scores, threshold=0.7)
    press(shown, *["normal"] * 10)
    assert "You: 5 of 10 right" in words(shown)
    assert "Network: 10 of 10 right" in words(shown)


def test_images_and_labels_must_agree():
    with pytest.raises(ValueError, match="Found 119 images and 120 labels"):
        play.you_against_the_network(FILMS[1:], LABELS, SCORES)


# ------------------------------------------------------------------------------------- kept in a notebook
@pytest.mark.parametrize("call", [(play.threshold, LABELS, SCORES), (play.augmentation, FILMS[0])])
def test_every_control_is_named_and_standard(board, call):
    for child in board(*call).children[:-1]:
        assert child.description
        assert type(child).__module__.startswith("ipywidgets.")


CELL = """
import numpy as np
from xrayhelpers import play
labels = np.repeat([0, 1], 10)
scores = np.linspace(0.1, 0.9, 20)
films = np.zeros((20, 8, 8), np.uint8)
play.threshold(labels, scores)
play.neighbours(scores[:, None], labels, scores[:, None], labels)
play.augmentation(films[0])
play.heat(films, np.ones((20, 3, 3)) / 2, ["film"] * 20, scores)
play.you_against_the_network(films, labels, scores)
"""


@pytest.mark.slow
def test_stored_notebook_keeps_pictures_and_no_view(tmp_path, monkeypatch):
    """A real kernel without a browser: no warning, five pictures with text, five views, which no stored page holds."""
    specification = importlib.util.spec_from_file_location("refresh", ROOT / "tools" / "refresh.py")
    refresh = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(refresh)
    monkeypatch.setenv("PYTHONPATH", str(Path(play.__file__).parents[1]))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    NotebookClient(notebook, timeout=900).execute()
    outputs = notebook.cells[0].outputs
    assert not [output for output in outputs if output.output_type in ("stream", "error")]
    views = [output.data for output in outputs if WIDGET_VIEW in output.data]
    assert len(views) == 5
    assert all(set(view) == {WIDGET_VIEW} for view in views), "no text to be left where the view cannot be drawn"
    assert "widgets" in notebook.metadata

    nbformat.write(notebook, tmp_path / "executed.ipynb")
    write_page(tmp_path / "executed.ipynb")
    page = (tmp_path / "executed.html").read_text("utf-8")
    assert page.count('src="data:image/png') == 5
    assert "jupyter.widget" not in page
    assert "VBox" not in page

    refresh.clean_notebook(notebook)
    kept = notebook.cells[0].outputs
    assert sum("image/png" in output.data for output in kept) == 5
    assert all(output.metadata["image/png"]["alt"] for output in kept if "image/png" in output.data)
    assert "widget" not in nbformat.writes(notebook)
    assert len(kept) == len(outputs) - 5

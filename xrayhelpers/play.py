"""Things to play with: move a slider, and the picture and a sentence about it follow.

Each function first puts a figure with a few chosen settings into the notebook, which stays there for readers without a
kernel, and then the widgets. All of them are standard ones (ipywidgets 7.7 or 8): Tab reaches them, arrow keys move a
slider, Enter presses a button. What the picture shows is also said in words, in a line that screen readers watch.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from types import SimpleNamespace

import ipywidgets as widgets
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from sklearn.neighbors import NearestNeighbors

from xrayhelpers import evaluate, intervals, plots
from xrayhelpers.lessons import WIDGET_VIEW

WIDE = {"style": {"description_width": "130px"}, "layout": {"width": "500px", "max_width": "95%"}}


# -------------------------------------------------------------------------------------------- threshold
def threshold(labels: ArrayLike, scores: ArrayLike, cost_miss: float = 10.0, start: float = 0.5) -> None:
    """Move the threshold, and what a missed pneumonia costs; see confusion matrix, ROC curve and cost.

    Parameters
    ----------
    labels : (N,) array of 0 and 1
    scores : (N,) array of float in [0, 1]
    cost_miss : float in [1, 50], how many false alarms are as bad as one missed pneumonia
    start : float in [0, 1], the first threshold
    """
    labels, scores, _ = intervals.check_scores(labels, scores)
    result = SimpleNamespace(name="model", scores=pd.DataFrame({"label": labels, "score": scores}))

    def draw(threshold: float, cost_miss: float) -> tuple[Figure, str]:
        points = evaluate.expected_cost(labels, scores, cost_miss)
        result.threshold = threshold
        figure, axes = _panels((1, 1.15, 1.5))
        plots.confusion(labels, scores, threshold, ax=axes[0])
        plots.roc([result], ax=axes[1]).set_title("", loc="left")
        plots.threshold_curve(points, threshold, ax=axes[2])
        at, best = counts_at(labels, scores, threshold, cost_miss), points.loc[points["cost"].idxmin()]
        return figure, (
            f"Threshold {threshold:.2f}: {at['found']:.0f} of {at['sick']:.0f} pneumonias are found, "
            f"{at['missed']:.0f} missed; {at['alarms']:.0f} of {at['healthy']:.0f} normal films raise a false alarm. "
            f"If a miss is as bad as {cost_miss:g} false alarms, this costs {at['cost']:.3f} an image; "
            f"the cheapest threshold for these films, {min(best['threshold'], 1):.2f}, costs {best['cost']:.3f}."
        )

    calls = {f"threshold {t:g}": scores >= t for t in (0.1, 0.5, 0.9)}
    plots.show(_confusions(labels, calls), alt="Three confusion matrices of one model, at thresholds 0.1, 0.5, 0.9.")
    _board(
        draw,
        threshold=widgets.FloatSlider(value=start, min=0, max=1, step=0.01, description="threshold", **WIDE),
        cost_miss=widgets.FloatSlider(value=cost_miss, min=1, max=50, step=1, description="cost of a miss", **WIDE),
    )


def counts_at(labels: ArrayLike, scores: ArrayLike, threshold: float, cost_miss: float = 10.0) -> pd.Series:
    """What a threshold does to these films: sick, found, missed, healthy, alarms; cost in false alarms an image."""
    labels, called = np.asarray(labels), np.asarray(scores) >= threshold
    sick, found, alarms = (labels == 1).sum(), (called & (labels == 1)).sum(), (called & (labels == 0)).sum()
    counts = {"sick": sick, "found": found, "missed": sick - found, "healthy": labels.size - sick, "alarms": alarms}
    return pd.Series(counts | {"cost": (cost_miss * (sick - found) + alarms) / labels.size}, dtype=float)


# ------------------------------------------------------------------------------------------- neighbours
def neighbours(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    features: ArrayLike,
    labels: ArrayLike,
    largest: int = 31,
    start: int = 3,
) -> None:
    """Move k, the number of neighbours that vote; see whom the vote gets right.

    Parameters
    ----------
    train_features, train_labels : (M, D) and (M,) arrays, what is remembered
    features, labels : (N, D) and (N,) arrays, who is asked (of validation: k is not chosen on test)
    largest : the largest k, at most M
    start : the first k
    """
    called, labels = neighbour_votes(train_features, train_labels, features, largest) >= 0.5, np.asarray(labels)
    hits, spared = called[:, labels == 1].mean(axis=1), (~called[:, labels == 0]).mean(axis=1)
    rates = pd.DataFrame({"sensitivity": hits, "specificity": spared}).rename(lambda i: i + 1).rename_axis("k")

    def draw(k: int) -> tuple[Figure, str]:
        figure, axes = _panels((1, 1.8))
        plots.confusion(labels, called[k - 1], ax=axes[0])
        look = {"style": ["-o", "--s"], "color": plots.OKABE_ITO[:2], "ms": 4, "grid": True}
        rates.plot(ax=axes[1], ylim=(-0.03, 1.03), ylabel="share called right", **look)
        axes[1].axvline(k, color="black", lw=1, ls=":", label=f"k = {k}")
        axes[1].legend(loc="lower left", fontsize=9)
        hit, spared = rates.loc[k]
        return figure, (
            f"k = {k}: sensitivity {hit:.3f} (sick films called sick), specificity {spared:.3f} (healthy ones called "
            f"healthy), balanced accuracy {(hit + spared) / 2:.3f}, over {labels.size} films."
        )

    shown = sorted({1, min(5, len(called)), len(called)})
    alt = f"Confusion matrices of the nearest-neighbour vote for k = {', '.join(map(str, shown))}."
    plots.show(_confusions(labels, {f"k = {k}": called[k - 1] for k in shown}), alt=alt)
    _board(draw, k=widgets.IntSlider(value=min(start, len(called)), min=1, max=len(called), description="k", **WIDE))


def neighbour_votes(
    train_features: ArrayLike, train_labels: ArrayLike, features: ArrayLike, largest: int
) -> np.ndarray:
    """Share of pneumonia among the 1, 2, ... `largest` nearest: (largest, N) float, row k - 1 for k neighbours."""
    train_labels = np.asarray(train_labels)
    k = min(largest, len(train_labels))
    nearest = NearestNeighbors(n_neighbors=k).fit(train_features).kneighbors(features, return_distance=False)
    return (train_labels[nearest].cumsum(axis=1) / np.arange(1, k + 1)).T


# ----------------------------------------------------------------------------------------- augmentation
def augmentation(image: np.ndarray) -> None:
    """Turn the knobs of the augmentation, shear, zoom and flip, and see what becomes of a film.

    Parameters
    ----------
    image : (S, S), (S, S, 1) or (S, S, 3) uint8
    """
    image = np.asarray(image).reshape(*np.shape(image)[:2], -1)

    def draw(shear: float, zoom_x: float, zoom_y: float, flip: bool) -> tuple[Figure, str]:
        changed = warped(image, shear, zoom_x, zoom_y, flip)
        figure = plots.image_grid([image, changed / 255], ["the film", "what the network is shown"], 2, width=2.8)
        return figure, (
            f"Sheared by {shear:g} degrees, drawn {1 / zoom_x:.2f} times as wide and {1 / zoom_y:.2f} times as high"
            f"{', mirrored' if flip else ''}: a pixel changes by "
            f"{np.abs(changed - image).mean():.1f} of 255 grey values on average."
        )

    knobs = [(0, 1, 1, False), (0.2, 1, 1, False), (11.5, 1, 1, False), (0, 0.8, 1.2, False), (0, 1, 1, True)]
    titles = ["original", "shear 0.2°", "shear 11.5°", "wider, lower", "mirrored"]
    figure = plots.image_grid([warped(image, *knob) / 255 for knob in knobs], titles, columns=5)
    plots.show(figure, alt="A film, sheared by 0.2 degrees, by 11.5 degrees, drawn wider and lower, and mirrored.")
    zoom = {"value": 1.0, "min": 0.6, "max": 1.4, "step": 0.05, **WIDE}
    _board(
        draw,
        shear=widgets.FloatSlider(value=0, min=-30, max=30, step=0.1, description="shear (degrees)", **WIDE),
        zoom_x=widgets.FloatSlider(description="zoom of width", **zoom),
        zoom_y=widgets.FloatSlider(description="zoom of height", **zoom),
        flip=widgets.Checkbox(value=False, description="mirrored", **WIDE),
    )


def warped(image: np.ndarray, shear: float, zoom_x: float, zoom_y: float, flip: bool) -> np.ndarray:
    """One film with these settings, by the lesson's own `augment.warp`: (S, S, C) float32 in [0, 255].

    As in Keras, the shear is in degrees and a zoom of 0.8 shows 0.8 of the width (so it is drawn 1.25 times as wide).
    """
    from xrayhelpers import augment  # here, because TensorFlow takes seconds to load

    settings = [np.array([value]) for value in (np.deg2rad(shear), zoom_x, zoom_y, flip)]
    matrices = augment.affine_matrices(*settings, image.shape[0])
    return np.asarray(augment.warp(image[None], matrices))[0]


# ------------------------------------------------------------------------------------------------- heat
def heat(images: ArrayLike, maps: ArrayLike, titles: Sequence[str], scores: ArrayLike) -> None:
    """Leaf through heat maps, for example Grad-CAM's, and fade them in and out.

    Parameters
    ----------
    images : (N, S, S), (N, S, S, 1) or (N, S, S, 3) uint8
    maps : (N, H, W) float in [0, 1], stretched over the images
    titles : N texts, for example the true class
    scores : (N,) float in [0, 1]
    """
    maps, scores = np.asarray(maps, dtype=float), np.asarray(scores, dtype=float).ravel()
    if maps.ndim != 3 or not len(images) == len(maps) == len(titles) == len(scores) > 0:
        raise ValueError(
            f"Found {len(images)} images, maps of shape {maps.shape}, {len(titles)} titles and {len(scores)} scores; "
            "expected one of each for every film. Take all from the same rows, e.g. images[:8], maps[:8]."
        )

    def draw(film: int, strength: float) -> tuple[Figure, str]:
        i = film - 1
        figure, axes = _panels((1, 1), height=3.2)
        _overlay(axes[0], images[i], None, "the film")
        _overlay(axes[1], images[i], maps[i], "with the heat map", strength)
        return figure, f"Film {film} of {len(maps)}, {titles[i]}, score {scores[i]:.2f}. {heat_in_words(maps[i])}"

    n = min(4, len(maps))
    figure, axes = _panels((1,) * n, rows=2, height=3.6)
    for i in range(n):
        _overlay(axes[i], images[i], None, f"{titles[i]}\nscore {scores[i]:.2f}")
        _overlay(axes[n + i], images[i], maps[i], "")
    plots.show(figure, alt=f"{n} films, and below each the same film under its heat map; a line frames the hottest.")
    _board(
        draw,
        film=widgets.IntSlider(value=1, min=1, max=len(maps), description="film", **WIDE),
        strength=widgets.FloatSlider(value=1, min=0, max=1, step=0.1, description="strength of heat", **WIDE),
    )


def heat_in_words(heat: np.ndarray) -> str:
    """Where a map (H, W) in [0, 1] is hottest, and how much of the picture is at least half as hot."""
    if heat.max() <= 0:
        return "The map is empty: nothing in the film raised the score."
    row, column = (3 * np.array(np.unravel_index(heat.argmax(), heat.shape))) // heat.shape
    place = f"{('upper', 'middle', 'lower')[row]} {('left', 'centre', 'right')[column]}"
    share = (heat >= heat.max() / 2).mean()
    return f"Hottest in the {place} of the picture; {share:.0%} of it is at least half as hot."


def _overlay(ax: Axes, image: np.ndarray, heat: np.ndarray | None, title: str, strength: float = 1.0) -> None:
    """A film, under a heat map where there is one; a dashed line runs around what is hotter than 0.5."""
    extent = (0, 1, 1, 0)  # left, right, bottom, top: row 0 is on top
    image = np.asarray(image)
    ax.imshow(image[..., 0] if image.ndim == 3 else image, cmap="gray", vmin=0, vmax=255, extent=extent)
    if heat is not None:
        ax.imshow(
            heat, cmap="inferno", vmin=0, vmax=1, alpha=0.6 * strength * heat, extent=extent, interpolation="bilinear"
        )
        if heat.min() < 0.5 < heat.max():
            ax.contour(heat, [0.5], colors="white", linestyles="--", linewidths=1, origin="lower", extent=(0, 1, 0, 1))
    ax.set_title(title, fontsize=9)
    ax.set_axis_off()


# ------------------------------------------------------------------------------ you against the network
def you_against_the_network(
    images: Sequence[np.ndarray],
    labels: ArrayLike,
    scores: ArrayLike,
    patients: ArrayLike | None = None,
    threshold: float = 0.5,
    n: int = 20,
    seed: int = 0,
) -> None:
    """Read films yourself, then see your figures beside the network's on the same films.

    Parameters
    ----------
    images : N films (S, S), (S, S, 1) or (S, S, 3) uint8; only the chosen ones are read
    labels, scores : (N,) arrays, the truth and the network's scores
    patients : (N,) array, optional; with it no two films are of one patient
    threshold : the network calls a film pneumonia when its score is at least this
    n : how many films to read
    seed : which films
    """
    labels, scores, patients = intervals.check_scores(labels, scores, patients)
    if len(images) != len(labels):
        raise ValueError(f"Found {len(images)} images and {len(labels)} labels; expected one image a label.")
    chosen = choose_films(labels, patients, n, seed)
    films, labels, scores = [images[i] for i in chosen], labels[chosen], scores[chosen]
    answers: list[int] = []
    screen = widgets.HTML()
    buttons = [widgets.Button(description=name) for name in ("normal", "pneumonia", "one back")]

    def step(button: widgets.Button | None = None) -> None:
        if button is buttons[2]:
            del answers[-1:]
        elif button is not None and len(answers) < len(films):
            answers.append(buttons.index(button))
        if len(answers) < len(films):
            figure = plots.image_grid([films[len(answers)]], [f"film {len(answers) + 1} of {len(films)}"], 1, width=4)
            words = f"Film {len(answers) + 1} of {len(films)}: normal or pneumonia?"
        else:
            table, words = compare_readers(labels, answers, scores, threshold)
            figure = plots.forest(table, label="share").get_figure()
        _fill(screen, figure, words)

    plots.show(
        plots.image_grid(films, [str(i + 1) for i in range(len(films))], columns=10, width=0.95),
        alt=f"The {len(films)} films to read, numbered, without their diagnoses.",
    )
    truth = ", ".join(f"{i} {plots.CLASSES[label]}" for i, label in enumerate(labels, start=1))
    display(HTML(f"<details><summary>Unfold the truth only when you have read all films</summary>{truth}</details>"))
    for button in buttons:
        button.on_click(step)
    step()
    _display(widgets.VBox([screen, widgets.HBox(buttons)]))


def choose_films(labels: np.ndarray, patients: np.ndarray, n: int = 20, seed: int = 0) -> np.ndarray:
    """Positions of `n` films in random order: one a patient, both classes in the proportion that they have."""
    table = pd.DataFrame({"label": labels, "patient": patients}).sample(frac=1, random_state=seed)
    table = table.drop_duplicates("patient")
    n = min(n, len(table))
    sick = int(np.clip(round(n * table["label"].mean()), 1, n - 1))
    parts = [table[table["label"] == 1].head(sick), table[table["label"] == 0].head(n - sick)]
    return pd.concat(parts).sample(frac=1, random_state=seed).index.to_numpy()


def compare_readers(
    labels: ArrayLike, answers: ArrayLike, scores: ArrayLike, threshold: float = 0.5
) -> tuple[pd.DataFrame, str]:
    """Your answers (0 or 1) beside the network's on films of different patients.

    Returns
    -------
    DataFrame with columns value, low, high (95 %, Wilson): accuracy, sensitivity and specificity, you and the network
    str : the same in words, with McNemar's test where it could show anything: of fewer than 6 disagreements not even
        all on one side reach p < 0.05
    """
    labels, readers = np.asarray(labels), {"you": np.asarray(answers), "network": np.asarray(scores) >= threshold}
    groups = {"accuracy": labels >= 0, "sensitivity": labels == 1, "specificity": labels == 0}
    rows, right = {}, {name: calls == labels for name, calls in readers.items()}
    for measure, group in groups.items():
        for name in readers:
            value = right[name][group].mean()
            rows[f"{measure}, {name}"] = (value, *intervals.wilson_interval(value, group.sum()))
    test = evaluate.compare_errors(labels, readers["you"], readers["network"])
    you, network = int(test["only_a_right"]), int(test["only_b_right"])
    words = ""
    for name, calls in right.items():
        _, low, high = rows[f"accuracy, {name}"]
        words += f"{name.capitalize()}: {calls.sum()} of {labels.size} right, in the long run {low:.0%} to {high:.0%}. "
    words += f"Only you were right on {you}, only the network on {network} films: "
    words += f"McNemar's p = {test['p_images']:.3f}." if you + network >= 6 else "too few for any test to tell apart."
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"]), words


# ----------------------------------------------------------------------------------------------- boards
def _board(draw: Callable[..., tuple[Figure, str]], **controls: widgets.Widget) -> None:
    """Controls, and below them the picture and the sentence that `draw` makes of their values."""
    screen = widgets.HTML()

    def redraw(change: dict | None = None) -> None:
        _fill(screen, *draw(**{name: control.value for name, control in controls.items()}))

    for control in controls.values():
        control.observe(redraw, "value")
    redraw()
    _display(widgets.VBox([*controls.values(), screen]))


def _fill(screen: widgets.HTML, figure: Figure, words: str) -> None:
    """Put a figure and its sentence on the screen in one go, at a fixed size, so that nothing jumps or flickers."""
    width, height = figure.get_size_inches() * 100
    picture = io.BytesIO()  # in full colour: it is not stored, so it need not be small
    figure.savefig(picture, format="png", dpi=100, facecolor="white", bbox_inches=None)
    plt.close(figure)
    data = base64.b64encode(picture.getvalue()).decode("ascii")
    screen.value = (
        f'<p role="status" aria-live="polite" style="max-width:{width:.0f}px">{escape(words)}</p>'
        f'<img alt="The picture to the sentence above." decoding="sync" src="data:image/png;base64,{data}" '
        f'style="width:{width:.0f}px;aspect-ratio:{width:.0f}/{height:.0f};max-width:100%">'
    )


def _display(widget: widgets.Widget) -> None:
    """Show a widget, and nothing at all where there is no kernel: without the usual text "VBox(children=...".

    A stored view cannot be drawn without its kernel; tools/refresh.py leaves it out.
    """
    display({WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}}, raw=True)


def _panels(ratios: Sequence[float], rows: int = 1, height: float = 3.3) -> tuple[Figure, np.ndarray]:
    """A figure of panels side by side, with widths in these proportions."""
    with mpl.rc_context(plots.STYLE):
        size = (height / rows * sum(ratios), height)
        figure, axes = plt.subplots(rows, len(ratios), figsize=size, squeeze=False, width_ratios=list(ratios))
    return figure, axes.ravel()


def _confusions(labels: np.ndarray, calls: Mapping[str, np.ndarray]) -> Figure:
    """Confusion matrices side by side, one for each way of calling the films."""
    figure, axes = _panels((1,) * len(calls))
    for ax, (title, called) in zip(axes, calls.items(), strict=True):
        plots.confusion(labels, called, ax=ax)
        ax.set_title(title)
    return figure

"""Widgets to explore with: move a slider, and the picture and a sentence about it follow.

Each function first shows a figure for one setting, which stays in the notebook for readers without a kernel, and then
the widgets. All are standard ones (ipywidgets 7.7 or 8): Tab reaches them, arrow keys move a slider, Enter presses a
button. A line that screen readers watch says in words what the picture shows.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from matplotlib.figure import Figure
from mlxtend.evaluate import mcnemar, mcnemar_table
from numpy.typing import ArrayLike

from xrayhelpers import plots
from xrayhelpers._intervals import check_scores
from xrayhelpers.data import CLASSES
from xrayhelpers.evaluate import measure

VIEW = "application/vnd.jupyter.widget-view+json"
WIDE = {"style": {"description_width": "130px"}, "layout": {"width": "500px", "max_width": "95%"}}
READ = 20  # images to read


def explore_augmentation(image: np.ndarray) -> None:
    """Change shear, zoom and flip, and see what augmentation makes of an image.

    Parameters
    ----------
    image : (S, S), (S, S, 1) or (S, S, 3) uint8 array
    """
    from xrayhelpers import augment  # here, because TensorFlow takes seconds to load

    image = np.atleast_3d(image)

    def draw(shear: float, zoom_x: float, zoom_y: float, flip: bool) -> tuple[Figure, str]:
        settings = [np.array([value]) for value in (np.deg2rad(shear), zoom_x, zoom_y, flip)]
        changed = np.asarray(augment._warp(image[None], augment._affine_matrices(*settings, image.shape[0])))[0]
        return plots.image_grid([image, changed], ["the image", "what the network is shown"]), (
            f"Sheared by {shear:g} degrees, drawn {1 / zoom_x:.2f} times as wide and {1 / zoom_y:.2f} times as high"
            f"{', mirrored' if flip else ''}: a pixel changes by {np.abs(changed - image).mean():.1f} of 255 gray "
            "levels on average."
        )

    zoom = {"value": 1.0, "min": 0.6, "max": 1.4, "step": 0.05, **WIDE}
    _board(
        draw,
        {"shear": 11.5, "zoom_x": 0.8, "zoom_y": 1.2, "flip": True},
        shear=widgets.FloatSlider(value=0, min=-30, max=30, step=0.1, description="shear (degrees)", **WIDE),
        zoom_x=widgets.FloatSlider(description="zoom of width", **zoom),
        zoom_y=widgets.FloatSlider(description="zoom of height", **zoom),
        flip=widgets.Checkbox(value=False, description="mirrored", **WIDE),
    )


def explore_heat(images: ArrayLike, maps: ArrayLike, titles: Sequence[str], scores: ArrayLike) -> None:
    """Leaf through heat maps, such as Grad-CAM's, and fade them in and out.

    Parameters
    ----------
    images : (N, S, S), (N, S, S, 1) or (N, S, S, 3) uint8 array
    maps : (N, h, w) float array in [0, 1], stretched over the images
    titles : sequence of N str, for example the true class
    scores : (N,) or (N, 1) array of float in [0, 1]
    """
    maps, scores = np.asarray(maps, dtype=float), np.ravel(scores)
    if not len(images) == len(maps) == len(titles) == len(scores) > 0:
        found = f"{len(images)} images, {len(maps)} maps, {len(titles)} titles and {len(scores)} scores"
        raise ValueError(f"Found {found}; expected one of each per image. Take all from the same rows.")

    def draw(number: int, strength: float) -> tuple[Figure, str]:
        image, heat = images[number - 1], maps[number - 1]
        row, column = (3 * np.array(np.unravel_index(heat.argmax(), heat.shape))) // heat.shape
        place = f"{('upper', 'middle', 'lower')[row]} {('left', 'center', 'right')[column]}"
        words = f"The {place} is hottest; {(heat >= heat.max() / 2).mean():.0%} of the image is at least half as hot."
        words = words if heat.max() > 0 else "The map is empty: nothing in the image raised the score."
        figure = plots.heat_grid([image, image], [0 * heat, heat], ["the image", "with the heat map"], 2, strength)
        return figure, f"Image {number} of {len(maps)}, {titles[number - 1]}, score {scores[number - 1]:.2f}. {words}"

    number = widgets.IntSlider(value=1, min=1, max=len(maps), description="image", **WIDE)
    strength = widgets.FloatSlider(value=1, min=0, max=1, step=0.1, description="strength of heat", **WIDE)
    _board(draw, {"number": len(maps), "strength": 1}, number=number, strength=strength)


def read_films(
    images: ArrayLike, labels: ArrayLike, scores: ArrayLike, patients: ArrayLike | None = None, threshold: float = 0.5
) -> None:
    """Read 20 films yourself, then see your results beside the network's on the same films.

    Parameters
    ----------
    images : (N, S, S), (N, S, S, 1) or (N, S, S, 3) uint8 array
    labels, scores : (N,) arrays
        The true classes, and the network's scores in [0, 1].
    patients : (N,) array, optional
        With it, no two films belong to one patient.
    threshold : float
        A score of at least this value is the network's "pneumonia".
    """
    labels, scores, patients = check_scores(labels, scores, patients)
    if len(images) != len(labels):
        raise ValueError(f"Found {len(images)} images and {len(labels)} labels; expected one image per label.")
    chosen = _choose_films(labels, patients)
    films, labels, network = [images[i] for i in chosen], labels[chosen], scores[chosen] >= threshold
    answers: list[int] = []
    screen = widgets.HTML()
    buttons = [widgets.Button(description=name) for name in ("normal", "pneumonia", "one back")]

    def step(button: widgets.Button | None = None) -> None:
        if button is buttons[2]:
            del answers[-1:]
        elif button is not None and len(answers) < len(films):
            answers.append(buttons.index(button))
        if len(answers) < len(films):
            title = f"Film {len(answers) + 1} of {len(films)}"
            _fill(screen, plots.image_grid([films[len(answers)]], [title], width=6), f"{title}: normal or pneumonia?")
        else:
            _fill(screen, *_compare_readers(labels, {"you": np.array(answers), "the network": network.astype(int)}))

    figure = plots.image_grid(films, [str(i + 1) for i in range(len(films))], columns=5)
    plots.show(figure, alt=f"The {len(films)} films to read, numbered, without their diagnoses.")
    truth = ", ".join(f"{i} {list(CLASSES)[label]}" for i, label in enumerate(labels, start=1))
    display(HTML(f"<details><summary>Unfold the diagnoses after you have finished</summary>{truth}</details>"))
    for button in buttons:
        button.on_click(step)
    step()
    _display(widgets.VBox([screen, widgets.HBox(buttons)]))


def _choose_films(labels: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Return positions of about `READ` films in random order: one per patient, each class with its share."""
    table = pd.DataFrame({"label": labels, "patient": patients}).sample(frac=1, random_state=0)
    table = table.drop_duplicates("patient")
    share = min(1, READ / len(table))
    parts = [rows.head(max(1, round(share * len(rows)))) for _, rows in table.groupby("label")]
    return pd.concat(parts).sample(frac=1, random_state=0).index.to_numpy()


def _compare_readers(labels: np.ndarray, readers: dict[str, np.ndarray]) -> tuple[Figure, str]:
    """Compare two readers' calls (0 or 1) on films of different patients, as a forest plot and in words.

    McNemar's test is named from 6 disagreements on: fewer cannot reach p < 0.05.
    """
    tables, words = {name: measure(labels, calls) for name, calls in readers.items()}, ""
    metrics = ("accuracy", "sensitivity", "specificity")
    rows = {f"{metric}, {name}": table.loc[metric] for metric in metrics for name, table in tables.items()}
    for name, calls in readers.items():
        interval = "{low:.0%} to {high:.0%}".format(**rows[f"accuracy, {name}"])
        words += f"{name.capitalize()}: {(calls == labels).sum()} of {labels.size} right (95 % interval {interval}). "
    table = mcnemar_table(labels, *readers.values())
    you, network, p = table[0, 1], table[1, 0], mcnemar(table, exact=True)[1]
    verdict = f"McNemar's p = {p:.3f}." if you + network >= 6 else "too few for any test to decide."
    words += f"Only you were right on {you} films, only the network on {network}: {verdict}"
    return plots.forest(pd.DataFrame(rows).T, "share").figure, words


def _board(draw: Callable[..., tuple[Figure, str]], still: dict, **controls: widgets.Widget) -> None:
    """Show what `draw` makes of the settings `still`, and a board: controls, and below them picture and sentence."""
    screen = widgets.HTML()

    def redraw(_: dict | None = None) -> None:
        _fill(screen, *draw(**{name: control.value for name, control in controls.items()}))

    figure, words = draw(**still)
    plots.show(figure, alt=words)
    for control in controls.values():
        control.observe(redraw, "value")
    redraw()
    _display(widgets.VBox([*controls.values(), screen]))


def _fill(screen: widgets.HTML, figure: Figure, words: str) -> None:
    """Put a figure and its sentence on the screen in one step, at a fixed size, so that nothing jumps or flickers."""
    width, height = figure.get_size_inches() * 100
    picture = io.BytesIO()  # in full color: it is not stored, so it need not be small
    figure.savefig(picture, format="png", dpi=100, facecolor="white", bbox_inches=None)
    plt.close(figure)
    data = base64.b64encode(picture.getvalue()).decode("ascii")
    screen.value = (
        f'<p role="status" aria-live="polite" style="max-width:{width:.0f}px">{escape(words)}</p>'
        '<img alt="The picture that the sentence above describes." decoding="sync" style="max-width:100%;'
        f'width:{width:.0f}px;aspect-ratio:{width:.0f}/{height:.0f}" src="data:image/png;base64,{data}">'
    )


def _display(widget: widgets.Widget) -> None:
    """Show a widget, without the usual text "VBox(children=..." where there is no kernel.

    A stored view cannot be drawn without its kernel; tools/refresh.py leaves it out.
    """
    display({VIEW: {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}}, raw=True)

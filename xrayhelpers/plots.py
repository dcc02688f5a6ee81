"""Every figure that is used twice.

Each function draws and returns matplotlib Axes (a Figure where there are several); `show` puts it into the notebook
with a text for those who cannot see it. Colours are Okabe and Ito's, which the colour-blind can tell apart, and a
marker, a line style, a hatch or a printed number says the same as the colour. Nothing changes matplotlib's settings.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
CLASSES = ("NORMAL", "PNEUMONIA")
LARGEST = 60_000  # bytes of a stored figure
STYLE = {
    "axes.prop_cycle": mpl.cycler(color=OKABE_ITO),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def show(figure: Figure | Axes | np.ndarray, alt: str) -> None:
    """Put a figure into the notebook, with its description, and close it.

    Parameters
    ----------
    figure : Figure, Axes or array of Axes
    alt : str
        What the figure shows, in a sentence or two, for readers who cannot see it. It is stored as `alt` in the
        metadata of the output.

    Raises
    ------
    ValueError
        The description is empty.
    """
    if not alt or not alt.strip():
        raise ValueError(
            "alt is empty; describe the figure in a sentence: plots.show(ax, alt='Bars: 1341 normal ...')."
        )
    if not isinstance(figure, Figure):
        figure = np.ravel(figure)[0].get_figure()
    from IPython.display import display

    picture = {"image/png": base64.b64encode(png(figure)).decode("ascii"), "text/plain": "<Figure>"}
    display(picture, raw=True, metadata={"image/png": {"alt": " ".join(alt.split())}})
    plt.close(figure)  # so that the notebook does not show it a second time


def png(figure: Figure, largest: int = LARGEST) -> bytes:
    """The figure as a PNG of at most `largest` bytes: 256 colours, as sharp (100 to 40 dots an inch) as that allows."""
    dpi = 100.0
    while True:
        plain, small = io.BytesIO(), io.BytesIO()
        figure.savefig(plain, format="png", dpi=dpi, facecolor="white", bbox_inches=None)
        Image.open(plain).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        if small.tell() <= largest or dpi <= 40:
            break
        dpi = max(40.0, dpi * min(0.95, 0.97 * (largest / small.tell()) ** 0.5))  # bytes grow with the area
    return small.getvalue()


def case_counts(counts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Bars of the number of images a class in each split.

    Parameters
    ----------
    counts : DataFrame as `dataset.class_counts` returns: one row a split, columns NORMAL and PNEUMONIA
    """
    with mpl.rc_context(STYLE):
        ax = ax or plt.subplots(figsize=(5.5, 3.2))[1]
        places = np.arange(len(counts))
        for i, (name, hatch) in enumerate(zip(CLASSES, ("", "//"), strict=True)):
            bars = ax.bar(places + (i - 0.5) * 0.4, counts[name], 0.38, label=name, hatch=hatch, edgecolor="white")
            ax.bar_label(bars, padding=2)
        ax.set(xticks=places, xticklabels=counts.index, xlabel="folder", ylabel="images")
        ax.legend()
    return ax


def image_grid(
    images: Sequence[np.ndarray], titles: Sequence[str] = (), columns: int = 4, width: float = 1.7
) -> Figure:
    """Images side by side, in grey unless they have three channels.

    Parameters
    ----------
    images : arrays (H, W), (H, W, 1) or (H, W, 3); uint8, or float in [0, 1]
    titles : one text an image, or none
    columns : images a row
    width : inches an image
    """
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    with mpl.rc_context(STYLE | {"axes.titlesize": 8, "axes.titlelocation": "center"}):
        lines = max((title.count("\n") + 1 for title in titles), default=0)
        figure, axes = plt.subplots(
            rows, columns, figsize=(width * columns, (width + 0.16 * lines) * rows), squeeze=False
        )
        for ax in axes.flat:
            ax.set_axis_off()
        for i, image in enumerate(images):
            image = np.asarray(image)
            image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
            axes.flat[i].imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
            if len(titles):
                axes.flat[i].set_title(titles[i])
    return figure


def heat_grid(
    images: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    titles: Sequence[str] = (),
    columns: int = 4,
    width: float = 1.7,
) -> Figure:
    """Images with their heat maps laid over them: cold stays grey, hot turns from purple over orange to yellow.

    Parameters
    ----------
    images : as in `image_grid`
    maps : arrays (H, W) of the images' size, in [0, 1] (outside is clipped), such as `explain.grad_cam` returns
    titles, columns, width : as in `image_grid`
    """
    covered = []
    for image, heat in zip(images, maps, strict=True):
        image = np.asarray(image) / (255 if np.asarray(image).dtype == np.uint8 else 1)
        grey = image.mean(axis=2) if image.ndim == 3 else image
        heat = np.clip(heat, 0, 1)
        share = 0.6 * heat[..., None]  # how much of the colour covers the film
        covered.append((1 - share) * grey[..., None] + share * mpl.colormaps["inferno"](heat)[..., :3])
    return image_grid(covered, titles, columns, width)


def confusion(
    labels: Sequence[int], scores: Sequence[float], threshold: float = 0.5, normed: bool = True, ax: Axes | None = None
) -> Axes:
    """Confusion matrix (mlxtend): number of images, and with `normed` their share of the true class."""
    from mlxtend.plotting import plot_confusion_matrix

    matrix = confusion_matrix(labels, np.asarray(scores).ravel() >= threshold, labels=[0, 1])
    with mpl.rc_context(STYLE | {"axes.spines.top": True, "axes.spines.right": True}):
        ax = ax or plt.subplots(figsize=(3.6, 3.4))[1]
        plt.sca(ax)  # mlxtend labels the ticks of the current Axes, whichever it was given
        plot_confusion_matrix(
            matrix, axis=ax, show_absolute=True, show_normed=normed, class_names=list(CLASSES), cmap="Blues"
        )
        ax.set(xlabel="the model says", ylabel="the truth")
        ax.set_xticklabels(CLASSES, rotation=0, ha="center")
        ax.set_yticklabels(CLASSES, rotation=90, va="center")
    return ax


def history(table: pd.DataFrame, names: Sequence[str] = ("accuracy", "loss")) -> Figure:
    """Training and validation curves over the epochs, one panel a measure.

    Parameters
    ----------
    table : DataFrame as `training.train` returns: epoch (from 0 or 1), accuracy, loss, val_accuracy, val_loss
    names : columns to draw; "val_" columns are added where they are present
    """
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(names), figsize=(3.5 * len(names), 2.9), squeeze=False)
        epochs = table["epoch"] - table["epoch"].min() + 1
        for ax, name in zip(axes.flat, names, strict=True):
            ax.plot(epochs, table[name], "-o", label="train")
            if f"val_{name}" in table:
                ax.plot(epochs, table[f"val_{name}"], "--s", label="validation")
            ax.set(xlabel="epoch", ylabel=name)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            ax.grid(axis="y")
        axes.flat[0].legend()
    return figure


def roc(results: Sequence[Any], ax: Axes | None = None) -> Axes:
    """ROC curves of several results in one figure; a marker shows each model at its own threshold.

    Parameters
    ----------
    results : `results.Result`s (or anything with name, threshold and scores, a DataFrame with label and score)
    """
    with mpl.rc_context(STYLE):
        ax = ax or plt.subplots(figsize=(5, 4.6))[1]
        ax.plot([0, 1], [0, 1], color="#999999", lw=1, label="guessing")
        for i, result in enumerate(results):
            label, score = result.scores["label"], result.scores["score"]
            alarms, hits, _ = roc_curve(label, score)
            style = {"color": OKABE_ITO[i % 7], "ls": LINES[i % 4]}
            ax.plot(
                alarms, hits, **style, label=f"{result.name} (AUC {roc_auc_score(label, score):.3f}, n={len(score)})"
            )
            called = score >= result.threshold
            point = called[label == 0].mean(), called[label == 1].mean()
            ax.plot(*point, MARKERS[i % 8], color=style["color"], ms=8, mec="black")
        ax.set_title("markers: each model at its threshold", fontsize=9)
        ax.set(xlabel="1 - specificity (false alarms)", ylabel="sensitivity (found pneumonia)", aspect="equal")
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        ax.grid()
        ax.legend(loc="lower right", fontsize=8, frameon=True, framealpha=0.9)
    return ax


def heat_map(table: pd.DataFrame, label: str = "validation accuracy", ax: Axes | None = None) -> Axes:
    """A number for each pair of settings, e.g. rows optimizer, columns units; the best is framed.

    Parameters
    ----------
    table : DataFrame of float; index and columns named after the settings
    label : what the numbers are
    """
    with mpl.rc_context(STYLE | {"figure.constrained_layout.use": False}):
        if ax is None:
            ax = plt.subplots(figsize=(1.6 + 0.9 * table.shape[1], 1.3 + 0.6 * table.shape[0]), layout="constrained")[1]
        sns.heatmap(table, annot=True, fmt=".3f", cmap="cividis", linewidths=1, cbar_kws={"label": label}, ax=ax)
        row, column = np.unravel_index(np.nanargmax(table.to_numpy(dtype=float)), table.shape)
        ax.add_patch(plt.Rectangle((column, row), 1, 1, fill=False, edgecolor=OKABE_ITO[1], lw=3))
        ax.tick_params(axis="y", rotation=0)
    return ax


def forest(table: pd.DataFrame, label: str = "ROC AUC", reference: float | None = None, ax: Axes | None = None) -> Axes:
    """Values with their intervals, one row each, the first on top.

    Parameters
    ----------
    table : DataFrame with columns value, low, high; the index names the rows
    label : what the values are
    reference : where to draw a line, e.g. 0 for differences
    """
    with mpl.rc_context(STYLE):
        ax = ax or plt.subplots(figsize=(6, 0.9 + 0.36 * len(table)))[1]
        for i, row in enumerate(table.itertuples()):
            ax.plot([row.low, row.high], [i, i], color=OKABE_ITO[0], lw=2)
            ax.plot(row.value, i, MARKERS[i % 8], color=OKABE_ITO[0], ms=7)
            text = f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
            ax.text(1.02, i, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
        if reference is not None:
            ax.axvline(reference, color="#999999", lw=1, ls="--")
        ax.set(yticks=range(len(table)), yticklabels=table.index, xlabel=f"{label} (95 % interval)")
        ax.set_ylim(len(table) - 0.5, -0.5)
        ax.grid(axis="x")
    return ax


def reliability(table: pd.DataFrame, ax: Axes | None = None, name: str = "model") -> Axes:
    """What a model promised against what came true; on the line it keeps its word.

    Parameters
    ----------
    table : DataFrame as `evaluate.reliability_table` returns
    ax : give the Axes of an earlier call to compare two models in one figure
    name : of the model, for the legend
    """
    with mpl.rc_context(STYLE):
        if ax is None:
            ax = plt.subplots(figsize=(4.4, 4.2))[1]
            ax.plot([0, 1], [0, 1], color="#999999", lw=1, label="perfect")
            ax.set(xlabel="score (promised)", ylabel="share with pneumonia (came true)", aspect="equal")
            ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
            ax.grid()
        i = len(ax.containers)
        spread = [table["share"] - table["low"], table["high"] - table["share"]]
        style = {"color": OKABE_ITO[i % 7], "marker": MARKERS[i % 8], "ls": LINES[i % 4]}
        ax.errorbar(table["score"], table["share"], yerr=np.clip(spread, 0, None), capsize=3, label=name, **style)
        ax.legend(loc="upper left")
    return ax


def threshold_curve(points: pd.DataFrame, chosen: float | None = None, ax: Axes | None = None) -> Axes:
    """Sensitivity, specificity and, where it is given, cost over the threshold.

    Parameters
    ----------
    points : DataFrame as `evaluate.operating_points` or `evaluate.expected_cost` returns
    chosen : threshold to mark
    """
    with mpl.rc_context(STYLE):
        ax = ax or plt.subplots(figsize=(5.5, 3.4))[1]
        for i, name in enumerate(("sensitivity", "specificity")):
            ax.plot(
                points["threshold"], points[name], color=OKABE_ITO[i], ls=LINES[i], drawstyle="steps-mid", label=name
            )
        if "cost" in points:
            right = ax.twinx()
            right.spines["right"].set_visible(True)
            right.plot(points["threshold"], points["cost"], color=OKABE_ITO[2], ls="-.", drawstyle="steps-mid")
            right.set(ylabel="cost an image", ylim=(0, None))
            ax.plot([], [], color=OKABE_ITO[2], ls="-.", label="cost (right)")
        if chosen is not None:
            ax.axvline(chosen, color="black", lw=1, ls=":", label=f"chosen: {chosen:.2f}")
        ax.set(xlabel="threshold", ylabel="sensitivity, specificity", xlim=(0, 1), ylim=(0, 1.03))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.grid()
        ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(0, 1.18), ncols=4, columnspacing=1, handlelength=1.8)
    return ax

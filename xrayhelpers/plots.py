"""Figures that several lessons draw, and the one way to show a figure with a description.

A function draws and returns a matplotlib Figure or Axes; `show` puts it into the notebook with a text for readers who
cannot see it. No function changes matplotlib's settings.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import cv2
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# Two of Okabe and Ito's colors, which color-blind readers can distinguish: one per class, in every figure.
COLORS = {"NORMAL": "#0072B2", "PNEUMONIA": "#D55E00"}
LARGEST = 150_000  # bytes of a stored picture
NARROWEST = 1000  # a picture is never made narrower than this many pixels to save bytes
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def show(figure: Any, alt: str) -> None:
    """Show a figure in the notebook with its description, and close it.

    Parameters
    ----------
    figure : Figure, Axes, array of Axes, or a display of scikit-learn
    alt : str
        One or two sentences that say what the figure shows, for readers who cannot see it. They are stored as `alt`
        in the metadata of the output.

    Raises
    ------
    ValueError
        If the description is empty.

    Examples
    --------
    >>> axes = counts.plot.bar()  # doctest: +SKIP
    >>> show(axes, alt="Bars: 1,341 normal and 3,875 pneumonia images in train.")  # doctest: +SKIP
    """
    if not alt.strip():
        raise ValueError("alt is empty; describe the figure in a sentence: show(axes, alt='Bars: 1341 normal ...').")
    first = np.ravel(np.asarray(figure, dtype=object))[0]
    figure = getattr(first, "figure_", None) or first.figure
    picture = {"image/png": base64.b64encode(_png(figure)).decode("ascii"), "text/plain": "<Figure>"}
    display(picture, raw=True, metadata={"image/png": {"alt": " ".join(alt.split())}})
    plt.close(figure)  # otherwise the notebook shows it a second time


def _png(figure: Figure, largest: int = LARGEST) -> bytes:
    """Return the figure as a PNG of at most `largest` bytes, if that is possible without making it hard to read.

    At 100 dots per inch the picture keeps all its colors if it is small enough. Otherwise it gets 256 colors (grays,
    if it has no others), then 64, 32 or 16, and only then fewer dots, but it never gets narrower than `NARROWEST`.
    """
    dpi = 100.0
    while True:
        plain = io.BytesIO()
        figure.savefig(plain, format="png", dpi=dpi, facecolor="white", bbox_inches=None)
        picture = Image.open(plain).convert("RGB")
        gray = (np.ptp(np.asarray(picture), axis=2) == 0).all()
        for colors in (None, 256, 64, 32, 16):
            small, form = io.BytesIO(), picture.convert("L") if gray else picture
            form = form.quantize(colors, dither=Image.Dither.NONE) if colors else form
            form.save(small, "PNG", optimize=True)
            if small.tell() <= largest:
                return small.getvalue()
        least = min(100.0, NARROWEST / figure.get_size_inches()[0])
        if dpi <= least:
            return small.getvalue()
        dpi = max(least, 0.8 * dpi)


def image_grid(
    images: Sequence[np.ndarray], titles: Sequence[str] = (), columns: int = 4, width: float = 2.2
) -> Figure:
    """Draw images side by side.

    Parameters
    ----------
    images : sequence of (H, W), (H, W, 1) or (H, W, 3) arrays
        uint8, or float in [0, 255].
    titles : sequence of str, optional
        One text per image.
    columns : int
        Images per row.
    width : float
        Inches per image; an inch has 100 pixels.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If an image has float pixels in [0, 1], which would look black.
    """
    columns = min(columns, len(images))
    rows, lines = -(-len(images) // columns), max((title.count("\n") + 1 for title in titles), default=0)
    size = (width * columns, (width + 0.2 * lines) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.set(frame_on=False, xticks=[], yticks=[], anchor="S")
    for i, (image, ax) in enumerate(zip(images, axes.flat, strict=False)):
        image = np.asarray(image)
        if image.dtype.kind == "f" and 0 < image.max() <= 1:
            raise ValueError(f"Found float pixels up to {image.max():.2f}; expected 0 to 255. Multiply them by 255.")
        image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
        ax.imshow(image.clip(0, 255).astype(np.uint8), cmap="gray", vmin=0, vmax=255)
        if len(titles):
            ax.set_title(titles[i], fontsize=9, parse_math=False)  # a file's name may hold a "$"
    return figure


def heat_grid(
    images: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    titles: Sequence[str] = (),
    columns: int = 4,
    strength: float = 1.0,
) -> Figure:
    """Draw images under their heat maps: cold pixels stay gray, hot ones turn purple, orange and yellow.

    A dashed white line surrounds what is hotter than 0.5, so that the color is not the only cue.

    Parameters
    ----------
    images, titles, columns
        See `image_grid`.
    maps : sequence of (h, w) float arrays in [0, 1]
        As `explain.grad_cam` returns; values outside are clipped, and each map is stretched over its image.
    strength : float in [0, 1]
        0 shows the images alone.

    Returns
    -------
    Figure
    """
    grays = [np.atleast_3d(image).mean(axis=2, keepdims=True) for image in images]
    maps = [cv2.resize(np.clip(m, 0, 1).astype(np.float32), g.shape[1::-1]) for m, g in zip(maps, grays, strict=True)]
    shares = [0.6 * strength * heat[..., None] for heat in maps]
    hot = [255 * mpl.colormaps["inferno"](heat)[..., :3] for heat in maps]
    covered = [((1 - s) * g + s * h).astype(np.uint8) for s, g, h in zip(shares, grays, hot, strict=True)]
    figure = image_grid(covered, titles, columns)
    for ax, heat in zip(figure.axes, maps, strict=False):
        if strength > 0 and heat.min() < 0.5 < heat.max():
            ax.contour(heat, [0.5], colors="white", linestyles="--", linewidths=1)
    return figure


def forest(table: pd.DataFrame, label: str, reference: float | None = None) -> Axes:
    """Draw values with their 95 % intervals, one line per row, the first on top.

    Parameters
    ----------
    table : DataFrame
        Columns value, low and high; the index names the rows.
    label : str
        What the values are.
    reference : float, optional
        Where to draw a vertical line, for example 0 for differences.

    Returns
    -------
    Axes
    """
    ax = plt.subplots(figsize=(8, 1 + 0.36 * len(table)), layout="constrained")[1]
    for i, row in enumerate(table.itertuples()):
        ax.plot([row.low, row.high], [i, i], color="black", lw=2)
        ax.plot(row.value, i, MARKERS[i % len(MARKERS)], color="black", ms=7)
        text = f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
        ax.text(1.02, i, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    if reference is not None:
        ax.axvline(reference, color="#777777", lw=1, ls="--")
    ax.set(xlabel=f"{label} (95 % interval)", ylim=(len(table) - 0.5, -0.5))
    ax.set_yticks(range(len(table)), [str(name) for name in table.index], parse_math=False)
    ax.grid(axis="x", color="#DDDDDD")
    return ax

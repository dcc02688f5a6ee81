"""Figures that several lessons draw, and the one way to show a figure with a description.

A function draws and returns a matplotlib Figure or Axes; `show` puts it into the notebook with a text for readers who
cannot see it. No function changes matplotlib's settings.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
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


def show(figure: Any, alt: str) -> None:
    """Show a figure in the notebook with its description, and close it.

    Parameters
    ----------
    figure : Figure, Axes, array of Axes, or a display of scikit-learn
    alt : str
        One or two sentences that say what the figure shows, for readers who cannot see it.

    Notes
    -----
    The output holds the picture twice. JupyterLab and VS Code read the description from an HTML image only; nbconvert
    and MyST-NB read it from the metadata of a plain one. Terminals get the description alone.

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
    (kind, picture), words = _encode(figure), " ".join(alt.split())
    data = base64.b64encode(picture).decode("ascii")
    page = f'<img alt="{escape(words)}" style="max-width:100%" src="data:{kind};base64,{data}">'
    display({"text/html": page, kind: data, "text/plain": words}, raw=True, metadata={kind: {"alt": words}})
    plt.close(figure)  # otherwise the notebook shows it a second time


def _encode(figure: Figure) -> tuple[str, bytes]:
    """Return the MIME type and the bytes of a figure at 100 dots per inch, with all its pixels and colors.

    It is a PNG or, where that has less than half the bytes, a JPEG: of quality 85, or of a lower one to stay below
    150 kB. At 75, readers see no difference in an X-ray.
    """
    drawn, png = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100, facecolor="white", bbox_inches=None)
    picture = Image.open(drawn).convert("RGB")
    picture = picture if np.ptp(np.asarray(picture), axis=2).any() else picture.convert("L")
    picture.save(png, "PNG", optimize=True)
    for quality in (85, 80, 75, 70, 60):
        jpeg = io.BytesIO()
        picture.save(jpeg, "JPEG", optimize=True, quality=quality)
        if jpeg.tell() < 150_000:
            break
    return ("image/png", png.getvalue()) if png.tell() < 2 * jpeg.tell() else ("image/jpeg", jpeg.getvalue())


def image_grid(
    images: Sequence[np.ndarray], titles: Sequence[str] = (), columns: int = 4, width: float = 12.4
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
        Inches of the figure; an inch has 100 pixels.

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
    tallest = max(np.shape(image)[0] / np.shape(image)[1] for image in images)
    size = (width, rows * (width / columns * tallest + 0.25 * lines))
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
            ax.set_title(titles[i], fontsize=11, parse_math=False)  # a file's name may hold a "$"
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
            ax.contour(heat, [0.5], colors="white", linestyles="--", linewidths=1.5)
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
        ax.plot(row.value, i, "o", color="black", ms=7)
        text = f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
        ax.text(1.02, i, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    if reference is not None:
        ax.axvline(reference, color="#777777", lw=1, ls="--")
    ax.set(xlabel=f"{label} (95 % interval)", ylim=(len(table) - 0.5, -0.5))
    ax.set_yticks(range(len(table)), [str(name) for name in table.index], parse_math=False)
    ax.grid(axis="x", color="#DDDDDD")
    return ax

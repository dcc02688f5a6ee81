"""Find out whether files give the label away without their lungs, and whether a model uses that.

A *shortcut* is anything that separates the classes and is not disease: how an image was stored, cropped or exposed.
The audit looks for shortcuts with classifiers that see one suspect each. A model *may* have learned what the audit
finds. Whether it has is a question of cause: change the suspect, keep the lungs, and see how the scores move
(`changed_images`).
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from PIL import Image
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from xrayhelpers._images import read_image
from xrayhelpers._intervals import delong, effective_patients, holm, newcombe_interval
from xrayhelpers._machine import in_threads
from xrayhelpers.data import load_images

FOLDS, PERMUTATIONS, LEVEL = 5, 999, 0.05
PENALTY = 10.0  # of the squared weights of standardized features; scikit-learn's C is its inverse


@functools.cache
def _quality_tables() -> np.ndarray:
    """Return the sorted quantization tables (100, 64) that libjpeg uses for brightness at quality 1 to 100."""
    file, quality = io.BytesIO(), np.arange(1, 101)[:, None]
    Image.new("L", (8, 8)).save(file, "JPEG", quality=50)  # at which libjpeg uses its table as it is
    percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.clip((np.sort(Image.open(file).quantization[0]) * percent + 50) // 100, 1, 255)


def _jpeg_quality(path: str | Path) -> int:
    """Estimate the quality, 1 to 100, at which a JPEG was last stored: the nearest of libjpeg's quantization tables.

    100 if there is no such table (PNG, DICOM): nothing was thrown away.
    """
    try:
        with Image.open(path) as image:
            table = np.sort(image.quantization[0])
    except (OSError, AttributeError, KeyError):
        return 100
    return 1 + int(np.abs(_quality_tables() - table).sum(axis=1).argmin())


def measure_suspects(index: pd.DataFrame) -> dict[str, np.ndarray]:
    """Measure what could give the label away: how each image is stored, and pixels where there is no lung.

    Parameters
    ----------
    index : DataFrame
        From `data.load_index`, or some rows of it.

    Returns
    -------
    dict of suspect -> (N, d) float64
        d is 1 except for "border pixels" (d = 32: the outermost ring at 32 px, in eight pieces per side) and "corner
        crop" (d = 16: the upper left quarter of both sides, 4 x 4 averages), both 0 to 255. "mean intensity" sees the
        lungs too, and the corner may contain the tip of one: what they reveal may be disease.
    """
    pixels = load_images(index, 32, channels=1)[..., 0].astype(np.float64)
    sides = (pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1])
    quality = in_threads(_jpeg_quality, index["path"], desc="JPEG qualities")
    n, width, height, size = len(index), index["width"], index["height"], index["bytes"]
    suspects = {
        "file bytes": size,
        "bytes per pixel": size / (width * height),
        "width": width,
        "height": height,
        "aspect": width / height,
        "JPEG quality": quality,
        "mean intensity": pixels.mean(axis=(1, 2)),
        "border pixels": np.hstack([side.reshape(n, 8, 4).mean(axis=2) for side in sides]),
        "corner crop": pixels[:, :8, :8].reshape(n, 4, 2, 4, 2).mean(axis=(2, 4)),
    }
    return {name: np.asarray(values, dtype=np.float64).reshape(n, -1) for name, values in suspects.items()}


def shortcut_audit(
    suspects: Mapping[str, ArrayLike], labels: ArrayLike, patients: ArrayLike, seed: int = 0
) -> pd.DataFrame:
    """Try to predict the label from each suspect alone, for patients that the classifier has not seen.

    Parameters
    ----------
    suspects : mapping of name -> (N,) or (N, d) array of numbers
        From `measure_suspects`, or your own. Audit one folder at a time: train and test may differ in other ways.
    labels : (N,) array of 0 and 1
    patients : (N,) array
    seed : int
        Of folds and permutations.

    Returns
    -------
    DataFrame
        Index "suspect"; columns value (ROC AUC for unseen patients, mean over five folds, fewer if a class has fewer
        patients), low, high (95 %, clustered by patient, for the fitted models), p, p_holm (corrected for the number of
        suspects) and flagged (p_holm < 0.05). A suspect that is the same everywhere gets 0.5 and p = 1. Near 0.5 the
        interval is too narrow: trust `p` there. An area clearly below 0.5 comes from folds that disagree about the
        direction, and is no finding.

    Raises
    ------
    ValueError
        If a class has fewer than two patients, or a fold is left with one class.

    Notes
    -----
    The classifier is a logistic regression. Folds are stratified, and the area is calculated within each, because the
    scores of two folds' models have no common scale. The usual error of an area treats its model as given, but the
    models of overlapping folds are not: with many features its test would alarm too often. So `p` comes from
    permutations: 999 times, the labels of a fold's patients are dealt out again among patients with as many images,
    and everything is fitted again. To be quick, that test uses ridge regression on the labels, which is the first
    Newton step of the same penalized logistic regression.

    Examples
    --------
    >>> suspects = measure_suspects(train)  # doctest: +SKIP
    >>> audit = shortcut_audit(suspects, train["label"], train["patient"])  # doctest: +SKIP
    >>> forest(audit, label="ROC AUC", reference=0.5)  # doctest: +SKIP
    """
    labels, patients = np.asarray(labels), np.unique(np.asarray(patients), return_inverse=True)[1]
    healthy, sick = (np.unique(patients[labels == k]).size for k in (0, 1))
    if min(healthy, sick) < 2:
        found = f"Found {healthy} normal and {sick} pneumonia patients; expected at least 2 of each"
        raise ValueError(f"{found}. Audit more images, e.g. data = 'phantom:train=60,test=30'.")
    splitter = StratifiedGroupKFold(min(FOLDS, healthy, sick), shuffle=True, random_state=seed)
    splits = list(splitter.split(labels, labels, patients))
    if any(np.unique(labels[part]).size < 2 for split in splits for part in split):
        raise ValueError(f"Found a fold with one class only, of {len(splits)}; expected both. Audit more images.")
    dealt, rows = _deal_labels(labels, patients, splits, seed), {}
    for name, values in suspects.items():
        x, fits = np.asarray(values, dtype=np.float64).reshape(labels.size, -1), []
        if (x == x[0]).all():  # as the sides of copies that all have one size
            rows[name] = (0.5, 0.5, 0.5, 1.0)
            continue
        for train, test in splits:
            middle, spread = x[train].mean(axis=0), x[train].std(axis=0)
            z = (x - middle) / np.where(spread > 1e-9 * (1 + np.abs(middle)), spread, np.inf)  # a constant becomes 0
            model = LogisticRegression(C=1 / PENALTY, solver="newton-cholesky").fit(z[train], labels[train])
            area, variance = delong(labels[test], model.predict_proba(z[test])[:, 1], patients[test])
            fits.append((area[0], variance[0, 0] / len(splits), _permuted_areas(z, dealt, train, test)))
        area, variance, areas = (sum(fit[k] for fit in fits) / len(splits) for k in range(3))
        limits = newcombe_interval(area, *effective_patients(area, variance, sick, healthy, labels.size))
        rows[name] = (area, *limits, (areas >= areas[0] - 1e-12).mean())
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high", "p"])
    table = table.assign(p_holm=holm(table["p"])).rename_axis("suspect")
    return table.assign(flagged=table["p_holm"] < LEVEL)


def _deal_labels(labels: np.ndarray, patients: np.ndarray, splits: list, seed: int) -> np.ndarray:
    """Return (N, 1 + permutations) labels: as they are, then dealt by patient within strata of fold and size.

    Pneumonia patients have more images each than healthy ones. Because sizes stay with their labels, the effect of size
    on the spread of the area stays as well. A patient with images of both classes keeps the labels.
    """
    rng = np.random.default_rng(seed)
    sizes, sick = np.bincount(patients), np.bincount(patients, labels)
    fold = np.empty(sizes.size, dtype=int)
    for number, (_, test) in enumerate(splits):
        fold[patients[test]] = number
    dealt = np.repeat((sick / sizes)[:, None], 1 + PERMUTATIONS, axis=1)
    for stratum in set(zip(fold, sizes, strict=True)):
        members = np.flatnonzero((fold == stratum[0]) & (sizes == stratum[1]) & ((sick == 0) | (sick == sizes)))
        dealt[members, 1:] = rng.permuted(dealt[members, 1:], axis=0)
    mixed = (sick > 0) & (sick < sizes)
    return np.where(mixed[patients][:, None], labels[:, None], dealt[patients])


def _permuted_areas(z: np.ndarray, dealt: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return (P,) areas on the test rows of ridge regressions, fitted to each of the P columns of labels."""
    share = dealt[train, 0].mean()
    inverse = np.linalg.inv(z[train].T @ z[train] + PENALTY / (share * (1 - share)) * np.eye(z.shape[1]))
    scores = z[test] @ (inverse @ (z[train].T @ (dealt[train] - dealt[train].mean(axis=0))))
    ranks, n_positive = stats.rankdata(scores.round(12), axis=0), dealt[test].sum(axis=0)
    wins = (ranks * dealt[test]).sum(axis=0) - n_positive * (n_positive + 1) / 2
    return wins / (n_positive * (len(test) - n_positive))


def changed_images(
    rows: pd.DataFrame, change: Callable[[np.ndarray, int], np.ndarray], classes: ArrayLike, size: int = 64
) -> np.ndarray:
    """Load images as `data.load_images` does, after a change of each at its full size.

    For an intervention, call it twice: with each image's own class, and with the other class. Any change alters pixels,
    so only the difference between the scores of the two speaks of the suspect.

    Parameters
    ----------
    rows : DataFrame
        N rows of an index.
    change : function
        uint8 (H, W) pixels and a class, 0 or 1 -> uint8 pixels of any size, with what is typical of that class. It runs
        in several threads.
    classes : (N,) array of 0 and 1
        The class that each image takes what is typical from.
    size : int
        Side of the result in pixels; they are averages.

    Returns
    -------
    (N, size, size, 3) uint8 array
        Three equal channels.
    """

    def one(path: str, like: int) -> np.ndarray:
        pixels = change(read_image(path, 1)[..., 0], int(like))
        small = cv2.resize(np.ascontiguousarray(pixels), (size, size), interpolation=cv2.INTER_AREA)
        return np.repeat(small[..., None], 3, axis=2)

    return np.stack(in_threads(one, rows["path"], np.asarray(classes), desc="changing"))

"""Do the files give the label away without their lungs, and does a model use it?

A *shortcut* is anything that tells the classes apart and is no disease: how an image was stored, cut or exposed. The
audit looks for them with classifiers that see one suspect each. What it finds a model *may* have learnt. Whether it has
is a question of cause: change the suspect, keep the lungs, and look how the scores move (`reencoding_effect`).
"""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from PIL import Image
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from xrayhelpers.decode import read_image, read_resized
from xrayhelpers.evaluate import compare_auc, paired_change
from xrayhelpers.intervals import delong, effective_patients, holm, newcombe_interval
from xrayhelpers.pixels import load_pixels
from xrayhelpers.sources import cores

PENALTY = 10.0  # of the squared weights of standardised features; scikit-learn's C is its inverse
LEVEL = 0.05
CORNERS = ("top left", "top right", "bottom left", "bottom right")


# ---------------------------------------------------------------------------------------------- the audit
@functools.cache
def _quality_tables() -> np.ndarray:
    """Return the sorted quantisation tables (100, 64) that libjpeg uses for brightness at quality 1 to 100."""
    tables = []
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("L", (8, 8)).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            tables.append(sorted(image.quantization[0]))
    return np.array(tables)


def jpeg_quality(path: str | Path) -> int:
    """Estimate the quality, 1 to 100, that a JPEG was last stored at: the nearest of libjpeg's quantisation tables.

    100 where there is no such table (PNG, DICOM): nothing was thrown away.
    """
    try:
        with Image.open(path) as image:
            tables = getattr(image, "quantization", None)
    except OSError:
        tables = None
    if not tables:
        return 100
    return 1 + int(np.abs(_quality_tables() - np.sort(tables[0])).sum(axis=1).argmin())


def measure_suspects(index: pd.DataFrame) -> dict[str, np.ndarray]:
    """Measure what could give the label away: how each image is stored, and pixels where no lung is.

    Parameters
    ----------
    index : DataFrame from `dataset.load_index`, or some rows of it, N rows

    Returns
    -------
    dict of suspect -> (N, d) float64. d is 1 except for "border pixels" (d = 32: the outermost ring at 32 px, in eight
    pieces a side) and "corner crop" (d = 16: the upper left quarter of both sides, 4 x 4 averages), both 0 to 255.
    "mean intensity" sees the lungs too, and the corner may hold the tip of one: what they tell may be disease.
    """
    pixels = load_pixels(index, 32, 1, "area")[..., 0].astype(np.float64)
    sides = (pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1])
    with ThreadPoolExecutor(cores()) as pool:
        quality = list(pool.map(jpeg_quality, index["path"]))
    n, width, height, size = len(index), index["width"], index["height"], index["bytes"]
    suspects = {
        "file bytes": size,
        "bytes a pixel": size / (width * height),
        "width": width,
        "height": height,
        "aspect": width / height,
        "JPEG quality": quality,
        "mean intensity": pixels.mean(axis=(1, 2)),
        "border pixels": np.hstack([side.reshape(n, 8, 4).mean(axis=2) for side in sides]),
        "corner crop": pixels[:, :8, :8].reshape(n, 4, 2, 4, 2).mean(axis=(2, 4)),
    }
    return {name: np.asarray(values, dtype=np.float64).reshape(n, -1) for name, values in suspects.items()}


def shortcut_audit(index: pd.DataFrame, folds: int = 5, permutations: int = 999, seed: int = 0) -> pd.DataFrame:
    """Try to tell the label from each suspect alone, on patients that the classifier has not seen.

    Parameters
    ----------
    index : DataFrame from `dataset.load_index`, or some rows of it
        Take one split at a time, `index[index["split"] == "train"]`: train and test may differ in other ways.
    folds, permutations, seed
        See `audit_suspects`.

    Returns
    -------
    DataFrame, see `audit_suspects`; one row a suspect of `measure_suspects`

    Examples
    --------
    >>> audit = shortcut_audit(index[index["split"] == "train"])  # doctest: +SKIP
    >>> plots.forest(audit, reference=0.5)  # doctest: +SKIP
    """
    return audit_suspects(measure_suspects(index), index["label"], index["patient"], folds, permutations, seed)


def audit_suspects(
    suspects: Mapping[str, ArrayLike],
    labels: ArrayLike,
    patients: ArrayLike,
    folds: int = 5,
    permutations: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """Cross-validate one logistic regression a suspect, and ask whether luck alone would do as well.

    Parameters
    ----------
    suspects : mapping of name -> (N,) or (N, d) array, finite
    labels : (N,) array of 0 and 1
    patients : (N,) array
        All images of a patient are in the same fold.
    folds, permutations, seed : int
        Fewer folds are made where a class has fewer patients.

    Returns
    -------
    DataFrame, index "suspect"
        value (ROC AUC of unseen patients, mean over folds), low, high (95 %, clustered by patient, the fitted models
        taken for given), p, p_holm (corrected for the number of suspects) and flagged (p_holm < 0.05). A suspect that
        is the same everywhere gets 0.5 and p = 1. Near 0.5 the interval is too narrow: there, trust `p`. An area
        clearly below 0.5 comes from folds that disagree about the direction, and is no finding.

    Raises
    ------
    ValueError
        If a class has fewer than two patients, or a fold is left with one class.

    Notes
    -----
    Folds are stratified, and the area is taken within each, because the scores of two folds' models have no common
    scale. The usual error of an area takes its model for given, but models of overlapping folds are not: with many
    features its test would alarm too often. So `p` comes from permutations: the labels of a fold's patients are dealt
    anew among those with as many images, `permutations` times, and all is fitted again. To be quick, that test uses
    ridge regression on the labels, which is the first Newton step of the same penalised logistic regression.
    """
    labels, patients = np.asarray(labels), np.unique(np.asarray(patients), return_inverse=True)[1]
    n_patients = [np.unique(patients[labels == k]).size for k in (0, 1)]
    if min(n_patients) < 2:
        raise ValueError(
            f"Found {n_patients[0]} normal and {n_patients[1]} pneumonia patients; expected at least 2 of each. "
            "Audit more images, e.g. data='phantom:train=60,test=30'."
        )
    splitter = StratifiedGroupKFold(min(folds, *n_patients), shuffle=True, random_state=seed)
    splits = list(splitter.split(labels, labels, patients))
    if any(np.unique(labels[part]).size < 2 for split in splits for part in split):
        raise ValueError(
            f"Found a fold with one class only; expected both in each of {len(splits)}. Audit more images, "
            "or use folds=2."
        )
    dealt = _deal_labels(labels, patients, splits, permutations, seed)
    rows = {}
    for name, values in suspects.items():
        x = np.asarray(values, dtype=np.float64).reshape(labels.size, -1)
        if not (x != x[0]).any():
            rows[name] = (0.5, 0.5, 0.5, 1.0)
            continue
        areas = _permuted_areas(x, dealt, splits)
        p = (areas >= areas[0] - 1e-12).mean()
        rows[name] = (*_cross_validated_area(x, labels, patients, splits), p)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high", "p"])
    table = table.assign(p_holm=holm(table["p"])).rename_axis("suspect")
    return table.assign(flagged=table["p_holm"] < LEVEL)


def _standardised(x: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both parts of x in units of the training part's mean and spread; a constant column becomes 0."""
    middle, spread = x[train].mean(axis=0), x[train].std(axis=0)
    scaled = (x - middle) / np.where(spread > 1e-9 * (1 + np.abs(middle)), spread, np.inf)
    return scaled[train], scaled[test]


def _cross_validated_area(
    x: np.ndarray, labels: np.ndarray, patients: np.ndarray, splits: list
) -> tuple[float, float, float]:
    """Return the ROC AUC of logistic regression on unseen patients, mean over folds, and its interval."""
    areas, variances = [], []
    for train, test in splits:
        seen, unseen = _standardised(x, train, test)
        model = LogisticRegression(C=1 / PENALTY, solver="newton-cholesky").fit(seen, labels[train])
        area, variance = delong(labels[test], model.predict_proba(unseen)[:, 1], patients[test])
        areas.append(area[0])
        variances.append(variance[0, 0])
    area, variance = float(np.mean(areas)), float(np.sum(variances)) / len(splits) ** 2
    sick, healthy = (np.unique(patients[labels == k]).size for k in (1, 0))
    return area, *newcombe_interval(area, *effective_patients(area, variance, sick, healthy, labels.size))


def _deal_labels(labels, patients, splits, permutations, seed) -> np.ndarray:
    """Return (N, 1 + permutations) labels: as they are, then dealt anew by patient within strata of fold and size.

    Pneumonia patients have more images each than healthy ones; where sizes stay with their labels, so does what size
    does to the spread of the area. A patient with images of both classes keeps its labels.
    """
    rng = np.random.default_rng(seed)
    sizes, sick = np.bincount(patients), np.bincount(patients, labels)
    fold = np.empty(sizes.size, dtype=int)
    for number, (_, test) in enumerate(splits):
        fold[patients[test]] = number
    dealt = np.repeat((sick / sizes)[:, None], 1 + permutations, axis=1)
    for stratum in set(zip(fold, sizes, strict=True)):
        members = np.flatnonzero((fold == stratum[0]) & (sizes == stratum[1]) & ((sick == 0) | (sick == sizes)))
        dealt[members, 1:] = rng.permuted(dealt[members, 1:], axis=0)
    mixed = (sick > 0) & (sick < sizes)
    return np.where(mixed[patients][:, None], labels[:, None], dealt[patients])


def _permuted_areas(x: np.ndarray, dealt: np.ndarray, splits: list) -> np.ndarray:
    """Return (P,) areas, mean over folds, of ridge regression fitted to each of the P columns of labels."""
    areas = np.zeros(dealt.shape[1])
    for train, test in splits:
        seen, unseen = _standardised(x, train, test)
        share = dealt[train, 0].mean()
        inverse = np.linalg.inv(seen.T @ seen + PENALTY / (share * (1 - share)) * np.eye(x.shape[1]))
        scores = unseen @ (inverse @ (seen.T @ (dealt[train] - dealt[train].mean(axis=0))))
        ranks, n_positive = stats.rankdata(scores.round(12), axis=0), dealt[test].sum(axis=0)
        wins = (ranks * dealt[test]).sum(axis=0) - n_positive * (n_positive + 1) / 2
        areas += wins / (n_positive * (len(test) - n_positive)) / len(splits)
    return areas


# ------------------------------------------------------------------------------------------ the causal test
def typical_quality(rows: pd.DataFrame) -> pd.Series:
    """Median JPEG quality (int, 1 to 100) of each label's images; index "label"."""
    quality = pd.Series([jpeg_quality(path) for path in rows["path"]], index=rows.index)
    return quality.groupby(rows["label"]).median().astype(int).rename("quality")


def reencode(image: str | Path | np.ndarray, quality: int) -> np.ndarray:
    """Store an image as JPEG once more, in memory, and decode it: the same lungs in another wrapping.

    A lower quality takes fine detail away. A higher one cannot bring any back, but changes the pixels a little as well.

    Parameters
    ----------
    image : path of any image that `decode.read_image` reads, or uint8 array (H, W), (H, W, 1) or (H, W, 3) RGB
    quality : int, 1 to 100

    Returns
    -------
    uint8 array of the same shape; (H, W, 3) for a path
    """
    pixels = read_image(image) if isinstance(image, str | Path) else np.asarray(image)
    decoded = cv2.imdecode(_encode(pixels, quality), cv2.IMREAD_UNCHANGED)
    return (decoded[..., ::-1] if decoded.ndim == 3 else decoded).reshape(pixels.shape)


def _encode(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Encode uint8 grey or RGB pixels as the bytes of a JPEG file."""
    if pixels.dtype != np.uint8 or not 1 <= quality <= 100:
        raise ValueError(
            f"Found {pixels.dtype} pixels and quality={quality}; expected uint8 and 1 to 100, e.g. quality=75."
        )
    ordered = pixels[..., ::-1] if pixels.ndim == 3 and pixels.shape[2] == 3 else pixels  # OpenCV wants BGR
    return cv2.imencode(".jpg", np.ascontiguousarray(ordered), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]


def reencoded_pixels(
    rows: pd.DataFrame,
    quality: int | ArrayLike,
    size: int = 64,
    channels: int = 3,
    interpolation: str = "nearest",
) -> np.ndarray:
    """Load pixels as `pixels.load_pixels` does, after storing every image at the quality given.

    With one quality for all this matches image quality: train on it to see what that costs or gains.

    Parameters
    ----------
    rows : DataFrame, N rows of an index
    quality : int or (N,) array of int, 1 to 100
    size, channels, interpolation
        See `pixels.load_pixels`.

    Returns
    -------
    uint8 array (N, size, size, channels)
    """
    qualities = np.broadcast_to(quality, len(rows))

    def one(job: tuple[int, str, str, int]) -> np.ndarray:
        number, path, mode, wanted = job
        file = Path(folder, f"{number}.jpeg")  # a real file, so that it is decoded exactly as the others are
        file.write_bytes(_encode(read_image(path, 3 if mode in ("RGB", "CMYK", "P", "RGBA") else 1), wanted).tobytes())
        small = read_resized(file, size, channels, interpolation)
        file.unlink()
        return small

    jobs = zip(range(len(rows)), rows["path"], rows["mode"], qualities, strict=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cores()) as pool:
        return np.stack(list(pool.map(one, jobs)))


def reencoding_effect(
    rows: pd.DataFrame,
    predict: Callable[[np.ndarray], ArrayLike],
    size: int = 64,
    channels: int = 3,
    interpolation: str = "nearest",
    seed: int = 0,
) -> pd.DataFrame:
    """Store every film at the *other* class's typical quality: same lungs, so by how much does the score move?

    Storing once more changes pixels at any quality, so the same is done at the *own* class's typical quality. Only what
    "other" does beyond "own" speaks of the shortcut: the rows "other - own" compare the two.

    Parameters
    ----------
    rows : DataFrame, N rows of an index with both labels
    predict : uint8 (N, S, S, C) -> (N,) or (N, 1) scores in [0, 1]
        E.g. `lambda pixels: training.predict(model, pixels)`.
    size, channels, interpolation
        What the model was trained on, see `pixels.load_pixels`.
    seed : int
        Of the bootstrap over patients.

    Returns
    -------
    DataFrame, index (quality: "other", "own" or "other - own"; of: "NORMAL", "PNEUMONIA" or "ROC AUC")
        before, after (mean score, or area; for "other - own" before is "own" and after "other"), value (after - before
        of the same images), low, high (95 %, by patient)
    """
    typical = typical_quality(rows)
    labels, patients = rows["label"].to_numpy(), rows["patient"].to_numpy()
    how = (size, channels, interpolation)
    stored = np.ravel(predict(load_pixels(rows, *how)))
    other, own = (
        np.ravel(predict(reencoded_pixels(rows, typical.loc[whose].to_numpy(), *how))) for whose in (1 - labels, labels)
    )
    table = {}
    for name, before, after in (("other", stored, other), ("own", stored, own), ("other - own", own, other)):
        for label, called in enumerate(("NORMAL", "PNEUMONIA")):
            at = labels == label
            moved = paired_change(before[at], after[at], patients[at], seed=seed)
            table[name, called] = (before[at].mean(), after[at].mean(), *moved)
        area = compare_auc(labels, after, before, patients)
        table[name, "ROC AUC"] = tuple(area[["auc_b", "auc_a", "difference", "low", "high"]])
    columns = ["before", "after", "value", "low", "high"]
    return pd.DataFrame.from_dict(table, orient="index", columns=columns).set_axis(
        pd.MultiIndex.from_tuples(table, names=["quality", "of"])
    )


def corner_only(pixels: np.ndarray, share: float = 0.25, corner: str = "top left", fill: int = 0) -> np.ndarray:
    """Cover everything but one corner: a model that still tells the classes apart does not read lungs.

    Parameters
    ----------
    pixels : (N, H, W, C) array
    share : float in (0, 1]
        Part of each side that stays.
    corner : "top left", "top right", "bottom left" or "bottom right"
    fill : value of the covered pixels

    Returns
    -------
    array of the shape and dtype of `pixels`, a copy
    """
    if corner not in CORNERS or not 0 < share <= 1:
        raise ValueError(
            f"Found corner={corner!r} and share={share}; expected one of {', '.join(CORNERS)} and a share in (0, 1]. "
            'Type corner="top left", share=0.25.'
        )
    height, width = (max(1, round(share * side)) for side in pixels.shape[1:3])
    rows = slice(0, height) if "top" in corner else slice(-height, None)
    columns = slice(0, width) if "left" in corner else slice(-width, None)
    covered = np.full_like(pixels, fill)
    covered[:, rows, columns] = pixels[:, rows, columns]
    return covered

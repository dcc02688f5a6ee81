"""The formulas behind `evaluate`: metrics of weighted images, resampled patients, intervals, DeLong's covariance.

Lessons use `evaluate`. Read this file to learn how a number is calculated, and from which paper the formula comes.
All intervals are 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

Z = stats.norm.ppf(0.975)


def check_scores(
    labels: ArrayLike, scores: ArrayLike, patients: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check that labels, scores and patients fit together.

    Parameters
    ----------
    labels : (N,) array of 0 and 1, both present
    scores : (N,) array of float, finite, range [0, 1]
    patients : (N,) array of any labels that can be sorted, optional
        Without it, every image counts as a separate patient.

    Returns
    -------
    labels : (N,) int64
    scores : (N,) float64
    patients : (N,) int64, patients numbered from 0

    Raises
    ------
    ValueError
        If the lengths differ, a label is not 0 or 1, a class is missing, or the scores are not probabilities.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if scores.ndim == 2 and scores.shape[1] == 1:  # what keras.Model.predict returns
        scores = scores[:, 0]
    if labels.ndim != 1 or scores.shape != labels.shape:
        text = f"labels have the shape {labels.shape} and scores {scores.shape}; expected one score per image, in the"
        raise ValueError(f'{text} same order: scores = model.predict(images["test"]) for labels["test"].')
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels are {np.unique(labels)[:5]}; expected 0 (NORMAL) and 1 (PNEUMONIA): index['label'].")
    if np.unique(labels).size < 2:
        text = f"all {labels.size} images have the same label; sensitivity and specificity need both"
        raise ValueError(f"{text}. Use more images, e.g. data='phantom:train=60,test=30'.")
    if not ((scores >= 0) & (scores <= 1)).all():
        text = f"scores range from {scores.min()} to {scores.max()}; expected probabilities in [0, 1]. NaN means that"
        raise ValueError(f"{text} training diverged: train again with a smaller learning rate.")
    numbers = number_patients(patients, labels.size)
    if numbers.shape != labels.shape:
        raise ValueError(f"{numbers.size} patients for {labels.size} images; pass index['patient'] of the same rows.")
    return labels.astype(np.int64), scores, numbers


def number_patients(patients: ArrayLike | None, n_images: int) -> np.ndarray:
    """Number the patients from 0: (N,) int64. Without patients every image counts as a separate patient."""
    return np.arange(n_images) if patients is None else np.unique(np.asarray(patients), return_inverse=True)[1]


def weighted_metrics(
    labels: np.ndarray, scores: np.ndarray, threshold: float, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute all metrics for many weightings of the same images at once.

    A bootstrap resample is one weight per image: how often the image was drawn. The images are sorted by score once.
    Then the areas under both curves are cumulative sums of weights, and everything else is a matrix product.

    Parameters
    ----------
    labels, scores : (N,) arrays
    threshold : float
    weights : (R, N) float array, >= 0, R weightings

    Returns
    -------
    dict of metric name -> (R,) float array, in the order of `evaluate.METRICS`
    """
    positive, called = labels == 1, scores >= threshold
    sums = weights @ np.column_stack([positive, positive & called, ~positive & ~called, (scores - labels) ** 2])
    total, n_positive = weights.sum(axis=1), sums[:, 0]
    n_negative = total - n_positive
    sensitivity, specificity = sums[:, 1] / n_positive, sums[:, 2] / n_negative

    # From the highest score down; images with equal scores are added up.
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    hits = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    alarms = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    all_hits, all_alarms = hits.cumsum(axis=1), alarms.cumsum(axis=1)
    # Each pneumonia beats the normals below it and half of those beside it (Mann-Whitney).
    roc_auc = (hits * (n_negative[:, None] - all_alarms + alarms / 2)).sum(axis=1) / (n_positive * n_negative)
    called_so_far = all_hits + all_alarms
    precision = np.divide(all_hits, called_so_far, out=np.zeros_like(all_hits), where=called_so_far > 0)
    pr_auc = (hits * precision).sum(axis=1) / n_positive
    return {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "accuracy": (sums[:, 1] + sums[:, 2]) / total,
        "roc_auc": roc_auc,
        "pr_auc": pr_auc,
        "brier": sums[:, 3] / total,
    }


def patient_weights(labels: np.ndarray, patients: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Draw patients with replacement; return the weight of each image in each resample.

    Patients are drawn within strata (only normal images, only pneumonia, both), so that no class can vanish. Of the
    n patients of a stratum, n - 1 are drawn and weighted by n / (n - 1); otherwise the variance of few patients would
    be too small (Rao & Wu, 1988). A patient who is alone in a stratum always stays.

    Returns
    -------
    (n_resamples, N) float64, every row sums to about N
    """
    rng = np.random.default_rng(seed)
    n_patients = patients.max() + 1
    share = np.bincount(patients, labels, n_patients) / np.bincount(patients, minlength=n_patients)
    weights = np.ones((n_resamples, n_patients))
    for stratum in (share == 0, share == 1, (share > 0) & (share < 1)):
        n = int(stratum.sum())
        if n > 1:
            weights[:, stratum] = rng.multinomial(n - 1, np.full(n, 1 / n), size=n_resamples) * (n / (n - 1))
    return weights[:, patients]


def effective_size(patients: np.ndarray, value: float, variance: float) -> float:
    """Return the number of independent observations that a proportion over clustered images is worth.

    This is `value * (1 - value) / variance`, with the variance from the bootstrap, but never more than the number of
    images and never less than Kish's size `N**2 / sum(images of each patient ** 2)`. Kish's size holds when all images
    of a patient are alike, and it is used when the variance is zero and therefore tells nothing.
    """
    sizes = np.unique(patients, return_counts=True)[1]
    kish = sizes.sum() ** 2 / (sizes**2).sum()
    if variance <= 0 or not 0 < value < 1:
        return float(kish)
    return float(np.clip(value * (1 - value) / variance, kish, sizes.sum()))


def wilson_interval(value: float, n: float) -> tuple[float, float]:
    """Return Wilson's score interval (1927) of a proportion `value` among `n` (may be fractional) observations."""
    middle = (value + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * np.sqrt(value * (1 - value) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def effective_patients(
    auc: float, variance: float, n_positive: int, n_negative: int, n_images: int
) -> tuple[float, float]:
    """Return how many independent patients of each class an ROC AUC is worth.

    The numbers of patients are scaled until Hanley and McNeil's (1982) variance equals the bootstrap's, but never
    below the number of patients or above the number of images.
    """
    extra = (n_positive + n_negative) / 2 - 1
    theirs = auc * (1 - auc) * (1 + extra * ((1 - auc) / (2 - auc) + auc / (1 + auc))) / (n_positive * n_negative)
    most = max(1.0, n_images / (n_positive + n_negative))
    factor = float(np.clip(theirs / variance, 1.0, most)) if variance > 0 else 1.0
    return n_positive * factor, n_negative * factor


def newcombe_interval(auc: float, n_positive: float, n_negative: float, z: float = Z) -> tuple[float, float]:
    """Return an interval of an area under the ROC curve that also works at 0 and 1 (Newcombe, 2006, part 2, method 5).

    Like Wilson's interval, it holds the true areas for which the observed one would be no surprise. The variance is
    Hanley and McNeil's with both groups of mean size. The numbers of independent observations may be fractional.
    """
    if auc < 0.5:
        low, high = newcombe_interval(1 - auc, n_positive, n_negative, z)
        return 1 - high, 1 - low
    extra = (n_positive + n_negative) / 2 - 1

    def distance(area: float) -> float:
        spread = 1 + extra * (1 - area) / (2 - area) + extra * area / (1 + area)
        return (auc - area) ** 2 - z**2 * area * (1 - area) * spread / (n_positive * n_negative)

    low = optimize.brentq(distance, 0.0, min(auc, 1 - 1e-9))  # at 1 the area itself is a root, so search below it
    return float(low), float(optimize.brentq(distance, auc, 1.0)) if auc < 1 else 1.0


def square_and_add(
    a: tuple[float, float, float], b: tuple[float, float, float], correlation: float = 0.0
) -> tuple[float, float, float]:
    """Return a - b and its interval, from value, low and high of both (Newcombe, 1998; Zou & Donner, 2008).

    The distances to the limits are added as squares, like standard errors, but each limit keeps its own distance. So
    the interval is as good as the two that it is made of, also where they are lopsided.
    """
    down, up = (a[0] - a[1], b[2] - b[0]), (a[2] - a[0], b[0] - b[1])
    reach = [np.sqrt(max(0.0, x * x + y * y - 2 * correlation * x * y)) for x, y in (down, up)]
    return a[0] - b[0], a[0] - b[0] - reach[0], a[0] - b[0] + reach[1]


def ratio_low(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the lower limit of a / b, from value, low and high of both (Donner & Zou, 2012, solved for no 0 / 0).

    The upper limit is 1 / ratio_low(b, a). The ratio may be infinite: a limit still holds if b is 0.
    """
    top, bottom = a[1] * (2 * a[0] - a[1]), b[2] * (2 * b[0] - b[2])
    middle = a[0] * b[0]
    return float(top / (middle + np.sqrt(max(0.0, middle**2 - top * bottom)))) if top > 0 else 0.0


def delong(labels: ArrayLike, scores: ArrayLike, patients: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the areas under the ROC curves of several models on the same images, and their covariance.

    Parameters
    ----------
    labels : (N,) array of 0 and 1
    scores : (N,) or (M, N) array, one row per model
    patients : (N,) array, optional
        With patients, the covariance is Obuchowski's (1997) for clustered data. Without, each image is a patient, and
        the covariance is DeLong's (1988), calculated from ranks (Sun & Xu, 2014).

    Returns
    -------
    areas : (M,) float, covariance : (M, M) float
    """
    table = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    labels, _, patients = check_scores(labels, table[0], patients)
    positive = labels == 1
    m, n = positive.sum(), (~positive).sum()
    # The share of the other class that each image beats is its "structural component".
    ranks = stats.rankdata(table, axis=1)
    beats_normals = (ranks[:, positive] - stats.rankdata(table[:, positive], axis=1)) / n
    loses_to_pneumonia = 1 - (ranks[:, ~positive] - stats.rankdata(table[:, ~positive], axis=1)) / m
    areas = beats_normals.mean(axis=1)
    # Sum over each patient's images: (M, patients) for both classes.
    n_patients = patients.max() + 1
    of_positive, of_negative = np.eye(n_patients)[patients[positive]], np.eye(n_patients)[patients[~positive]]
    a = (beats_normals - areas[:, None]) @ of_positive / m
    b = (loses_to_pneumonia - areas[:, None]) @ of_negative / n
    k_a, k_b = (of_positive.sum(axis=0) > 0).sum(), (of_negative.sum(axis=0) > 0).sum()
    cross = a @ b.T * (n_patients / (n_patients - 1))
    return areas, a @ a.T * (k_a / max(k_a - 1, 1)) + b @ b.T * (k_b / max(k_b - 1, 1)) + cross + cross.T


def holm(p_values: ArrayLike) -> np.ndarray:
    """Correct p-values for their number (Holm, 1979): the chance of even one false alarm stays below the level."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)).clip(max=1.0)
    return corrected[np.argsort(order)]

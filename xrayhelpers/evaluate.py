"""Measure a model, compare models on the same images, say what a prediction means, and fit a temperature.

Every function takes `labels` (0 = NORMAL, 1 = PNEUMONIA) and `scores` (the model's probability of pneumonia) of the
same images in the same order, and returns a plain number or a pandas table. A model predicts pneumonia for an image
when its score is at least the threshold (`score >= threshold`), as in scikit-learn's `roc_curve`.

Images of one patient resemble each other, so 624 images are worth fewer than 624 independent observations. Every
interval therefore resamples patients, not images. All intervals are 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from xrayhelpers import _intervals as formulas

METRICS = (
    *("sensitivity", "specificity", "balanced_accuracy", "accuracy"),  # at the threshold
    *("roc_auc", "pr_auc", "brier"),  # of the scores
)
# Above these values the bootstrap interval misses the true value too often (measured in tests/test_evaluate.py).
HIGH = {"roc_auc": 0.96, "pr_auc": 0.9}
RESAMPLES = 2000  # of the bootstrap
SHARED = 0.6  # of the correlation near 1; with all of it the difference's interval held the truth in 90 to 93 % only


# ---------------------------------------------------------------------------------------------- metrics
def measure(
    labels: ArrayLike,
    scores: ArrayLike,
    threshold: float = 0.5,
    patients: ArrayLike | None = None,
) -> pd.DataFrame:
    """Measure a model: seven metrics, each with its 95 % interval.

    Parameters
    ----------
    labels : (N,) array of 0 and 1
    scores : (N,) or (N, 1) array of float in [0, 1]
    threshold : float
        A score of at least this value predicts pneumonia.
    patients : (N,) array, optional
        The patient of each image; the bootstrap draws patients. Without it, each image counts as a separate patient.

    Returns
    -------
    DataFrame
        Index "metric" (`METRICS`); columns value, low, high (float in [0, 1]; low and high are NaN if a class has only
        one patient) and method (str), which is one of

        - "bootstrap": the standard error over resamples of patients, on the log-odds scale, times Student's t for the
          number of patients. (Percentiles of the resamples lie too high near 1: they held the true value in 90 to 94 %
          of cases instead of 95 %.)
        - "exact": if all scores are equal, as a constant answer's, whose metrics follow from the share of pneumonia.
        - "newcombe": for an ROC AUC above 0.96 or below 0.04, see `_intervals.newcombe_interval`.
        - "wilson": for a PR AUC above 0.9 and for each metric that is exactly 0 or 1, see
          `_intervals.wilson_interval`. Errors that never occurred cannot be drawn again, so that a bootstrap would be
          certain of perfection.

    Raises
    ------
    ValueError
        If the lengths differ, a label is not 0 or 1, a class is missing, or the scores are not probabilities.

    Notes
    -----
    No calibration error is among the metrics: binned, it is above zero even for a perfectly calibrated model, so that
    no interval around it can hold the true zero. Lesson 07 measures calibration by differences that chance moves both
    ways, with `paired_change`.
    The number of patients of each class counts as given, not as chance, so that no resample lacks a class.

    Examples
    --------
    >>> float(measure([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9]).loc["roc_auc", "value"])
    0.75
    """
    labels, scores, patients = formulas.check_scores(labels, scores, patients)
    chunk = max(1, 2_000_000 // labels.size)  # keeps the memory of large sets below about 100 MB
    weights = formulas.patient_weights(labels, patients, RESAMPLES, seed=0)
    weights = [np.ones((1, labels.size)), *(weights[i : i + chunk] for i in range(0, RESAMPLES, chunk))]
    whole, *parts = (formulas.weighted_metrics(labels, scores, threshold, piece) for piece in weights)
    value = {name: float(whole[name][0]) for name in METRICS}
    draws = {name: np.concatenate([part[name] for part in parts]) for name in METRICS}
    n_positive, n_negative = (np.unique(patients[labels == k]).size for k in (1, 0))
    rows = {}
    for name in METRICS:
        v, deviation = value[name], float(draws[name].std())
        n = {"sensitivity": n_positive, "specificity": n_negative}.get(name, min(n_positive, n_negative))
        t = stats.t.ppf(0.975, n - 1) if n > 1 else np.nan
        counted = {"sensitivity": labels == 1, "specificity": labels == 0, "pr_auc": labels == 1}.get(name, labels >= 0)
        if np.ptp(scores) == 0:
            rows[name] = (v, v, v, "exact")
        elif n > 1 and name == "roc_auc" and max(v, 1 - v) > HIGH[name]:
            size = formulas.effective_patients(v, deviation**2, n_positive, n_negative, labels.size)
            rows[name] = (v, *formulas.newcombe_interval(v, *size), "newcombe")
        elif n > 1 and (v in (0, 1) or v > HIGH.get(name, 1)):
            size = formulas.effective_size(patients[counted], v, deviation**2)
            rows[name] = (v, *formulas.wilson_interval(v, size), "wilson")
        else:
            half = t * deviation / (v * (1 - v)) if 0 < v < 1 else np.nan
            low, high = special.expit(special.logit(v) + np.array([-half, half]))
            rows[name] = (v, low, high, "bootstrap")
    if "wilson" in (rows["sensitivity"][3], rows["specificity"][3]):
        # The classes are different patients: distances to the limits are added as squares (Zou & Donner, 2008).
        v = value["balanced_accuracy"]
        (a, a_low, a_high, _), (b, b_low, b_high, _) = rows["sensitivity"], rows["specificity"]
        low, high = v - np.hypot(a - a_low, b - b_low) / 2, v + np.hypot(a - a_high, b - b_high) / 2
        rows["balanced_accuracy"] = (v, low, high, "wilson")
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high", "method"])
    return table.rename_axis("metric")


# ------------------------------------------------------------------------------------------- comparison
def compare_auc(labels: ArrayLike, a: ArrayLike, b: ArrayLike, patients: ArrayLike | None = None) -> pd.Series:
    """Test whether the ROC AUCs of two models differ on the same images.

    Parameters
    ----------
    labels : (N,) array of 0 and 1
    a, b : (N,) arrays of float in [0, 1]
        Scores of the two models.
    patients : (N,) array, optional
        With it, the test allows for patients with several images (Obuchowski, 1997).

    Returns
    -------
    Series
        auc_a, auc_b, difference (a - b), low, high (95 %), p (two-sided), and method, which is one of

        - "DeLong": DeLong's test (1988).
        - "square-and-add": if one area is above 0.96 or below 0.04. There DeLong's variance is too small, and zero if
          both models are perfect, as if that were certain. So the difference gets its interval from the two areas' own
          ("newcombe" in `measure`; of a constant answer none, since its area is 0.5 whatever the images) and 0.6 of
          DeLong's correlation; p is one minus the largest level whose interval leaves out zero.
    """
    areas, covariance = formulas.delong(labels, np.vstack([np.ravel(a), np.ravel(b)]), patients)
    difference, variances = areas[0] - areas[1], np.diag(covariance)
    deviation = np.sqrt(max(0.0, variances.sum() - 2 * covariance[0, 1]))
    extreme = max(*areas, *(1 - areas)) > HIGH["roc_auc"] or (difference != 0 and deviation < 1e-12)
    correlation = covariance[0, 1] / np.sqrt(variances.prod()) if variances.min() > 1e-12 else 0.0
    labels, numbers = np.asarray(labels), formulas.number_patients(patients, np.size(labels))
    counts = [np.unique(numbers[labels == k]).size for k in (1, 0)]
    sizes = [formulas.effective_patients(*pair, *counts, labels.size) for pair in zip(areas, variances, strict=True)]

    def limits(z: float) -> np.ndarray:
        if extreme:
            each = zip(areas, sizes, (a, b), strict=True)
            ends = [(v, *(formulas.newcombe_interval(v, *n, z) if np.ptp(s) else (v, v))) for v, n, s in each]
            return np.array(formulas.square_and_add(*ends, SHARED * correlation)[1:])
        return difference + z * np.array([-deviation, deviation])

    def excess(z: float) -> float:  # above zero while the interval leaves out zero
        return limits(z)[0] if difference > 0 else -limits(z)[1]

    low, high = limits(formulas.Z)
    ends = 0.01, 40.0
    outside = [excess(z) > 0 for z in ends]
    p = 2 * stats.norm.sf(optimize.brentq(excess, *ends) if outside == [True, False] else 40.0 * outside[0])
    found = {"auc_a": areas[0], "auc_b": areas[1], "difference": difference, "low": low, "high": high, "p": p}
    return pd.Series({**found, "method": "square-and-add" if extreme else "DeLong"})


def paired_change(before: ArrayLike, after: ArrayLike, patients: ArrayLike | None = None, seed: int = 0) -> pd.Series:
    """Measure how much a quantity changes on average over the same images.

    Parameters
    ----------
    before, after : (N,) arrays of any unit
    patients : (N,) array, optional
        The bootstrap draws patients. Without it, each image counts as a separate patient.
    seed : int
        Of the bootstrap (2,000 resamples).

    Returns
    -------
    Series
        value (mean of after - before), low, high (95 %: standard error over resamples times Student's t for the number
        of patients; NaN for one patient).
    """
    change = np.ravel(np.asarray(after, dtype=np.float64)) - np.ravel(np.asarray(before, dtype=np.float64))
    numbers = formulas.number_patients(patients, change.size)
    weights = formulas.patient_weights(np.zeros(change.size), numbers, RESAMPLES, seed)
    n = int(numbers.max()) + 1
    half = stats.t.ppf(0.975, n - 1) * (weights @ change / weights.sum(axis=1)).std() if n > 1 else np.nan
    value = change.mean()
    return pd.Series({"value": value, "low": value - half, "high": value + half})


def _compare_errors(
    labels: ArrayLike, a: ArrayLike, b: ArrayLike, thresholds: tuple[float, float], patients: ArrayLike | None
) -> float:
    """Test whether two models make different numbers of errors on the same images, and return the p-value.

    It is the exact chance that the errors differ at least as much if the two models swapped names for each patient at
    the toss of a coin. With one image per patient it is McNemar's exact test; with several, McNemar's test would treat
    them as independent.
    """
    labels, a, numbers = formulas.check_scores(labels, a, patients)
    right = [(s >= t) == labels for s, t in zip((a, formulas.check_scores(labels, b)[1]), thresholds, strict=True)]
    leads = np.bincount(numbers, right[0].astype(int) - right[1]).astype(int)
    chances = np.ones(1)  # of the sums -n, -n + 2, ..., n, where n is the sum of the leads so far
    for lead in np.abs(leads[leads != 0]):
        chances = (np.pad(chances, (0, lead)) + np.pad(chances, (lead, 0))) / 2
    sums = 2 * np.arange(chances.size) - (chances.size - 1)
    return float(chances[np.abs(sums) >= abs(leads.sum())].sum())


def compare_with(
    images: pd.DataFrame, reference: str, models: Sequence[str], thresholds: Mapping[str, float]
) -> pd.DataFrame:
    """Compare one model with each of some others on the same images, with p-values corrected by Holm's rule.

    Parameters
    ----------
    images : DataFrame
        Columns label, patient and one of scores per model, as `results.same_images` returns.
    reference : str
        The model that is compared; name it before you look, since Holm's rule counts only these comparisons.
    models : sequence of str
        The others.
    thresholds : mapping of model -> float

    Returns
    -------
    DataFrame
        Index model; auc, difference (reference - model), low, high, method, p_auc (see `compare_auc`), p_errors (the
        chance of such a difference in errors at the thresholds if, for each patient, a coin decided which model made
        which errors), and the corrected p_auc_holm and p_errors_holm.

    Raises
    ------
    ValueError
        If there is nothing to compare with.
    """
    rows, labels, patients = {}, images["label"], images["patient"]
    for model in models:
        pair = (thresholds[reference], thresholds[model])
        area = compare_auc(labels, images[reference], images[model], patients).rename({"auc_b": "auc", "p": "p_auc"})
        errors = _compare_errors(labels, images[reference], images[model], pair, patients)
        rows[model] = {**area.drop("auc_a"), "p_errors": errors}
    if not rows:
        raise ValueError(f"there is no model to compare {reference} with; pass at least one.")
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    return table.assign(p_auc_holm=formulas.holm(table["p_auc"]), p_errors_holm=formulas.holm(table["p_errors"]))


def predictive_values(sensitivity: pd.Series, specificity: pd.Series, prevalence: ArrayLike) -> pd.DataFrame:
    """Calculate by Bayes' rule what a prediction means where pneumonia is rarer or more common.

    Parameters
    ----------
    sensitivity, specificity : Series
        Value, low and high, as in a row of `measure`.
    prevalence : float or (P,) array in [0, 1]

    Returns
    -------
    DataFrame
        Index prevalence, P rows; columns ppv (share with pneumonia among those predicted to have it), npv (share
        without pneumonia among those predicted to be normal), NaN where nothing is predicted, and the 95 % limits
        ppv_low, ppv_high, npv_low, npv_high, see `_intervals.ratio_low`. The prevalence counts as known.
    """
    share = np.atleast_1d(np.asarray(prevalence, dtype=float))
    hit, spared = (row[["value", "low", "high"]].to_numpy(float) for row in (sensitivity, specificity))
    miss, alarm = (1 - row[[0, 2, 1]] for row in (hit, spared))
    table = pd.DataFrame(index=pd.Index(share, name="prevalence"))
    for name, right, wrong, a, b in (("ppv", hit, alarm, share, 1 - share), ("npv", spared, miss, 1 - share, share)):
        with np.errstate(invalid="ignore"):  # nothing is predicted: no value
            table[name] = a * right[0] / (a * right[0] + b * wrong[0])
        low, high = formulas.ratio_low(right, wrong), formulas.ratio_low(wrong, right)
        table[f"{name}_low"], table[f"{name}_high"] = a * low / (a * low + b), a / (a + b * high)
    return table


# ------------------------------------------------------------------------------------------ calibration
def fit_temperature(labels: ArrayLike, scores: ArrayLike, patients: ArrayLike | None = None) -> pd.Series:
    """Find the temperature, from 0.05 to 20, that makes scores fit the labels best (Guo et al., 2017).

    Dividing the log-odds of the scores by a temperature above 1 moves them toward 0.5; their order stays the same. On
    validation, it is the temperature to scale with. On test, it says how far the confidence of a model is off: 1 is
    right, above 1 the model is too confident, below 1 not confident enough.

    Parameters
    ----------
    labels : (N,) array of 0 and 1
    scores : (N,) array of float in [0, 1]
    patients : (N,) array, optional
        The patient of each image. Without it, each image counts as a separate patient.

    Returns
    -------
    Series
        value (the lowest log loss), low, high (95 %): the temperatures whose likelihood is not significantly lower. The
        drop that is allowed grows with how much the images of a patient agree, at most as if they were copies. A limit
        of 0.05 or 20 means that there is none, as for a model without errors.
    """
    labels, scores, numbers = formulas.check_scores(labels, scores, patients)
    margins = np.where(labels == 1, 1, -1) * special.logit(np.clip(scores, 1e-7, 1 - 1e-7))
    temperatures = np.geomspace(0.05, 20, 601)  # one percent apart
    losses = np.array([np.logaddexp(0, -margins / t).sum() for t in temperatures])
    value, sizes = temperatures[losses.argmin()], np.bincount(numbers)
    gradients = margins * special.expit(-margins / value)
    expected = (margins**2 * special.expit(margins / value) * special.expit(-margins / value)).sum()
    agreement = (np.bincount(numbers, gradients) ** 2).sum() / max(expected, 1e-12)
    copies = (sizes**2).sum() / sizes.sum()  # if all images of a patient were alike
    drop = formulas.Z**2 / 2 * np.clip(agreement, (2 + copies) / 3, copies)
    inside = temperatures[losses <= losses.min() + drop]
    return pd.Series({"value": value, "low": inside[0], "high": inside[-1]})

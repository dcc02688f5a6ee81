"""Measure a model, compare models on the same images, choose a threshold, and check calibration.

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
from mlxtend.evaluate import mcnemar, mcnemar_table
from numpy.typing import ArrayLike
from scipy import optimize, special, stats
from sklearn.metrics import roc_curve

from xrayhelpers import _intervals as formulas

METRICS = (
    *("sensitivity", "specificity", "balanced_accuracy", "accuracy"),  # at the threshold
    *("roc_auc", "pr_auc", "brier", "calibration_error"),  # of the scores
)
RULES = ("balanced_accuracy", "accuracy", "cost", "sensitivity", "specificity")
# Above these values the bootstrap interval misses the true value too often (measured in tests/test_evaluate.py).
HIGH = {"roc_auc": 0.96, "pr_auc": 0.9}


# ---------------------------------------------------------------------------------------------- metrics
def measure(
    labels: ArrayLike,
    scores: ArrayLike,
    threshold: float = 0.5,
    patients: ArrayLike | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure a model: eight metrics, each with its 95 % interval.

    Parameters
    ----------
    labels : (N,) array of 0 and 1
    scores : (N,) or (N, 1) array of float in [0, 1]
    threshold : float
        A score of at least this value predicts pneumonia.
    patients : (N,) array, optional
        The patient of each image; the bootstrap draws patients. Without it, each image counts as a separate patient.
    n_resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        Index "metric" (`METRICS`); columns value, low, high (float in [0, 1]; low and high are NaN if a class has only
        one patient) and method (str), which is one of

        - "bootstrap": the standard error over resamples of patients, on the log-odds scale, times Student's t for the
          number of patients. (Percentiles of the resamples lie too high near 1: they held the true value in 90 to 94 %
          of cases instead of 95 %.)
        - "bootstrap, less bias": for the calibration error, which chance can only raise. The rise from sample to
          resample estimates the rise from the true value to the sample; all of it is subtracted from the lower limit,
          half of it from the upper.
        - "newcombe": for an ROC AUC above 0.96, see `_intervals.newcombe_interval`.
        - "wilson": for a PR AUC above 0.9 and for each metric that is exactly 0 or 1, see
          `_intervals.wilson_interval`. Errors that never occurred cannot be drawn again, so that a bootstrap would be
          certain of perfection.

    Raises
    ------
    ValueError
        If the lengths differ, a label is not 0 or 1, a class is missing, or the scores are not probabilities.

    Notes
    -----
    The calibration error uses 10 equally wide bins (after Naeini et al., 2015). Like every binned estimate it is above
    zero even for a perfect model, and the more so the fewer images there are.
    The number of patients of each class counts as given, not as chance, so that no resample lacks a class. Hence the
    accuracy of a model that always predicts pneumonia is known exactly here.

    Examples
    --------
    >>> float(measure([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9]).loc["roc_auc", "value"])
    0.75
    """
    labels, scores, patients = formulas.check_scores(labels, scores, patients)
    chunk = max(1, 2_000_000 // labels.size)  # keeps the memory of large sets below about 100 MB
    weights = formulas.patient_weights(labels, patients, n_resamples, seed)
    weights = [np.ones((1, labels.size)), *(weights[i : i + chunk] for i in range(0, n_resamples, chunk))]
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
        if n > 1 and name == "roc_auc" and v > HIGH[name]:
            size = formulas.effective_patients(v, deviation**2, n_positive, n_negative, labels.size)
            rows[name] = (v, *formulas.newcombe_interval(v, *size), "newcombe")
        elif n > 1 and (v in (0, 1) or v > HIGH.get(name, 1)):
            size = formulas.effective_size(patients[counted], v, deviation**2)
            rows[name] = (v, *formulas.wilson_interval(v, size), "wilson")
        elif name == "calibration_error":
            bias = max(0.0, draws[name].mean() - v)
            low, high = max(0.0, v - bias - t * deviation), min(1.0, v - bias / 2 + t * deviation)
            rows[name] = (v, low, high, "bootstrap, less bias")
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
        With it, DeLong's test (1988) allows for patients with several images (Obuchowski, 1997).

    Returns
    -------
    Series
        auc_a, auc_b, difference (a - b), low, high (95 %), p (two-sided).
    """
    areas, covariance = formulas.delong(labels, np.vstack([np.ravel(a), np.ravel(b)]), patients)
    difference = areas[0] - areas[1]
    deviation = np.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    low, high = difference + np.array([-formulas.Z, formulas.Z]) * deviation
    p = 2 * stats.norm.sf(abs(difference) / deviation) if deviation > 1e-12 else float(abs(difference) < 1e-12)
    found = {"auc_a": areas[0], "auc_b": areas[1], "difference": difference, "low": low, "high": high, "p": p}
    return pd.Series(found, dtype=float)


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
    weights = formulas.patient_weights(np.zeros(change.size), numbers, 2000, seed)
    n = int(numbers.max()) + 1
    half = stats.t.ppf(0.975, n - 1) * (weights @ change / weights.sum(axis=1)).std() if n > 1 else np.nan
    value = change.mean()
    return pd.Series({"value": value, "low": value - half, "high": value + half})


def change_between(before: pd.Series, after: pd.Series) -> pd.Series:
    """Measure how far two values of *different* patients lie apart, such as validation and test.

    Parameters
    ----------
    before, after : Series
        Value, low and high, as in a row of `measure`.

    Returns
    -------
    Series
        value (after - before), low, high (95 %). Distances to the limits are added as squares (Zou & Donner, 2008).
    """
    value = after["value"] - before["value"]
    down = np.hypot(after["value"] - after["low"], before["high"] - before["value"])
    up = np.hypot(after["high"] - after["value"], before["value"] - before["low"])
    return pd.Series({"value": value, "low": value - down, "high": value + up})


def _compare_errors(
    labels: ArrayLike, a: ArrayLike, b: ArrayLike, thresholds: tuple[float, float], patients: ArrayLike | None
) -> dict[str, float]:
    """Test whether two models make different numbers of errors on the same images.

    McNemar's test (exact below 25 disagreements) treats images as independent. `p_patients` does not: it is the exact
    chance that the errors differ at least as much if the two models swapped names for each patient at the toss of a
    coin. With one image per patient it is McNemar's exact test.

    Returns
    -------
    dict
        only_a_right, only_b_right (images), p_images (McNemar), p_patients.
    """
    labels, a, numbers = formulas.check_scores(labels, a, patients)
    calls = [(s >= t).astype(int) for s, t in zip((a, formulas.check_scores(labels, b)[1]), thresholds, strict=True)]
    table = mcnemar_table(labels, *calls)
    only_a, only_b = int(table[0, 1]), int(table[1, 0])
    p_images = mcnemar(table, exact=only_a + only_b < 25)[1] if only_a + only_b else 1.0
    leads = np.bincount(numbers, (calls[0] == labels).astype(int) - (calls[1] == labels)).astype(int)
    chances = np.ones(1)  # of the sums -n, -n + 2, ..., n, where n is the sum of the leads so far
    for lead in np.abs(leads[leads != 0]):
        chances = (np.pad(chances, (0, lead)) + np.pad(chances, (lead, 0))) / 2
    sums = 2 * np.arange(chances.size) - (chances.size - 1)
    p_patients = float(chances[np.abs(sums) >= abs(leads.sum())].sum())
    return {"only_a_right": only_a, "only_b_right": only_b, "p_images": p_images, "p_patients": p_patients}


def compare_all(
    images: pd.DataFrame, models: Sequence[str], thresholds: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Compare each pair of models on the same images, with p-values corrected by Holm's rule.

    Parameters
    ----------
    images : DataFrame
        Columns label, patient and one of scores per model, as `results.same_images` returns.
    models : sequence of str
        Names of the columns with scores.
    thresholds : mapping of model -> float, optional
        Default 0.5.

    Returns
    -------
    DataFrame
        One row per pair: a, b, auc_a, auc_b, difference, low, high, p_auc, only_a_right, only_b_right, p_images,
        p_patients, and the corrected p_auc_holm and p_patients_holm.

    Raises
    ------
    ValueError
        If there are fewer than two models.
    """
    thresholds, rows = dict(thresholds or {}), []
    for i, a in enumerate(models):
        for b in models[i + 1 :]:
            pair = (thresholds.get(a, 0.5), thresholds.get(b, 0.5))
            area = compare_auc(images["label"], images[a], images[b], images["patient"]).rename({"p": "p_auc"})
            errors = _compare_errors(images["label"], images[a], images[b], pair, images["patient"])
            rows.append({"a": a, "b": b, **area, **errors})
    if not rows:
        raise ValueError(f"there is nothing to compare: models are {list(models)}; pass at least two.")
    table = pd.DataFrame(rows)
    return table.assign(p_auc_holm=formulas.holm(table["p_auc"]), p_patients_holm=formulas.holm(table["p_patients"]))


# -------------------------------------------------------------------------------------------- threshold
def operating_points(labels: ArrayLike, scores: ArrayLike) -> pd.DataFrame:
    """List every sensitivity and specificity that a threshold can reach on these images.

    Parameters
    ----------
    labels : (N,) array of 0 and 1
    scores : (N,) array of float in [0, 1]

    Returns
    -------
    DataFrame
        threshold, sensitivity, specificity: one row between each two neighboring scores, from "nothing is pneumonia"
        (a threshold above the highest score) to "everything is" (0). Thresholds lie halfway between scores, so that no
        score equals one.
    """
    labels, scores, _ = formulas.check_scores(labels, scores)
    alarms, hits, cuts = roc_curve(labels, scores, drop_intermediate=False)
    top = np.nextafter(scores.max(), 2)
    thresholds = np.r_[top, (cuts[1:-1] + cuts[2:]) / 2, 0.0]
    return pd.DataFrame({"threshold": thresholds, "sensitivity": hits, "specificity": 1 - alarms})


def expected_cost(
    labels: ArrayLike,
    scores: ArrayLike,
    cost_miss: float = 10.0,
    cost_alarm: float = 1.0,
    prevalence: float | None = None,
) -> pd.DataFrame:
    """Calculate the average cost per image of each threshold.

    `cost = cost_miss * prevalence * (1 - sensitivity) + cost_alarm * (1 - prevalence) * (1 - specificity)`

    Parameters
    ----------
    labels : (N,) array of 0 and 1
    scores : (N,) array of float in [0, 1]
    cost_miss, cost_alarm : float
        Costs of a missed pneumonia and of a false alarm, in the same unit.
    prevalence : float in [0, 1], optional
        Share of pneumonia where the model is used; default: the share in `labels`.

    Returns
    -------
    DataFrame
        `operating_points` with one more column, cost.

    Raises
    ------
    ValueError
        If the prevalence is not in [0, 1].
    """
    points = operating_points(labels, scores)
    share = np.mean(labels) if prevalence is None else prevalence
    if not 0 <= share <= 1:
        raise ValueError(f"prevalence is {prevalence}; expected a share in [0, 1], e.g. 0.1 for 10 %.")
    misses, alarms = share * (1 - points["sensitivity"]), (1 - share) * (1 - points["specificity"])
    return points.assign(cost=cost_miss * misses + cost_alarm * alarms)


def choose_threshold(
    labels: ArrayLike,
    scores: ArrayLike,
    rule: str = "balanced_accuracy",
    *,
    at_least: float = 0.95,
    cost_miss: float = 10.0,
    cost_alarm: float = 1.0,
    prevalence: float | None = None,
) -> float:
    """Choose the threshold on *validation* images (never on test).

    Parameters
    ----------
    labels : (N,) array of 0 and 1
    scores : (N,) array of float in [0, 1]
    rule : str
        "balanced_accuracy" (Youden's index), "accuracy", "cost" (the lowest `expected_cost`), "sensitivity" or
        "specificity" (at least `at_least` of it, and as much as possible of the other).
    at_least : float in [0, 1]
    cost_miss, cost_alarm, prevalence
        See `expected_cost`.

    Returns
    -------
    float
        Of equally good thresholds the one nearest to 0.5.

    Raises
    ------
    ValueError
        If there is no such rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; expected one of {', '.join(RULES)}.")
    points = expected_cost(labels, scores, cost_miss, cost_alarm, prevalence)
    hit, spared = points["sensitivity"], points["specificity"]
    if rule == "cost":
        worth = -points["cost"]
    elif rule in ("sensitivity", "specificity"):
        other = spared if rule == "sensitivity" else hit
        worth = other.where(points[rule] >= at_least, -1.0)
    else:
        share = 0.5 if rule == "balanced_accuracy" else np.mean(labels)
        worth = share * hit + (1 - share) * spared
    best = points.loc[worth >= worth.max() - 1e-12, "threshold"]
    return float(best.iloc[(best - 0.5).abs().argmin()])


def decision_curve(
    labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike, prevalence: float | None = None
) -> pd.DataFrame:
    """Calculate the net benefit of using the model, of treating all and of treating none (Vickers & Elkin, 2006).

    The threshold t is the probability of pneumonia at which one would treat, so that a false alarm costs as much as
    t / (1 - t) found pneumonias are worth:
    `net benefit = prevalence * sensitivity - (1 - prevalence) * (1 - specificity) * t / (1 - t)`.

    Parameters
    ----------
    labels : (N,) array of 0 and 1
    scores : (N,) array of float in [0, 1]
    thresholds : (T,) array of float in [0, 1)
    prevalence : float in [0, 1], optional
        Share of pneumonia where the model is used; default: the share in `labels`.

    Returns
    -------
    DataFrame
        threshold, model, all, none: T rows, in found pneumonias per image.
    """
    labels, scores, _ = formulas.check_scores(labels, scores)
    t = np.asarray(thresholds, dtype=float)
    share = labels.mean() if prevalence is None else prevalence
    called = scores >= t[:, None]
    hit, alarm = called[:, labels == 1].mean(axis=1), called[:, labels == 0].mean(axis=1)
    odds = t / (1 - t)
    model = share * hit - (1 - share) * alarm * odds
    return pd.DataFrame({"threshold": t, "model": model, "all": share - (1 - share) * odds, "none": 0.0})


def predictive_values(sensitivity: float, specificity: float, prevalence: ArrayLike) -> pd.DataFrame:
    """Calculate by Bayes' rule what a prediction means where pneumonia is rarer or more common.

    Parameters
    ----------
    sensitivity, specificity : float in [0, 1]
    prevalence : float or (P,) array in [0, 1]

    Returns
    -------
    DataFrame
        prevalence, ppv (share with pneumonia among those predicted to have it), npv (share without pneumonia among
        those predicted to be normal): P rows, NaN where nothing is predicted.
    """
    share = np.atleast_1d(np.asarray(prevalence, dtype=float))
    hit, miss = share * sensitivity, share * (1 - sensitivity)
    spared, alarm = (1 - share) * specificity, (1 - share) * (1 - specificity)
    with np.errstate(invalid="ignore"):  # nothing is predicted: no value
        return pd.DataFrame({"prevalence": share, "ppv": hit / (hit + alarm), "npv": spared / (spared + miss)})


# ------------------------------------------------------------------------------------------ calibration
def apply_temperature(scores: ArrayLike, temperature: float) -> np.ndarray:
    """Divide the log-odds of scores by a temperature; above 1, the scores move toward 0.5. Their order stays the same.

    Parameters
    ----------
    scores : array of float in [0, 1], any shape
    temperature : float, > 0

    Returns
    -------
    ndarray
        float64 in (0, 1), the shape of `scores`.
    """
    return special.expit(special.logit(np.clip(np.asarray(scores, dtype=float), 1e-7, 1 - 1e-7)) / temperature)


def fit_temperature(labels: ArrayLike, scores: ArrayLike) -> float:
    """Find the temperature, from 0.05 to 20, with the lowest log loss on *validation* images (Guo et al., 2017).

    Parameters
    ----------
    labels : (N,) array of 0 and 1
    scores : (N,) array of float in [0, 1]

    Returns
    -------
    float
    """
    labels, scores, _ = formulas.check_scores(labels, scores)
    signs = np.where(labels == 1, 1.0, -1.0)
    logits = signs * special.logit(np.clip(scores, 1e-7, 1 - 1e-7))

    def log_loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -logits / np.exp(log_temperature)).mean())

    return float(np.exp(optimize.minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))

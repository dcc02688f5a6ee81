"""How good is a model, how sure are we, and at which threshold should it be used?

Everything here takes `labels` (0 = NORMAL, 1 = PNEUMONIA) and `scores` (the model's probability of pneumonia)
of the same images in the same order, and returns a plain number or a DataFrame. An image is called pneumonia
when its score is at least the threshold (`score >= threshold`), as in scikit-learn's `roc_curve`.

Images of one patient resemble each other, so 624 images are fewer than 624 independent observations. Every
interval therefore resamples patients, not images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, special, stats
from sklearn.metrics import roc_curve

from xrayhelpers.intervals import (
    BINS,
    METRICS,
    check_scores,
    delong,
    effective_patients,
    effective_size,
    holm,
    newcombe_interval,
    patient_weights,
    weighted_metrics,
    wilson_interval,
)

RULES = ("balanced_accuracy", "accuracy", "cost", "sensitivity", "specificity")
# Above these values the bootstrap misses the truth too often (measured in tests/test_evaluate.py).
HIGH = {"roc_auc": 0.96, "pr_auc": 0.9}


# ---------------------------------------------------------------------------------------------- metrics
def measure(
    labels: ArrayLike,
    scores: ArrayLike,
    threshold: float = 0.5,
    patients: ArrayLike | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Measure a model, every number with its interval.

    Parameters
    ----------
    labels : (N,) array of 0 and 1
    scores : (N,) array of float in [0, 1]
    threshold : float
        An image is called pneumonia when its score is at least this.
    patients : (N,) array, optional
        Whose image it is; the bootstrap draws patients. Without it each image is a patient.
    n_resamples, seed : int
    confidence : float in (0, 1)

    Returns
    -------
    DataFrame, index "metric" (`METRICS`), columns value, low, high (float in [0, 1]; low and high are NaN where a class
    has one patient only) and method (str), which is one of

    - "bootstrap": standard error over resamples of patients, on the log-odds scale, times Student's t of the number of
      patients. (Percentiles of the resamples lie too high near 1: they held the truth in 90 to 94 % instead of 95 %.)
    - "bootstrap, less bias": calibration error, which chance can only raise. The rise from sample to resample estimates
      the rise from truth to sample: all of it is taken off the lower limit, half of it off the upper.
    - "newcombe": ROC AUC above 0.96, see `newcombe_interval`.
    - "wilson": PR AUC above 0.9 and every metric that is exactly 0 or 1, see `wilson_interval`: errors that were never
      seen cannot be drawn again, and a bootstrap would be sure of perfection.

    Notes
    -----
    Calibration error is over 10 equally wide bins (after Naeini et al., 2015). Like every binned estimate it is above
    zero even for a perfect model, the more so the fewer images there are.
    The number of patients of each class is taken as given, not as chance, so that no resample is without a class: the
    accuracy of a model that calls everything pneumonia is known exactly here.
    """
    labels, scores, patients = check_scores(labels, scores, patients)
    value = {k: float(v[0]) for k, v in weighted_metrics(labels, scores, threshold, np.ones((1, labels.size))).items()}
    weights = patient_weights(labels, patients, n_resamples, seed)
    chunk = max(1, 2_000_000 // labels.size)  # keeps the memory of large sets below some 100 MB
    parts = [weighted_metrics(labels, scores, threshold, weights[i : i + chunk]) for i in range(0, n_resamples, chunk)]
    draws = {name: np.concatenate([part[name] for part in parts]) for name in METRICS}

    n_positive, n_negative = (np.unique(patients[labels == k]).size for k in (1, 0))
    rows = {}
    for name in METRICS:
        v, deviation = value[name], float(draws[name].std())
        n = {"sensitivity": n_positive, "specificity": n_negative}.get(name, min(n_positive, n_negative))
        t = stats.t.ppf((1 + confidence) / 2, n - 1) if n > 1 else np.nan
        counted = {"sensitivity": labels == 1, "specificity": labels == 0, "pr_auc": labels == 1}.get(name, labels >= 0)
        if n > 1 and name == "roc_auc" and v > HIGH[name]:
            size = effective_patients(v, deviation**2, n_positive, n_negative, labels.size)
            rows[name] = (v, *newcombe_interval(v, *size, confidence), "newcombe")
        elif n > 1 and (v in (0, 1) or v > HIGH.get(name, 1)):
            size = effective_size(patients[counted], v, deviation**2)
            rows[name] = (v, *wilson_interval(v, size, confidence), "wilson")
        elif name == "calibration_error":
            bias = max(0.0, draws[name].mean() - v)
            low, high = max(0.0, v - bias - t * deviation), min(1.0, v - bias / 2 + t * deviation)
            rows[name] = (v, low, high, "bootstrap, less bias")
        else:
            half = t * deviation / (v * (1 - v)) if 0 < v < 1 else np.nan
            rows[name] = (
                v,
                special.expit(special.logit(v) - half),
                special.expit(special.logit(v) + half),
                "bootstrap",
            )
    if "wilson" in (rows["sensitivity"][3], rows["specificity"][3]):
        # The two classes are different patients: distances to the limits add up as squares (Zou & Donner, 2008).
        v = value["balanced_accuracy"]
        (a, a_low, a_high, _), (b, b_low, b_high, _) = rows["sensitivity"], rows["specificity"]
        low, high = v - np.hypot(a - a_low, b - b_low) / 2, v + np.hypot(a - a_high, b - b_high) / 2
        rows["balanced_accuracy"] = (v, low, high, "wilson")
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high", "method"])
    return table.rename_axis("metric")


# ------------------------------------------------------------------------------------------- comparison
def compare_auc(
    labels: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    patients: ArrayLike | None = None,
    method: str = "delong",
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.Series:
    """Is the ROC AUC of model `a` different from that of model `b` on the same images?

    Parameters
    ----------
    labels, a, b : (N,) arrays
    patients : (N,) array, optional
    method : "delong" (with `patients` the clustered form, see `delong`) or "bootstrap" (paired: both models are
        scored on the same resamples of patients)

    Returns
    -------
    Series: auc_a, auc_b, difference (a - b), low, high (95 %), p (two-sided)
    """
    if method == "delong":
        areas, covariance = delong(labels, np.vstack([a, b]), patients)
        difference = areas[0] - areas[1]
        deviation = np.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
        low, high = difference + np.array([-1, 1]) * stats.norm.ppf(0.975) * deviation
        p = 2 * stats.norm.sf(abs(difference) / deviation) if deviation > 1e-12 else float(abs(difference) < 1e-12)
    elif method == "bootstrap":
        labels, a, numbers = check_scores(labels, a, patients)
        b = check_scores(labels, b)[1]
        weights = np.vstack([np.ones(labels.size), patient_weights(labels, numbers, n_resamples, seed)])
        areas_a, areas_b = (weighted_metrics(labels, s, 0.5, weights)["roc_auc"] for s in (a, b))
        areas, draws = (areas_a[0], areas_b[0]), (areas_a - areas_b)[1:]
        difference = areas[0] - areas[1]
        low, high = np.quantile(draws, [0.025, 0.975])
        # Share of resamples on the other side of zero, never smaller than one resample can show.
        beyond = min((draws <= 0).sum(), (draws >= 0).sum())
        p = min(1.0, 2 * (beyond + 1) / (n_resamples + 1))
    else:
        raise ValueError(f"method is {method!r}; expected 'delong' or 'bootstrap'.")
    found = {"auc_a": areas[0], "auc_b": areas[1], "difference": difference, "low": low, "high": high, "p": p}
    return pd.Series(found, dtype=float)


def paired_change(
    before: ArrayLike, after: ArrayLike, patients: ArrayLike | None = None, n_resamples: int = 2000, seed: int = 0
) -> pd.Series:
    """How much does a number of the same images change, on average?

    Parameters
    ----------
    before, after : (N,) arrays of any unit
    patients : (N,) array, optional
        The bootstrap draws patients. Without it each image is a patient.

    Returns
    -------
    Series: value (mean of after - before), low, high (95 %: standard error over resamples times Student's t of the
    number of patients; NaN for one patient)
    """
    change = np.asarray(after, dtype=np.float64).ravel() - np.asarray(before, dtype=np.float64).ravel()
    numbers = np.arange(change.size) if patients is None else np.unique(np.asarray(patients), return_inverse=True)[1]
    weights = patient_weights(np.zeros(change.size), numbers, n_resamples, seed)
    n = int(numbers.max()) + 1
    half = stats.t.ppf(0.975, n - 1) * (weights @ change / weights.sum(axis=1)).std() if n > 1 else np.nan
    value = change.mean()
    return pd.Series({"value": value, "low": value - half, "high": value + half})


def change_between(before: pd.Series, after: pd.Series) -> pd.Series:
    """How far do two figures of *different* patients lie apart, such as validation's promise and test's answer?

    Parameters
    ----------
    before, after : Series with value, low, high, as rows of `measure`

    Returns
    -------
    Series: value (after - before), low, high. Distances to the limits add up as squares (Zou & Donner, 2008).
    """
    value = after["value"] - before["value"]
    down = np.hypot(after["value"] - after["low"], before["high"] - before["value"])
    up = np.hypot(after["high"] - after["value"], before["value"] - before["low"])
    return pd.Series({"value": value, "low": value - down, "high": value + up})


def compare_errors(
    labels: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    thresholds: tuple[float, float] = (0.5, 0.5),
    patients: ArrayLike | None = None,
) -> pd.Series:
    """Do two models make different numbers of errors on the same images?

    McNemar's test from mlxtend (exact below 25 disagreements), which takes images for independent, and the same
    question asked of patients: had the models changed names for each patient by the toss of a coin, how often would
    their errors differ as much as they do? Exact; with one image a patient it is McNemar's exact test.

    Returns
    -------
    Series: only_a_right, only_b_right (images), p_images (McNemar), p_patients
    """
    from mlxtend.evaluate import mcnemar, mcnemar_table

    labels, a, numbers = check_scores(labels, a, patients)
    b = check_scores(labels, b)[1]
    calls = [(s >= t).astype(int) for s, t in zip((a, b), thresholds, strict=True)]
    table = mcnemar_table(labels, *calls)
    only_a, only_b = int(table[0, 1]), int(table[1, 0])
    p_images = mcnemar(table, exact=only_a + only_b < 25)[1] if only_a + only_b else 1.0
    per_patient = np.bincount(numbers, (calls[0] == labels).astype(int) - (calls[1] == labels))
    p_patients = _coin_toss_p(per_patient.astype(int))
    found = {"only_a_right": only_a, "only_b_right": only_b, "p_images": p_images, "p_patients": p_patients}
    return pd.Series(found, dtype=float)


def _coin_toss_p(differences: np.ndarray) -> float:
    """How often random signs of these whole numbers give a sum as far from zero as theirs."""
    steps = np.abs(differences[differences != 0])
    chances = np.ones(1)  # of the sums -n, -n + 2, ..., n, where n is the sum of the steps so far
    for step in steps:
        chances = (np.pad(chances, (0, step)) + np.pad(chances, (step, 0))) / 2
    sums = 2 * np.arange(chances.size) - steps.sum()
    return float(chances[np.abs(sums) >= abs(differences.sum())].sum())


def compare_all(
    images: pd.DataFrame, models: Sequence[str], thresholds: dict[str, float] | None = None
) -> pd.DataFrame:
    """Compare every pair of models on the same images; p-values are corrected by Holm's rule.

    Parameters
    ----------
    images : DataFrame with columns label, patient and one of scores a model, as `results.same_images` returns
    models : names of the columns with scores
    thresholds : dict of model -> threshold, default 0.5

    Returns
    -------
    DataFrame, one row a pair: a, b, auc_a, auc_b, difference, low, high, p_auc, only_a_right, only_b_right,
    p_images, p_patients, and p_auc_holm, p_patients_holm
    """
    thresholds = dict(thresholds or {})
    rows = []
    for i, a in enumerate(models):
        for b in models[i + 1 :]:
            pair = (thresholds.get(a, 0.5), thresholds.get(b, 0.5))
            area = compare_auc(images["label"], images[a], images[b], images["patient"]).rename({"p": "p_auc"})
            errors = compare_errors(images["label"], images[a], images[b], pair, images["patient"])
            rows.append({"a": a, "b": b, **area, **errors})
    if not rows:
        raise ValueError(f"there is nothing to compare: models are {list(models)}; give at least two.")
    table = pd.DataFrame(rows)
    return table.assign(p_auc_holm=holm(table["p_auc"]), p_patients_holm=holm(table["p_patients"]))


# -------------------------------------------------------------------------------------------- threshold
def operating_points(labels: ArrayLike, scores: ArrayLike) -> pd.DataFrame:
    """All that a threshold can do on these images: columns threshold, sensitivity, specificity.

    One row between each two neighbouring scores, from "nothing is pneumonia" (threshold above the highest score)
    to "everything is" (0). Thresholds lie halfway between scores, so that no image sits on one.
    """
    labels, scores, _ = check_scores(labels, scores)
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
    """What each threshold costs an image, on average.

    `cost = cost_miss * prevalence * (1 - sensitivity) + cost_alarm * (1 - prevalence) * (1 - specificity)`

    Parameters
    ----------
    cost_miss, cost_alarm : price of a missed pneumonia and of a false alarm, in any one unit
    prevalence : share of pneumonia where the model is used, in [0, 1]; default the share in `labels`

    Returns
    -------
    `operating_points` with a column cost
    """
    points = operating_points(labels, scores)
    share = np.mean(labels) if prevalence is None else prevalence
    if not 0 <= share <= 1:
        raise ValueError(f"prevalence is {prevalence}; expected a share in [0, 1], e.g. 0.1 for a ward with 10 %.")
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
    rule : "balanced_accuracy" (Youden's index), "accuracy", "cost" (the cheapest, see `expected_cost`), "sensitivity"
        or "specificity" (reach `at_least` of it and the most of the other)

    Returns
    -------
    float in [0, 1]; of equally good thresholds the one nearest 0.5
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


def sensitivity_at_specificity(labels: ArrayLike, scores: ArrayLike, specificity: float = 0.9) -> pd.Series:
    """The most sensitive operating point with at least this specificity: threshold, sensitivity, specificity."""
    points = operating_points(labels, scores)
    return points[points["specificity"] >= specificity - 1e-12].iloc[-1]


def decision_curve(
    labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike | None = None, prevalence: float | None = None
) -> pd.DataFrame:
    """Net benefit of using the model, of treating all and of treating none (Vickers & Elkin, 2006).

    The threshold t is how sure one wants to be before treating, so a false alarm costs t / (1 - t) found pneumonias:
    `net benefit = prevalence * sensitivity - (1 - prevalence) * (1 - specificity) * t / (1 - t)`.

    Returns
    -------
    DataFrame: threshold (default 0.01 to 0.99), model, all, none (true positives an image)
    """
    labels, scores, _ = check_scores(labels, scores)
    t = np.linspace(0.01, 0.99, 99) if thresholds is None else np.asarray(thresholds, dtype=float)
    share = labels.mean() if prevalence is None else prevalence
    called = scores >= t[:, None]
    hit, alarm = called[:, labels == 1].mean(axis=1), called[:, labels == 0].mean(axis=1)
    odds = t / (1 - t)
    model = share * hit - (1 - share) * alarm * odds
    return pd.DataFrame({"threshold": t, "model": model, "all": share - (1 - share) * odds, "none": 0.0})


def predictive_values(sensitivity: float, specificity: float, prevalence: ArrayLike) -> pd.DataFrame:
    """Of those called pneumonia, how many have it (ppv); of those called normal, how many are (npv)? Bayes' rule."""
    share = np.atleast_1d(np.asarray(prevalence, dtype=float))
    hit, miss = share * sensitivity, share * (1 - sensitivity)
    spared, alarm = (1 - share) * specificity, (1 - share) * (1 - specificity)
    with np.errstate(invalid="ignore"):  # nobody called: no value
        return pd.DataFrame({"prevalence": share, "ppv": hit / (hit + alarm), "npv": spared / (spared + miss)})


# ------------------------------------------------------------------------------------------ calibration
def reliability_table(labels: ArrayLike, scores: ArrayLike, bins: int = BINS) -> pd.DataFrame:
    """What the model promised and what came true, in equally wide bins of score.

    Returns
    -------
    DataFrame, one row a bin that holds images: images, score (mean), share (of pneumonia), low, high (95 %, Wilson)
    """
    labels, scores, _ = check_scores(labels, scores)
    number = np.minimum((scores * bins).astype(int), bins - 1)
    groups = pd.DataFrame({"label": labels, "score": scores}).groupby(number)
    table = groups.agg(images=("label", "size"), score=("score", "mean"), share=("label", "mean"))
    limits = [wilson_interval(row.share, row.images) for row in table.itertuples()]
    return table.assign(low=[x[0] for x in limits], high=[x[1] for x in limits]).rename_axis("bin")


def apply_temperature(scores: ArrayLike, temperature: float) -> np.ndarray:
    """Divide the log-odds of the scores by the temperature: above 1 makes a model less sure. Ranks stay as they are."""
    return special.expit(special.logit(np.clip(np.asarray(scores, dtype=float), 1e-7, 1 - 1e-7)) / temperature)


def fit_temperature(labels: ArrayLike, scores: ArrayLike) -> float:
    """The temperature in [0.05, 20] with the smallest log loss on *validation* images (Guo et al., 2017)."""
    labels, scores, _ = check_scores(labels, scores)
    signs = np.where(labels == 1, 1.0, -1.0)
    logits = signs * special.logit(np.clip(scores, 1e-7, 1 - 1e-7))

    def log_loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -logits / np.exp(log_temperature)).mean())

    return float(np.exp(optimize.minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))

"""Statistics against scikit-learn, statsmodels, published examples, numbers worked out by hand, and simulation."""

import ast
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn import metrics
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from xrayhelpers import _intervals as intervals
from xrayhelpers import evaluate


def draw_images(rng, n_patients=150, auc=0.9, alike=0.5, share=0.625):
    """Images of patients: 1 to 5 each (2.2 on average), whose scores are alike. Returns labels, scores, patients."""
    shift = np.sqrt(2) * stats.norm.ppf(auc)
    images = rng.choice([1, 2, 3, 4, 5], n_patients, p=[0.4, 0.25, 0.15, 0.1, 0.1])
    patients = np.repeat(np.arange(n_patients), images)
    labels = (patients < round(n_patients * share)).astype(int)
    noise = np.sqrt(alike) * rng.normal(size=n_patients)[patients] + np.sqrt(1 - alike) * rng.normal(size=labels.size)
    return labels, special.expit(1.3 * shift * ((labels - 0.5) * shift + noise)), patients


@pytest.fixture
def few(monkeypatch):
    """Fewer resamples than a lesson takes."""
    monkeypatch.setattr(evaluate, "RESAMPLES", 250)


@pytest.fixture
def images():
    return draw_images(np.random.default_rng(1))


# ---------------------------------------------------------------------------------------------- metrics
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 3)), min_size=4, max_size=40).filter(
        lambda rows: {label for label, _, weight in rows if weight} == {0, 1}
    ),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_weighted_metrics_are_those_of_scikit_learn(rows, threshold):
    """Also with equal scores, and with weights 0 to 3, which is what a resample is."""
    labels, sevenths, weights = np.array(rows).T
    scores = sevenths / 6
    ours = intervals.weighted_metrics(labels, scores, threshold, weights[None].astype(float))
    calls = scores >= threshold
    with_weights = {"sample_weight": weights}
    assert ours["roc_auc"][0] == pytest.approx(metrics.roc_auc_score(labels, scores, **with_weights))
    assert ours["pr_auc"][0] == pytest.approx(metrics.average_precision_score(labels, scores, **with_weights))
    assert ours["brier"][0] == pytest.approx(metrics.brier_score_loss(labels, scores, **with_weights))
    assert ours["accuracy"][0] == pytest.approx(metrics.accuracy_score(labels, calls, **with_weights))
    assert ours["sensitivity"][0] == pytest.approx(metrics.recall_score(labels, calls, **with_weights))
    assert ours["specificity"][0] == pytest.approx(metrics.recall_score(labels, calls, pos_label=0, **with_weights))
    assert ours["balanced_accuracy"][0] == pytest.approx(metrics.balanced_accuracy_score(labels, calls, **with_weights))


def test_measure_has_all_metrics_inside_their_intervals(images, few):
    labels, scores, patients = images
    table = evaluate.measure(labels, scores, 0.4, patients)
    assert table.index.tolist() == list(evaluate.METRICS)
    assert table.columns.tolist() == ["value", "low", "high", "method"]
    assert table["low"].ge(0).all()
    assert (table["low"] < table["value"]).all()
    assert ((table["value"] < table["high"]) & (table["high"] <= 1)).all()
    pd.testing.assert_frame_equal(table, evaluate.measure(labels, scores, 0.4, patients))


def test_measure_does_not_depend_on_the_order_of_images(images, few):
    labels, scores, patients = images
    shuffled = np.random.default_rng(0).permutation(labels.size)
    values = evaluate.measure(labels, scores, patients=patients)["value"]
    again = evaluate.measure(labels[shuffled], scores[shuffled], patients=patients[shuffled])["value"]
    np.testing.assert_allclose(values, again)


def test_intervals_of_patients_are_wider_than_of_images():
    """Each patient's image stored four times: resampling images would believe in four times the data."""
    labels, scores, _ = draw_images(np.random.default_rng(3), alike=0.0)
    labels, scores, patients = (np.repeat(x, 4) for x in (labels, scores, np.arange(labels.size)))
    by_image = evaluate.measure(labels, scores)
    by_patient = evaluate.measure(labels, scores, patients=patients)
    ratio = (by_patient["high"] - by_patient["low"]) / (by_image["high"] - by_image["low"])
    assert ratio.drop("pr_auc").between(1.8, 2.2).all()


def test_one_patient_per_class_has_no_interval():
    table = evaluate.measure([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], patients=["a", "a", "b", "b"])
    assert table.loc["sensitivity", "value"] == 0.5
    assert table.loc[["sensitivity", "specificity", "roc_auc"], ["low", "high"]].isna().all(axis=None)


def test_wrong_input_says_what_to_do():
    for labels, scores, patients, message in (
        ([0, 1, 1], [0.1, 0.2], None, "one score per image"),
        ([0, 1, 2], [0.1, 0.2, 0.3], None, "expected 0"),
        ([1, 1, 1], [0.1, 0.2, 0.3], None, "the same label"),
        ([0, 1, 1], [0.1, np.nan, 0.3], None, "diverged"),
        ([0, 1, 1], [0.1, 1.2, 0.3], None, "probabilities"),
        ([0, 1, 1], [0.1, 0.2, 0.3], [1, 2], "2 patients for 3 images"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate.measure(labels, scores, patients=patients)


def test_scores_as_keras_returns_them(images, few):
    labels, scores, _ = images
    column = evaluate.measure(labels, scores[:, None].astype("float32"))
    assert column.loc["roc_auc", "value"] == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-4)


# -------------------------------------------------------------------------------------------- intervals
def test_patients_are_drawn_whole_and_no_class_vanishes():
    labels = np.array([0, 0, 1, 1, 1, 0, 1, 0])
    patients = np.array([0, 0, 1, 1, 2, 3, 3, 4])  # 3 has images of both classes and stays: alone in its stratum
    weights = intervals.patient_weights(labels, patients, 4000, seed=0)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 2] == weights[:, 3]).all()
    assert (weights[:, 5:7] == 1).all()
    assert (weights[:, labels == 1].sum(axis=1) > 0).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.06)


def test_bootstrap_deviation_is_that_of_a_mean():
    """For the accuracy of independent images the textbook has the answer: s / sqrt(n)."""
    labels, scores, _ = intervals.check_scores(
        np.repeat([0, 1], 30), np.r_[np.linspace(0, 0.9, 30), np.linspace(0.2, 1, 30)]
    )
    weights = intervals.patient_weights(labels, np.arange(60), 20_000, seed=0)
    draws = intervals.weighted_metrics(labels, scores, 0.5, weights)["sensitivity"]
    textbook = (scores[30:] >= 0.5).std(ddof=1) / np.sqrt(30)
    assert draws.std() == pytest.approx(textbook, rel=0.03)


def test_wilson_interval_is_that_of_statsmodels():
    for right, n in [(0, 20), (17, 20), (20, 20), (390, 400)]:
        expected = proportion_confint(right, n, method="wilson")
        assert intervals.wilson_interval(right / n, n) == pytest.approx(expected)


def test_newcombe_interval_holds_at_one_and_solves_its_equation():
    low, high = intervals.newcombe_interval(1.0, 30, 50)
    assert high == 1.0
    # Hanley and McNeil's variance at the limit, written out.
    variance = low * (1 - low) / (30 * 50) * (1 + 39 * (1 - low) / (2 - low) + 39 * low / (1 + low))
    assert (1 - low) / np.sqrt(variance) == pytest.approx(1.95996, abs=1e-4)
    low, high = intervals.newcombe_interval(0.9, 50, 50)
    flipped = intervals.newcombe_interval(0.1, 50, 50)
    assert (low, high) == pytest.approx((1 - flipped[1], 1 - flipped[0]), abs=1e-6)
    low, high = intervals.newcombe_interval(0.0, 30, 50)
    assert (low, high) == pytest.approx((0, 1 - intervals.newcombe_interval(1.0, 30, 50)[0]))


def test_a_perfect_model_is_not_certain(few):
    labels, patients = np.repeat([0, 1], 40), np.repeat(np.arange(20), 4)
    table = evaluate.measure(labels, np.where(labels == 1, 0.9, 0.1), patients=patients)
    certain = ["sensitivity", "specificity", "balanced_accuracy", "accuracy", "roc_auc", "pr_auc"]
    assert (table.loc[certain, "value"] == 1).all()
    assert (table.loc[certain, "low"] < 0.95).all()
    assert table.loc["sensitivity", "low"] == pytest.approx(
        intervals.wilson_interval(1, 10)[0]
    )  # 10 patients, not 40 images


def covered(auc, threshold, n_sets, n_patients=150, alike=0.5, seed=0):
    """Share of simulated data sets whose interval holds the truth, for each metric."""
    rng = np.random.default_rng(seed)
    labels, scores, _ = draw_images(rng, 400_000, auc, alike=0.0)
    whole = intervals.weighted_metrics(labels, scores, threshold, np.ones((1, labels.size)))
    truth = pd.Series({name: value[0] for name, value in whole.items()})
    held = []
    for _ in range(n_sets):
        labels, scores, patients = draw_images(rng, n_patients, auc, alike)
        table = evaluate.measure(labels, scores, threshold, patients)
        held.append((table["low"] <= truth) & (truth <= table["high"]))
    return truth, pd.DataFrame(held).mean()


@pytest.mark.slow
def test_a_constant_answer_is_known_exactly():
    table = evaluate.measure([0] * 60 + [1] * 100, np.ones(160), patients=np.arange(160) // 2)
    assert (table["method"] == "exact").all()
    assert (table["low"] == table["value"]).all()
    assert (table["high"] == table["value"]).all()
    assert table["value"][["accuracy", "sensitivity", "specificity", "roc_auc"]].tolist() == [0.625, 1, 0, 0.5]
    values = evaluate.predictive_values(table.loc["sensitivity"], table.loc["specificity"], 0.625).iloc[0]
    assert values[["ppv", "ppv_low", "ppv_high"]].tolist() == pytest.approx([0.625] * 3)


def test_intervals_hold_the_truth(few):
    """240 data sets of 150 patients with 2.2 images each, AUC 0.9, sensitivity 0.85 (one standard error: 1.4 %)."""
    shift = np.sqrt(2) * stats.norm.ppf(0.9)
    threshold = special.expit(1.3 * shift * (shift / 2 - stats.norm.ppf(0.85)))
    truth, share = covered(0.9, threshold, n_sets=240)
    assert truth["roc_auc"] == pytest.approx(0.9, abs=0.003)
    assert truth["sensitivity"] == pytest.approx(0.85, abs=0.003)
    assert share.between(0.90, 0.992).all(), share.to_string()


@pytest.mark.slow
def test_intervals_hold_the_truth_near_one(few):
    """Near 1, a plain bootstrap held it in about 80 %. (Measured over 1,000 sets: 92 % or more.)"""
    for auc in (0.97, 0.998):
        _, share = covered(auc, 0.5, n_sets=100, n_patients=120, alike=0.7)
        assert (share.drop("brier") >= 0.88).all(), share.to_string()
        assert share["brier"] >= 0.85  # a few confident errors decide it: measured 0.92 to 0.95 over 1,000 sets


# ------------------------------------------------------------------------------------------- comparison
def rated(normal, abnormal):
    """Labels and scores from two rows of counts of the ratings 1 to 5."""
    ratings = np.arange(1, 6) / 6
    return np.repeat([0, 1], [sum(normal), sum(abnormal)]), np.r_[
        np.repeat(ratings, normal), np.repeat(ratings, abnormal)
    ]


def test_delong_on_published_examples():
    for normal, abnormal, area, low, high in (
        # Hanley & McNeil (1982), 109 CT images; interval as printed for them in Stata's manual of `roctab`.
        ((33, 6, 6, 11, 2), (3, 2, 2, 11, 33), 0.8932, 0.83295, 0.95339),
        # WFNS grade in the subarachnoid hemorrhage data of Turck et al. (2010), as printed by R's pROC.
        ((37, 20, 3, 8, 4), (2, 12, 1, 8, 18), 0.8237, 0.7485, 0.8988),
    ):
        areas, covariance = intervals.delong(*rated(normal, abnormal))
        half = stats.norm.ppf(0.975) * np.sqrt(covariance[0, 0])
        assert (areas[0], areas[0] - half, areas[0] + half) == pytest.approx((area, low, high), abs=6e-5)


def test_delong_by_definition(images):
    """The ranks of Sun & Xu against DeLong's definition, pair by pair, for two models with equal scores among them."""
    labels, a, _ = images
    table = np.vstack([np.round(a, 2), np.round(a + np.random.default_rng(0).uniform(0, 1, a.size), 1) / 2])
    areas, covariance = intervals.delong(labels, table)
    x, y = table[:, labels == 1], table[:, labels == 0]
    wins = (x[:, :, None] > y[:, None, :]) + 0.5 * (x[:, :, None] == y[:, None, :])
    np.testing.assert_allclose(areas, wins.mean(axis=(1, 2)))
    np.testing.assert_allclose(areas, [metrics.roc_auc_score(labels, row) for row in table])
    by_definition = np.cov(wins.mean(axis=2)) / x.shape[1] + np.cov(wins.mean(axis=1)) / y.shape[1]
    np.testing.assert_allclose(covariance, by_definition)


def test_delong_with_patients_ignores_copies(images):
    """Obuchowski's variance: storing every image three times adds nothing that was not known."""
    labels, scores, _ = images
    once = intervals.delong(labels, scores)[1]
    copies = [np.repeat(x, 3) for x in (labels, scores, np.arange(labels.size))]
    np.testing.assert_allclose(intervals.delong(*copies)[1], once)
    assert intervals.delong(copies[0], copies[1])[1][0, 0] < 0.4 * once[0, 0]


def test_comparing_a_model_with_itself_finds_nothing(images):
    labels, scores, patients = images
    found = evaluate.compare_auc(labels, scores, scores[:, None], patients)  # (N, 1), as Keras returns scores
    assert found["difference"] == 0
    assert found["p"] == 1
    assert found["method"] == "DeLong"
    assert evaluate._compare_errors(labels, scores, scores, (0.5, 0.5), patients) == 1


def test_delong_agrees_with_a_paired_bootstrap(images):
    labels, scores, patients = images
    worse = special.expit(special.logit(scores) + 2 * np.random.default_rng(2).normal(size=scores.size))
    found = evaluate.compare_auc(labels, scores, worse, patients)
    weights = intervals.patient_weights(labels, patients, 2000, seed=0)
    areas = [intervals.weighted_metrics(labels, s, 0.5, weights)["roc_auc"] for s in (scores, worse)]
    limits = np.quantile(areas[0] - areas[1], [0.025, 0.975])
    assert (found["low"], found["high"]) == pytest.approx(tuple(limits), abs=0.01)
    assert found["low"] > 0
    assert found["p"] < 0.01


def test_comparison_raises_few_false_alarms():
    """Two equally good models, patients with several images: 5 % of p-values below 0.05, not more."""
    rng = np.random.default_rng(0)
    p = []
    for _ in range(400):
        labels, a, patients = draw_images(rng, 80, alike=0.9)
        mine = rng.normal(size=(2, 80))[:, patients]
        a, b = special.expit(special.logit(a) + 2 * mine)
        right = [(score >= 0.5) == labels for score in (a, b)]
        by_image = mcnemar(pd.crosstab(*right).to_numpy(), exact=True).pvalue
        errors = evaluate._compare_errors(labels, a, b, (0.5, 0.5), patients)
        p.append((evaluate.compare_auc(labels, a, b, patients)["p"], errors, by_image))
    alarms = (np.array(p) < 0.05).mean(axis=0)
    assert alarms[:2].min() >= 0.02
    assert alarms[:2].max() <= 0.085
    assert alarms[2] > 0.08  # McNemar's test treats images as independent: too many alarms


def test_error_comparison_with_one_image_per_patient_is_mcnemars():
    for n in (30, 300):
        rng = np.random.default_rng(n)
        labels, a, b = rng.integers(0, 2, n), rng.uniform(size=n), rng.uniform(size=n)
        right = pd.crosstab((a >= 0.3) == labels, (b >= 0.5) == labels).to_numpy()
        found = evaluate._compare_errors(labels, a, b, (0.3, 0.5), None)
        assert found == pytest.approx(mcnemar(right, exact=True).pvalue)


def test_error_comparison_of_patients_by_hand():
    # Patient a: model 1 right twice more; b: once more; c: model 2 once more. Of the eight sums of +-2 +-1 +-1 six are
    # as far from zero as theirs, 2.
    labels = np.array([0, 1, 0, 1, 0, 1])
    a = np.array([0.1, 0.9, 0.1, 0.1, 0.1, 0.9])
    b = np.array([0.9, 0.1, 0.9, 0.9, 0.1, 0.9])
    assert evaluate._compare_errors(labels, a, b, (0.5, 0.5), list("aabcdd")) == pytest.approx(6 / 8)


def test_square_and_add_is_newcombes():
    """Newcombe (1998), Statistics in Medicine 17, 873-890, table II, method 10: 56/70 - 48/80, 0.0524 to 0.3339."""
    a, b = ((hits / n, *stats.binomtest(hits, n).proportion_ci(method="wilson")) for hits, n in ((56, 70), (48, 80)))
    assert intervals.square_and_add(a, b) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    # Alike parts cancel: with correlation 1 and equal distances nothing is left.
    assert intervals.square_and_add((0.8, 0.7, 0.9), (0.5, 0.4, 0.6), 1.0) == pytest.approx((0.3, 0.3, 0.3))


def test_perfect_models_are_not_certainly_equal():
    """DeLong's interval would be [0, 0], and the p-value of one error less far too small."""
    labels, patients = np.repeat([0, 1], 20), np.arange(40)
    perfect = np.where(labels == 1, 0.9, 0.1)
    found = evaluate.compare_auc(labels, perfect, perfect**2, patients)
    single = 1 - intervals.newcombe_interval(1.0, 20, 20)[0]
    assert found[["difference", "low", "high", "p"]].tolist() == pytest.approx([0, -single, single, 1])
    assert found["method"] == "square-and-add"
    one_error = np.where(patients == 0, 1.0, perfect)
    found = evaluate.compare_auc(labels, perfect, one_error, patients)
    assert found["low"] < 0 < found["difference"] == pytest.approx(0.05)
    assert found["p"] > 0.05
    useless = np.random.default_rng(0).uniform(size=40)
    found = evaluate.compare_auc(labels, perfect, useless, patients)
    assert found["low"] > 0.2
    assert found["p"] < 0.001
    # A constant answer's area is 0.5, whatever the images: no interval of it adds to the difference's.
    found = evaluate.compare_auc(labels, perfect, np.full(40, 0.3), patients)
    own = intervals.newcombe_interval(1.0, 20, 20)
    assert found[["low", "difference", "high"]].tolist() == pytest.approx([own[0] - 0.5, 0.5, own[1] - 0.5])
    # The p-value and the interval say the same.
    at_level = evaluate.compare_auc(labels, perfect, np.where(patients < 4, 1.0, perfect), patients)
    assert (at_level["p"] < 0.05) == (at_level["low"] > 0)


def paired_images(rng, n_patients, areas, shared):
    """Two models' scores of the same images; `shared` of their variance is common."""
    labels, _, patients = draw_images(rng, n_patients)
    noise = [rng.normal(size=labels.size) for _ in areas]
    common = rng.normal(size=n_patients)[patients]
    shifts = [np.sqrt(2) * stats.norm.ppf(area) for area in areas]
    mixed = [np.sqrt(shared) * common + np.sqrt(1 - shared) * own for own in noise]
    return labels, [special.expit((labels - 0.5) * s + n) for s, n in zip(shifts, mixed, strict=True)], patients


@pytest.mark.slow
def test_intervals_of_differences_hold_the_truth_near_one():
    """73 and 284 patients are about 160 and 624 images. (DeLong's held it in 71 to 92 % with 20 patients.)"""
    rng = np.random.default_rng(0)
    for n_patients in (20, 73, 284):
        for areas in ((0.998, 0.998), (0.99, 0.97), (0.995, 0.9)):
            held, false, truth = 0, 0, areas[0] - areas[1]
            for _ in range(120):
                labels, (a, b), patients = paired_images(rng, n_patients, areas, 0.5)
                found = evaluate.compare_auc(labels, a, b, patients)
                held += found["low"] <= truth <= found["high"]
                false += truth == 0 and found["p"] < 0.05
            assert held / 120 >= 0.9, (n_patients, areas, held / 120)  # measured: 0.94 or more
            assert false / 120 <= 0.08


def test_holm_is_that_of_statsmodels():
    for p in [[0.03], [0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 0.9, 0.0, 1.0], [0.01, 0.011, 0.012]]:
        np.testing.assert_allclose(intervals.holm(p), multipletests(p, method="holm")[1], atol=1e-12)


def test_paired_change_by_patient():
    before, after = np.zeros(8), np.array([1.0, 1, 1, 1, 3, 3, 3, 3])
    alone = evaluate.paired_change(before, after)
    in_pairs = evaluate.paired_change(before, after, [0, 0, 1, 1, 2, 2, 3, 3])
    assert alone["value"] == in_pairs["value"] == 2
    assert in_pairs["low"] < alone["low"] < 2 < alone["high"] < in_pairs["high"]
    assert evaluate.paired_change(before, before + 1, [1] * 8).isna().tolist() == [False, True, True]


def test_intervals_of_a_paired_change_hold_the_truth():
    rng, held = np.random.default_rng(0), 0
    patients = np.repeat(np.arange(40), 3)
    for seed in range(200):
        change = 0.3 + rng.normal(size=40)[patients] + rng.normal(size=120)
        found = evaluate.paired_change(np.zeros(120), change, patients, seed)
        held += found["low"] <= 0.3 <= found["high"]
    assert held / 200 == pytest.approx(0.95, abs=0.04)


def test_comparison_with_one_model_counts_only_what_was_planned(images):
    labels, scores, patients = images
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"label": labels, "patient": patients, "vgg16": scores, "cnn": rng.uniform(size=scores.size)})
    table["twin"] = scores
    thresholds = dict.fromkeys(["vgg16", "cnn", "twin"], 0.5)
    found = evaluate.compare_with(table, "vgg16", ["cnn", "twin"], thresholds)
    assert found.index.tolist() == ["cnn", "twin"]
    assert found.loc["cnn", "difference"] == pytest.approx(
        metrics.roc_auc_score(labels, scores) - metrics.roc_auc_score(labels, table["cnn"])
    )
    np.testing.assert_allclose(found["p_auc_holm"], multipletests(found["p_auc"], method="holm")[1])
    np.testing.assert_allclose(found["p_errors_holm"], multipletests(found["p_errors"], method="holm")[1])
    assert found.loc["twin", ["difference", "p_auc", "p_errors"]].tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="no model to compare vgg16 with"):
        evaluate.compare_with(table, "vgg16", [], thresholds)


def wilson_row(hits, n):
    return pd.Series([hits / n, *intervals.wilson_interval(hits / n, n)], index=["value", "low", "high"])


def test_predictive_values_by_hand():
    """Of 1,000 people with 1 % disease, 9 of 10 found, 9 % false alarms: 9 true among 98 alarms."""
    table = evaluate.predictive_values(wilson_row(90, 100), wilson_row(91, 100), [0.01, 0.5])
    assert table["ppv"].iloc[0] == pytest.approx(9 / (9 + 89.1))
    assert table["npv"].iloc[0] == pytest.approx(900.9 / 901.9)
    assert table["ppv"].iloc[1] > 0.9
    assert table.columns.tolist() == ["ppv", "ppv_low", "ppv_high", "npv", "npv_low", "npv_high"]


def test_limits_of_predictive_values_are_those_of_a_ratio():
    """With many images they agree with Katz's interval of a relative risk, which SciPy has."""
    table = evaluate.predictive_values(wilson_row(1600, 2000), wilson_row(1800, 2000), 0.5).iloc[0]
    katz = stats.contingency.relative_risk(1600, 2000, 200, 2000).confidence_interval()
    assert (table["ppv_low"], table["ppv_high"]) == pytest.approx([r / (1 + r) for r in katz], abs=5e-4)
    katz = stats.contingency.relative_risk(1800, 2000, 400, 2000).confidence_interval()
    assert (table["npv_low"], table["npv_high"]) == pytest.approx([r / (1 + r) for r in katz], abs=5e-4)


def test_a_predictive_value_of_one_is_not_certain():
    table = evaluate.predictive_values(wilson_row(48, 50), wilson_row(30, 30), [0.1, 0.5])
    assert (table["ppv"] == 1).all()
    assert (table["ppv_high"] == 1).all()
    assert (table["ppv_low"] < [0.6, 0.95]).all()
    nobody = evaluate.predictive_values(wilson_row(0, 50), wilson_row(30, 30), 0.1).iloc[0]
    assert np.isnan(nobody["ppv"])
    assert (nobody["ppv_low"], nobody["ppv_high"]) == (0, 1)


def test_intervals_of_predictive_values_hold_the_truth():
    """Also where false alarms are so rare that most test sets have none."""
    rng, share = np.random.default_rng(0), 0.1
    for hit, spared, n_sick, n_healthy in ((0.8, 0.7, 100, 60), (0.95, 0.99, 100, 60), (0.99, 0.95, 390, 234)):
        ppv = share * hit / (share * hit + (1 - share) * (1 - spared))
        npv = (1 - share) * spared / ((1 - share) * spared + share * (1 - hit))
        held = []
        for _ in range(400):
            rows = wilson_row(rng.binomial(n_sick, hit), n_sick), wilson_row(rng.binomial(n_healthy, spared), n_healthy)
            found = evaluate.predictive_values(*rows, share).iloc[0]
            held.append([found[f"{k}_low"] <= v <= found[f"{k}_high"] for k, v in (("ppv", ppv), ("npv", npv))])
        assert (np.mean(held, axis=0) >= 0.92).all(), (hit, spared, np.mean(held, axis=0))


def lesson_functions(*names):
    """The functions that lesson 07 writes in the open."""
    cells = nbformat.read(Path(__file__).parents[1] / "notebooks" / "07_trust.ipynb", as_version=4).cells
    space = {"np": np, "roc_auc_score": metrics.roc_auc_score, "seed": 0, "ward": 0.1, "miss": 10, "alarm": 1}
    for cell in cells:
        for node in ast.parse(cell.source).body if cell.cell_type == "code" and "def " in cell.source else []:
            if isinstance(node, ast.FunctionDef) and node.name in names:
                exec(ast.unparse(node), space)
    return space


def test_costs_and_net_benefit_of_lesson_07_by_hand():
    """Vickers & Elkin (2006): true positives / n - false positives / n * t / (1 - t). Here n is the ward's."""
    labels = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
    space = lesson_functions("cost", "net_benefit")
    # At 0.5 three of four sick children are found, and one of four healthy ones is a false alarm.
    assert space["cost"](labels, scores, 0.5).mean() == pytest.approx(10 * 0.1 / 4 + 0.9 / 4)
    assert space["cost"](labels, scores, 1.0).mean() == pytest.approx(10 * 0.1)  # all missed
    assert space["net_benefit"](labels, scores, 0.5) == pytest.approx(0.1 * 3 / 4 - 0.9 / 4)
    assert space["net_benefit"](labels, scores, 0.75) == pytest.approx(0.1 * 2 / 4)
    calm = scores / 5  # some scores on either side of 1/11
    cost = space["cost"](labels, calm, 1 / 11).mean()
    assert cost == pytest.approx(10 * (0.1 - space["net_benefit"](labels, calm, 1 / 11)))


def test_the_cheapest_threshold_of_a_calibrated_score_is_one_eleventh():
    space, rng = lesson_functions("cost"), np.random.default_rng(0)
    honest = special.expit(rng.normal(-3.5, 2, 200_000))
    labels = (rng.uniform(size=honest.size) < honest).astype(int)
    space["ward"] = labels.mean()
    grid = np.linspace(0.02, 0.2, 37)
    costs = [space["cost"](labels, honest, t).mean() for t in grid]
    assert grid[np.argmin(costs)] == pytest.approx(1 / 11, abs=0.03)


def test_bootstrap_of_lesson_07_agrees_with_the_package(images):
    labels, scores, patients = images
    space = lesson_functions("bootstrap")
    space.update(truth=labels, asked="a", images=pd.DataFrame({"a": scores}))
    row = evaluate.measure(labels, scores, patients=patients).loc["roc_auc"]
    assert space["bootstrap"](patients) == pytest.approx([row["low"], row["high"]], abs=0.015)
    assert np.ptp(space["bootstrap"](np.arange(labels.size))) < np.ptp(space["bootstrap"](patients))


# ------------------------------------------------------------------------------------------ calibration
def test_temperature_is_recovered():
    rng = np.random.default_rng(0)
    honest = special.expit(rng.normal(0, 2, 20_000))
    labels = (rng.uniform(size=honest.size) < honest).astype(int)
    for temperature in (0.5, 1.0, 3.0):
        found = evaluate.fit_temperature(labels, special.expit(special.logit(honest) * temperature))
        assert found["value"] == pytest.approx(temperature, rel=0.05)
        assert found["low"] < temperature < found["high"]


def test_temperature_is_that_of_a_logistic_regression(images):
    """Its slope without an intercept is one over the temperature; the interval is that of the likelihood ratio."""
    labels, scores, _ = images
    log_odds = special.logit(scores)
    fit = sm.Logit(labels, log_odds[:, None]).fit(disp=0)
    found = evaluate.fit_temperature(labels, scores)
    assert found["value"] == pytest.approx(1 / fit.params[0], rel=0.006)
    allowed = stats.chi2.ppf(0.95, 1)
    for limit, step in ((found["low"], 1 / 1.011), (found["high"], 1.011)):  # the grid is one percent wide
        drops = [2 * (fit.llf - fit.model.loglike([1 / t])) for t in (limit, limit * step)]
        assert drops[0] <= allowed < drops[1]


def test_temperature_of_scores_of_zero_and_one_and_of_a_perfect_model():
    found = evaluate.fit_temperature([0, 1, 1, 0], [0.0, 1.0, 0.0, 1.0])
    assert found["value"] == pytest.approx(20)
    perfect = evaluate.fit_temperature([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    assert perfect["low"] == pytest.approx(0.05)  # no error: nothing says that it is too confident
    assert perfect["high"] > 1


def calibrated_images(rng, n_patients, auc, alike):
    """Images whose scores are true probabilities; all images of a patient have one label."""
    shift, share = np.sqrt(2) * stats.norm.ppf(auc), 0.625
    patients = np.repeat(np.arange(n_patients), rng.choice([1, 2, 3, 4, 5], n_patients, p=[0.4, 0.25, 0.15, 0.1, 0.1]))
    labels = (rng.uniform(size=n_patients) < share).astype(int)[patients]
    noise = np.sqrt(alike) * rng.normal(size=n_patients)[patients] + np.sqrt(1 - alike) * rng.normal(size=labels.size)
    return labels, special.expit(shift * ((labels - 0.5) * shift + noise) + special.logit(share)), patients


@pytest.mark.slow
def test_intervals_of_calibration_hold_the_truth():
    """Perfectly calibrated and twice too confident, near-perfect and not; about 160, 312 and 624 images."""
    rng, shares = np.random.default_rng(0), {}
    for n_patients in (73, 142, 284):
        for auc in (0.8, 0.9, 0.99):
            held = []
            for seed in range(80):
                labels, scores, patients = calibrated_images(rng, n_patients, auc, 0.5)
                level = evaluate.paired_change(labels, scores, patients, seed)
                row = [level["low"] <= 0 <= level["high"]]
                for truth in (1, 2):
                    distorted = special.expit(special.logit(scores) * truth)
                    found = evaluate.fit_temperature(labels, distorted, patients)
                    row.append(found["low"] <= truth <= found["high"])
                held.append(row)
            shares[n_patients, auc] = np.mean(held, axis=0)
    table = pd.DataFrame(shares, index=["level", "calibrated", "too confident"]).T
    assert (table >= 0.86).all(axis=None), table.to_string()  # one standard error: 2.4 %
    assert table.mean().between(0.92, 0.985).all(), table.mean().to_string()

"""The small network, averages of it, and pseudo-batches that keep patients and batches apart."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from xrayhelpers import better, dataset, models, pixels
from xrayhelpers._quiet import keras
from xrayhelpers.weights import VGG16Weights

TINY = {"members": 2, "epochs": 1, "filters": (4, 8)}


@pytest.fixture(scope="module")
def train(phantom_root):
    index = dataset.load_index(phantom_root)
    return index[index["split"] == "train"]


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (28, 3)])
def test_small_cnn_has_241441_parameters_at_every_size(size, channels):
    model = better.small_cnn(size, channels)
    assert model.output_shape == (None, 1)
    assert model.count_params() == 241_441 + 9 * 32 * (channels - 1)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 240_737 + 9 * 32 * (channels - 1)


def test_seed_alone_decides_the_starting_weights():
    first, same, other = (better.small_cnn(16, filters=(4, 8), seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_an_average_repeats_itself_and_goes_on_where_it_was_killed(train, cache, tmp_path):
    images, labels = pixels.load_pixels(train, 16, channels=1, interpolation="area"), train["label"].to_numpy()
    one = better.train_average(images, labels, **TINY)
    scores = better.predict_average(one, images)
    assert scores.shape == (len(train),)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_allclose(better.predict_average(one, images[:, :, ::-1]), scores, atol=1e-6)  # flips
    np.testing.assert_allclose(
        scores, (better.predict_average(one[:1], images) + better.predict_average(one[1:], images)) / 2, atol=1e-6
    )
    better.train_average(images, labels, **{**TINY, "members": 1}, folder=tmp_path)  # "killed" after one member
    again = better.predict_average(better.train_average(images, labels, **TINY, folder=tmp_path), images)
    np.testing.assert_array_equal(again, scores)
    assert not np.array_equal(
        better.predict_average(better.train_average(images, labels, **TINY, seed=1), images), scores
    )


def test_averages_of_different_seeds_share_no_member(train, cache, monkeypatch):
    seeds = []
    monkeypatch.setattr(better, "train", lambda *_, seed, **__: seeds.append(seed))
    images = np.zeros((2, 16, 16, 1), np.uint8)
    for seed in range(3):
        better.train_average(images, np.array([0, 1]), **TINY, seed=seed)
    assert len(seeds) == len(set(seeds)) == 6


def test_pseudo_batches_hold_out_another_batch_of_normals_and_whole_patients(train):
    held = better.pseudo_batches(train)
    assert list(held) == ["series IM", "other series", "low numbers"]
    assert held.index.equals(train.index)
    normal, first = train["label"] == 0, train["patient"].str.startswith("IM-")
    assert (held["series IM"] == first)[normal].all()
    assert (held["other series"] == ~first)[normal].all()
    number = train["patient"].str.extract(r"(\d+)$")[0].astype(int)
    for series in (normal & first, normal & ~first):
        assert number[series & held["low numbers"]].max() < number[series & ~held["low numbers"]].min()
    for fold in held:
        assert not set(train["patient"][held[fold]]) & set(train["patient"][~held[fold]])
        assert set(train["label"][held[fold]]) == set(train["label"][~held[fold]]) == {0, 1}
    sick = train.loc[~normal, "patient"].nunique()
    assert (held[~normal].groupby(train["patient"][~normal]).first().sum() == sick // 2).all()
    assert held.equals(better.pseudo_batches(train))
    assert not held.equals(better.pseudo_batches(train, seed=1))


@pytest.mark.parametrize(
    ("normals", "folds"),
    [
        (["ann", "bob", "bob", "bob"], {"low numbers": [True, False, False, False]}),
        (["x1_a1", "x2_a1", "x3_a1"], {"low numbers": [True, True, False]}),
        (["IM-7", "IM-7", "IM-9"], {"low numbers": [True, True, False]}),
        (["IM-7", "NORMAL2-IM-9"], {"series IM": [True, False], "other series": [False, True]}),
    ],
)
def test_pseudo_batches_of_any_names_leave_normals_on_both_sides(normals, folds):
    rows = pd.DataFrame({"patient": [*normals, "person1", "person2"], "label": [0] * len(normals) + [1, 1]})
    held = better.pseudo_batches(rows)
    assert held[rows["label"] == 0].to_dict("list") == folds


def test_pseudo_batches_need_two_patients_of_each_class():
    with pytest.raises(ValueError, match="1 normal and 2 pneumonia patients; expected two"):
        better.pseudo_batches(pd.DataFrame({"patient": ["IM-1", "person1", "person2"], "label": [0, 1, 1]}))


def test_held_out_scores_come_from_networks_that_never_saw_the_patient(train):
    seen = []

    def score(learn, held):
        seen.append((learn, held))
        return held / 100

    table = better.held_out_scores(train, score)
    assert list(table) == ["label", "patient", "fold", "score"]
    for (learn, held), (_, part) in zip(seen, table.groupby("fold", sort=False), strict=True):
        assert sorted([*learn, *held]) == list(range(len(train)))
        assert not set(train["patient"].iloc[learn]) & set(part["patient"])
        np.testing.assert_array_equal(part["score"], held / 100)
        np.testing.assert_array_equal(part["label"], train["label"].iloc[held])


def test_pooled_features_are_vgg16s_and_the_same_for_a_mirror_image(train, cache):
    arrays = models.report_vgg16(32, units=1, weights=None, seed=1).get_weights()[:26]
    weights = VGG16Weights(tuple(arrays), "random", "")
    images = pixels.load_pixels(train.iloc[:5], 32, interpolation="area")
    features = better.pooled_features(images, block=2, weights=weights)
    assert features.shape == (5, 128)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(better.pooled_features(images[:, :, ::-1], block=2, weights=weights), features)
    reference = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    reference.set_weights(arrays)
    block = keras.Model(reference.input, reference.get_layer("block2_pool").output)
    sides = [
        block(keras.applications.vgg16.preprocess_input(np.array(x, np.float32))) for x in (images, images[:, :, ::-1])
    ]
    np.testing.assert_allclose(features, np.mean(sides, axis=(0, 2, 3)), rtol=2e-3, atol=1e-2)  # kept as float16


def test_heads_learn_repeat_themselves_and_differ_by_seed(train):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(train), 6)) + 2 * train["label"].to_numpy()[:, None]
    heads = better.train_heads(features, train, members=3)
    scores = better.predict_heads(heads, features)
    assert len(heads) == 3
    assert scores.shape == (len(train),)
    assert roc_auc_score(train["label"], scores) > 0.95
    np.testing.assert_array_equal(
        better.predict_heads(better.train_heads(features, train, members=3), features), scores
    )
    assert not np.array_equal(
        better.predict_heads(better.train_heads(features, train, members=3, seed=1), features), scores
    )
    weak, strong = (better.train_heads(features, train, members=1, strength=c)[0][-1].coef_ for c in (1e-3, 1))
    assert np.abs(weak).sum() < np.abs(strong).sum()


def test_fold_areas_are_those_of_scikit_learn(train):
    rng = np.random.default_rng(0)
    held = better.held_out_scores(train, lambda learn, held: rng.random(len(held)))
    areas = better.fold_areas(train, held)
    expected = [roc_auc_score(part["label"], part["score"]) for _, part in held.groupby("fold", sort=False)]
    np.testing.assert_allclose(areas.iloc[:3], expected)
    assert areas["mean"] == pytest.approx(np.mean(expected))
    assert 0.01 < areas["error"] < 0.3
    perfect = better.fold_areas(train, held.assign(score=held["label"].astype(float)))
    assert perfect["mean"] == pytest.approx(1)
    assert perfect["error"] == pytest.approx(0, abs=1e-9)

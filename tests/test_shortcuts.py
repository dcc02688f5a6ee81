"""The audit finds what was planted and is silent where nothing was; re-encoding changes the wrapping and no lungs."""

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from xrayhelpers import dataset, evaluate, phantom, shortcuts


def draw_patients(seed, n_normal=24, n_pneumonia=40, alike=0.6):
    """Draw labels, patients, and a function that draws a suspect: alike in a patient, the same in both classes."""
    rng = np.random.default_rng(seed)
    # Pneumonia patients have more images each, as in the real data.
    images = np.r_[rng.geometric(0.8, n_normal), rng.geometric(0.6, n_pneumonia)]
    patients = np.repeat(np.arange(images.size), images)

    def draw(d=1):
        own = rng.normal(size=(images.size, d))[patients]
        return np.sqrt(alike) * own + np.sqrt(1 - alike) * rng.normal(size=(patients.size, d))

    return (patients >= n_normal).astype(int), patients, draw


@pytest.fixture(scope="module")
def index(phantom_root):
    rows = dataset.load_index(phantom_root)
    return rows[rows["split"] == "train"].reset_index(drop=True)


# ---------------------------------------------------------------------------------------------- the audit
def test_audit_finds_what_is_planted_and_nothing_else():
    labels, patients, draw = draw_patients(0)
    suspects = {
        "clear": draw() + 2 * labels[:, None],
        "one of sixteen": draw(16) + 2.5 * labels[:, None] * np.eye(16)[3],
        "backwards": draw()[:, 0] - 2 * labels,
        "nothing": draw(),
        "nothing, much of it": draw(16),
        "the same everywhere": np.full(labels.size, 224),
    }
    audit = shortcuts.audit_suspects(suspects, labels, patients)
    assert audit.index.tolist() == list(suspects)
    assert audit["flagged"].tolist() == [True, True, True, False, False, False]
    assert audit["value"].iloc[:3].min() > 0.85
    assert (audit["low"].iloc[:3] > 0.5).all()
    assert audit["high"].iloc[3:5].max() < audit["low"].iloc[:3].min()
    assert audit.loc["the same everywhere", ["value", "low", "high", "p"]].tolist() == [0.5, 0.5, 0.5, 1.0]
    pd.testing.assert_frame_equal(audit, shortcuts.audit_suspects(suspects, labels, patients))


def test_one_clear_suspect_has_the_area_of_its_ranks():
    """A classifier of one number orders images by it, so within each fold the area is that of the number itself."""
    labels, patients, draw = draw_patients(1)
    x = draw() + 3 * labels[:, None]
    found = shortcuts.audit_suspects({"x": x}, labels, patients, permutations=99).loc["x"]
    assert found["value"] == pytest.approx(roc_auc_score(labels, x[:, 0]), abs=0.02)
    assert found["p"] == 1 / 100


def test_patients_are_not_recognised():
    """A number a patient tells the label of every image seen before; of unseen patients it tells nothing."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(30), 6)
    labels = (patients >= 15).astype(int)
    secret = rng.normal(size=(30, 12))[patients]
    assert not shortcuts.audit_suspects({"secret": secret}, labels, patients)["flagged"].any()


def test_labels_are_dealt_by_patient_within_folds_and_sizes():
    labels, patients, _ = draw_patients(3)
    fold = patients % 3
    splits = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(3)]
    dealt = shortcuts._deal_labels(labels, patients, splits, 20, seed=0)
    np.testing.assert_array_equal(dealt[:, 0], labels)
    assert (dealt[:, 1:] != labels[:, None]).any(axis=0).all()
    by_patient = pd.DataFrame(dealt).groupby(patients)
    assert (by_patient.nunique() == 1).all(axis=None)
    for k in range(3):
        assert (dealt[fold == k].sum(axis=0) == labels[fold == k].sum()).all()


def test_a_patient_with_both_labels_keeps_them():
    labels, patients = np.array([0, 1, 0, 1, 0, 1, 0, 1]), np.array([0, 0, 1, 2, 3, 4, 5, 6])
    splits = [(np.arange(4), np.arange(4, 8)), (np.arange(4, 8), np.arange(4))]
    dealt = shortcuts._deal_labels(labels, patients, splits, 30, seed=0)
    assert (dealt[0] == 0).all()
    assert (dealt[1] == 1).all()


def count_alarms(seeds, **how):
    """Count over data sets without a shortcut: (share of single p <= 0.05, share of audits with any flag)."""
    single, family = [], 0
    for seed in seeds:
        labels, patients, draw = draw_patients(seed, **how)
        suspects = {"a": draw(), "b": draw().round(), "c": draw(32) @ np.diag(np.arange(1, 33)), "d": draw(16)}
        audit = shortcuts.audit_suspects(suspects, labels, patients, permutations=199, seed=seed)
        single += audit["p"].le(0.05).tolist()
        family += audit["flagged"].any()
    return np.mean(single), family / len(seeds)


def test_false_alarms_are_as_rare_as_promised():
    single, family = count_alarms(range(60))
    assert 0.01 <= single <= 0.10  # 240 draws at 0.05: 0.014 is one standard error
    assert family <= 0.14


@pytest.mark.slow
def test_false_alarms_in_a_thousand_data_sets():
    single, family = count_alarms(range(1000))
    assert 0.04 <= single <= 0.06
    assert family <= 0.065


@pytest.mark.slow
def test_audit_is_silent_on_a_hundred_phantoms_with_nothing_planted(tmp_path, monkeypatch):
    monkeypatch.setenv("XRAYS_CACHE", str(tmp_path))
    alarms = 0
    for seed in range(100):
        root = phantom.phantom_folder(80, 2, 0, seed, progress=False, **phantom.NOTHING_PLANTED)
        rows = dataset.load_index(root)
        alarms += shortcuts.shortcut_audit(rows[rows["split"] == "train"], seed=seed)["flagged"].any()
    assert alarms <= 10


def test_audit_of_the_phantom_finds_how_it_is_stored(index):
    audit = shortcuts.shortcut_audit(index)
    assert audit.index.tolist() == [
        "file bytes", "bytes a pixel", "width", "height", "aspect", "JPEG quality", "mean intensity", "border pixels",
        "corner crop",
    ]  # fmt: skip
    assert audit.loc[["file bytes", "bytes a pixel", "JPEG quality", "width"], "flagged"].all()
    assert audit.loc["JPEG quality", "value"] > 0.95
    assert not audit.loc["aspect", "flagged"]


def test_audit_says_what_it_needs():
    with pytest.raises(ValueError, match="Found 1 normal and 3 pneumonia patients"):
        shortcuts.audit_suspects({"x": np.arange(5)}, [0, 0, 1, 1, 1], ["a", "a", "b", "c", "d"])


@pytest.mark.parametrize("quality", [1, 30, 62, 75, 90, 95, 100])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_quality_is_read_from_the_file(tmp_path, quality, mode):
    Image.new(mode, (32, 32)).save(tmp_path / "x.jpeg", quality=quality)
    assert shortcuts.jpeg_quality(tmp_path / "x.jpeg") == quality


def test_what_is_no_jpeg_lost_nothing(tmp_path):
    Image.new("L", (32, 32)).save(tmp_path / "x.png")
    (tmp_path / "x.dcm").write_bytes(bytes(128) + b"DICM")
    assert shortcuts.jpeg_quality(tmp_path / "x.png") == shortcuts.jpeg_quality(tmp_path / "x.dcm") == 100


# ------------------------------------------------------------------------------------------ the causal test
@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (40, 50, 3)])
def test_reencoding_keeps_the_picture_and_loses_detail(shape):
    ramp = np.linspace(20, 200, 40)[:, None, None] + np.linspace(0, 50, 50)[:, None] + np.array([0, -10, 5])
    noise = np.random.default_rng(0).normal(0, 6, (40, 50, 3))
    image = (ramp + noise).clip(0, 255).astype(np.uint8)
    image = image if len(shape) == 3 and shape[2] == 3 else image[..., 0].reshape(shape)
    error = {q: np.abs(shortcuts.reencode(image, q).astype(float) - image).mean() for q in (95, 30)}
    assert shortcuts.reencode(image, 95).shape == shape
    assert shortcuts.reencode(image, 95).dtype == np.uint8
    assert error[95] < error[30] < 8
    smooth = cv2.GaussianBlur(image.reshape(40, 50, -1), (0, 0), 3).astype(float).squeeze()
    again = cv2.GaussianBlur(shortcuts.reencode(image, 60).reshape(40, 50, -1), (0, 0), 3).astype(float).squeeze()
    assert np.abs(smooth - again).max() < 6  # colours are not swapped either


@pytest.mark.parametrize("wrong", [{"quality": 0}, {"quality": 101}])
def test_reencoding_refuses_what_is_no_quality(wrong):
    with pytest.raises(ValueError, match="1 to 100"):
        shortcuts.reencode(np.zeros((8, 8), np.uint8), **wrong)


def test_reencoded_pixels_are_those_of_a_file_stored_so(index, tmp_path):
    rows = index.iloc[[0, 30]]
    found = shortcuts.reencoded_pixels(rows, [60, 90], 32, 1, "nearest")
    assert found.shape == (2, 32, 32, 1)
    for path, quality, pixels in zip(rows["path"], (60, 90), found, strict=True):
        whole = shortcuts.reencode(np.asarray(Image.open(path)), quality)
        np.testing.assert_array_equal(
            np.asarray(Image.fromarray(whole).resize((32, 32), Image.NEAREST)), pixels[..., 0]
        )


def test_one_quality_for_all_takes_the_shortcut_away(index, tmp_path):
    """After storing at one quality the tables are alike; only width still tells."""
    typical = shortcuts.typical_quality(index)
    assert typical[0] > typical[1] + 8
    for number, path in enumerate(index["path"][:4]):
        pixels = shortcuts.reencode(path, 70)
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpeg", quality=70)
        assert shortcuts.jpeg_quality(tmp_path / f"{number}.jpeg") == 70


def smoothness(pixels):
    """Score how many neighbours are alike: what a model reads that has learnt how images were stored."""
    return (np.abs(np.diff(pixels[..., 0].astype(float), axis=2)) <= 1).mean(axis=(1, 2))


def test_effect_of_reencoding_on_a_model_that_reads_storage_and_on_one_that_does_not(index):
    reader = shortcuts.reencoding_effect(index, smoothness, 340, 1, "nearest")
    kinds = ("other", "own", "other - own")
    assert reader.index.tolist() == [(q, of) for q in kinds for of in ("NORMAL", "PNEUMONIA", "ROC AUC")]
    assert reader.loc[("other", "ROC AUC"), "before"] > 0.7  # it tells the classes apart by storage alone
    assert reader.loc[("other - own", "NORMAL"), "low"] > 0  # stored as pneumonia is, a healthy film looks ill
    change = reader["after"] - reader["before"]
    np.testing.assert_allclose(change, reader["value"], atol=1e-9)
    blind = shortcuts.reencoding_effect(index, lambda pixels: np.full(len(pixels), 0.7), 32, 1)
    assert (blind[["value", "low", "high"]] == 0).all(axis=None)


def test_paired_change_by_patient():
    before = np.zeros(8)
    after = np.array([1.0, 1, 1, 1, 3, 3, 3, 3])
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
        found = evaluate.paired_change(np.zeros(120), change, patients, 400, seed)
        held += found["low"] <= 0.3 <= found["high"]
    assert held / 200 == pytest.approx(0.95, abs=0.04)


@pytest.mark.parametrize(("corner", "at"), [("top left", (0, 0)), ("bottom right", (-1, -1)), ("top right", (0, -1))])
def test_only_a_corner_is_left(corner, at):
    pixels = np.full((2, 8, 12, 3), 9, np.uint8)
    left = shortcuts.corner_only(pixels, 0.25, corner)
    assert (left[:, *at] == 9).all()
    assert (left == 9).sum() == 2 * 2 * 3 * 3
    assert (pixels == 9).all()


def test_corner_refuses_what_is_none():
    with pytest.raises(ValueError, match="expected one of top left"):
        shortcuts.corner_only(np.zeros((1, 8, 8, 1)), corner="middle")

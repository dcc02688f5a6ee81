"""The audit finds what was planted and is silent where nothing was; re-encoding changes the wrapping and no lungs."""

import io

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from xrayhelpers import _phantom, shortcuts
from xrayhelpers.data import load_index


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
def index(tmp_path_factory):
    """Thirty patients per class with the same kind of picture, but normals are wider and stored at a higher quality."""
    root, rng = tmp_path_factory.mktemp("stored"), np.random.default_rng(0)
    for split, n in (("train", 30), ("test", 1)):
        for label, name in enumerate(("NORMAL", "PNEUMONIA")):
            (root / split / name).mkdir(parents=True)
            for number in range(n):
                number = 1000 * (split == "test") + 100 + number
                file = f"person{number}_virus_1.jpeg" if label else f"IM-{number:04}-0001.jpeg"
                height, width = 200, (260, 220)[label] + rng.integers(0, 30)
                picture = cv2.GaussianBlur(rng.normal(0, 300, (height, width)), (0, 0), 8) + 110
                picture += rng.normal(0, 6, picture.shape)
                image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
                image.save(root / split / name / file, quality=(90, 70)[label])
    rows = load_index(root)
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
    audit = shortcuts._audit(suspects, labels, patients)
    assert audit.index.tolist() == list(suspects)
    assert audit["flagged"].tolist() == [True, True, True, False, False, False]
    assert audit["value"].iloc[:3].min() > 0.85
    assert (audit["low"].iloc[:3] > 0.5).all()
    assert audit["high"].iloc[3:5].max() < audit["low"].iloc[:3].min()
    assert audit.loc["the same everywhere", ["value", "low", "high", "p"]].tolist() == [0.5, 0.5, 0.5, 1.0]
    pd.testing.assert_frame_equal(audit, shortcuts._audit(suspects, labels, patients))


def test_one_clear_suspect_has_the_area_of_its_ranks():
    """A classifier of one number orders images by it, so within each fold the area is that of the number itself."""
    labels, patients, draw = draw_patients(1)
    x = draw() + 3 * labels[:, None]
    found = shortcuts._audit({"x": x}, labels, patients).loc["x"]
    assert found["value"] == pytest.approx(roc_auc_score(labels, x[:, 0]), abs=0.02)
    assert found["p"] == 1 / 1000


def test_patients_are_not_recognised():
    """A number per patient tells the label of every image seen before; for unseen patients it tells nothing."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(30), 6)
    labels = (patients >= 15).astype(int)
    secret = rng.normal(size=(30, 12))[patients]
    assert not shortcuts._audit({"secret": secret}, labels, patients)["flagged"].any()


def test_labels_are_dealt_by_patient_within_folds_and_sizes():
    labels, patients, _ = draw_patients(3)
    fold = patients % 3
    splits = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(3)]
    dealt = shortcuts._deal_labels(labels, patients, splits, seed=0)
    np.testing.assert_array_equal(dealt[:, 0], labels)
    assert (dealt[:, 1:] != labels[:, None]).any(axis=0).mean() > 0.99
    by_patient = pd.DataFrame(dealt).groupby(patients)
    assert (by_patient.nunique() == 1).all(axis=None)
    for k in range(3):
        assert (dealt[fold == k].sum(axis=0) == labels[fold == k].sum()).all()


def test_a_patient_with_both_labels_keeps_them():
    labels, patients = np.array([0, 1, 0, 1, 0, 1, 0, 1]), np.array([0, 0, 1, 2, 3, 4, 5, 6])
    splits = [(np.arange(4), np.arange(4, 8)), (np.arange(4, 8), np.arange(4))]
    dealt = shortcuts._deal_labels(labels, patients, splits, seed=0)
    assert (dealt[0] == 0).all()
    assert (dealt[1] == 1).all()


def test_false_alarms_are_rare(monkeypatch):
    """Over data sets without a shortcut: 5 % of p-values below 0.05, and 5 % of audits with any flag, not more."""
    monkeypatch.setattr(shortcuts, "PERMUTATIONS", 199)
    single, family = [], []
    for seed in range(40):
        labels, patients, draw = draw_patients(seed)
        suspects = {"a": draw(), "b": draw().round(), "c": draw(32) @ np.diag(np.arange(1, 33)), "d": draw(16)}
        audit = shortcuts._audit(suspects, labels, patients, seed=seed)
        single += audit["p"].le(0.05).tolist()
        family.append(audit["flagged"].any())
    assert 0.01 <= np.mean(single) <= 0.10  # 160 draws at 0.05: one standard error is 0.017
    assert np.mean(family) <= 0.14


@pytest.mark.slow
def test_audit_is_silent_on_phantoms_with_nothing_planted(tmp_path, monkeypatch):
    monkeypatch.setenv("XRAYS_CACHE", str(tmp_path))
    alarms = 0
    for seed in range(5):
        root = _phantom.phantom_folder(80, 2, 0, seed, **_phantom.NOTHING_PLANTED)
        rows = load_index(root)
        alarms += shortcuts.shortcut_audit(rows[rows["split"] == "train"], seed=seed)["flagged"].any()
    assert alarms <= 1


def test_audit_finds_how_images_are_stored(index):
    audit = shortcuts.shortcut_audit(index)
    stored = ["file bytes", "bytes per pixel", "width", "aspect", "JPEG quality"]
    assert audit.index[audit["flagged"]].tolist() == stored
    assert audit.index[~audit["flagged"]].tolist() == ["height", "mean intensity", "border pixels", "corner crop"]
    assert audit.loc["JPEG quality", "value"] == 1


def test_audit_says_what_it_needs():
    with pytest.raises(ValueError, match="Found 1 normal and 3 pneumonia patients"):
        shortcuts._audit({"x": np.arange(5)}, [0, 0, 1, 1, 1], ["a", "a", "b", "c", "d"])


def test_jpeg_quality_is_read_from_the_file(tmp_path):
    for mode in ("L", "RGB"):
        for quality in range(1, 101):
            Image.new(mode, (32, 32)).save(tmp_path / "x.jpeg", quality=quality)
            assert shortcuts._jpeg_quality(tmp_path / "x.jpeg") == quality


def test_what_is_no_jpeg_lost_nothing(tmp_path):
    Image.new("L", (32, 32)).save(tmp_path / "x.png")
    (tmp_path / "x.dcm").write_bytes(bytes(128) + b"DICM")
    assert shortcuts._jpeg_quality(tmp_path / "x.png") == shortcuts._jpeg_quality(tmp_path / "x.dcm") == 100


# ------------------------------------------------------------------------------------------ the causal test
def reencode(image, quality):
    return np.asarray(Image.open(io.BytesIO(shortcuts._encode(image, quality)))).reshape(image.shape)


def test_reencoding_keeps_the_picture_and_loses_detail():
    ramp = np.linspace(20, 200, 40)[:, None, None] + np.linspace(0, 50, 50)[:, None] + np.array([0, -10, 5])
    noise = np.random.default_rng(0).normal(0, 6, (40, 50, 3))
    color = (ramp + noise).clip(0, 255).astype(np.uint8)
    for image in (color[..., 0], color[..., :1], color):
        error = {q: np.abs(reencode(image, q).astype(float) - image).mean() for q in (95, 30)}
        assert reencode(image, 95).shape == image.shape
        assert reencode(image, 95).dtype == np.uint8
        assert error[95] < error[30] < 8
        smooth, again = (
            cv2.GaussianBlur(picture.reshape(40, 50, -1), (0, 0), 3).astype(float)
            for picture in (image, reencode(image, 60))
        )
        assert np.abs(smooth - again).max() < 6  # colors are not swapped either


def test_reencoding_refuses_what_is_no_quality(index):
    for quality in (0, 101):
        with pytest.raises(ValueError, match="1 to 100"):
            shortcuts.reencoded_images(index[:2], quality)


def test_reencoded_images_are_those_of_a_file_stored_so(index):
    rows = index.iloc[[0, 30]]
    found = shortcuts.reencoded_images(rows, [60, 90], 32, interpolation="nearest")
    assert found.shape == (2, 32, 32, 3)
    for path, quality, pixels in zip(rows["path"], (60, 90), found, strict=True):
        whole = reencode(np.asarray(Image.open(path)), quality)
        expected = np.asarray(Image.fromarray(whole).resize((32, 32), Image.NEAREST))
        np.testing.assert_array_equal(pixels, np.dstack([expected] * 3))


def test_typical_qualities(index):
    assert shortcuts.typical_quality(index).to_dict() == {0: 90, 1: 70}


def smoothness(pixels):
    """Score how many neighbours are alike: what a model reads that has learnt how images were stored."""
    return (np.abs(np.diff(pixels[..., 0].astype(float), axis=2)) <= 1).mean(axis=(1, 2))


def test_effect_of_reencoding_on_a_model_that_reads_storage_and_on_one_that_does_not(index):
    reader = shortcuts.reencoding_effect(index, smoothness, 200, interpolation="nearest")
    kinds = ("other", "own", "other - own")
    assert reader.index.tolist() == [(q, of) for q in kinds for of in ("NORMAL", "PNEUMONIA", "ROC AUC")]
    assert reader.loc[("other", "ROC AUC"), "before"] > 0.7  # it separates the classes by storage alone
    assert reader.loc[("other - own", "NORMAL"), "low"] > 0  # stored as pneumonia is, a normal image looks ill
    change = reader["after"] - reader["before"]
    np.testing.assert_allclose(change, reader["value"], atol=1e-9)
    blind = shortcuts.reencoding_effect(index, lambda pixels: np.full(len(pixels), 0.7), 32)
    assert (blind[["value", "low", "high"]] == 0).all(axis=None)


def test_only_a_corner_is_left():
    images = np.full((2, 8, 12, 3), 9, np.uint8)
    left = shortcuts.corner_only(images)
    assert (left[:, :2, :3] == 9).all()
    assert (left == 9).sum() == 2 * 2 * 3 * 3
    assert (images == 9).all()

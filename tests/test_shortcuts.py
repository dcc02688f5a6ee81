"""The audit finds what was planted and is silent where nothing was; interventions and controls have known answers."""

import ast
from functools import partial

import cv2
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from tools.lessons import ROOT
from xrayhelpers import _phantom, shortcuts
from xrayhelpers._keras import keras
from xrayhelpers.data import load_images, load_index, split_index


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
    audit = shortcuts.shortcut_audit(suspects, labels, patients)
    assert audit.index.tolist() == list(suspects)
    assert audit["flagged"].tolist() == [True, True, True, False, False, False]
    assert audit["value"].iloc[:3].min() > 0.85
    assert (audit["low"].iloc[:3] > 0.5).all()
    assert audit["high"].iloc[3:5].max() < audit["low"].iloc[:3].min()
    assert audit.loc["the same everywhere", ["value", "low", "high", "p"]].tolist() == [0.5, 0.5, 0.5, 1.0]
    pd.testing.assert_frame_equal(audit, shortcuts.shortcut_audit(suspects, labels, patients))


def test_one_clear_suspect_has_the_area_of_its_ranks():
    """A classifier of one number orders images by it, so within each fold the area is that of the number itself."""
    labels, patients, draw = draw_patients(1)
    x = draw() + 3 * labels[:, None]
    found = shortcuts.shortcut_audit({"x": x}, labels, patients).loc["x"]
    assert found["value"] == pytest.approx(roc_auc_score(labels, x[:, 0]), abs=0.02)
    assert found["p"] == 1 / 1000


def test_patients_are_not_recognised():
    """A number per patient tells the label of every image seen before; for unseen patients it tells nothing."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(30), 6)
    labels = (patients >= 15).astype(int)
    secret = rng.normal(size=(30, 12))[patients]
    assert not shortcuts.shortcut_audit({"secret": secret}, labels, patients)["flagged"].any()


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
        audit = shortcuts.shortcut_audit(suspects, labels, patients, seed=seed)
        single += audit["p"].le(0.05).tolist()
        family.append(audit["flagged"].any())
    assert 0.01 <= np.mean(single) <= 0.10  # 160 draws at 0.05: one standard error is 0.017
    assert np.mean(family) <= 0.14


@pytest.mark.slow
def test_audit_is_silent_on_phantoms_with_nothing_planted(tmp_path, monkeypatch, nothing_planted):
    monkeypatch.setenv("XRAYS_CACHE", str(tmp_path))
    alarms = 0
    for seed in range(5):
        root = _phantom.phantom_folder(80, 2, 0, seed, **nothing_planted)
        rows = load_index(root)
        rows = rows[rows["split"] == "train"]
        suspects = shortcuts.measure_suspects(rows)
        alarms += shortcuts.shortcut_audit(suspects, rows["label"], rows["patient"], seed)["flagged"].any()
    assert alarms <= 1


def test_audit_finds_how_images_are_stored(index):
    audit = shortcuts.shortcut_audit(shortcuts.measure_suspects(index), index["label"], index["patient"])
    stored = ["file bytes", "bytes per pixel", "width", "aspect", "JPEG quality"]
    assert audit.index[audit["flagged"]].tolist() == stored
    assert audit.index[~audit["flagged"]].tolist() == ["height", "mean intensity", "border pixels", "corner crop"]
    assert audit.loc["JPEG quality", "value"] == 1


def test_audit_says_what_it_needs():
    with pytest.raises(ValueError, match="Found 1 normal and 3 pneumonia patients"):
        shortcuts.shortcut_audit({"x": np.arange(5)}, [0, 0, 1, 1, 1], ["a", "a", "b", "c", "d"])


def test_jpeg_quality_is_read_from_the_file(tmp_path):
    for mode in ("L", "RGB"):
        for quality in range(1, 101):
            Image.new(mode, (32, 32)).save(tmp_path / "x.jpeg", quality=quality)
            assert shortcuts._jpeg_quality(tmp_path / "x.jpeg") == quality


def test_what_is_no_jpeg_lost_nothing(tmp_path):
    Image.new("L", (32, 32)).save(tmp_path / "x.png")
    (tmp_path / "x.dcm").write_bytes(bytes(128) + b"DICM")
    assert shortcuts._jpeg_quality(tmp_path / "x.png") == shortcuts._jpeg_quality(tmp_path / "x.dcm") == 100


# ------------------------------------------------------------------------------------------ interventions
@pytest.fixture(scope="module")
def lesson():
    """The functions of lesson 8; what its cells compute beside them is set by each test."""
    cells = nbformat.read(ROOT / "notebooks" / "08_shortcuts.ipynb", as_version=4).cells
    body = [node for cell in cells if cell.cell_type == "code" for node in ast.parse(cell.source).body]
    body = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)]
    names = {"seed": 0, "epochs": 30}
    exec(compile(ast.Module(body, []), "08_shortcuts", "exec"), names)
    return names


def ask_about(lesson, rows, size=32):
    """Give the lesson's functions the images they ask about."""
    lesson |= {"held": rows, "labels": rows["label"].to_numpy(), "patients": rows["patient"].to_numpy(), "size": size}


def test_unchanged_images_are_those_of_load_images(index):
    rows, asked = index.iloc[[0, 30, 31]], []
    found = shortcuts.changed_images(rows, lambda pixels, like: asked.append(like) or pixels, [0, 1, 1], 48)
    assert found.dtype == np.uint8
    assert sorted(asked) == [0, 1, 1]
    difference = found.astype(float) - load_images(rows, 48)
    assert np.abs(difference).mean() < 1  # `load_images` may decode at a reduced scale
    seen = shortcuts.changed_images(rows, lambda pixels, like: np.full_like(pixels, 100 * like), [0, 1, 0], 8)
    assert seen.shape == (3, 8, 8, 3)
    assert seen.mean(axis=(1, 2, 3)).tolist() == [0, 100, 0]


def test_each_change_sets_what_it_should_and_leaves_the_rest(lesson):
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.normal(0, 400, (320, 256)), (0, 0), 6) + 120 + rng.normal(0, 8, (320, 256))
    picture = picture.clip(0, 255).astype(np.uint8)

    def detail(pixels):
        return cv2.Laplacian(pixels, cv2.CV_64F).var()

    for change, values, least in (("store", [95, 10], 0.2), ("resize", [(256, 320), (64, 80)], 0.2)):
        same, less = (lesson[change](values, picture, like) for like in (0, 1))
        assert same.shape == less.shape == picture.shape
        assert np.abs(same.astype(float) - picture).mean() < 3
        assert detail(less) < (1 - least) * detail(same)
        assert np.abs(cv2.GaussianBlur(less, (0, 0), 8).astype(float) - cv2.GaussianBlur(picture, (0, 0), 8)).max() < 8
    again = lesson["resize"]([(512, 640), (256, 320)], lesson["resize"]([(64, 80)] * 2, picture, 0), 0)
    assert detail(again) < 0.2 * detail(picture)  # what is lost does not return
    for like, mean in enumerate([100, 140]):
        assert lesson["expose"]([100, 140], picture, like).mean() == pytest.approx(mean, abs=1)
        painted = lesson["frame"]([np.full((32, 32), 7.0), np.full((32, 32), 200.0)], picture, like)
        color = (7, 200)[like]
        assert (painted[:10] == color).all()
        assert (painted[:, -8:] == color).all()
        assert (painted[:80, :64] == color).all()
        np.testing.assert_array_equal(painted[80:310, 8:248], picture[80:310, 8:248])


def reader(weight):
    """A network whose score is a weight times the mean brightness, 0 to 1."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((32, 32, 3)), layers.Rescaling(1 / 255), layers.GlobalAveragePooling2D()])
    model.add(layers.Dense(1))
    model.layers[-1].set_weights([np.full((3, 1), weight / 3), np.zeros(1)])
    return model


def test_effects_by_hand(index, lesson):
    """A score that is the brightness follows it by exactly the difference in brightness; one that is blind does not."""
    ask_about(lesson, index)
    expose = partial(lesson["expose"], [100, 125.5])
    for weight in (1, 0):
        found = lesson["effect"](reader(weight), expose)
        assert found.index.tolist() == ["NORMAL", "PNEUMONIA"]
        assert found["value"].tolist() == pytest.approx([weight * 0.1] * 2, abs=0.003)
        assert (found["high"] - found["low"]).max() < 0.005
    backwards = lesson["effect"](reader(-1), expose)
    assert (backwards["high"] < 0).all(), "away from the other class"
    nothing = lesson["effect"](reader(1), lambda pixels, like: pixels)
    assert (nothing == 0).all(axis=None)


@pytest.mark.slow
def test_positive_controls_react_and_negative_ones_hardly(tmp_path, monkeypatch, lesson):
    """Each change in its extreme dose, as the lesson plants it; and a dose of nothing shows nothing."""
    monkeypatch.setenv("XRAYS_CACHE", str(tmp_path))
    rows = split_index(load_index(_phantom.phantom_folder(400, 2, 0, 1)))
    learn = rows[rows["part"] == "train"]
    ask_about(lesson, rows[rows["part"] == "validation"], 64)
    lesson["few"] = learn.sample(frac=1, random_state=0).groupby("label").head(75)
    frame = load_images(learn, 32, channels=1)[..., 0].mean(axis=0)
    extremes = {"store": [95, 3], "resize": [(320, 320), (32, 32)], "expose": [100, 160]}
    for name, dose in {**extremes, "frame": [frame, (frame + 60).clip(0, 255)]}.items():
        change = partial(lesson[name], dose)
        positive, negative = (lesson["effect"](lesson["control"](change, kind), change) for kind in (True, False))
        assert (positive["low"] > 0.05).all(), (name, positive)
        assert negative["value"].abs().max() < 0.5 * positive["value"].min(), (name, negative)
    same = partial(lesson["store"], [80, 80])
    assert (lesson["effect"](lesson["control"](same, True), same) == 0).all(axis=None)

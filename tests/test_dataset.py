"""The index, both splits as properties of any index, and the report's own cut."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from xrayhelpers import dataset
from xrayhelpers.sources import DataWarning

CAUSES = {0: ["normal"], 1: ["bacteria", "virus"]}


def image(path, size=(20, 16), mode="L", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 50).convert(mode).save(path, **options)


def row(name):
    split, folder, filename = name.split("/")
    label = dataset.CLASSES[folder]
    patient, cause = dataset.patient_of(filename), dataset.cause_of(filename, folder, label)
    return {"path": f"/x/{name}", "name": name, "split": split, "label": label, "patient": patient, "cause": cause}


@st.composite
def indexes(draw):
    """Any index: few or many patients, one or thirty images each, of one cause or of several."""
    rows = []
    for split in ("train", "test", "val"):
        for label in (0, 1):
            for patient in range(draw(st.integers(1, 12))):
                for i in range(draw(st.integers(1, 6))):
                    cause = draw(st.sampled_from(CAUSES[label]))
                    name = f"IM-{patient:04d}-{i:04d}" if label == 0 else f"person{patient}_{cause}_{i}"
                    rows.append(row(f"{split}/{('NORMAL', 'PNEUMONIA')[label]}/{name}.jpeg"))
    order = draw(st.permutations(range(len(rows))))
    return pd.DataFrame([rows[i] for i in order])


fractions = st.floats(0.01, 0.99)
quick = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(indexes(), fractions, st.integers(0, 5), st.sampled_from(["report", "patient"]))
def test_every_image_is_on_exactly_one_side(index, fraction, seed, protocol):
    before = index.copy(deep=True)
    split = dataset.split_index(index, protocol, fraction, seed)
    pd.testing.assert_frame_equal(index, before)
    pd.testing.assert_frame_equal(split[index.columns], index)  # no row lost, doubled or moved
    assert set(split["part"]) <= {"train", "validation", "test", "unused"}
    assert ((split["part"] == "unused") == (split["split"] == "val")).all()
    folder = "test" if protocol == "report" else "train"
    assert set(split["split"][split["part"] == "validation"]) <= {folder}
    assert (split["part"] == "train")[split["part"] != "validation"].equals(
        (split["split"] == "train")[split["part"] != "validation"]
    )


@quick
@given(indexes(), fractions, st.integers(0, 5))
def test_no_patient_on_two_sides_and_proportions_to_the_patient(index, fraction, seed):
    split = dataset.patient_split(index, fraction, seed)
    train = split[split["split"] == "train"]
    assert not set(train["patient"][train["part"] == "train"]) & set(train["patient"][train["part"] == "validation"])
    kinds = train.groupby("patient")[["label", "cause"]].apply(
        lambda p: "+".join(sorted(set(p["label"].astype(str) + p["cause"])))
    )
    for _, rows in train.groupby(train["patient"].map(kinds)):
        found, largest = (rows["part"] == "validation").sum(), rows["patient"].value_counts().max()
        assert abs(found - fraction * len(rows)) <= largest
        if rows["patient"].nunique() > 1:
            assert 0 < found < len(rows)


@quick
@given(indexes(), fractions, st.integers(0, 5), st.sampled_from(["report", "patient"]), st.randoms())
def test_split_does_not_depend_on_the_order_of_rows(index, fraction, seed, protocol, random):
    shuffled = index.iloc[random.sample(range(len(index)), len(index))]
    first = dataset.split_index(index, protocol, fraction, seed).set_index("name")["part"].sort_index()
    second = dataset.split_index(shuffled, protocol, fraction, seed).set_index("name")["part"].sort_index()
    pd.testing.assert_series_equal(first, second)


@quick
@given(indexes(), fractions)
def test_report_split_takes_the_first_names(index, fraction):
    split = dataset.report_split(index, fraction)
    for label in (0, 1):
        rows = split[(split["split"] == "test") & (split["label"] == label)].sort_values("name")
        count = int(len(rows) * fraction)
        assert (rows["part"] == "validation").tolist() == [True] * count + [False] * (len(rows) - count)


def official_test_names():
    normal = [f"IM-{i:04d}-0001.jpeg" for i in range(1, 115)] + [f"NORMAL2-IM-{i:04d}-0001.jpeg" for i in range(1, 121)]
    bacteria = [f"person{80 + i // 3}_bacteria_{380 + i}.jpeg" for i in range(242)]
    virus = [f"person{1 + i}_virus_{6 + i}.jpeg" for i in range(148)]
    return [f"test/NORMAL/{n}" for n in normal] + [f"test/PNEUMONIA/{n}" for n in bacteria + virus]


def test_report_cut_on_official_names():
    index = pd.DataFrame([row(name) for name in official_test_names()])
    assert len(index) == 624
    split = dataset.report_split(index)
    counts = split.groupby(["part", "label"]).size().to_dict()
    assert counts == {("validation", 0): 35, ("validation", 1): 58, ("test", 0): 199, ("test", 1): 332}
    assert split["part"].value_counts().to_dict() == {"test": 531, "validation": 93}
    normals = split[(split["part"] == "validation") & (split["label"] == 0)]
    assert normals["patient"].str.startswith("IM-").all()  # none of NORMAL2-: what lesson 03 is about


def test_patient_split_depends_on_the_seed():
    index = pd.DataFrame([row(f"train/NORMAL/IM-{i:04d}-0001.jpeg") for i in range(200)])
    cuts = [tuple(dataset.patient_split(index, seed=seed)["part"]) for seed in (0, 0, 1)]
    assert cuts[0] == cuts[1] != cuts[2]
    assert cuts[0].count("validation") == 30


def test_unknown_protocol_and_fraction():
    index = pd.DataFrame([row("train/NORMAL/IM-0001-0001.jpeg")])
    with pytest.raises(ValueError, match='"report" or protocol="patient"'):
        dataset.split_index(index, "random")
    for fraction in (0, 1, -1, 15):
        with pytest.raises(ValueError, match="between 0 and 1"):
            dataset.patient_split(index, fraction)


@pytest.mark.parametrize(
    ("filename", "patient", "cause"),
    [
        ("IM-0115-0001.jpeg", "IM-0115", "normal"),
        ("IM-0439-0001-0002.jpeg", "IM-0439", "normal"),
        ("NORMAL2-IM-1427-0001.jpeg", "NORMAL2-IM-1427", "normal"),
        ("person1024_bacteria_2955.jpeg", "person1024", "bacteria"),
        ("person1000_virus_1681.jpeg", "person1000", "virus"),
        ("scan 7.png", "scan 7", "unknown"),
    ],
)
def test_names(filename, patient, cause):
    label = int(cause != "normal")
    assert dataset.patient_of(filename) == patient
    assert dataset.cause_of(filename, "PNEUMONIA" if label else "NORMAL", label) == cause


@pytest.fixture
def tree(tmp_path):
    """A small valid tree, to be spoiled or changed."""
    for split, n in {"train": 4, "test": 3, "val": 1}.items():
        for i in range(n):
            number = 100 * len(split) + i
            image(tmp_path / "chest_xray" / split / "NORMAL" / f"IM-{number:04d}-0001.jpeg")
            image(tmp_path / "chest_xray" / split / "PNEUMONIA" / f"person{number}_virus_{i}.jpeg")
    return tmp_path / "chest_xray"


def test_index_of_a_tree(tree):
    index = dataset.load_index(tree)
    assert tuple(index.columns) == dataset.COLUMNS
    assert index["name"].is_monotonic_increasing
    assert dataset.class_counts(index).to_numpy().tolist() == [[4, 4, 8], [3, 3, 6], [1, 1, 2]]
    first = index.iloc[0]
    assert first["name"] == "test/NORMAL/IM-0400-0001.jpeg"
    assert (first["width"], first["height"], first["mode"]) == (20, 16, "L")
    assert first["bytes"] == os.path.getsize(first["path"])
    assert index.attrs["unreadable"] == {}


@pytest.mark.parametrize("piece", [1, 3])
def test_files_listed_in_pieces_make_the_same_index(tree, monkeypatch, piece):
    (tree / "train" / "NORMAL" / "broken.jpeg").write_bytes(b"no image")
    frames = []
    for size in (dataset.PIECE, piece):
        monkeypatch.setattr(dataset, "PIECE", size)
        with pytest.warns(dataset.DataWarning):
            frames.append(dataset.load_index(tree, max_unreadable=0.5))
    pd.testing.assert_frame_equal(*frames)
    assert list(frames[1].attrs["unreadable"]) == ["train/NORMAL/broken.jpeg"]


def test_the_folder_above_and_a_doubled_tree_and_litter(tree):
    index = dataset.load_index(tree)
    shutil.copytree(tree, tree / "chest_xray")
    (tree / "train" / "NORMAL" / "._IM-0500-0001.jpeg").write_bytes(b"x")
    (tree / "train" / ".DS_Store").write_bytes(b"x")
    (tree / "train" / "NORMAL" / "Thumbs.db").write_bytes(b"x")
    (tree / "__MACOSX").mkdir()
    pd.testing.assert_frame_equal(index, dataset.load_index(tree.parent))


def test_without_val(tree):
    shutil.rmtree(tree / "val")
    assert dataset.class_counts(dataset.load_index(tree)).loc["val", "all"] == 0


def test_other_class_names(tree):
    for split in ("train", "test", "val"):
        (tree / split / "NORMAL").rename(tree / split / "gesund")
        (tree / split / "PNEUMONIA").rename(tree / split / "krank")
    index = dataset.load_index(tree, classes={"gesund": 0, "krank": 1})
    assert dataset.class_counts(index)["all"].tolist() == [8, 6, 2]


def test_kinds_of_files(tree, tmp_path):
    folder = tree / "train" / "NORMAL"
    image(folder / "IM-0900-0001.png", mode="RGBA")
    image(folder / "IM-0901-0001.jpg", mode="CMYK")
    exif = Image.Exif()
    exif[dataset.ORIENTATION] = 6
    image(folder / "IM-0902-0001.jpeg", exif=exif)
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(16, 25)).save(folder / "IM-0903-0001.png")
    index = dataset.load_index(tree).set_index("patient")
    assert index["mode"][["IM-0900", "IM-0901", "IM-0902"]].tolist() == ["RGBA", "CMYK", "L"]
    assert index["mode"]["IM-0903"].startswith("I")
    assert index.loc["IM-0902", ["width", "height"]].tolist() == [16, 20]  # upright


def test_names_that_say_no_patient_are_said(tree):
    image(tree / "train" / "NORMAL" / "scan 1.jpeg")
    with pytest.warns(DataWarning, match=r"1 file names say no patient \(as train/NORMAL/scan 1.jpeg"):
        dataset.load_index(tree)


def test_duplicates(tree):
    assert dataset.find_duplicates(dataset.load_index(tree)).empty
    source = tree / "train" / "NORMAL" / "IM-0500-0001.jpeg"
    shutil.copy(source, tree / "test" / "NORMAL" / "IM-0777-0001.jpeg")
    shutil.copy(source, tree / "train" / "NORMAL" / "IM-0778-0001.jpeg")
    found = dataset.find_duplicates(dataset.load_index(tree))
    assert found["patient"].tolist() == ["IM-0777", "IM-0500", "IM-0778"]
    assert found["across"].all()


def test_fingerprint_names_the_data(tree):
    index = dataset.load_index(tree)
    first = dataset.fingerprint(index)
    assert len(first) == 12
    assert first == dataset.fingerprint(index.sample(frac=1, random_state=0))
    assert first != dataset.fingerprint(index.iloc[1:])
    image(tree / "train" / "NORMAL" / "IM-0500-0001.jpeg", size=(40, 40))
    assert first != dataset.fingerprint(dataset.load_index(tree))


def test_count_patients_by_both_readings():
    names = ["train/PNEUMONIA/person1_bacteria_1.jpeg", "train/PNEUMONIA/person1_virus_2.jpeg"]
    names += ["train/NORMAL/IM-0001-0001.jpeg", "test/PNEUMONIA/person1_virus_3.jpeg"]
    names += ["test/PNEUMONIA/person2_bacteria_3.jpeg", "test/PNEUMONIA/person2_bacteria_4.jpeg"]
    counts = dataset.count_patients(pd.DataFrame([row(name) for name in names]))
    assert counts.loc["coarse"].tolist() == [2, 2, 1, 1]
    assert counts.loc["fine"].tolist() == [3, 2, 1, 1]
    names[3] = "test/PNEUMONIA/person1_bacteria_9.jpeg"
    names.pop(0)
    counts = dataset.count_patients(pd.DataFrame([row(name) for name in names]))
    assert counts.loc["fine", "shared"] == 0
    assert counts.loc["coarse", "shared"] == 1


def test_phantom(phantom_root):
    index = dataset.load_index(phantom_root)
    assert dataset.class_counts(index)["all"].tolist() == [60, 30, 8]
    split = dataset.patient_split(index)
    assert 0 < (split["part"] == "validation").sum() < 30

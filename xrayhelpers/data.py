"""The images: where they are, one row per image, both ways to split them, and their pixels.

>>> source = open_data("phantom")
>>> index = split_index(load_index(source.folder))
>>> images, labels = load_parts(index, size=64)
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import os
import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from xrayhelpers._images import IMAGE_SUFFIXES, UnreadableError, read_header
from xrayhelpers._machine import DataError, DataNotFoundError, DataWarning, cores, default_data, resolve, sha256_of
from xrayhelpers._store import load_images

SPLITS = ("train", "test", "val")  # the folders
PARTS = ("train", "validation", "test")  # what `split_index` makes of them
CLASSES = {"NORMAL": 0, "PNEUMONIA": 1}
COLUMNS = ("path", "name", "split", "label", "patient", "cause", "width", "height", "mode", "bytes")
MOST_UNREADABLE = 0.05  # largest share of unreadable files that is left out with a warning
FRACTION = 0.15  # of a folder becomes the validation set, as in the report
PATIENT = re.compile(r"(?:NORMAL2-)?IM-\d+|person\d+")
CAUSE = re.compile(r"bacteria|virus")


# ------------------------------------------------------------------------------------------------ where they are
@dataclass(frozen=True)
class DataRecord:
    """A published data set: where it is, what may be done with it, what it must hold."""

    name: str
    address: str
    version: str
    license: str
    citation: str
    counts: dict[str, int]


KAGGLE = DataRecord(
    name="Kaggle chest-xray-pneumonia",
    address="https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia",
    version="2",
    license="CC BY 4.0",
    citation="Kermany, Zhang, Goldbaum, Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for "
    "Classification, Mendeley Data, doi:10.17632/rscbjbr9sj.2; Kermany et al., Cell 172 (2018) 1122-1131, "
    "doi:10.1016/j.cell.2018.02.010",
    counts={"train": 5216, "test": 624, "val": 16},
)


@dataclass(frozen=True)
class DataSource:
    """One opened source of images.

    Attributes
    ----------
    name : str
        "folder", "phantom" or "kaggle".
    folder : Path
        The folder that holds `train/` and `test/`, and often `val/`.
    record : DataRecord or None
        The published data set this is, or is compared with.
    note : str
        What was found, in words, without an absolute path.
    """

    name: str
    folder: Path
    record: DataRecord | None = None
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name} data: {self.note}"


def open_data(data: str | Path = "auto") -> DataSource:
    """Open the data that a lesson uses; `print` the result to see which they are.

    Parameters
    ----------
    data : str or Path
        "auto": the folder in `XRAYS_DATA` if set, else `data/chest_xray` below the working folder or the repository,
        else the phantom. "phantom", or "phantom:train=60,test=30,val=8,seed=1". Or the path of a folder.

    Returns
    -------
    DataSource

    Raises
    ------
    DataNotFoundError
        If a folder that was named is not there or holds no data set.
    """
    wish = str(data).strip()
    wish = default_data() if wish == "auto" else wish
    kind, _, options = wish.partition(":")
    if kind == "phantom":
        return _open_phantom(options)
    folder = _find_tree(wish)
    return DataSource("folder", folder, KAGGLE, _describe_folder(folder, KAGGLE))


def _typed(data: str) -> str:
    """Say how the reader gives `data`, in a notebook or in a shell."""
    ipython = sys.modules.get("IPython")
    return f'data = "{data}"' if ipython and ipython.get_ipython() else f"--data {data}"


def _find_tree(data: str | Path) -> Path:
    """Return the folder that holds `train/` and `test/`: `data` itself, or one level below it."""
    path = resolve(data)
    if not path.is_dir():
        raise DataNotFoundError(
            f"The data folder {path} {'is a file' if path.is_file() else 'does not exist'}. Expected: a folder with "
            f"train/ and test/ in it. Give the path of your chest_xray folder, or {_typed('phantom')} for the embedded "
            "data."
        )
    try:
        below = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
    except OSError as error:
        raise DataNotFoundError(f"{path} cannot be read ({error.strerror}). Check its owner and rights.") from error
    # The Kaggle archive holds chest_xray/chest_xray once more: the outer tree wins, because it is looked at first.
    for folder in (path, path / "chest_xray", *below):
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            return folder
    if path.name in SPLITS or (path.parent / "train").is_dir():
        raise DataNotFoundError(f"{path} is a part of a data set. Give the folder above it: {path.parent}")
    names = ", ".join(p.name + "/" for p in below[:8]) or "no folder at all"
    raise DataNotFoundError(
        f"No train/ and test/ in {path}; found {names}. Expected {{train,test,val}}/{{NORMAL,PNEUMONIA}} with images."
    )


def _describe_folder(folder: Path, record: DataRecord | None = None) -> str:
    """Count the image files by their names alone; say how many there are, and where `record` has more or fewer."""
    counts = {}
    for split in SPLITS:
        files = (f for f in folder.glob(f"{split}/*/*") if not f.name.startswith("."))
        counts[split] = sum(f.suffix.lower() in IMAGE_SUFFIXES for f in files)
    text = f"{sum(counts.values())} images (" + ", ".join(f"{split} {n}" for split, n in counts.items()) + ")"
    if record is None or counts == record.counts:
        return f"{text}, as {record.name} should have" if record else text
    off = {split: n - record.counts.get(split, 0) for split, n in counts.items()}
    odd = [f"{abs(n)} {'more' if n > 0 else 'fewer'} in {split}" for split, n in off.items() if n]
    return f"{text}; against {record.name}: {', '.join(odd)}"


def _open_phantom(options: str) -> DataSource:
    """Open the phantom; `options` such as "train=60,test=30,seed=1" are arguments of `phantom_folder`."""
    from xrayhelpers._phantom import Traps, phantom_folder  # drawing needs OpenCV and time: only who draws loads it

    known = [*SPLITS, "seed", *(trap.name for trap in fields(Traps))]
    try:
        pairs = dict(pair.split("=", 1) for pair in options.replace(" ", "").split(",") if pair)
        if unknown := set(pairs) - set(known):
            raise ValueError(f"{', '.join(sorted(unknown))}: expected some of {', '.join(known)}")
        folder = phantom_folder(**{name: ast.literal_eval(value) for name, value in pairs.items()})
    except (TypeError, ValueError, SyntaxError) as error:
        raise DataError(
            f"phantom:{options} cannot be read ({error}). Type for example {_typed('phantom:train=60,test=30,seed=1')}."
        ) from error
    note = f"{_describe_folder(folder)}, drawn; its numbers teach the method and say nothing about medicine"
    return DataSource("phantom", folder, None, note)


# ------------------------------------------------------------------------------------------ one row per image
def load_index(folder: str | Path, classes: dict[str, int] | None = None) -> pd.DataFrame:
    """List the images of a folder from their headers alone; nothing is decoded.

    Parameters
    ----------
    folder : str or Path
        A tree of `{train,test,val}/{NORMAL,PNEUMONIA}`, or the folder above it; `val` may be missing.
    classes : dict, optional
        Label (0 or 1) of every class folder, where they have other names: `{"healthy": 0, "ill": 1}`.

    Returns
    -------
    DataFrame
        One row per image, sorted by name: path, name (relative, posix), split (the folder: train, test or val), label
        (int), patient (coarse reading), cause ("normal", "bacteria", "virus", "unknown"), width, height (pixels,
        upright), mode (Pillow's), bytes. `index.attrs["unreadable"]` maps the name of every file left out to the
        reason.

    Raises
    ------
    DataError
        If a class folder is missing, misspelt or empty, or more than 5 % of the files are unreadable.
    """
    root, classes = _find_tree(folder), dict(CLASSES if classes is None else classes)
    if set(classes.values()) != {0, 1}:
        raise DataError(f"classes={classes} must give some folders label 0 (normal) and some 1 (pneumonia).")
    try:
        jobs = _list_files(root, classes)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}). Check its owner and rights.") from error
    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # read_header has a stricter limit
        rows = sorted(pool.map(lambda job: _row(*job), jobs), key=lambda row: row["name"])
    index = pd.DataFrame([row for row in rows if "reason" not in row], columns=COLUMNS)
    index.attrs["unreadable"] = unreadable = {row["name"]: row["reason"] for row in rows if "reason" in row}
    if unreadable:
        first = "; ".join(f"{name}: {reason}" for name, reason in list(unreadable.items())[:5])
        more = "; ..." if len(unreadable) > 5 else ""
        text = f"{len(unreadable)} of {len(jobs)} files are unreadable ({first}{more})"
        if len(unreadable) > MOST_UNREADABLE * len(jobs):
            raise DataError(
                f"{text}. At most {MOST_UNREADABLE:.0%} are left out: fetch the data again, or delete them."
            )
        warnings.warn(f'{text}. They are left out; see index.attrs["unreadable"].', DataWarning, stacklevel=2)
    if index[index["split"] != "val"].groupby(["split", "label"]).ngroups < 4:
        raise DataError("A class folder of train/ or test/ holds no readable image. Fetch the data again.")
    _warn_of_names(index)
    return index


def _list_files(root: Path, classes: dict[str, int]) -> list[tuple[Path, str, str, int]]:
    """Return (folder, file, split, label) of whatever stands in the class folders, without litter."""
    files = []
    for split in SPLITS:
        if split == "val" and not (root / split).is_dir():
            continue
        there = sorted(p.name for p in (root / split).iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
        for name in set(classes) - set(there):
            near = difflib.get_close_matches(name.upper(), [t.upper() for t in there], 1, 0.6)
            hint = next(f"Is {t} meant? Rename it to {name}" for t in there if t.upper() in near) if near else "Add it"
            raise DataError(
                f"No folder {split}/{name}; found {', '.join(there) or 'no folder'}. {hint}, or name your classes: "
                'load_index(folder, classes={"healthy": 0, "ill": 1}).'
            )
        if extra := sorted(set(there) - set(classes)):
            raise DataError(
                f"Folder {split}/{extra[0]} is no class; expected {', '.join(classes)}. Move it away, or use it: "
                f"load_index(folder, classes={ {**classes, extra[0]: 1} })."
            )
        for name, label in classes.items():
            # Litter of macOS, Windows and Jupyter is no data: ._IM-0115-0001.jpeg, .DS_Store, Thumbs.db
            found = [file for file in os.listdir(root / split / name) if file[0] != "." and file != "Thumbs.db"]
            if not found and split != "val":
                raise DataError(f"{split}/{name} holds no image. Put the files there, or fetch the data again.")
            files += [(root / split / name, file, split, label) for file in found]
    return files


def _row(folder: Path, file: str, split: str, label: int) -> dict:
    """Describe one file; the key "reason" is there only when the file cannot be used."""
    path, name = folder / file, f"{split}/{folder.name}/{file}"
    try:
        str(path).encode()
        if path.is_dir():
            raise UnreadableError("a folder; images expected")
        if path.suffix.lower() not in (*IMAGE_SUFFIXES, ""):
            raise UnreadableError(f"ends in {path.suffix}; expected {', '.join(IMAGE_SUFFIXES)}")
        width, height, mode = read_header(path)
        size = path.stat().st_size
    except UnicodeEncodeError:
        return {"name": name.encode(errors="surrogateescape").decode(errors="replace"), "reason": "path is not UTF-8"}
    except UnreadableError as error:
        return {"name": name, "reason": str(error)}
    patient, cause = PATIENT.match(file), CAUSE.search(file.lower()) or CAUSE.search(folder.name.lower())
    patient = patient.group() if patient else path.stem
    cause = "normal" if label == 0 else cause.group() if cause else "unknown"
    return dict(zip(COLUMNS, (str(path), name, split, label, patient, cause, width, height, mode, size), strict=True))


def _warn_of_names(index: pd.DataFrame) -> None:
    """Warn of file names that say no patient, and of those that stand in more than one place."""
    stems = index["name"].map(lambda name: Path(name).stem)
    strange = index["name"][[not PATIENT.match(stem) for stem in stems]]
    if len(strange):
        text = f"{len(strange)} file names say no patient (as {strange.iloc[0]}; expected IM-0115-..., person1_...)"
        warnings.warn(f"{text}: each of these images counts as a patient of its own.", DataWarning, stacklevel=3)
    if (twice := stems.duplicated(keep=False)).any():
        text = f"{twice.sum()} images share their file name with another (e.g. {', '.join(index['name'][twice][:2])})"
        warnings.warn(f"{text}. Are they copies? find_duplicates(index) says.", DataWarning, stacklevel=3)


def count_patients(index: pd.DataFrame) -> pd.DataFrame:
    """Count patients by both readings of the file names.

    Coarse: the person or series number. Fine: that number and the cause. Nobody outside knows which is right.

    Returns
    -------
    DataFrame
        Rows "coarse" and "fine"; columns train, test (patients), shared (patients in both), shared_test_images.
    """
    rows = {}
    for reading, patient in {"coarse": index["patient"], "fine": index["patient"] + "_" + index["cause"]}.items():
        train, test = patient[index["split"] == "train"], patient[index["split"] == "test"]
        shared = set(train) & set(test)
        rows[reading] = [train.nunique(), test.nunique(), len(shared), int(test.isin(shared).sum())]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["train", "test", "shared", "shared_test_images"])


def find_duplicates(index: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose files are equal byte for byte, with `sha256` and `across` (copies in more than one split).

    Only files of equal size are read.
    """
    twins = index[index.duplicated("bytes", keep=False)]
    twins = twins.assign(sha256=pd.Series([sha256_of(path) for path in twins["path"]], twins.index, dtype=object))
    twins = twins[twins.duplicated("sha256", keep=False)].sort_values(["sha256", "name"])
    return twins.assign(across=twins.groupby("sha256")["split"].transform("nunique") > 1)


def fingerprint(index: pd.DataFrame) -> str:
    """Return 12 hex digits that name a data set: SHA-256 over every image's name and size in bytes."""
    text = "\n".join(sorted(f"{name}\t{size}" for name, size in zip(index["name"], index["bytes"], strict=True)))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# ------------------------------------------------------------------------------------------ how they are split
def split_index(index: pd.DataFrame, protocol: str = "patient", seed: int = 0) -> pd.DataFrame:
    """Choose the validation images.

    Parameters
    ----------
    index : DataFrame
        From `load_index`.
    protocol : str
        "patient": whole patients of the train folder, stratified by label and cause. In each stratum the share of
        validation images differs from 15 % by at most one patient's images, and at least one patient stays on
        each side where there are two. "report": as the report did, the first names of each class in the test folder.
    seed : int
        Decides which patients are chosen; the order of the rows does not matter. "report" leaves nothing to chance.

    Returns
    -------
    DataFrame
        A copy of `index`, rows in the same order, with the column `part`: "train", "validation", "test", or "unused"
        (the val folder, 16 images).

    Raises
    ------
    ValueError
        If there is no such protocol.
    """
    if protocol not in ("patient", "report"):
        raise ValueError(f'protocol={protocol!r} is unknown. Type protocol="patient" or protocol="report".')
    chosen = _whole_patients(index, seed) if protocol == "patient" else _first_names(index)
    part = index["split"].map({"train": "train", "test": "test", "val": "unused"}).to_numpy(dtype=object)
    part[index["name"].isin(chosen).to_numpy()] = "validation"
    return index.assign(part=part)


def _first_names(index: pd.DataFrame) -> list[str]:
    """Return the names of the report's validation images: of each class, the first of the test folder."""
    test = index[index["split"] == "test"].sort_values("name")
    classes = test.groupby("label")["name"]
    return list(test["name"][classes.cumcount() < (classes.transform("size") * FRACTION).astype(int)])


def _whole_patients(index: pd.DataFrame, seed: int) -> list[str]:
    """Return the names of all images of the patients drawn from the train folder.

    scikit-learn's splitters do not give this: GroupShuffleSplit does not stratify, and StratifiedGroupKFold knows only
    fractions of 1/n and fails where a class has fewer than n patients.
    """
    train = index[index["split"] == "train"]
    # A patient with bacteria and virus images is one patient: the stratum is the set of all that he or she has.
    kinds = (train["label"].astype(str) + train["cause"]).groupby(train["patient"].to_numpy())
    kinds = kinds.agg(lambda kind: "+".join(sorted(set(kind))))
    sizes = train["patient"].value_counts()
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    for kind in sorted(set(kinds)):
        patients = rng.permutation(np.array(sorted(kinds.index[kinds == kind]), dtype=object))
        images = np.cumsum(sizes[patients].to_numpy())
        nearest = 1 + int(np.argmin(np.abs(images - FRACTION * images[-1])))
        chosen += list(patients[: min(nearest, len(patients) - 1)])
    return list(train["name"][train["patient"].isin(chosen)])


# ---------------------------------------------------------------------------------------------- their pixels
def load_parts(
    index: pd.DataFrame, size: int, *, interpolation: str = "area"
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return images and labels of the three parts of a split index.

    Parameters
    ----------
    index : DataFrame
        From `split_index`.
    size, interpolation
        See `load_images`.

    Returns
    -------
    images : dict
        "train", "validation", "test" -> uint8 array, N x size x size x 3, 0 to 255, read-only.
    labels : dict
        The same keys -> int64 array, N values 0 or 1.

    Raises
    ------
    DataError
        If the index is not split, or a part holds no image.
    """
    if "part" not in index:
        raise DataError("The index has no column part. Split it first: index = split_index(index).")
    parts = {part: index[index["part"] == part] for part in PARTS}
    images = {part: load_images(rows, size, interpolation=interpolation) for part, rows in parts.items()}
    return images, {part: rows["label"].to_numpy(np.int64) for part, rows in parts.items()}


def find_nearest(index: pd.DataFrame, among: pd.DataFrame | None = None) -> pd.DataFrame:
    """Find for each image the one that looks most like it, by the correlation of small grey copies (32 x 32).

    A correlation does not change with brightness or contrast, nor much with recompression or another resolution.
    It does change when an image is moved, turned or cropped, so such copies are missed.

    Parameters
    ----------
    index, among : DataFrame
        Rows of an index: the images that ask, and those that may answer; by default all others of `index`.

    Returns
    -------
    DataFrame
        Index as `index`; columns name, nearest (name of the image found), correlation (float, -1 to 1).

    Raises
    ------
    ValueError
        If there is no other image to be found.
    """
    from sklearn.neighbors import NearestNeighbors  # a second to import, for who needs it

    others = index if among is None else among
    if len(others) < 1 + (among is None):
        raise ValueError(f"Found {len(others)} images to search; expected one more. Give more rows of the index.")

    def centered(rows: pd.DataFrame) -> np.ndarray:
        grey = load_images(rows, 32, channels=1).reshape(len(rows), -1).astype(np.float32)
        return grey - grey.mean(axis=1, keepdims=True)

    # The cosine of centered values is their correlation; scikit-learn leaves each image out of its own neighbors.
    search = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(centered(others))
    distance, found = search.kneighbors(None if among is None else centered(index))
    table = {"name": index["name"], "nearest": others["name"].to_numpy()[found[:, 0]]}
    return pd.DataFrame({**table, "correlation": 1 - distance[:, 0].astype(float)}, index.index)

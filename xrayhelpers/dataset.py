"""The index of a `chest_xray` folder, one row an image, and both ways to split it."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from xrayhelpers.sources import IMAGE_SUFFIXES, SPLITS, DataError, DataWarning, cores, find_tree

CLASSES = {"NORMAL": 0, "PNEUMONIA": 1}
FORMATS = ("JPEG", "PNG")  # the JPEG reader also opens the photographs of several pictures (MPO) of telephones
SMALLEST_SIDE, MOST_PIXELS = 16, 64_000_000
COLUMNS = ("path", "name", "split", "label", "patient", "cause", "width", "height", "mode", "bytes")
PIECE = 5000  # files that are listed at a time: a row takes a quarter of the memory once it stands in a DataFrame
ORIENTATION = 274  # the EXIF tag; 5 to 8 swap width and height
PATIENT = re.compile(r"(?:NORMAL2-)?IM-\d+|person\d+")
CAUSE = re.compile(r"bacteria|virus")


class UnreadableError(DataError):
    """One file is not an image this package can use; the text is the reason alone."""


def read_header(path: str | Path) -> tuple[int, int, str]:
    """Read width, height (upright, pixels) and colour mode of an image without decoding it.

    Raises
    ------
    UnreadableError
        With the reason in words, for whatever is wrong with the file.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise UnreadableError("empty file (0 bytes)")
            start = file.read(132)
            if start[128:] == b"DICM":
                return _dicom_header(path)
            file.seek(max(0, size - 65536))
            tail = file.read()
        with Image.open(path, formats=FORMATS) as image:
            width, height, mode, frames = *image.size, image.mode, getattr(image, "n_frames", 1)
            if "exif" in image.info and image.getexif().get(ORIENTATION, 1) >= 5:
                width, height = height, width
            end = b"IEND" if image.format == "PNG" else b"\xff\xd9"
            animated = image.format == "PNG" and frames > 1
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError("not a JPEG, PNG or DICOM image") from None
    except OSError as error:
        raise UnreadableError(error.strerror or f"broken header: {error}") from error
    except Exception as error:  # Pillow's parsers raise many kinds of errors on broken files
        raise UnreadableError(f"broken header: {error}") from error
    if animated:
        raise UnreadableError(f"an animation of {frames} frames; one image expected")
    if end not in tail:
        raise UnreadableError("truncated: the end of the image is missing")
    return _checked(width, height, mode)


def _checked(width: int, height: int, mode: str) -> tuple[int, int, str]:
    if min(width, height) < SMALLEST_SIDE:
        raise UnreadableError(f"{width} x {height} pixels; at least {SMALLEST_SIDE} x {SMALLEST_SIDE} expected")
    if width * height > MOST_PIXELS:
        raise UnreadableError(f"{width} x {height} pixels; at most {MOST_PIXELS:,} in all expected")
    return width, height, mode


def _dicom_header(path: str | Path) -> tuple[int, int, str]:
    try:
        import pydicom
    except ImportError:
        raise UnreadableError("a DICOM file: pip install pydicom") from None
    header = pydicom.dcmread(path, stop_before_pixels=True)
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        raise UnreadableError(f"a DICOM film of {header.NumberOfFrames} frames; one image expected")
    mode = "RGB" if header.SamplesPerPixel == 3 else "L" if header.BitsAllocated == 8 else "I;16"
    return _checked(int(header.Columns), int(header.Rows), mode)


def patient_of(filename: str) -> str:
    """Return the coarse patient of a file name: `IM-0115`, `NORMAL2-IM-1427`, `person1000`, else the name itself."""
    found = PATIENT.match(filename)
    return found.group() if found else Path(filename).stem


def cause_of(filename: str, folder: str, label: int) -> str:
    """Return "normal", "bacteria" or "virus" by file name, else by folder name; "unknown" where neither says it."""
    found = CAUSE.search(filename.lower()) or CAUSE.search(folder.lower())
    return "normal" if label == 0 else found.group() if found else "unknown"


def _row(folder: Path, file: str, split: str, label: int) -> dict:
    """Describe one file; the key "reason" is there only when the file cannot be used."""
    path, name = folder / file, f"{split}/{folder.name}/{file}"
    row = {"path": str(path), "name": name, "split": split, "label": label}
    try:
        name.encode()
    except UnicodeEncodeError:
        return {"name": name.encode(errors="surrogateescape").decode(errors="replace"), "reason": "name is not UTF-8"}
    try:
        if path.is_dir():
            raise UnreadableError("a folder; images expected")
        if path.suffix.lower() not in (*IMAGE_SUFFIXES, ""):
            raise UnreadableError(f"ends in {path.suffix}; expected {', '.join(IMAGE_SUFFIXES)}")
        width, height, mode = read_header(path)
        size = path.stat().st_size
    except UnreadableError as error:
        return {**row, "reason": str(error)}
    patient, cause = patient_of(path.name), cause_of(path.name, path.parent.name, label)
    return {**row, "patient": patient, "cause": cause, "width": width, "height": height, "mode": mode, "bytes": size}


def _class_folders(root: Path, classes: dict[str, int]) -> list[tuple[str, Path, int]]:
    """Return (split, folder, label) of every class folder, or say which is missing, misspelt or one too many."""
    found = []
    for split in SPLITS:
        folder = root / split
        if split == "val" and not folder.is_dir():
            continue
        there = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
        for name in set(classes) - set(there):
            near = difflib.get_close_matches(name.upper(), [t.upper() for t in there], 1, 0.6)
            hint = next(f"Is {t} meant? Rename it to {name}" for t in there if t.upper() in near) if near else "Add it"
            raise DataError(
                f"No folder {split}/{name}; found {', '.join(there) or 'no folder'}. {hint}, or name your classes: "
                'load_index(root, classes={"healthy": 0, "ill": 1}).'
            )
        if extra := sorted(set(there) - set(classes)):
            raise DataError(
                f"Folder {split}/{extra[0]} is no class; expected {', '.join(classes)}. Move it away, or use it: "
                f"load_index(root, classes={{**dataset.CLASSES, {extra[0]!r}: 1}})."
            )
        found += [(split, folder / name, label) for name, label in classes.items()]
    return found


def _list_files(root: Path, classes: dict[str, int]) -> list[tuple[Path, str, str, int]]:
    """Return (folder, file, split, label) of whatever stands in the class folders, without litter."""
    files = []
    for split, folder, label in _class_folders(root, classes):
        # Litter of macOS, Windows and Jupyter is no data: ._IM-0115-0001.jpeg, .DS_Store, Thumbs.db
        names = [name for name in os.listdir(folder) if not name.startswith(".") and name != "Thumbs.db"]
        if not names and split != "val":
            raise DataError(f"{split}/{folder.name} holds no image. Put the files there, or fetch the data again.")
        files += [(folder, name, split, label) for name in names]
    return files


def load_index(root: str | Path, classes: dict[str, int] | None = None, max_unreadable: float = 0.05) -> pd.DataFrame:
    """List the images of a folder from their headers alone; nothing is decoded.

    Parameters
    ----------
    root : str or Path
        A tree of `{train,test,val}/{NORMAL,PNEUMONIA}`, or the folder above it; `val` may be missing.
    classes : dict, optional
        Label (0 or 1) of every class folder, where they have other names: `{"healthy": 0, "ill": 1}`.
    max_unreadable : float
        Largest share of unreadable files (0 to 1) that is left out with a warning.

    Returns
    -------
    DataFrame
        One row an image, sorted by name: path, name (relative, posix), split, label (int), patient (coarse reading),
        cause ("normal", "bacteria", "virus", "unknown"), width, height (pixels, upright), mode (Pillow's), bytes.
        `index.attrs["unreadable"]` maps the name of every file left out to the reason.

    Raises
    ------
    DataError
        If a class folder is missing, misspelt or empty, or too many files are unreadable.
    """
    root, classes = find_tree(root), dict(CLASSES if classes is None else classes)
    try:
        str(root).encode()
    except UnicodeEncodeError:
        raise DataError("The name of the data folder is not valid UTF-8. Rename it, or move the data.") from None
    if set(classes.values()) != {0, 1}:
        raise DataError(f"classes={classes} must give some folders label 0 (normal) and some 1 (pneumonia).")
    try:
        jobs = _list_files(root, classes)
    except OSError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{error.filename} cannot be read ({error.strerror}). Check its owner and rights.") from error
    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _checked has a stricter limit
        frames, unreadable = [], {}
        for start in range(0, len(jobs), PIECE):
            rows = list(pool.map(lambda job: _row(*job), jobs[start : start + PIECE]))
            unreadable |= {row["name"]: row["reason"] for row in rows if "reason" in row}
            frames.append(pd.DataFrame([row for row in rows if "reason" not in row], columns=COLUMNS))
    frames = [frame for frame in frames if len(frame)] or frames[:1]
    index = pd.concat(frames, ignore_index=True).sort_values("name", ignore_index=True)
    index.attrs["unreadable"] = unreadable = dict(sorted(unreadable.items()))
    if unreadable:
        first = "; ".join(f"{name}: {reason}" for name, reason in list(unreadable.items())[:5])
        text = (
            f"{len(unreadable)} of {len(jobs)} files are unreadable ({first}{'; ...' if len(unreadable) > 5 else ''})"
        )
        if len(unreadable) > max_unreadable * len(jobs):
            raise DataError(f"{text}. At most {max_unreadable:.0%} are left out: fetch the data again, or delete them.")
        warnings.warn(f'{text}. They are left out; see index.attrs["unreadable"].', DataWarning, stacklevel=2)
    for split, label in [(s, v) for s in ("train", "test") for v in (0, 1)]:
        if not ((index["split"] == split) & (index["label"] == label)).any():
            raise DataError(f"No readable image with label {label} in {split}/. Fetch the data again.")
    _warn_of_names(index)
    return index


def _warn_of_names(index: pd.DataFrame) -> None:
    """Warn of file names that say no patient, and of those that stand in more than one place."""
    stems = index["name"].map(lambda name: Path(name).stem)
    strange = index[~stems.map(lambda stem: bool(PATIENT.match(stem)))]
    if len(strange):
        text = (
            f"{len(strange)} file names say no patient (as {strange['name'].iloc[0]}; expected IM-0115-..., person1_..."
        )
        warnings.warn(f"{text}): each of these images counts as a patient of its own.", DataWarning, stacklevel=3)
    if (twice := stems.duplicated(keep=False)).any():
        text = f"{twice.sum()} images share their file name with another (e.g. {', '.join(index['name'][twice][:2])})"
        warnings.warn(f"{text}. Are they copies? dataset.find_duplicates(index) says.", DataWarning, stacklevel=3)


def report_split(index: pd.DataFrame, fraction: float = 0.15) -> pd.DataFrame:
    """Split as the report did: the first 15 % of the test folder's sorted names, a class, become the validation set.

    Returns a copy of `index`, rows in the same order, with the column `part`: "train", "validation", "test", or
    "unused" (the val folder).
    """
    part = _parts_by_folder(index, fraction)
    names = index["name"].to_numpy(dtype=object)
    for label in (0, 1):
        rows = np.flatnonzero((index["split"] == "test") & (index["label"] == label))
        rows = rows[np.argsort(names[rows], kind="stable")]
        part[rows[: int(len(rows) * fraction)]] = "validation"
    return index.assign(part=part)


def patient_split(index: pd.DataFrame, fraction: float = 0.15, seed: int = 0) -> pd.DataFrame:
    """Cut the validation set from the train folder by whole patients, stratified by label and cause.

    In each stratum the share of validation images differs from `fraction` by at most one patient's images, and at
    least one patient stays on each side where there are two. A pure function of the index's rows and the seed.

    Returns a copy of `index`, rows in the same order, with the column `part`: "train", "validation", "test", or
    "unused" (the val folder).
    """
    part = _parts_by_folder(index, fraction)
    train = index[index["split"] == "train"]
    # A patient with bacteria and virus images is one patient: the stratum is the set of all that he or she has.
    kinds = (
        (train["label"].astype(str) + train["cause"])
        .groupby(train["patient"].to_numpy())
        .agg(lambda kind: "+".join(sorted(set(kind))))
    )
    sizes = train["patient"].value_counts()
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    for kind in sorted(set(kinds)):
        patients = rng.permutation(np.array(sorted(kinds.index[kinds == kind]), dtype=object))
        images = np.cumsum(sizes[patients].to_numpy())
        nearest = 1 + int(np.argmin(np.abs(images - fraction * images[-1])))
        chosen += list(patients[: min(nearest, len(patients) - 1)])
    part[((index["split"] == "train") & index["patient"].isin(chosen)).to_numpy()] = "validation"
    return index.assign(part=part)


def _parts_by_folder(index: pd.DataFrame, fraction: float) -> np.ndarray:
    """Return "train", "test" or "unused" for each row, by its folder."""
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction!r} must lie between 0 and 1, e.g. fraction=0.15.")
    return index["split"].map({"train": "train", "test": "test", "val": "unused"}).to_numpy(dtype=object)


def split_index(index: pd.DataFrame, protocol: str = "report", fraction: float = 0.15, seed: int = 0) -> pd.DataFrame:
    """Split by the protocol named: "report" or "patient"."""
    if protocol == "report":
        return report_split(index, fraction)
    if protocol == "patient":
        return patient_split(index, fraction, seed)
    raise ValueError(f'protocol={protocol!r} is unknown. Type protocol="report" or protocol="patient".')


def class_counts(index: pd.DataFrame) -> pd.DataFrame:
    """Count the images: one row a split (train, test, val), columns NORMAL, PNEUMONIA, all."""
    counts = pd.crosstab(index["split"], index["label"]).reindex(index=SPLITS, columns=[0, 1], fill_value=0)
    counts = counts.set_axis(["NORMAL", "PNEUMONIA"], axis=1).rename_axis(index="split")
    return counts.assign(all=counts.sum(axis=1))


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
    digests = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in twins["path"]]
    twins = twins.assign(sha256=pd.Series(digests, twins.index, dtype=object))
    twins = twins[twins.duplicated("sha256", keep=False)].sort_values(["sha256", "name"])
    return twins.assign(across=twins.groupby("sha256")["split"].transform("nunique") > 1)


def fingerprint(index: pd.DataFrame) -> str:
    """Return 12 hex digits that name a data set: SHA-256 over every image's name and size in bytes."""
    text = "\n".join(sorted(f"{name}\t{size}" for name, size in zip(index["name"], index["bytes"], strict=True)))
    return hashlib.sha256(text.encode()).hexdigest()[:12]

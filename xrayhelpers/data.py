"""The images: where they are, one row per image, both ways to split them, and their pixels.

>>> source = open_data("phantom")
>>> index = split_index(load_index(source.folder))
>>> images, labels = load_parts(index, size=64)
"""

from __future__ import annotations

import ast
import atexit
import difflib
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
import unicodedata
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from xrayhelpers._images import IMAGE_SUFFIXES, read_image
from xrayhelpers._machine import DataError, DataNotFoundError, DataWarning, StorageError, default_data, resolve, setting
from xrayhelpers._phantom import SPLITS, phantom_folder
from xrayhelpers._store import load_images, look_at, readable_copies

SPLIT_NAMES = {"training": "train", "testing": "test", "valid": "val", "validation": "val"} | {s: s for s in SPLITS}
# What a folder's name may end in: train_set, Test Images, normal cases.
ENDING = re.compile(r"(?<=[^\W_])[\W_]*(?:sets?|data|images?|cases|dir|folder)$")
CLASSES = {"NORMAL": 0, "PNEUMONIA": 1}
COLUMNS = ("path", "name", "split", "label", "patient", "cause", "width", "height", "mode", "bytes")
TABLE = "index.csv"  # says the label of each image, where the folders do not
MOST_UNREADABLE = 0.05  # largest share of unreadable and damaged files that is left out without having been asked
FRACTION = 0.15  # of a folder becomes the validation set, as in the report
PATIENT = re.compile(r"(?:NORMAL2-)?IM-\d+|person\d+")
CAUSE = re.compile(r"bacteria|virus")
# What macOS, Windows, Jupyter and a network drive leave in folders, and drawings over images, are no images.
LITTER = re.compile(r"\..*|__.*|@.*|(?:eh)?thumbs\.db|desktop\.ini|icon\r|masks?", re.IGNORECASE | re.DOTALL)
UNKNOWN = "each image counts as a patient of its own. A table index.csv can say who they are (docs/own-data.md)."


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
        The folder that holds `train/` and `test/`, and often `val/`; or the classes; or `index.csv`.
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

    def class_folders(self, index: pd.DataFrame) -> Path:
        """Return a folder of the training images with `NORMAL/` and `PNEUMONIA/` in it, named as Kaggle names them.

        That is the reader's own folder, or else a temporary one of copies as JPEG files (`person12_0345.jpeg`).
        """
        train = index[index["split"] == "train"]
        kaggle = rf"[/\\]train[/\\](NORMAL|PNEUMONIA)[/\\](?P<patient>{PATIENT.pattern})[^/\\]*\.jpe?g$"
        if (train["path"].str.extract(kaggle)["patient"] == train["patient"]).all():
            return Path(train["path"].iloc[0]).parents[1]
        folder = Path(tempfile.mkdtemp(prefix="xrays-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        for name in CLASSES:
            (folder / name).mkdir()
        people = pd.factorize(train["patient"])[0]
        for number, (image, person) in enumerate(zip(train.itertuples(), people, strict=True)):
            copy = Image.fromarray(read_image(image.path))
            copy.save(folder / list(CLASSES)[image.label] / f"person{person}_{number:04d}.jpeg", quality=95)
        return folder


def open_data(data: str | Path = "auto", classes: str = "") -> DataSource:
    """Open the data that a lesson uses; `print` the result to see which they are.

    Parameters
    ----------
    data : str or Path
        "auto": the folder in `XRAYS_DATA` if set, else `data/chest_xray` below the working folder or the repository,
        else what a notebook of Kaggle was given, else the phantom. "phantom", or
        "phantom:train=60,test=30,val=8,seed=1". Or the path of a folder.
    classes : str
        Labels of class folders with other names, such as "healthy=0,ill=1". They are in force from now on, for
        `load_index` as well, as if the variable `XRAYS_CLASSES` had been set.

    Returns
    -------
    DataSource

    Raises
    ------
    DataNotFoundError
        If a folder that was named is not there or holds no data set.
    """
    if classes:
        os.environ["XRAYS_CLASSES"] = classes
    labels = _read_classes()  # wrong ones are refused even where the phantom, which has its own, is opened
    wish = default_data() if str(data).strip() == "auto" else str(data).strip()
    if wish.partition(":")[0] == "phantom":
        return _open_phantom(wish.partition(":")[2])
    folder = _find_tree(wish, labels)
    note = f"{_describe_folder(folder)}; {KAGGLE.name} has {sum(KAGGLE.counts.values())}"
    return DataSource("folder", folder, KAGGLE, note)


def _typed(value: str, name: str = "data") -> str:
    """Say how the reader gives a value, in a notebook or in a shell."""
    ipython = sys.modules.get("IPython")
    return f'{name} = "{value}"' if ipython and ipython.get_ipython() else f"--{name} {value}"


def _labels() -> str:
    return f"their labels: {_typed('healthy=0,ill=1', 'classes')}"


def _plain(name: str) -> str:
    """Return a folder's name as it is compared: in any case, without an ending, an umlaut as one sign or as two."""
    return ENDING.sub("", unicodedata.normalize("NFC", name).strip().casefold())


def _read_classes(classes: dict[str, int] | str | None = None, folder: Path | None = None) -> dict[str, int]:
    """Return label by plain name: as given, else from `XRAYS_CLASSES`; the phantom in `folder` has its own."""
    drawn = folder is not None and (folder.parent / "phantom.json").is_file()
    wish = CLASSES if drawn else classes or setting("XRAYS_CLASSES") or CLASSES
    pairs = wish.items() if isinstance(wish, dict) else [pair.rpartition("=")[::2] for pair in wish.split(",")]
    found = {_plain(name): str(label).strip() for name, label in pairs}
    if {*found.values()} != {"0", "1"}:
        raise DataError(f"The classes {wish!r} do not give label 0 (normal) and 1 (pneumonia). Give {_labels()}.")
    return {name: int(label) for name, label in found.items()}


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if not LITTER.fullmatch(p.name) and p.is_dir())


def _trees(path: Path, names: set[str], depth: int = 2) -> list[Path]:
    """Return the data sets in a folder and two levels below it; of those within another, the ones with more files."""
    if (path / TABLE).is_file():
        return [path]
    below = {folder: _plain(folder.name) in names for folder in _folders(path)}
    open_ = [folder for folder, own in below.items() if depth and not own and os.access(folder, os.R_OK | os.X_OK)]
    inner = [tree for folder in open_ for tree in _trees(folder, names, depth - 1)]
    if not any(below.values()):
        return inner
    return [path, *(tree for tree in inner if _count(tree, names) > _count(path, names))]


def _count(tree: Path, names: set[str]) -> int:
    """Count the files in the parts or classes of a data set."""
    parts = [folder for folder in _folders(tree) if _plain(folder.name) in names]
    return sum(len(files) for part in parts for _, _, files in os.walk(part))


def _find_tree(data: str | Path, classes: dict[str, int]) -> Path:
    """Return the folder of the data set: `data` itself, or one below it."""
    path = resolve(data)
    try:
        found = _trees(path, {*SPLIT_NAMES, *classes})
    except (OSError, ValueError) as error:
        why = f"cannot be read ({error.strerror})" if os.path.exists(path) else "does not exist"
        text = f"The data folder {path} {why}. Expected: a folder with train/ and test/ in it that you may read"
        raise DataNotFoundError(f"{text}; or {_typed('phantom')} for the embedded data.") from error
    if not found and (path.parent / TABLE).is_file():
        return path.parent
    part = _plain(path.name) in SPLIT_NAMES and found in ([], [path])
    part = part and not {_plain(p.name) for p in _folders(path)} & {*SPLIT_NAMES}
    if part and sum(_plain(p.name) in SPLIT_NAMES for p in _folders(path.parent)) > 1:
        raise DataNotFoundError(f"{path} is a part of a data set. Give the folder above it: {path.parent}")
    if len(found) > 1:
        names = ", ".join(map(str, found[:8]))
        text = f"There are {len(found)} data sets in {path}: {names}. Which one? Give its path"
        raise DataNotFoundError(f"{text}{', or move the other away' if path in found else ''}.")
    if not found:
        names = ", ".join(p.name + "/" for p in _folders(path)[:8]) or "no folder at all"
        text = f"No train/ and test/ in {path}; found {names}. Expected {{train,test,val}}/{{NORMAL,PNEUMONIA}} or a"
        raise DataNotFoundError(f"{text} table {TABLE} (docs/own-data.md); or, for other classes, {_labels()}.")
    return found[0]


def _describe_folder(folder: Path) -> str:
    """Count the image files by their names alone, and say how many there are."""
    files = _list_files(folder, _read_classes(folder=folder), bool(setting("XRAYS_CLASSES")))
    accepted = [Path(path).suffix.lower() in (*IMAGE_SUFFIXES, "") for path in files["path"]]
    counts = files["split"][accepted].value_counts().reindex(SPLITS, fill_value=0).to_dict()
    return f"{sum(counts.values())} images ({', '.join(f'{split} {n}' for split, n in counts.items())})"


def _open_phantom(options: str) -> DataSource:
    """Open the phantom; `options` such as "train=60,test=30,seed=1" are arguments of `phantom_folder`."""
    try:
        pairs = dict(pair.split("=", 1) for pair in options.replace(" ", "").split(",") if pair)
        folder = phantom_folder(**{name: ast.literal_eval(value) for name, value in pairs.items()})
    except StorageError:
        raise
    except (TypeError, ValueError, SyntaxError) as error:
        text = f"phantom:{options} cannot be read ({error}). Type for example"
        raise DataError(f"{text} {_typed('phantom:train=60,test=30,seed=1')}.") from error
    note = f"{_describe_folder(folder)}, drawn; its numbers teach the method and say nothing about medicine"
    return DataSource("phantom", folder, None, note)


# ------------------------------------------------------------------------------------------ one row per image
def load_index(
    folder: str | Path, classes: dict[str, int] | str | None = None, on_damage: str | None = None
) -> pd.DataFrame:
    """List the images of a folder. Each file is read once, to check it; its pixels are not kept.

    Parameters
    ----------
    folder : str or Path
        A tree of `{train,test,val}/{NORMAL,PNEUMONIA}`, or a folder above it. Names may be in any case; `training`,
        `testing`, `valid`, `validation`, `train_set`, `test_images` and the like are known; classes may have folders of
        their own below them. `val` may be missing. Where there is no test folder, whole patients with about 15 %
        of the images become test, always the same (with a warning).
        Or a folder with a table `index.csv`: columns path (relative to it) and label (0, 1 or a class), and, if known,
        patient, split and cause.
    classes : dict or str, optional
        Label (0 or 1) of every class folder, where they have other names: `{"healthy": 0, "ill": 1}` or
        "healthy=0,ill=1". Images of other folders are left out, with a warning. By default what `XRAYS_CLASSES` says,
        else NORMAL and PNEUMONIA.
    on_damage : str, optional
        What happens to files that can be decoded but are damaged, so that some pixels are wrong: "error", "leave out"
        or "keep". By default what `XRAYS_ON_DAMAGE` says, else they are left out, if they and the unreadable files
        are at most 5 %.

    Returns
    -------
    DataFrame
        One row per image, sorted by name: path, name (relative, posix), split (the folder: train, test or val), label
        (int), patient (coarse reading), cause ("normal", "bacteria", "virus", "unknown"), width, height (pixels,
        upright), mode (Pillow's; "I;12" is a PNG of 16 bits of which 12 are used, by all such files together), bytes.
        Where a file is DICOM, has 16 bits, or lies on its side, `path` is that of a copy in the cache folder: an
        upright PNG of 8 bits, which every library reads alike.
        `index.attrs["unreadable"]` maps the name of every file left out to the reason; `index.attrs["damaged"]` that
        of every damaged one, left out or kept.

    Raises
    ------
    DataError
        If a class is missing, misspelt or empty, or more than 5 % of the files are unreadable.
    """
    wish = on_damage or setting("XRAYS_ON_DAMAGE")
    if wish not in ("", "error", "leave out", "keep"):
        raise ValueError(f'on_damage={wish!r} is unknown. Type "error", "leave out" or "keep".')
    root, named = _find_tree(folder, _read_classes(classes)), bool(classes or setting("XRAYS_CLASSES"))
    classes = _read_classes(classes, root)
    files = _list_files(root, classes, named)
    facts = look_at(files["path"])
    files["name"] = [unicodedata.normalize("NFC", os.fsencode(name).decode(errors="replace")) for name in files["name"]]
    reasons = {name: fact.get("reason") or fact["damage"] for name, fact in zip(files["name"], facts, strict=True)}
    odd = {name: reason for name, reason in sorted(reasons.items()) if reason}
    keep = np.array(["reason" not in fact and (wish == "keep" or not fact["damage"]) for fact in facts], bool)
    if odd:
        first = "; ".join([f"{name}: {reason}" for name, reason in odd.items()][:5] + ["..."] * (len(odd) > 5))
        text = f"{len(odd)} of {len(files)} files are unreadable or damaged ({first})"
        if wish == "error" or (wish != "leave out" and (~keep).mean() > MOST_UNREADABLE):
            text += f". Without a word of yours at most {MOST_UNREADABLE:.0%} are left out: mend or convert, or choose"
            raise DataError(f'{text} load_index(folder, on_damage="leave out"), or XRAYS_ON_DAMAGE="leave out".')
        _warn(f"{text}. {'They' if len(odd) == (~keep).sum() else (~keep).sum()} are left out; see index.attrs.")
    seen = [fact for fact, kept in zip(facts, keep, strict=True) if kept]
    seen = pd.DataFrame(seen, files.index[keep], [*COLUMNS[-4:], "plain"])
    index = files[keep].join(seen).sort_values("name", ignore_index=True)
    if index.empty:
        raise DataError(f"{root} holds no readable image. Put some there, or give {_labels()}.")
    said = index["cause"].mask(index["cause"] == "", index["name"].str.lower().str.extract(f"({CAUSE.pattern})")[0])
    index["cause"] = said.fillna("unknown").mask(index["label"] == 0, "normal")
    index["patient"] = _read_patients(index)
    advice = "Put some there"
    if not (index["split"] == "test").any():
        chosen = index["name"].isin(_whole_patients(index.assign(split="train"), seed=0))
        index["split"] = np.where(chosen, "test", "train")
        _warn(f"No test folder: {chosen.sum()} images of whole patients become test, the same at each start.")
        advice = f"{index['patient'].nunique()} patients may be too few for a test set. Add some"
    for split, (name, label) in ((split, pair) for split in ("train", "test") for pair in classes.items()):
        if not ((index["split"] == split) & (index["label"] == label)).any():
            raise DataError(f"{split} holds no readable image of {name}. {advice}, or give {_labels()}.")
    deep = index["mode"].astype(str).str.extract(r";(\d+)")[0].dropna().astype(int)
    if len(deep):
        counts = deep.value_counts()
        bits = max(counts.index[counts >= min(counts.max(), 0.05 * len(deep))])  # not what a file in twenty needs
        index["mode"] = index["mode"].str.replace(r";\d+", f";{bits}", regex=True)
        words = [f"{n} look like {b} bits, as {index['name'][(deep == b).idxmax()]}" for b, n in counts.items()]
        _warn(f"{len(deep)} PNG files of 16 bits ({', '.join(words)}): all are read as {bits} bits, more is white.")
    other = ~index.pop("plain").astype(bool)
    index.loc[other, "path"] = readable_copies(index[other])
    index.attrs["unreadable"] = {name: odd[name] for name in files["name"][~keep]}
    index.attrs["damaged"] = {name: reason for name, reason in odd.items() if reason.startswith("damaged")}
    return index


def _warn(text: str) -> None:
    warnings.warn(text, DataWarning, stacklevel=3)


def _list_files(root: Path, classes: dict[str, int], named: bool) -> pd.DataFrame:
    """List what stands in the class folders, without litter: path, name, split, label; from a table patient, cause.

    `named`: the reader has chosen the classes, so images of others are left out.
    """
    if (root / TABLE).is_file():
        return _read_table(root / TABLE, classes)
    divided, rows, strange, seen, failed = False, [], Counter(), set(), []
    for folder, inside, found in os.walk(root, followlinks=True, onerror=failed.append):
        place, real = Path(folder).relative_to(root), os.path.realpath(folder)
        parts = [_plain(part) for part in place.parts]
        divided |= not parts and any(_plain(name) in SPLIT_NAMES for name in inside)
        outside = divided and parts and parts[0] not in SPLIT_NAMES
        known = real not in seen and not outside
        if not outside:  # a folder that a link shows again, and what stands beside train and test, are passed over
            seen.add(real)
        if outside and {*parts, *map(_plain, inside)} & {*classes}:
            _warn(f"{place}/ beside train and test is left out. To use it, name it {' or '.join(SPLITS)}.")
        splits, labels = ([part for part in parts if part in names] for names in (SPLIT_NAMES, classes))
        for said, names in ((splits, SPLIT_NAMES), (labels, classes)):
            if found and len({names[part] for part in said}) > 1:
                raise DataError(f"{place}/ is both {' and '.join(said)}. Move it elsewhere.")
        inside[:] = [name for name in inside if known and not LITTER.fullmatch(name)]
        inside.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))  # a link is no folder's place
        found = [name for name in found if known and not LITTER.fullmatch(name)]
        if labels:
            kind = SPLIT_NAMES[splits[0]] if splits else "train", classes[labels[0]], "", ""
            rows += [(os.path.join(folder, name), (place / name).as_posix(), *kind) for name in found]
        else:
            strange[place.as_posix()] += sum(name.lower().endswith(IMAGE_SUFFIXES) for name in found)
    for error in failed:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}). Check its owner and rights.") from error
    if strange := +strange:
        beside = [_plain(folder.name) for folder in _folders((root / min(strange)).parent)]
        missing = [name for name in classes if name not in beside]
        near = difflib.get_close_matches(_plain(min(strange).split("/")[-1]), missing, 1, 0.6)
        hint = f"Is {near[0]} meant? Rename it" if near else "Move them away"
        text = f"{strange.total()} images are outside of the classes {', '.join(classes)}, as in {min(strange)}/"
        if not named:
            raise DataError(f"{text}. {hint}, or give {_labels()}.")
        _warn(f"{text}: they are left out.")
    return pd.DataFrame(rows, columns=COLUMNS[:6])


def _read_table(file: Path, classes: dict[str, int]) -> pd.DataFrame:
    """Read `index.csv`; see `_list_files` for the columns."""
    try:
        text = file.read_text("utf-8-sig").replace("\0", "")
        sep = max(",;\t", key=text.partition("\n")[0].count)
        text = re.sub(f"{sep}+$", "", text, flags=re.MULTILINE)
        how = {"sep": sep, "index_col": False, "skip_blank_lines": False}
        with warnings.catch_warnings(action="error"):  # of values beyond the last column
            table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, **how).rename(columns=_plain)
        table = table[["path", "label"]].join(table.reindex(columns=["split", "patient", "cause"], fill_value=""))
        table = table.fillna("").map(str.strip)
        table = table[(table != "").any(axis=1)]
        paths = [file.parent / path.replace("\\", "/") for path in table["path"]]
        names = [Path(os.path.relpath(path, file.parent)).as_posix() for path in paths]
    except (OSError, ValueError, KeyError, Warning) as error:
        text = f"{file} cannot be read as a table with columns path and label ({error})"
        raise DataError(f"{text}. Save it as CSV UTF-8, as in docs/own-data.md.") from error
    labels = table["label"].map(lambda label: {"0": 0, "1": 1, **classes}.get(_plain(label)))
    splits = table["split"].map(lambda split: SPLIT_NAMES.get(_plain(split) or "train"))
    for line in table.index[labels.isna() | splits.isna() | pd.Index(names).duplicated()]:
        text = f"each path once; label 0, 1 or one of {', '.join(classes)}; split {', '.join(SPLITS)} or empty"
        raise DataError(f"{TABLE}, line {line + 2}: {', '.join(table.loc[line])}. Expected {text}.")
    return table.assign(label=labels, split=splits, name=names, path=[*map(str, paths)])[list(COLUMNS[:6])]


def _read_patients(index: pd.DataFrame) -> pd.Series:
    """Return the patient of each image: from the table, else from the file name, where the names make sense."""
    stems = index["name"].map(lambda name: PurePosixPath(name).stem)
    if (twice := stems.duplicated(keep=False)).any():
        text = f"{twice.sum()} images share their file name with another (e.g. {', '.join(index['name'][twice][:2])})"
        _warn(f"{text}. Are they copies? find_duplicates(index) says.")
    if len(odd := index["name"][(index["label"] == 0) & stems.str.contains(CAUSE)]):
        _warn(f"{len(odd)} images of label 0 are named as if they showed pneumonia (as {odd.iloc[0]}). Are they right?")
    read, own = stems.str.extract(f"^({PATIENT.pattern})")[0], stems.mask(twice, index["name"])
    tops = {label: said.value_counts() for label, said in read.groupby(index["label"])}
    many = index["label"].value_counts().map(lambda n: min(max(8, n / 6), max(5, n / 2)))
    crowds = {label: top.index[0] for label, top in tops.items() if top.max() >= many[label]}
    if (index["patient"] != "").all():
        return index["patient"]
    if crowds:
        text = f"{' and '.join(crowds.values())} would be the patient of a sixth of a class or more"
        _warn(f"{text}, so file names there say no patient: {UNKNOWN}")
        read = read.mask(index["label"].isin([*crowds]))
    elif len(strange := index["name"][read.isna()]):
        text = f"{len(strange)} file names say no patient (as {strange.iloc[0]}; expected IM-0115-..., person1_...)"
        _warn(f"{text}: {UNKNOWN}")
    elif read.is_unique and len(read) > 20:
        _warn("There are as many patients as images. Is that so? A table index.csv can say who they are.")
    return index["patient"].mask(index["patient"] == "", read.fillna(own))


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

    Only files of equal size are compared.
    """
    twins = index[index.duplicated("bytes", keep=False)]
    twins = twins.assign(sha256=[facts.get("sha256") for facts in look_at(twins["path"])]).dropna(subset="sha256")
    twins = twins[twins.duplicated("sha256", keep=False)].sort_values(["sha256", "name"])
    return twins.assign(across=twins.groupby("sha256")["split"].transform("nunique") > 1)


def fingerprint(index: pd.DataFrame) -> str:
    """Return 12 hex digits that name a data set: SHA-256 over what each file holds and what the index says of it.

    The files are read only where they are new or changed (see `_store.look_at`); one that is gone counts by its size.
    """
    said = [index[name] for name in ("name", "split", "label", "patient", "cause") if name in index]
    held = [facts.get("sha256", size) for facts, size in zip(look_at(index["path"]), index["bytes"], strict=True)]
    text = "\n".join(sorted("\t".join(map(str, row)) for row in zip(held, *said, strict=True)))
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
    """Return the names of the report's validation images: of each class, the first of the test folder, at least one."""
    test = index[index["split"] == "test"].sort_values("name")
    classes = test.groupby("label")["name"]
    return list(test["name"][classes.cumcount() < (classes.transform("size") * FRACTION).astype(int).clip(lower=1)])


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
        If the index is not split, or a part holds no image of a class.
    """
    if "part" not in index:
        raise DataError("The index has no column part. Split it first: index = split_index(index).")
    parts = {part: index[index["part"] == part] for part in ("train", "validation", "test")}
    for part, label in ((part, label) for part in parts for label in (0, 1) if label not in {*parts[part]["label"]}):
        counts = index["split"][index["label"] == label].value_counts()
        text = f"{', '.join(f'{split} has {n}' for split, n in counts.items())}: too few to be split. Give more."
        raise DataError(f"There is no image of label {label} for {part}; {text}")
    images = {part: load_images(rows, size, interpolation=interpolation) for part, rows in parts.items()}
    return images, {part: rows["label"].to_numpy(np.int64) for part, rows in parts.items()}

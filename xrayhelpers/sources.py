"""Where the images come from: the embedded phantom, a folder of yours, or Kaggle.

`open_data` is the one door for a lesson, `fetch_kaggle` brings the real data set once. Nothing here decodes a pixel,
and no credential is ever printed, logged or put into an error.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
from tqdm import tqdm

SPLITS = ("train", "test", "val")
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".dcm", ".dicom")


class DataError(ValueError):
    """The data are not what they should be; the text says what was found and what to do next."""


class DataNotFoundError(DataError, FileNotFoundError):
    """No data where they were looked for."""


class StorageError(DataError, OSError):
    """The disk is full, or a file cannot be written."""


class FetchError(DataError, RuntimeError):
    """A download failed; running the same command again resumes it."""


class DataWarning(UserWarning):
    """Something about the data a reader should know, although work can go on."""


@dataclass(frozen=True)
class DataRecord:
    """A published data set: where it is, what may be done with it, what it must hold."""

    name: str
    address: str
    version: str
    licence: str
    citation: str
    counts: dict[str, int] = field(default_factory=dict)
    slug: str = ""
    zip_bytes: int = 0
    folder_bytes: int = 0


CITATION = (
    "Kermany, Zhang, Goldbaum, Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for Classification, "
    "Mendeley Data, doi:10.17632/rscbjbr9sj.2; Kermany et al., Cell 172 (2018) 1122-1131, "
    "doi:10.1016/j.cell.2018.02.010"
)
COUNTS = {"train": 5216, "test": 624, "val": 16}
KAGGLE = DataRecord(
    name="Kaggle chest-xray-pneumonia",
    address="https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia",
    version="2",
    licence="CC BY 4.0",
    citation=CITATION,
    counts=COUNTS,
    slug="paultimothymooney/chest-xray-pneumonia",
    zip_bytes=2_460_000_000,
    folder_bytes=1_250_000_000,
)
MENDELEY = DataRecord(
    name="Mendeley rscbjbr9sj",
    address="https://data.mendeley.com/datasets/rscbjbr9sj",
    version="3",
    licence="CC BY 4.0",
    citation=CITATION,
    counts={"train": 5232, "test": 624},
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


def cache_folder() -> Path:
    """Return the folder for what can be made again: `XRAYS_CACHE`, else the user's own; it may not exist yet."""
    return Path(os.environ.get("XRAYS_CACHE") or platformdirs.user_cache_dir("xrayhelpers", appauthor=False)).absolute()


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def progress(iterable: Iterable | None = None, *, total: float | None = None, desc: str = "", unit: str = "it") -> tqdm:
    """Show a plain progress bar on stderr; with `XRAYS_PROGRESS=off` iterate in silence."""
    off = os.environ.get("XRAYS_PROGRESS", "").lower() == "off"
    return tqdm(iterable, total=total, desc=desc, unit=unit, leave=False, disable=off, unit_scale=unit == "B")


def find_tree(path: str | Path) -> Path:
    """Return the folder that holds `train/` and `test/`: `path` itself, or one level below it.

    Raises
    ------
    DataNotFoundError
        If there is no such folder; the text says what stands there instead.
    """
    path = Path(path).expanduser().absolute()
    if not path.is_dir():
        found = "is a file" if path.is_file() else "does not exist"
        raise DataNotFoundError(
            f"The data folder {path} {found}. Expected: a folder with train/ and test/ in it. Give the path of your "
            'chest_xray folder, or data="phantom" for the embedded data.'
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


def count_files(folder: Path) -> dict[str, int]:
    """Count the image files of each split of a tree, by file name alone."""
    counts = {}
    for split in SPLITS:
        files = (f for f in folder.glob(f"{split}/*/*") if not f.name.startswith("."))
        counts[split] = sum(f.suffix.lower() in IMAGE_SUFFIXES for f in files)
    return counts


def compare_counts(counts: dict[str, int], record: DataRecord) -> str:
    """Say in one line how many images there are, and where this differs from the published data set."""
    text = f"{sum(counts.values())} images (" + ", ".join(f"{split} {n}" for split, n in counts.items()) + ")"
    off = {split: n - record.counts.get(split, 0) for split, n in counts.items()}
    odd = [f"{abs(n)} {'more' if n > 0 else 'fewer'} in {split}" for split, n in off.items() if n]
    return f"{text}, as {record.name} should have" if not odd else f"{text}; against {record.name}: {', '.join(odd)}"


def fetch_folder(path: str | Path) -> DataSource:
    """Open a folder of your own and say what it holds, compared with the published data set."""
    folder = find_tree(path)
    return DataSource("folder", folder, KAGGLE, compare_counts(count_files(folder), KAGGLE))


def fetch_kaggle(destination: str | Path = "data", record: DataRecord = KAGGLE) -> DataSource:
    """Bring the real data set to `destination/chest_xray`: see `download.fetch_kaggle`."""
    from xrayhelpers import download  # download.py is built on this module

    return download.fetch_kaggle(destination, record)


def _phantom(options: str) -> DataSource:
    """Open the phantom; `options` such as "train=60,test=30,seed=1" are arguments of `phantom.phantom_folder`."""
    from xrayhelpers import phantom  # phantom.py asks this module for the cache folder

    try:
        pairs = dict(pair.split("=", 1) for pair in options.replace(" ", "").split(",") if pair)
        folder = phantom.phantom_folder(**{key: ast.literal_eval(value) for key, value in pairs.items()})
    except (TypeError, ValueError, SyntaxError) as error:
        raise DataError(
            f'data="phantom:{options}" cannot be read ({error}). Expected e.g. "phantom:train=60,test=30,val=8,seed=1".'
        ) from error
    text = ", ".join(f"{split} {n}" for split, n in count_files(folder).items())
    return DataSource(
        "phantom", folder, None, f"drawn images ({text}); its numbers teach the method and say nothing about medicine"
    )


def open_data(data: str | Path = "auto") -> DataSource:
    """Open the data a lesson uses; `print` the result to see which they are.

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
    if wish == "auto":
        wish = os.environ.get("XRAYS_DATA", "").strip()
        homes = (Path.cwd(), Path(__file__).resolve().parents[1])
        found = [home / "data" / "chest_xray" for home in homes if (home / "data" / "chest_xray").is_dir()]
        wish = wish if wish not in ("", "auto") else str(found[0]) if found else "phantom"
    kind, _, options = wish.partition(":")
    return _phantom(options) if kind == "phantom" else fetch_folder(wish)

"""The embedded data set: synthetic chest radiographs, drawn as real JPEG files in the Kaggle layout.

A phantom is a made-up body that is X-rayed to try out a method. Numbers found on it teach the method
and say nothing about medicine. It carries the traps of the real data, each adjustable by a keyword
(see :class:`Traps`), so that a lesson can switch one off and look what changes.

What a patient looks like depends on (seed, cause, person number), each image besides on (seed, split, number):
one seed gives the same bytes on one machine, whatever the number of threads. :mod:`xrayhelpers.radiograph` draws.
"""

import functools
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from .radiograph import Case, draw_case

VERSION = 3  # raise it when any image changes: caches of older drawings are then left alone
SPLITS = ("train", "test", "val")


@dataclass(frozen=True)
class Traps:
    """What is planted in the phantom; the defaults follow the real data.

    Attributes
    ----------
    prevalence, test_prevalence : float
        Share of pneumonia in train (3875 / 5216 = 0.74) and test (390 / 624 = 0.625), each in (0, 1). val has half.
    quality_shortcut : bool
        Normals are stored larger and at JPEG quality 82 to 94 instead of 62 to 83, so bytes a
        pixel give the label away. False: one distribution of size and quality for all.
    shift : float, >= 0
        How far exposure and pose differ between train and test, mostly in the test normals; 0 is not at all, 1 much.
    duplicates : int, >= 0
        Files that are exact copies of another file of their class, every fourth across train and test.
    contrast : float, >= 0
        Visibility of the disease; 0 draws the sick exactly like the healthy.
    repeats : float in [0, 1)
        Chance that the next pneumonia image is of the same patient (half of it for normals).
    pose : float, >= 0
        How much pose and exposure change from film to film; 0 makes the films of a patient near copies of each other.
    """

    prevalence: float = 0.74
    test_prevalence: float = 0.625
    quality_shortcut: bool = True
    shift: float = 0.6
    duplicates: int = 4
    contrast: float = 1.0
    repeats: float = 0.4
    pose: float = 1.0


#: Keywords of a phantom in which nothing tells the classes apart, not even disease: here an audit must be silent.
NOTHING_PLANTED = {"quality_shortcut": False, "shift": 0.0, "duplicates": 0, "contrast": 0.0}


def _deal_pneumonia(rng, needs: dict[str, int], repeats: float) -> dict[str, list[tuple[str, str, int]]]:
    """Deal (file name, cause, person) to the splits, number after number; a number and cause is in one split only."""
    dealt, files, person = {split: [] for split in needs}, {"bacteria": 0, "virus": 0}, 0
    while any(needs.values()):
        person += 1
        first = "bacteria" if rng.random() < 0.65 else "virus"
        other = {"bacteria": "virus", "virus": "bacteria"}[first]
        for cause in (first, other)[: 2 if rng.random() < 0.45 else 1]:
            left = sum(needs.values())
            if left == 0:
                break
            split = rng.choice(list(needs), p=[need / left for need in needs.values()])
            for _ in range(min(int(rng.geometric(1 - repeats)), needs[split])):
                files[cause] += int(rng.integers(1, 4))
                dealt[split].append((f"person{person}_{cause}_{files[cause]}.jpeg", cause, person))
                needs[split] -= 1
    return dealt


def _deal_normals(rng, need: int, start: int, series: tuple[str, ...], repeats: float) -> list[tuple[str, str, int]]:
    """Return (file name, "normal", series number) of one split, the series one after the other, from number `start`."""
    dealt, number = [], start
    for i, prefix in enumerate(series):
        share = (i + 1) * need // len(series)
        while len(dealt) < share:
            images = min(int(rng.geometric(1 - repeats / 2)), share - len(dealt))
            stem = f"{prefix}IM-{number:04d}-0001"
            names = [stem] if images == 1 else [f"{stem}-{i:04d}" for i in range(1, images + 1)]
            dealt += [(f"{name}.jpeg", "normal", number) for name in names]
            number += 1
    return dealt


@functools.lru_cache(maxsize=8)
def plan_cases(train: int, test: int, val: int, seed: int, traps: Traps) -> tuple[Case, ...]:
    """Decide every file of a phantom before any is drawn: names, patients, causes, copies."""
    sizes = dict(zip(SPLITS, (train, test, val), strict=True))
    shares = dict(zip(SPLITS, (traps.prevalence, traps.test_prevalence, 0.5), strict=True))
    sick = {split: min(max(round(n * shares[split]), min(1, n)), max(n - 1, 0)) for split, n in sizes.items()}
    rng = np.random.default_rng((seed, 1))
    dealt, start = _deal_pneumonia(rng, dict(sick), traps.repeats), 1
    for split in ("test", "train", "val"):  # official test numbers run from 1, train from 115, val from 1427
        start = max(start, {"test": 1, "train": 115, "val": 1427}[split])
        series = ("NORMAL2-",) if split == "val" else ("", "NORMAL2-")
        normals = _deal_normals(rng, sizes[split] - sick[split], start, series, traps.repeats)
        start = max([start, *(number + 1 for _, _, number in normals)])
        dealt[split] = normals + dealt[split]
    cases = []
    for k, split in enumerate(SPLITS):
        for number, (name, cause, patient) in enumerate(dealt[split]):
            label = "NORMAL" if cause == "normal" else "PNEUMONIA"
            code = ("normal", "bacteria", "virus").index(cause)
            shift = traps.shift * (split == "test") * (1.0 if cause == "normal" else 0.15)
            small = cause != "normal" if traps.quality_shortcut else bool(rng.random() < sick[split] / sizes[split])
            body = (seed, 2, code, patient, int(name.startswith("NORMAL2")))
            image = (seed, 3, k, number)
            cases.append(Case(f"{split}/{label}/{name}", cause, body, image, small, shift, traps.contrast, traps.pose))
    copied: set[int] = set()
    for copy in range(traps.duplicates):
        # A copy keeps its own name and is drawn from the numbers of another file of its class.
        source = ("train/PNEUMONIA/", "train/NORMAL/")[copy % 2]
        target = source.replace("train", "test") if copy % 4 == 3 else source
        sources = [i for i, case in enumerate(cases) if case.name.startswith(source) and i not in copied]
        targets = [i for i, case in enumerate(cases) if case.name.startswith(target) and i not in copied]
        i = sources[int(rng.integers(len(sources)))] if sources else None
        targets = [j for j in targets if j != i]
        if sources and targets:
            j = targets[int(rng.integers(len(targets)))]
            cases[j] = replace(cases[i], name=cases[j].name)
            copied |= {i, j}
    return tuple(cases)


def _write(case: Case, root: Path) -> None:
    """Draw one case and store it as a grey JPEG."""
    low, high = (62, 84) if case.small else (82, 95)
    quality = int(np.random.default_rng((*case.number, 4)).integers(low, high))
    Image.fromarray(draw_case(case)[0]).save(root / case.name, "JPEG", quality=quality, optimize=False)


def phantom_folder(
    train: int = 400,
    test: int = 160,
    val: int = 16,
    seed: int = 0,
    *,
    cache: Path | None = None,
    progress: bool = True,
    **traps,
) -> Path:
    """Return the `chest_xray` folder of a phantom; it is drawn once and found again after that.

    Parameters
    ----------
    train, test, val : int
        Images in each split: at least 2 in train and test, so that both classes are there; val may be 0.
    seed : int, >= 0
        One seed, one data set, byte for byte.
    cache : Path, optional
        Folder to keep it in; default `sources.cache_folder()`.
    progress : bool
        Show a progress bar on stderr.
    **traps
        Keywords of :class:`Traps`, such as `contrast=0.5` or `quality_shortcut=False`.

    Returns
    -------
    Path
        `<cache>/phantom-<version>-train400-test160-val16-seed0/chest_xray`; `phantom.json` beside it says how.

    Raises
    ------
    ValueError
        For an unknown keyword or a value out of its range.
    OSError
        When the disk is full or may not be written; nothing half done is left.
    """
    from .sources import cache_folder
    from .sources import progress as progress_bar

    planted = _checked(train, test, val, seed, traps)
    name = f"phantom-{VERSION}-train{train}-test{test}-val{val}-seed{seed}"
    name += "".join(f"-{key}{value:g}" for key, value in asdict(planted).items() if value != getattr(Traps(), key))
    cache = Path(cache or cache_folder())
    cache.mkdir(parents=True, exist_ok=True)
    folder, partial = cache / name, cache / f"{name}.partial"
    if _complete(folder, train + test + val):  # asked before the lock: a read-only cache may be read
        return folder / "chest_xray"
    with FileLock(f"{folder}.lock"):  # a second process waits here and then finds the folder
        if _complete(folder, train + test + val):
            return folder / "chest_xray"
        for leftover in (folder, partial):
            shutil.rmtree(leftover, ignore_errors=True)
        cases = plan_cases(train, test, val, seed, planted)
        try:
            for parent in {(partial / "chest_xray" / case.name).parent for case in cases}:
                parent.mkdir(parents=True)
            with ThreadPoolExecutor(
                min(4, os.cpu_count() or 1)
            ) as pool:  # numpy and OpenCV let threads run side by side
                drawn = pool.map(lambda case: _write(case, partial / "chest_xray"), cases)
                for _ in progress_bar(drawn, total=len(cases), desc="drawing", unit="image") if progress else drawn:
                    pass
            record = {
                "version": VERSION,
                "train": train,
                "test": test,
                "val": val,
                "seed": seed,
                "traps": asdict(planted),
            }
            (partial / "phantom.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return folder / "chest_xray"


def _complete(folder: Path, expected: int) -> bool:
    """Is this folder whole? Someone may have deleted images to save space."""
    return (folder / "phantom.json").is_file() and sum(1 for _ in folder.glob("chest_xray/*/*/*.jpeg")) == expected


def _checked(train: int, test: int, val: int, seed: int, traps: dict) -> Traps:
    """Return the traps; raise ValueError for what cannot be drawn."""
    unknown = set(traps) - {field.name for field in fields(Traps)}
    if unknown:
        known = ", ".join(["train", "test", "val", "seed", *(field.name for field in fields(Traps))])
        raise ValueError(f"The phantom has no keyword {', '.join(sorted(unknown))}. Use one of: {known}.")
    for key, value, low in (("train", train, 2), ("test", test, 2), ("val", val, 0), ("seed", seed, 0)):
        if not isinstance(value, int) or value < low:
            raise ValueError(f"{key}={value!r}: expected a whole number of at least {low}, e.g. {key}={max(low, 60)}.")
    planted = Traps(**traps)
    for key, value in asdict(planted).items():
        low, high = (0.001, 0.999) if "prevalence" in key else (0, 0.95) if key == "repeats" else (0, 100)
        if not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{key}={value!r}: expected a number from {low} to {high}, e.g. {getattr(Traps(), key)}.")
    if not isinstance(planted.duplicates, int):
        raise ValueError(f"duplicates={planted.duplicates!r}: expected a whole number, e.g. duplicates=4.")
    return planted


def lesion_mask(path: str | os.PathLike) -> np.ndarray:
    """Return the bool array (height, width) that is True where the disease of this phantom image was drawn.

    Parameters
    ----------
    path : path of a JPEG that :func:`phantom_folder` wrote.

    Raises
    ------
    ValueError
        If the file is no phantom image, or was drawn by another version.
    """
    path = Path(path).absolute()
    root = path.parent.parent.parent
    try:
        record = json.loads((root.parent / "phantom.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"No phantom.json stands above {path.name}, so its lesion is not known: only phantom images have a mask. "
            "Open them with open_data('phantom')."
        ) from None
    if record["version"] != VERSION:
        raise ValueError(
            f"{path.name} was drawn by version {record['version']} of the phantom, this is version {VERSION}. "
            "Draw it again with phantom_folder()."
        )
    cases = plan_cases(*(record[key] for key in (*SPLITS, "seed")), Traps(**record["traps"]))
    name = path.relative_to(root).as_posix()
    found = [case for case in cases if case.name == name]
    if not found:
        raise ValueError(f"{name} is none of the {len(cases)} images of this phantom, such as {cases[0].name}.")
    return draw_case(found[0])[1]

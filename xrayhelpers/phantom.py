"""The embedded data set: synthetic chest radiographs, drawn as real JPEG files in the Kaggle layout.

A phantom is a made-up body that is X-rayed to try out a method. Numbers found on it teach the method
and say nothing about medicine. It carries the traps of the real data, each adjustable by a keyword
(see :class:`Traps`), so that a lesson can switch one off and look what changes.

What is drawn: soft tissue, lungs, heart (on the right of the image, the patient's left), spine, ribs,
clavicles, shoulder blades, arms, diaphragm, stomach gas, lung vessels, a letter R, black borders, grain.
*Bacteria* is one dense patch in one lobe; *virus* is a patchy net over both lungs. Diseased lungs are
overinflated elsewhere, as children's are, so that brightness alone gives little away.

Each image depends on (seed, split, number) alone; one seed gives the same bytes on one machine.
"""

import functools
import json
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock
from PIL import Image

VERSION = 1
OVERINFLATION = 0.0
SPLITS = ("train", "test", "val")
LOBES = {  # centre (x, y) and half axes, in half image widths from the middle of the chest
    "right upper": (-0.38, -0.32, 0.21, 0.17),
    "right middle": (-0.36, 0.04, 0.21, 0.16),
    "right lower": (-0.42, 0.28, 0.23, 0.16),
    "left upper": (0.38, -0.28, 0.21, 0.19),
    "left lower": (0.48, 0.24, 0.19, 0.20),
}


@dataclass(frozen=True)
class Traps:
    """What is planted in the phantom; the defaults follow the real data.

    Attributes
    ----------
    prevalence, test_prevalence : float
        Share of pneumonia in train (3875 / 5216 = 0.74) and test (390 / 624 = 0.625), each in (0, 1). val has half.
    quality_shortcut : bool
        Normals are stored larger and at JPEG quality 82 to 94 instead of 62 to 83, so bytes a pixel give the label away.
        False: one distribution of size and quality for all.
    shift : float, >= 0
        How far exposure and pose differ between train and test, mostly in the test normals; 0 is no shift.
    duplicates : int, >= 0
        Files that are exact copies of another file of their class, every fourth across train and test.
    contrast : float, >= 0
        Visibility of the disease; 0 draws the sick exactly like the healthy.
    repeats : float in [0, 1)
        Chance that the next pneumonia image is of the same patient (half of it for normals).
    """

    prevalence: float = 0.74
    test_prevalence: float = 0.625
    quality_shortcut: bool = True
    shift: float = 1.0
    duplicates: int = 4
    contrast: float = 1.0
    repeats: float = 0.4


#: Keywords of a phantom in which nothing tells the classes apart, not even disease: here an audit must be silent.
NOTHING_PLANTED = {"quality_shortcut": False, "shift": 0.0, "duplicates": 0, "contrast": 0.0}


@dataclass(frozen=True)
class Case:
    """One image to draw: its file name, label, and the numbers that its random draws start from."""

    name: str
    cause: str
    body: tuple[int, ...]
    number: tuple[int, ...]
    small: bool
    shift: float
    contrast: float


def _ramp(x, width):
    """Soft step from 0 to 1, `width` wide, around x = 0."""
    return np.clip(x / width + 0.5, 0, 1)


def _noise(rng, shape, cells):
    """Smooth random field (H, W) float32, mean 0 and deviation about 1, with `cells` bumps across the width."""
    coarse = rng.standard_normal((max(2, cells * shape[0] // shape[1]), cells), dtype=np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _lesion(cause, body, rng, x, y, lungs):
    """Return opacity (H, W) in 0..1 and its mask; `body` makes it alike in all images of a patient."""
    if cause == "bacteria":
        cx, cy, rx, ry = LOBES[list(LOBES)[body.integers(len(LOBES))]]
        cx, cy = cx + body.normal(0, 0.03), cy + body.normal(0, 0.03)
        size, strength = body.uniform(1.0, 1.6), body.uniform(0.8, 1.1)
        distance = np.hypot((x - cx) / (rx * size), (y - cy) / (ry * size))
        patch = _ramp(1 - distance + 0.22 * _noise(body, x.shape, 9), 0.6)
        patch = np.maximum(patch, 0.25 * _ramp(x * np.sign(cx), 0.1))  # and some haze in the lung around it
        return patch * lungs * strength * (1 + 0.15 * _noise(rng, x.shape, 30)), (patch > 0.4) & (lungs > 0.5)
    reach = np.exp(-((np.abs(x) - 0.3) ** 2 / 0.08 + (y + body.normal(0.02, 0.08)) ** 2 / 0.18))
    net = 1 - np.abs(_noise(body, x.shape, 20)) + 0.5 * _noise(body, x.shape, 11)
    patch = (0.4 + 0.6 * reach) * lungs
    return patch * body.uniform(0.6, 1.0) * np.clip(0.45 + 0.55 * net, 0, 1.3), patch > 0.6


def draw_case(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Draw one radiograph.

    Returns
    -------
    image : uint8 array (height, width), 0 is black.
    mask : bool array (height, width), True on the disease; all False for a normal.
    """
    body, rng = np.random.default_rng(case.body), np.random.default_rng(case.number)
    full_width = int(rng.integers(290, 360) if case.small else rng.integers(350, 420))
    full_height = int(full_width * rng.uniform(0.68, 0.90))
    width, height = full_width * 2 // 3, full_height * 2 // 3  # the body is smooth: draw it smaller, enlarge, add grain
    # Pose: pixels to body coordinates, in half image widths from the middle of the chest.
    scale = rng.normal(0.99, 0.07) - 0.03 * case.shift
    angle = rng.normal(0, 0.055) * (1 + 0.6 * case.shift)
    shift_x, shift_y = rng.normal(0, 0.085), rng.normal(0.02, 0.07) + 0.03 * case.shift
    unit = width / 2 * scale
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    cosine, sine = math.cos(angle), math.sin(angle)
    px, py = (columns - width / 2) / unit - shift_x, (rows - height / 2) / unit - shift_y
    x, y = px * cosine + py * sine, py * cosine - px * sine
    y = y * body.uniform(0.92, 1.08) / (height / width / 0.79) ** 0.7
    x = x * body.uniform(0.94, 1.06)
    a = np.abs(x)

    # Lungs, diaphragm, heart: soft masks in 0..1.
    top, lean = body.normal(-0.58, 0.02), body.normal(0, 0.015)
    dome = body.normal(0.40, 0.03) + 0.03 * np.sign(x) + rng.normal(0, 0.02) + 0.9 * (a - 0.34) ** 2 * (a > 0.34)
    t = np.clip((y - top) / 0.9, 0, 1)
    half = 0.33 * np.sqrt(1 - (1 - t) * (1 - t) * np.sqrt(1 - t)) + 0.01
    centre = 0.27 + 0.12 * t + lean
    cage = _ramp(half + centre - a, 0.05) * (y > top)
    heart_x, heart_r = body.normal(0.10, 0.02), body.normal(0.33, 0.025)
    heart = _ramp(1 - np.hypot((x - heart_x - 0.35 * (y - 0.15)) / heart_r, (y - 0.15) / 0.36), 0.16)
    middle = 0.12 + 0.04 * np.exp(-((y + 0.3) / 0.12) ** 2) * (1 + 0.3 * np.sign(x)) + 0.012 * _noise(body, x.shape, 7)
    heart = 1 - (1 - heart) * (1 - _ramp(middle + 0.05 * _ramp(y, 0.5) - a, 0.06))
    lungs = _ramp(half - np.abs(a - centre), 0.04) * _ramp(dome - y, 0.035) * (1 - heart)

    # Soft tissue: trunk, arms held out, neck and jaw. Attenuation 0 is air, about 1 is the densest.
    trunk = _ramp(0.86 + 0.03 * np.cos(4 * y) - a, 0.06) * _ramp(y + 0.80 - 0.2 * a, 0.1)
    slope = rng.uniform(-0.6, 0.6)
    arm = _ramp(0.17 - np.abs(y + 0.50 + slope * (a - 0.8)), 0.05) * _ramp(a - 0.7, 0.3)
    neck = _ramp(0.22 + 0.5 * np.sqrt(np.maximum(0, y + 0.82)) - a, 0.08) * (y < -0.4)
    jaw = _ramp(1 - np.hypot(x / 0.42, (y + 1.05) / 0.30), 0.15)
    tissue = np.maximum.reduce([trunk, 0.75 * arm, neck, 1.1 * jaw])
    film = tissue * (0.50 + 0.10 * _ramp(y - dome, 0.05) + 0.03 * _noise(body, x.shape, 5))
    gas = _ramp(1 - np.hypot((x - 0.36) / 0.17, (y - dome - 0.15) / 0.08), 0.5) * body.uniform(0.3, 1.0)
    film += 0.09 * heart * cage * _ramp(dome - y, 0.2) - 0.38 * lungs - 0.14 * gas * (y > dome)

    # Bones.
    drop = 0.75 * a * a * a - 0.05 * np.sin(6 * a) + lean
    spacing = body.normal(0.116, 0.005)
    back = np.abs(((y - drop * (1 + 0.3 * y)) / spacing + body.uniform()) % 1 - 0.5) * 2
    ribs = (_ramp(0.5 - back, 0.2) * 0.75 + _ramp(0.12 - np.abs(back - 0.45), 0.2) * 0.4) * cage
    film += 0.065 * ribs * (0.6 + 1.1 * np.square(np.square(a / (half + centre)))) * _ramp(a - 0.06, 0.05) * _ramp(0.5 - y, 0.4)
    front = np.abs(((y + 0.5 * a) / (1.15 * spacing)) % 1 - 0.5) * 2
    film += 0.025 * _ramp(0.5 - front, 0.3) * cage * _ramp(a - 0.26, 0.1) * _ramp(y + 0.35, 0.1) * _ramp(0.4 - y, 0.1)
    film += 0.10 * np.exp(-((a - half - centre - 0.01) / 0.018) ** 2) * _ramp(y - top - 0.08, 0.1) * _ramp(0.62 - y, 0.2)
    bodies = 0.75 + 0.25 * np.cos(2 * np.pi * y / (0.9 * spacing))
    film += 0.11 * _ramp(0.085 - a, 0.03) * bodies + 0.05 * np.exp(-((a - 0.055) / 0.018) ** 2) * bodies
    film -= 0.07 * np.exp(-(((x + 0.01) / 0.03) ** 2)) * _ramp(-0.22 - y, 0.1)
    collar = y + 0.47 + 0.20 * (a - 0.08) - 0.035 * np.sin(11 * (a - 0.08)) + rng.normal(0, 0.012)
    film += 0.13 * np.exp(-np.square(np.square(collar / 0.024))) * _ramp(a - 0.07, 0.03) * _ramp(0.68 - a, 0.05)
    blade = np.abs(a - 0.70 - 0.18 * (y + 0.3)) / 0.03
    film += 0.06 * np.exp(-(blade**2)) * _ramp(0.22 - np.abs(y + 0.30), 0.1)
    shaft = np.abs(y + 0.52 + slope * (a - 0.8))
    film += 0.16 * np.maximum(_ramp(0.05 - shaft, 0.03) * _ramp(a - 0.84, 0.05), _ramp(0.085 - np.hypot(a - 0.82, shaft), 0.03))

    # Vessels: branches from the hila outwards, drawn as lines.
    lines = np.zeros_like(film)
    pixels = (width - 1) / (x[0, -1] - x[0, 0])  # in one half image width
    for side in (-1, 1):
        for turn in body.uniform(-1.3, 1.4, 16):
            reach = np.linspace(0.0, body.uniform(0.2, 0.42), 5)
            bend = turn + np.cumsum(body.normal(0, 0.15, 5))
            vx, vy = side * (0.15 + reach * np.cos(bend)), -0.02 + reach * np.sin(bend)
            points = np.stack([(vx + shift_x) * pixels + width / 2, (vy + shift_y) * pixels + height / 2], 1)
            for i, thick in enumerate((3, 2, 1, 1)):
                ends = [tuple(int(16 * c) for c in p) for p in points[i : i + 2]]
                cv2.line(lines, *ends, (4 - i) / 4, max(1, thick - 1), cv2.LINE_AA, 4)
    film += lungs * (0.07 * cv2.GaussianBlur(lines, (0, 0), 0.8) + 0.012 * _noise(body, x.shape, 40))
    film += 0.09 * lungs * np.exp(-((a - 0.17) ** 2 + (y + 0.02) ** 2) / 0.012)

    mask = np.zeros(film.shape, bool)
    if case.cause != "normal":
        opacity, mask = _lesion(case.cause, body, rng, x, y, lungs)
        opacity = case.contrast * (opacity - OVERINFLATION * lungs * opacity.sum() / lungs.sum())
        film = np.maximum(film, np.minimum(film + 0.62 * opacity, 0.62))  # fluid is no denser than the heart
        mask &= case.contrast > 0

    # Film: exposure, grain, collimator borders, marker.
    film = cv2.resize(film, (full_width, full_height), interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(mask.astype(np.uint8), (full_width, full_height), interpolation=cv2.INTER_NEAREST) > 0
    width, height = full_width, full_height
    gain = math.exp(rng.normal(0, 0.04) + 0.03 * case.shift)
    grey = 1 - np.exp(-(2.1 * gain) * np.clip(film + rng.normal(0, 0.015), 0, None))
    grey = 255 * np.clip(rng.uniform(0.0, 0.06) + grey, 0, 1) ** (math.exp(rng.normal(0, 0.04)) * (1 - 0.03 * case.shift))
    grey += cv2.GaussianBlur(rng.standard_normal(grey.shape, dtype=np.float32), (0, 0), 0.6) * rng.uniform(2, 5)
    border = rng.integers(0, width // 8, 2) * (rng.random(2) < 0.5)
    grey[:, : border[0]], grey[:, width - border[1] :] = 4, 4
    mask[:, : border[0]], mask[:, width - border[1] :] = False, False
    image = np.clip(grey, 0, 255).astype(np.uint8)
    if rng.random() < 0.7:
        at = (int(border[0] + rng.uniform(0.03, 0.10) * width), int(rng.uniform(0.10, 0.45) * height))
        cv2.putText(image, "R", at, cv2.FONT_HERSHEY_SIMPLEX, width / 620, 245, 2, cv2.LINE_AA)
    return image, mask


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
            cases.append(Case(f"{split}/{label}/{name}", cause, body, image, small, shift, traps.contrast))
    for copy in range(traps.duplicates):
        # A copy keeps its own name and is drawn from the numbers of another file of its class.
        folder = ("train/PNEUMONIA/", "train/NORMAL/")[copy % 2]
        source, target = (folder, folder.replace("train", "test") if copy % 4 == 3 else folder)
        sources = [i for i, case in enumerate(cases) if case.name.startswith(source)]
        targets = [i for i, case in enumerate(cases) if case.name.startswith(target)]
        i, j = sources[int(rng.integers(len(sources)))], targets[int(rng.integers(len(targets)))]
        cases[j] = replace(cases[i], name=cases[j].name)
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
        `<cache>/phantom-<version>-train400-test160-val16-seed0/chest_xray`. Beside it `phantom.json` says how it was made.

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
    name += "".join(f"-{key}{getattr(planted, key):g}" for key in asdict(planted) if getattr(planted, key) != getattr(Traps(), key))
    cache = Path(cache or cache_folder())
    cache.mkdir(parents=True, exist_ok=True)
    folder, partial = cache / name, cache / f"{name}.partial"
    with FileLock(f"{folder}.lock"):  # a second process waits here and then finds the folder
        if _complete(folder, train + test + val):
            return folder / "chest_xray"
        for leftover in (folder, partial):
            shutil.rmtree(leftover, ignore_errors=True)
        cases = plan_cases(train, test, val, seed, planted)
        try:
            for parent in {(partial / "chest_xray" / case.name).parent for case in cases}:
                parent.mkdir(parents=True)
            with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # numpy and OpenCV let threads run side by side
                drawn = pool.map(lambda case: _write(case, partial / "chest_xray"), cases)
                for _ in progress_bar(drawn, total=len(cases), desc="drawing", unit="image") if progress else drawn:
                    pass
            record = {"version": VERSION, "train": train, "test": test, "val": val, "seed": seed, "traps": asdict(planted)}
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
        low, high = {"prevalence": (0.001, 0.999), "test_prevalence": (0.001, 0.999), "repeats": (0, 0.95)}.get(key, (0, 100))
        if not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{key}={value!r}: expected a number from {low} to {high}, e.g. {key}={getattr(Traps(), key)}.")
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
        raise ValueError(f"No phantom.json stands above {path.name}, so its lesion is not known: only images of the phantom have masks.") from None
    if record["version"] != VERSION:
        raise ValueError(f"{path.name} was drawn by version {record['version']} of the phantom, this is {VERSION}. Draw it again: phantom_folder().")
    cases = plan_cases(*(record[key] for key in (*SPLITS, "seed")), Traps(**record["traps"]))
    name = path.relative_to(root).as_posix()
    found = [case for case in cases if case.name == name]
    if not found:
        raise ValueError(f"{name} is not one of the {len(cases)} images of this phantom. Expected a name such as {cases[0].name}.")
    return draw_case(found[0])[1]

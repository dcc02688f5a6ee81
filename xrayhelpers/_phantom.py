"""The embedded data set: synthetic chest radiographs, drawn as real JPEG files in the Kaggle layout.

A phantom is a made-up body that is X-rayed to try out a method. Numbers found on it teach the method and say nothing
about medicine. It carries the traps of the real data (see :class:`Traps`), so that a lesson can switch one off and see
what changes. What a patient looks like depends on (seed, cause, person number), each image also on (seed, split,
number): one seed gives the same bytes on one machine, whatever the number of threads.

**How an image is made.** Every part of the body is an array of attenuation on a grid of 180 x 224: 0 is air, about 0.4
soft tissue, more is bone. `x` and `y` are in half image widths from the middle of the chest: `x` to the right of the
image (the patient's left, where the heart is), `y` downward, `a` = `|x|`. Film, blur and grain follow; then the image
is enlarged to the size of its file. *Bacteria* is one dense patch in one lobe with some haze around it; *virus* is a
fine net with thickened vessels over both lungs. Strength varies log-normally between patients, down to hardly visible.
Normal children have a thymus (35 % of them), prominent vessels, turned chests and shallow breaths as well.

**Where the figures come from.** Measured on 2026-11-25 on the 224 px copies of the real images (400 per group in train;
test: 117 normal, 195 pneumonia; mean and standard deviation over images) and on 72 originals. The phantom was set to
meet them (in brackets what it reaches with seed 0); models were then looked at twice, to let the strength of the
disease vary more between patients and the sizes of the files differ less between the classes.

======================================== ============== ============== ============== ==========================
measured                                 train normal   train sick     test normal    drawn by
======================================== ============== ============== ============== ==========================
mean gray value                          123±13 (127)   123±20 (131)   126±15 (136)   `gain`
standard deviation of the gray values    61±6 (58)      56±10 (53)     59±7 (58)      `gain`, factor 247 to 257
5 % darkest pixels are below             6±12 (11)      17±19 (21)     11±17 (12)     `fog`
5 % brightest pixels are above           205±13 (198)   192±18 (192)   204±15 (204)   factor 247 to 257
log variance of the Laplacian: sharpness 4.99 (4.35)    4.33 (3.52)    4.73 (4.16)    `blur`
its standard deviation over images       0.29 (0.35)    0.49 (0.47)    0.30 (0.40)    `blur`, 0.3
log variance between 1 and 3 px: ribs    4.19 (4.02)    3.44 (3.28)    3.98 (3.90)    `detail`
gray value of the lungs                  104±17 (100)   122±24 (123)   110±18 (117)   opacity: 0.40 x strength
spine minus lungs                        85±16 (85)     65±20 (52)     85±16 (76)     opacity
left edge of the body, share of width    0.08±.03 (.07) 0.08±.04 (.07) 0.08±.04 (.07) `move_x`, `unit`, `pose`
diaphragm, share of height               0.76±.04 (.73) 0.77±.08 (.72) 0.80±.05 (.76) `dome`, `breath`, 0.065
======================================== ============== ============== ============== ==========================

The test normals come from another batch: blurrier, lungs and spine a little brighter, diaphragm 4 % of the height
lower. No split of train can show that. Real images differ between the classes of train in sharpness, contrast and pose
as well (`batch`). The report's network, trained on 340 real images, two draws: AUC 0.99 on validation, 0.87 and 0.91 on
test, a specificity of 0.92 on validation and 0.36 on stressed validation images; KNN 0.92 and 0.78.

**What differs from the real images.** The size of a file tells less: on 1,566 originals width and height alone
reached a balanced accuracy of 0.78, bytes per pixel 0.99 (JPEG quality 96 against 75 in the 72 originals seen); here
the ranges overlap, as a header-only rule would otherwise beat every network. Bytes alone reach an AUC of 0.85 in both
parts (the 224 px copies, all of one size and quality: 0.90 in train, 0.80 in test). Originals are 4 times as wide.
The phantom is blurrier than the copies, both classes alike, and its classes overlap less in sharpness (AUC 0.93 in
train, in the copies 0.88). The real pneumonias of test are a little sharper than those of train, their lungs darker
(114 against 124, bacteria); here they are alike. There are no tubes, wires, borders or text other than "R".
"""

import json
import math
import shutil
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock
from PIL import Image

from xrayhelpers import _machine

VERSION = 4  # raise it when any image changes: caches of older drawings are then left alone
SPLITS = ("train", "test", "val")
GRID = (180, 224)  # rows and columns in which the body is drawn; the film is then enlarged to its own size
LOBES = ((-0.38, -0.32), (-0.36, 0.04), (-0.42, 0.28), (0.38, -0.28), (0.48, 0.24))  # centers (x, y)


@dataclass(frozen=True)
class Traps:
    """What is planted in the phantom; the defaults follow the real data.

    Attributes
    ----------
    prevalence, test_prevalence : float
        Share of pneumonia in train (3875 / 5216 = 0.74) and test (390 / 624 = 0.625), each in (0, 1). `val` has half.
    quality_shortcut : bool
        Normals are stored larger (median width 366 instead of 305), less wide for their height, and at JPEG quality 71
        to 93 instead of 67 to 89. False: one distribution of size and quality for all.
    batch : float, >= 0
        How much sharper, richer in contrast and more alike in pose the films of the healthy are; 0 is not at all.
    shift : float, >= 0
        How far the test normals are from the train normals in sharpness, exposure and breath; 0 is not at all. Train
        images stay the same byte for byte.
    duplicates : int, >= 0
        Files that are exact copies of another file of their class; every fourth copy is in test, its original in train.
    contrast : float, >= 0
        Visibility of the disease; 0 draws the sick without it.
    """

    prevalence: float = 0.74
    test_prevalence: float = 0.625
    quality_shortcut: bool = True
    batch: float = 1.0
    shift: float = 1.0
    duplicates: int = 4
    contrast: float = 1.0


@dataclass(frozen=True)
class Case:
    """One image to draw.

    Attributes
    ----------
    name : str
        Such as "train/NORMAL/IM-0115-0001.jpeg".
    cause : str
        "normal", "bacteria" or "virus".
    body, number : tuple of int
        Seeds of the random draws that belong to the patient and to the image.
    small : bool
        Stored as the pneumonia files are: smaller and at a lower JPEG quality.
    look : float
        1: sharp, rich in contrast and carefully posed, as the real normals are; 0: as the real pneumonias are.
    shift, contrast : float
        As in :class:`Traps`, for this image.
    """

    name: str
    cause: str
    body: tuple[int, ...]
    number: tuple[int, ...]
    small: bool = False
    look: float = 0.0
    shift: float = 0.0
    contrast: float = 1.0


def _deal_pneumonia(rng, needs: dict[str, int]) -> dict[str, list[tuple[str, str, int]]]:
    """Deal (file name, cause, person) to the splits, number after number; a number and cause is in one split only."""
    dealt, files, person = {split: [] for split in needs}, {"bacteria": 0, "virus": 0}, 0
    while any(needs.values()):
        person += 1
        for cause in ("bacteria", "virus")[:: 1 if rng.random() < 0.65 else -1][: 2 if rng.random() < 0.45 else 1]:
            if left := sum(needs.values()):
                split = rng.choice(list(needs), p=[need / left for need in needs.values()])
                for _ in range(min(int(rng.geometric(0.6)), needs[split])):
                    files[cause] += int(rng.integers(1, 4))
                    dealt[split].append((f"person{person}_{cause}_{files[cause]}.jpeg", cause, person))
                    needs[split] -= 1
    return dealt


def _deal_normals(rng, need: int, start: int, series: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """Return (file name, "normal", series number) of one split, the series one after the other, from number `start`."""
    dealt, number = [], start
    for i, prefix in enumerate(series):
        share = (i + 1) * need // len(series)
        while len(dealt) < share:
            images = min(int(rng.geometric(0.8)), share - len(dealt))
            ends = [""] if images == 1 else [f"-{i:04d}" for i in range(1, images + 1)]
            dealt += [(f"{prefix}IM-{number:04d}-0001{end}.jpeg", "normal", number) for end in ends]
            number += 1
    return dealt


def plan_cases(train: int, test: int, val: int, seed: int, traps: Traps) -> tuple[Case, ...]:
    """Decide every file of a phantom before any is drawn: names, patients, causes, copies."""
    sizes = {"train": (train, traps.prevalence), "test": (test, traps.test_prevalence), "val": (val, 0.5)}
    sick = {split: min(max(round(n * share), min(1, n)), max(n - 1, 0)) for split, (n, share) in sizes.items()}
    rng = np.random.default_rng((seed, 1))
    dealt, start = _deal_pneumonia(rng, dict(sick)), 1
    for split, first in (("test", 1), ("train", 115), ("val", 1427)):  # the official numbers begin there
        series = ("NORMAL2-",) if split == "val" else ("", "NORMAL2-")
        normals = _deal_normals(rng, sizes[split][0] - sick[split], max(start, first), series)
        start = max([start, first, *(number + 1 for _, _, number in normals)])
        dealt[split] = normals + dealt[split]
    cases = []
    for k, split in enumerate(SPLITS):
        shift = traps.shift * (split == "test")
        for number, (name, cause, patient) in enumerate(dealt[split]):
            normal = cause == "normal"
            path = f"{split}/{'NORMAL' if normal else 'PNEUMONIA'}/{name}"
            body = (seed, 2, ("normal", "bacteria", "virus").index(cause), patient, int(name.startswith("NORMAL2")))
            small = not normal if traps.quality_shortcut else bool(rng.random() < sick[split] / sizes[split][0])
            film = (small, normal * traps.batch, normal * shift, traps.contrast)
            cases.append(Case(path, cause, body, (seed, 3, k, number), *film))
    copied: set[int] = set()
    for copy in range(traps.duplicates):
        # A copy keeps its own name and is drawn from the numbers of another file of its class.
        source = ("train/PNEUMONIA/", "train/NORMAL/")[copy % 2]
        target = source.replace("train", "test") if copy % 4 == 3 else source
        sources = [i for i, case in enumerate(cases) if case.name.startswith(source) and i not in copied]
        targets = [i for i, case in enumerate(cases) if case.name.startswith(target) and i not in copied]
        if sources and targets and (len(sources) > 1 or sources != targets):
            j = rng.choice(targets)
            i = rng.choice([i for i in sources if i != j])
            cases[j] = replace(cases[i], name=cases[j].name)
            copied |= {i, j}
    return tuple(cases)


def _ramp(x, width):
    """Soft step from 0 to 1, `width` wide, around x = 0."""
    return np.clip(x / width + 0.5, 0, 1)


def _bell(x, width):
    """Bell curve of height 1 around x = 0."""
    return np.exp(-np.square(x / width))


def _noise(rng, cells):
    """Smooth random field (H, W) float32, mean 0 and deviation about 1, with `cells` bumps across the width."""
    coarse = rng.standard_normal((cells * 4 // 5, cells), np.float32)
    return cv2.resize(coarse, GRID[::-1], interpolation=cv2.INTER_CUBIC)


def _body(x, y, body, rng, pose, shift, detail):
    """Return attenuation of the chest and the soft mask of the lungs."""
    a, right = np.abs(x), np.sign(x)
    # Soft parts.
    top, turn, breath = body.normal(-0.60, 0.025), rng.normal(0, 0.03 * pose), rng.normal(0, 0.04 * pose)
    dome = body.normal(0.36, 0.035) + breath + 0.065 * shift + 0.03 * right + 1.0 * np.maximum(a - 0.32, 0) ** 2
    depth = 1 - np.clip((y - top) / 1.0, 0, 1)
    half, center = 0.31 * np.sqrt(1 - depth * depth * depth) + 0.01, 0.40 - 0.17 * depth - 0.4 * turn * right
    wall = half + center
    cage = _ramp(wall - a, 0.04) * (y > top)
    heart_x, heart_r = body.normal(0.09, 0.025) + turn, body.normal(0.275, 0.025) - 0.3 * breath
    heart = _ramp(1 - np.hypot((x - heart_x - 0.3 * (y - 0.12)) / heart_r, (y - 0.12) / 0.34), 0.14)
    thymus = body.uniform(0.0, 0.16) * (body.random() < 0.35) * _bell(y + 0.22, 0.14) * (right == body.choice((-1, 1)))
    middle = body.normal(0.105, 0.012) + 0.03 * _bell(y + 0.25, 0.10) * (1 + 0.5 * right) + thymus
    heart = 1 - (1 - heart) * (1 - _ramp(middle + 0.04 * _ramp(y, 0.5) - np.abs(x - 0.6 * turn), 0.05))
    lungs = _ramp(half - np.abs(a - center), 0.04) * _ramp(dome - y, 0.035) * (1 - heart)
    trunk = _ramp(body.normal(0.80, 0.03) + 0.04 * np.cos(4 * y) + 0.12 * _ramp(-0.15 - y, 0.5) - a, 0.05)
    trunk *= _ramp(y + 0.84 - 0.30 * a, 0.12)
    off = np.abs(y + 0.48 - pose * (rng.uniform(-0.4, 0.6) + rng.uniform(-0.3, 0.3) * right) * (a - 0.78))
    arms = _ramp(0.20 - off, 0.07) * _ramp(a - 0.72, 0.2)
    neck = _ramp(0.20 + 0.6 * np.sqrt(np.maximum(0, y + 0.84)) - a, 0.08) * (y < -0.4)
    jaw = _ramp(1 - np.hypot(x / 0.40, (y + 1.05) / 0.28), 0.15)
    tissue = np.maximum.reduce([trunk, 0.8 * arms, 0.95 * neck, 1.1 * jaw])
    film = tissue * (0.38 + 0.26 * _ramp(y - dome, 0.06) + 0.03 * _noise(body, 5))
    gas = _ramp(1 - np.hypot((x - 0.36) / 0.17, (y - dome - 0.14) / 0.07), 0.6) * body.uniform(0, 1.0)
    film += (0.11 * heart * _ramp(dome - y, 0.2) - body.normal(0.23, 0.02) * lungs) * cage - 0.12 * gas * (y > dome)
    film += lungs * (0.05 * _ramp(0.05 - half + np.abs(a - center), 0.2) - 0.4 * breath + 0.015 * shift)
    # Bones.
    spacing, phase = body.normal(0.125, 0.007), body.uniform()
    drop = 0.55 * a * a * a - 0.10 * np.sin(4.5 * a)
    back = np.abs(((y - drop * (1 + 0.4 * y)) / spacing + phase) % 1 - 0.5) * 2  # 0 in the middle of a rib
    ribs = (_ramp(0.52 - back, 0.22) + 0.5 * _ramp(0.14 - np.abs(back - 0.45), 0.2)) * cage
    ribs *= (0.7 + 0.7 * np.square(a / wall)) * _ramp(a - 0.06, 0.05) * _ramp(0.46 - y, 0.3)
    edge = _bell(a - wall - 0.005, 0.016) * _ramp(y + 0.5, 0.1) * _ramp(0.55 - y, 0.2)
    across = np.abs(x - 0.3 * turn)
    spine = (0.7 + 0.3 * np.cos(2 * np.pi * y / (0.8 * spacing))) * 0.13 * _ramp(0.085 - across, 0.03)
    spine += 0.04 * _bell(across - 0.06, 0.018) - 0.08 * _bell(x - 0.8 * turn + 0.01, 0.03) * _ramp(-0.2 - y, 0.15)
    collar = y + 0.50 + (0.22 + turn * right) * (a - 0.08) - 0.035 * np.sin(11 * (a - 0.08)) + rng.normal(0, 0.02)
    collar = _ramp(0.026 - np.abs(collar), 0.02) * _ramp(a - 0.07, 0.03) * _ramp(0.70 - a, 0.05)
    arm = np.maximum(_ramp(0.055 - off, 0.03) * _ramp(a - 0.84, 0.05), _ramp(0.09 - np.hypot(a - 0.80, off), 0.03))
    return film + detail * (0.075 * ribs + 0.07 * edge + spine + 0.085 * collar + 0.12 * arm), lungs


def _vessels(body, to_pixels, count, reach):
    """Return lung vessels, 0 to 1: lines from the roots of the lungs outward, thinner and paler at their ends."""
    lines = np.zeros(GRID, np.float32)
    for side in (-1, 1):
        for turn in body.uniform(-1.4, 1.45, count):
            steps, bend = np.linspace(0, reach * body.uniform(0.5, 1), 5), turn + np.cumsum(body.normal(0, 0.2, 5))
            points = np.int32(16 * to_pixels(side * (0.14 + steps * np.cos(bend)), -0.04 + steps * np.sin(bend)))
            cv2.polylines(lines, [points], False, 0.6, 1, cv2.LINE_AA, 4)
            cv2.polylines(lines, [points[:3]], False, 0.8, 2, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(lines, (0, 0), 0.9)


def _lesion(cause, body, x, y, lungs, to_pixels):
    """Return opacity (H, W), about 0 to 1, and the mask of its dense part; alike in all images of a patient."""
    if cause == "bacteria":
        (cx, cy), size = (LOBES[body.integers(5)] + body.normal(0, 0.05, 2)).tolist(), body.uniform(0.8, 1.7)
        distance = np.hypot((x - cx) / (0.21 * size), (y - cy) / (0.17 * size))
        patch = _ramp(1 - distance + 0.25 * _noise(body, 8) + 0.12 * _noise(body, 22), 1.0)
        haze = np.maximum(patch, body.uniform(0, 0.35) * _ramp(x * cx, 0.04))
        return 0.9 * math.exp(body.normal(0, 0.55)) * haze * lungs, (patch > 0.35) & (lungs > 0.5)
    reach = np.exp(-((np.abs(x) - 0.3) ** 2 / 0.08 + (y - body.normal(0.0, 0.1)) ** 2 / 0.15))
    patch = (0.3 + 0.7 * reach) * lungs
    net = np.clip(0.5 - 0.5 * np.abs(_noise(body, 34)) + 0.25 * _noise(body, 12), 0, 1.2)
    opacity = patch * (0.5 * net + 0.35 * _vessels(body, to_pixels, 26, 0.5) + 0.22)
    return min(0.75 * math.exp(body.normal(0, 0.5)), 1.5) * opacity, patch > 0.6


def draw_case(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Draw one radiograph.

    Returns
    -------
    image : uint8 array (height, width)
        0 is black; 183 to 550 px wide.
    mask : bool array (height, width)
        True on the disease; all False for a normal and where contrast is 0.
    """
    body, rng, (rows, columns) = np.random.default_rng(case.body), np.random.default_rng(case.number), GRID
    pose = 1.5 - 0.5 * case.look
    # Size of the file: median and deviation of the logarithm, for the width and for width / height.
    wide, ratio = ((305, 0.30), (0.33, 0.17)) if case.small else ((366, 0.24), (0.22, 0.10))
    width = wide[0] * math.exp(wide[1] * float(np.clip(rng.standard_normal(), -1.7, 1.7)))
    full_width, full_height = round(width), round(width / min(max(math.exp(rng.normal(*ratio)), 1.05), 1.9))
    # Pose: from pixels to body coordinates.
    unit = columns / 2 * math.exp(rng.normal(0.03, 0.05 * pose))
    angle, move_x, move_y = (pose * rng.normal(0, (0.03, 0.035, 0.035))).tolist()  # floats keep the arrays float32
    tall, broad = body.uniform(0.93, 1.07), body.uniform(0.93, 1.07)
    j, i = np.mgrid[0:rows, 0:columns].astype(np.float32)
    px, py = (i - columns / 2) / unit - move_x, (j - rows / 2) / unit - move_y
    cosine, sine = math.cos(angle), math.sin(angle)
    x, y = (px * cosine + py * sine) * broad, (py * cosine - px * sine) * tall

    def to_pixels(x, y):
        px, py = x / broad * cosine - y / tall * sine, x / broad * sine + y / tall * cosine
        return np.stack([(px + move_x) * unit + columns / 2, (py + move_y) * unit + rows / 2], 1)

    detail = math.exp(rng.normal(0, 0.12)) * (0.85 + 0.3 * case.look)
    film, lungs = _body(x, y, body, rng, pose, case.shift, detail)
    film += lungs * detail * (body.uniform(0.03, 0.10) * _vessels(body, to_pixels, 16, 0.42) + 0.012 * _noise(body, 40))
    film += body.uniform(0.03, 0.09) * lungs * _bell(np.hypot(np.abs(x) - 0.17, y + 0.02), 0.11)
    mask = np.zeros(GRID, bool)
    if case.cause != "normal" and case.contrast > 0:
        own = np.random.default_rng((*case.body, 5))  # without the disease the same patient is drawn
        opacity, mask = _lesion(case.cause, own, x, y, lungs, to_pixels)
        film += 0.40 * case.contrast * opacity

    # Film: exposure, sharpness, grain, marker.
    gain = 2.3 * math.exp(rng.normal(0, 0.08 * pose) + 0.05 * case.shift)
    fog = rng.uniform(0, 0.05) + 0.03 * (1 - case.look) + 0.02 * case.shift
    gray = fog + (1 - fog) * (1 - np.exp(-gain * np.clip(film, 0, None)))
    gray = (247 + 10 * case.look) * np.clip(gray, 0, 1) ** math.exp(rng.normal(0.1, 0.10 * pose))
    gray += 3.0 * _noise(rng, 124)
    blur = 0.62 * math.exp(rng.normal(0, 0.3) - 0.45 * case.look + 0.2 * case.shift)
    gray = cv2.GaussianBlur(gray, (0, 0), blur)
    gray = cv2.resize(gray, (full_width, full_height), interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(mask.astype(np.uint8), (full_width, full_height), interpolation=cv2.INTER_NEAREST) > 0
    gray += rng.uniform(0.5, 2) * rng.standard_normal(gray.shape, dtype=np.float32)
    image = np.clip(gray, 0, 255).astype(np.uint8)
    at = (int(rng.uniform(0.03, 0.10) * full_width), int(rng.uniform(0.10, 0.45) * full_height))
    if rng.random() < 0.7:
        cv2.putText(image, "R", at, cv2.FONT_HERSHEY_SIMPLEX, full_width / 620, 235, 2, cv2.LINE_AA)
    return image, mask


def _write(case: Case, file: Path) -> None:
    """Draw one case and store it as a gray JPEG."""
    low, high = (67, 90) if case.small else (71, 94)
    quality = int(np.random.default_rng((*case.number, 4)).integers(low, high))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_case(case)[0]).save(file, "JPEG", quality=quality)


def phantom_folder(train: int = 400, test: int = 160, val: int = 16, seed: int = 0, **traps) -> Path:
    """Return the `chest_xray` folder of a phantom, in the cache folder; it is drawn once and found again after that.

    Parameters
    ----------
    train, test, val : int
        Images in each split: at least 2 in train and test, so that both classes are there; val may be 0.
    seed : int, >= 0
        One seed, one data set, byte for byte.
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
    StorageError
        When the disk is full or must not be written; nothing half done is left.
    """
    sizes = {"train": train, "test": test, "val": val, "seed": seed}
    planted = _checked(sizes, traps)
    name = f"phantom-{VERSION}-train{train}-test{test}-val{val}-seed{seed}"
    name += "".join(f"-{key}{value:g}" for key, value in asdict(planted).items() if value != getattr(Traps(), key))
    folder = _machine.cache_folder() / name
    if not _complete(folder, train + test + val):  # asked before the lock: a read-only cache may be read
        with _machine.storing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):  # a second process waits here and then finds the folder
                if not _complete(folder, train + test + val):
                    _draw_folder(folder, sizes, planted)
    return folder / "chest_xray"


def _draw_folder(folder: Path, sizes: dict[str, int], planted: Traps) -> None:
    """Draw all images beside `folder` and move them there when the last one is written."""
    cases, partial = plan_cases(*sizes.values(), planted), folder.with_name(f"{folder.name}.partial")
    for leftover in (folder, partial):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        # NumPy and OpenCV let threads run side by side.
        _machine.in_threads(lambda case: _write(case, partial / "chest_xray" / case.name), cases, desc="drawing")
        (partial / "phantom.json").write_text(json.dumps({"version": VERSION, **sizes, "traps": asdict(planted)}))
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _complete(folder: Path, expected: int) -> bool:
    """Is this folder whole? Someone may have deleted images to save space."""
    return (folder / "phantom.json").is_file() and sum(1 for _ in folder.glob("chest_xray/*/*/*.jpeg")) == expected


def _checked(sizes: dict[str, int], traps: dict) -> Traps:
    """Return the traps; raise ValueError for what cannot be drawn."""
    known = [field.name for field in fields(Traps)]
    if unknown := ", ".join(sorted(set(traps) - set(known))):
        raise ValueError(f"The phantom has no keyword {unknown}. Use one of: {', '.join([*sizes, *known])}.")
    planted = Traps(**traps)
    for key, value in (sizes | asdict(planted)).items():
        whole = key in (*SPLITS, "seed", "duplicates")
        low, high = (0.001, 0.999) if "prevalence" in key else (2 * (key in SPLITS[:2]), 1e9 if whole else 100)
        if not isinstance(value, int if whole else int | float) or not low <= value <= high:
            expected = f"a whole number of at least {low}" if whole else f"a number from {low} to {high}"
            raise ValueError(f"{key}={value!r}: expected {expected}.")
    return planted


def lesion_mask(path: str | Path) -> np.ndarray:
    """Return the bool array (height, width) that is True where the disease of this phantom image was drawn.

    Parameters
    ----------
    path : str or Path
        A JPEG that :func:`phantom_folder` wrote.

    Raises
    ------
    ValueError
        If the file is no phantom image, or was drawn by another version.
    """
    path = Path(path).absolute()
    name, file = "/".join(path.parts[-3:]), path.parents[3] / "phantom.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if record.get("version") != VERSION:
        found = f"It was drawn by version {record['version']}" if record else "No phantom.json stands above it"
        raise ValueError(f"{name} has no lesion mask. {found}; open_data('phantom') draws images of version {VERSION}.")
    cases = plan_cases(*(record[key] for key in (*SPLITS, "seed")), Traps(**record["traps"]))
    if found := [case for case in cases if case.name == name]:
        return draw_case(found[0])[1]
    raise ValueError(f"{name} is none of the {len(cases)} images of this phantom, such as {cases[0].name}.")

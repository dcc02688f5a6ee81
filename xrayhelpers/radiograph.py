"""Draws one synthetic chest radiograph: a body of soft masks, X-rayed with numpy and OpenCV.

Every part of the body is an array (H, W) of attenuation: 0 is air, about 0.6 soft tissue, more is bone. Places and
sizes are in half image widths from the middle of the chest: `x` to the right of the image (the patient's left, where
the heart is), `y` downwards, `a` = `|x|`. *Bacteria* is one dense patch in one lobe with some haze in the lung around
it; *virus* is a patchy net over both lungs. :mod:`xrayhelpers.phantom` makes data sets of such images.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

LOBES = {  # centre (x, y) and half axes
    "right upper": (-0.38, -0.32, 0.21, 0.17),
    "right middle": (-0.36, 0.04, 0.21, 0.16),
    "right lower": (-0.42, 0.28, 0.23, 0.16),
    "left upper": (0.38, -0.28, 0.21, 0.19),
    "left lower": (0.48, 0.24, 0.19, 0.20),
}


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
        Stored as the pneumonia files are: narrower and at a lower JPEG quality.
    shift : float
        How far exposure and pose are from those of the train folder; 0 is not at all.
    contrast : float
        Visibility of the disease; 0 is none.
    pose : float
        How much pose and exposure change from film to film; 0 is not at all.
    """

    name: str
    cause: str
    body: tuple[int, ...]
    number: tuple[int, ...]
    small: bool = False
    shift: float = 0.0
    contrast: float = 1.0
    pose: float = 1.0


def _ramp(x, width):
    """Soft step from 0 to 1, `width` wide, around x = 0."""
    return np.clip(x / width + 0.5, 0, 1)


def _bell(x, width):
    """Bell curve of height 1 around x = 0."""
    return np.exp(-np.square(x / width))


def _noise(rng, shape, cells):
    """Smooth random field (H, W) float32, mean 0 and deviation about 1, with `cells` bumps across the width."""
    coarse = rng.standard_normal((max(2, cells * shape[0] // shape[1]), cells), dtype=np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _organs(x, y, body, rng, slope):
    """Return attenuation of all but the bones, and the soft masks of lungs and rib cage with the cage's half width."""
    a = np.abs(x)
    top, lean = body.normal(-0.58, 0.02), body.normal(0, 0.015)
    dome = body.normal(0.40, 0.03) + 0.03 * np.sign(x) + rng.normal(0, 0.02) + 0.9 * np.maximum(a - 0.34, 0) ** 2
    depth = 1 - np.clip((y - top) / 0.9, 0, 1)
    half, centre = 0.33 * np.sqrt(1 - depth * depth * np.sqrt(depth)) + 0.01, 0.39 - 0.12 * depth + lean
    cage = _ramp(half + centre - a, 0.05) * (y > top)
    heart_x, heart_r = body.normal(0.10, 0.02), body.normal(0.33, 0.025)
    heart = _ramp(1 - np.hypot((x - heart_x - 0.35 * (y - 0.15)) / heart_r, (y - 0.15) / 0.36), 0.16)
    middle = 0.12 + 0.04 * _bell(y + 0.3, 0.12) * (1 + 0.3 * np.sign(x)) + 0.012 * _noise(body, x.shape, 7)
    heart = 1 - (1 - heart) * (1 - _ramp(middle + 0.05 * _ramp(y, 0.5) - a, 0.06))
    lungs = _ramp(half - np.abs(a - centre), 0.04) * _ramp(dome - y, 0.035) * (1 - heart)
    trunk = _ramp(0.86 + 0.03 * np.cos(4 * y) - a, 0.06) * _ramp(y + 0.80 - 0.2 * a, 0.1)
    arms = _ramp(0.17 - np.abs(y + 0.50 + slope * (a - 0.8)), 0.05) * _ramp(a - 0.7, 0.3)
    neck = _ramp(0.22 + 0.5 * np.sqrt(np.maximum(0, y + 0.82)) - a, 0.08) * (y < -0.4)
    jaw = _ramp(1 - np.hypot(x / 0.42, (y + 1.05) / 0.30), 0.15)
    tissue = np.maximum.reduce([trunk, 0.75 * arms, neck, 1.1 * jaw])
    film = tissue * (0.50 + 0.10 * _ramp(y - dome, 0.05) + 0.03 * _noise(body, x.shape, 5))
    gas = _ramp(1 - np.hypot((x - 0.36) / 0.17, (y - dome - 0.15) / 0.08), 0.5) * body.uniform(0.3, 1.0)
    film += 0.09 * heart * cage * _ramp(dome - y, 0.2) - 0.38 * lungs - 0.14 * gas * (y > dome)
    return film, lungs, cage, half + centre


def _bones(x, y, body, rng, slope, cage, wall):
    """Return attenuation of ribs, spine (with the dark windpipe before it), clavicles, shoulder blades and arms."""
    a, below_top = np.abs(x), _ramp(y + 0.5, 0.1)
    drop, spacing = 0.75 * a * a * a - 0.05 * np.sin(6 * a), body.normal(0.116, 0.005)
    back = np.abs(((y - drop * (1 + 0.3 * y)) / spacing + body.uniform()) % 1 - 0.5) * 2  # 0 in the middle of a rib
    ribs = (_ramp(0.5 - back, 0.2) * 0.75 + _ramp(0.12 - np.abs(back - 0.45), 0.2) * 0.4) * cage
    ribs *= (0.6 + 1.1 * np.square(np.square(a / wall))) * _ramp(a - 0.06, 0.05) * _ramp(0.5 - y, 0.4)
    front = _ramp(0.5 - np.abs(((y + 0.5 * a) / (1.15 * spacing)) % 1 - 0.5) * 2, 0.3) * cage
    front *= _ramp(a - 0.26, 0.1) * _ramp(y + 0.35, 0.1) * _ramp(0.4 - y, 0.1)
    edge = _bell(a - wall - 0.01, 0.018) * below_top * _ramp(0.62 - y, 0.2)
    bodies = 0.75 + 0.25 * np.cos(2 * np.pi * y / (0.9 * spacing))
    spine = bodies * (0.11 * _ramp(0.085 - a, 0.03) + 0.05 * _bell(a - 0.055, 0.018))
    spine -= 0.07 * _bell(x + 0.01, 0.03) * _ramp(-0.22 - y, 0.1)
    collar = y + 0.47 + 0.20 * (a - 0.08) - 0.035 * np.sin(11 * (a - 0.08)) + rng.normal(0, 0.012)
    collar = np.exp(-np.square(np.square(collar / 0.024))) * _ramp(a - 0.07, 0.03) * _ramp(0.68 - a, 0.05)
    blade = _bell(a - 0.70 - 0.18 * (y + 0.3), 0.03) * _ramp(0.22 - np.abs(y + 0.30), 0.1)
    off = np.abs(y + 0.52 + slope * (a - 0.8))
    arm = np.maximum(_ramp(0.05 - off, 0.03) * _ramp(a - 0.84, 0.05), _ramp(0.085 - np.hypot(a - 0.82, off), 0.03))
    return 0.055 * ribs + 0.025 * front + 0.10 * edge + spine + 0.13 * collar + 0.06 * blade + 0.16 * arm


def _vessels(shape, body, to_pixels):
    """Return the lung vessels, 0..1: lines that branch from the roots of the lungs, thinner and paler outwards."""
    lines = np.zeros(shape, np.float32)
    for side in (-1, 1):
        for turn in body.uniform(-1.3, 1.4, 16):
            reach, bend = np.linspace(0, body.uniform(0.2, 0.42), 5), turn + np.cumsum(body.normal(0, 0.15, 5))
            points = to_pixels(side * (0.15 + reach * np.cos(bend)), -0.02 + reach * np.sin(bend))
            ends = [tuple(int(16 * c) for c in point) for point in points]  # in sixteenths of a pixel
            for i in range(4):
                cv2.line(lines, ends[i], ends[i + 1], 1 - i / 4, 2 if i == 0 else 1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(lines, (0, 0), 0.8)


def _lesion(cause, body, rng, x, y, lungs):
    """Return opacity (H, W), about 0..1, and the mask of its dense part; alike in all images of a patient."""
    if cause == "bacteria":
        cx, cy, rx, ry = LOBES[list(LOBES)[body.integers(len(LOBES))]]
        cx, cy = cx + body.normal(0, 0.03), cy + body.normal(0, 0.03)
        size, strength = body.uniform(1.0, 1.6), body.uniform(0.8, 1.1)
        distance = np.hypot((x - cx) / (rx * size), (y - cy) / (ry * size))
        patch = _ramp(1 - distance + 0.22 * _noise(body, x.shape, 9), 0.6)
        haze = np.maximum(patch, 0.4 * _ramp(x * np.sign(cx), 0.1))
        return haze * lungs * strength * (1 + 0.15 * _noise(rng, x.shape, 30)), (patch > 0.4) & (lungs > 0.5)
    reach = np.exp(-((np.abs(x) - 0.3) ** 2 / 0.08 + (y + body.normal(0.02, 0.08)) ** 2 / 0.18))
    net = 1 - np.abs(_noise(body, x.shape, 20)) + 0.5 * _noise(body, x.shape, 11)
    patch = (0.4 + 0.6 * reach) * lungs
    return patch * body.uniform(0.6, 1.0) * np.clip(0.45 + 0.55 * net, 0, 1.3), patch > 0.6


def draw_case(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Draw one radiograph.

    Returns
    -------
    image : uint8 array (height, width), 0 is black; 290 to 419 wide, about 0.8 as high.
    mask : bool array (height, width), True on the disease; all False for a normal and where contrast is 0.
    """
    body, rng = np.random.default_rng(case.body), np.random.default_rng(case.number)
    full_width = int(rng.integers(290, 360) if case.small else rng.integers(350, 420))
    full_height = int(full_width * rng.uniform(0.68, 0.90))
    width, height = full_width * 2 // 3, full_height * 2 // 3  # the body is smooth: draw it smaller, enlarge, add grain

    # Pose: from pixels to body coordinates.
    pose = case.pose
    unit = width / 2 * (rng.normal(0.99, 0.08 * pose) - 0.03 * case.shift)
    angle = rng.normal(0, 0.055 * pose) * (1 + 0.8 * case.shift)
    move_x, move_y = rng.normal(0, 0.10 * pose), rng.normal(0.02, 0.08 * pose) + 0.08 * case.shift
    squash = (full_height / full_width / 0.79) ** (1 - 0.3 * pose)
    tall, wide = body.uniform(0.92, 1.08) / squash, body.uniform(0.94, 1.06)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    px, py = (columns - width / 2) / unit - move_x, (rows - height / 2) / unit - move_y
    cosine, sine = math.cos(angle), math.sin(angle)
    x, y = (px * cosine + py * sine) * wide, (py * cosine - px * sine) * tall

    def to_pixels(x, y):
        px, py = x / wide * cosine - y / tall * sine, x / wide * sine + y / tall * cosine
        return np.stack([(px + move_x) * unit + width / 2, (py + move_y) * unit + height / 2], 1)

    slope = pose * rng.uniform(-0.6, 0.6)
    film, lungs, cage, wall = _organs(x, y, body, rng, slope)
    film += _bones(x, y, body, rng, slope, cage, wall)
    film += lungs * (0.07 * _vessels(x.shape, body, to_pixels) + 0.012 * _noise(body, x.shape, 40))
    film += 0.09 * lungs * _bell(np.hypot(np.abs(x) - 0.17, y + 0.02), 0.11)
    mask = np.zeros(film.shape, bool)
    if case.cause != "normal" and case.contrast > 0:
        # Generators of its own: without the disease the same patient is drawn.
        own = np.random.default_rng((*case.body, 5)), np.random.default_rng((*case.number, 5))
        opacity, mask = _lesion(case.cause, *own, x, y, lungs)
        filled = np.minimum(film + 0.66 * case.contrast * opacity, 0.62)  # fluid is no denser than the heart
        film = np.maximum(film, filled)

    # Film: exposure, grain, black borders, marker.
    film = cv2.resize(film, (full_width, full_height), interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(mask.astype(np.uint8), (full_width, full_height), interpolation=cv2.INTER_NEAREST) > 0
    gain = 2.1 * math.exp(rng.normal(0, 0.07 * pose) + 0.01 * case.shift)
    grey = pose * rng.uniform(0.0, 0.1) + 1 - np.exp(-gain * np.clip(film + rng.normal(0, 0.015 * pose), 0, None))
    grey = 255 * np.clip(grey, 0, 1) ** (math.exp(rng.normal(0, 0.04 * pose)) * (1 - 0.01 * case.shift))
    grain = rng.standard_normal(grey.shape, dtype=np.float32)
    grey += cv2.GaussianBlur(grain, (0, 0), 0.6) * rng.uniform(2, 5)
    left, right = (rng.integers(0, full_width // 8, 2) * (rng.random(2) < 0.5 * pose)).tolist()
    image = np.clip(grey, 0, 255).astype(np.uint8)
    for array, black in ((image, 4), (mask, False)):
        array[:, :left], array[:, full_width - right :] = black, black
    at = (int(left + rng.uniform(0.03, 0.10) * full_width), int(rng.uniform(0.10, 0.45) * full_height))
    if rng.random() < 0.7:
        cv2.putText(image, "R", at, cv2.FONT_HERSHEY_SIMPLEX, full_width / 620, 245, 2, cv2.LINE_AA)
    return image, mask

"""The folders that are measured: a fraction of the given one, or its images repeated by hard link."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from xrayhelpers import sources
from xrayhelpers.phantom import phantom_folder

TRAIN_IMAGES = 5216  # of the report; what is measured on fewer images is scaled to this number
ENLARGED = 3.7  # the phantom's 355 x 280 pixels become the 1310 x 1040 of a published original


def large_phantom(folder: Path, train: int = 400, test: int = 160, factor: float = ENLARGED) -> Path:
    """Write a phantom at the size and weight of the published originals (mode L, about 200 KB) and return its tree."""
    source = phantom_folder(train=train, test=test, val=4, progress=False)
    rng = np.random.default_rng(0)
    for path in sorted(source.rglob("*.jpeg")):
        image = cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), None, fx=factor, fy=factor)
        grain = rng.normal(0, 2.5, image.shape)  # a smooth enlargement would decode faster than a photograph
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), np.clip(image + grain, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return folder


def take(source: Path, target: Path, train: int, test: int | None = None) -> Path:
    """Copy `train` training images and `test` (None: all) test images of a tree; repeat them by hard link if too few.

    The shares of the classes stay as they are; the chosen files are evenly spread over the sorted names. Copies, as a
    hard link to a reader's file would change its time of last change and with it the key of stores in use.
    """
    source = sources.find_tree(source)
    for split, wanted in (("train", train), ("test", test)):
        classes = [
            sorted(p for p in folder.iterdir() if p.suffix.lower() in sources.IMAGE_SUFFIXES)
            for folder in sorted((source / split).iterdir())
            if folder.is_dir()
        ]
        total = sum(map(len, classes))
        for files in classes:
            n = max(2, round(len(files) * (wanted or total) / total))
            folder = target / split / files[0].parent.name
            folder.mkdir(parents=True)
            for k in range(n):
                path = files[k * len(files) // n] if n <= len(files) else files[k % len(files)]
                first, round_ = folder / path.name, k // len(files)
                if not first.exists():
                    shutil.copyfile(path, first)
                else:
                    _link(first, first.with_stem(f"{first.stem}-{round_}"))
    return target


def _link(path: Path, link: Path) -> None:
    """Hard link, or copy where the file system has no links or no more of them (64,999 a file on ext4)."""
    try:
        os.link(path, link)
    except OSError:
        shutil.copyfile(path, link)


def describe(folder: Path, label: str, whole: int) -> str:
    """Say in one line what is measured, without a path."""
    files = sorted(sources.find_tree(folder).glob("train/*/*"))
    shapes = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape for path in files[:: max(1, len(files) // 50)]]
    height, width = (int(np.median([shape[i] for shape in shapes])) for i in (0, 1))
    size = np.median([path.stat().st_size for path in files]) / 1000
    text = f"{label}: {len(files)} training images ({len(files) / whole:.2f} of the folder's {whole})"
    return f"{text}, median {width} x {height} px, {size:.0f} KB"

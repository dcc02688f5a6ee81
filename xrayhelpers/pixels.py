"""Every image decoded once: an N x S x S x C uint8 store on disk, memory-mapped, safe against crashes and neighbours.

A store is two files in the cache folder. `<key>.npy` is written to a temporary name, flushed to disk and renamed; then
`<key>.json`, with its checksum, is written the same way. The JSON is the commit point: without it, or when the
checksum differs, the store does not exist. The key is a hash over what decides the pixels: the files (path, size,
time of last change), size, channels, interpolation and the version of this format. A lock lets one process build
while others wait. No pickle is ever loaded.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import numpy as np
import pandas as pd

from xrayhelpers.dataset import UnreadableError
from xrayhelpers.decode import INTERPOLATIONS, read_image, read_resized
from xrayhelpers.sources import (
    DataError,
    DataWarning,
    StorageError,
    cache_folder,
    cores,
    progress,
)

__all__ = ["INTERPOLATIONS", "find_nearest", "load_pixels", "read_image"]

VERSION = 1
CHUNK = 256  # images decoded before they are written: 12 MB at 128 px, so that memory does not grow with the data
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


def _key(index: pd.DataFrame, size: int, channels: int, interpolation: str) -> str:
    """Hash what decides the pixels."""
    digest = hashlib.sha256(f"{VERSION} {size} {channels} {interpolation}\n".encode())
    for path in index["path"]:
        try:
            stat = os.stat(path)
        except OSError as error:
            raise DataError(
                f"{path} cannot be read any more ({error.strerror}). Index the folder again: load_index(root)."
            ) from error
        # ctime catches a replaced file whose size and mtime were kept (cp -p)
        digest.update(f"{path}\t{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ctime_ns}\n".encode())
    return digest.hexdigest()[:20]


def load_pixels(index: pd.DataFrame, size: int = 64, channels: int = 3, interpolation: str = "nearest") -> np.ndarray:
    """Return all images of an index, resized; decoded once, read from the store ever after.

    Parameters
    ----------
    index : DataFrame
        From `dataset.load_index`, or some rows of it.
    size : int
        Side of the result in pixels.
    channels : int
        3 (RGB) or 1 (grey).
    interpolation : str
        "nearest" as Keras's `load_img` does, "bilinear" as `cv2.resize` does (both after a full decode), "area":
        averages; a JPEG is then decoded at a reduced scale, at least three times `size`: three times faster.

    Returns
    -------
    uint8 array, N x size x size x channels, RGB, 0 to 255, read-only, rows in the order of `index`
        A memory map, or an array in memory (with a notice) where the cache folder cannot be written.

    Raises
    ------
    DataError
        If images are broken, missing, or change while they are read.
    StorageError
        If the disk is full; no half file is left.
    """
    if len(index) == 0:
        raise DataError("The index has no rows, so there are no pixels to load. Check the rows you chose.")
    if not 1 <= size <= 4096 or channels not in (1, 3):
        raise ValueError(f"size={size}, channels={channels}: expected size 1 to 4096 and channels=3 or channels=1.")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation={interpolation!r} is unknown. Type one of {', '.join(INTERPOLATIONS)}.")
    shape = (len(index), size, size, channels)
    settings = (size, channels, interpolation)
    key = _key(index, *settings)
    folder = cache_folder() / "pixels"
    store = folder / f"{size}px-{channels}ch-{interpolation}-{key}.npy"
    pixels = _open_store(store, shape)
    if pixels is not None:
        return pixels
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(store.with_suffix(".lock")):
            pixels = _open_store(store, shape)  # perhaps a neighbour built it while we waited
            if pixels is None:
                _build_store(store, index, shape, interpolation, key)
                pixels = _open_store(store, shape)
    except DataError:
        raise
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise _disk_error(error.strerror, shape) from error
        notice = f"The cache folder cannot be written ({error.strerror}): {len(index)} images are decoded into memory."
        warnings.warn(f"{notice} Set XRAYS_CACHE to a folder of yours to decode only once.", DataWarning, stacklevel=2)
        pixels = _in_memory(index, shape, interpolation)
    if pixels is None:
        raise StorageError(f"The store {store.name} was damaged right after it was written. Check the disk, run again.")
    if _key(index, *settings) != key:
        raise DataError("Images changed while they were read. Wait until the copy is complete, then run this again.")
    return pixels


def find_nearest(index: pd.DataFrame, among: pd.DataFrame | None = None, size: int = 32) -> pd.DataFrame:
    """Find for each image the one that looks most like it, by the correlation of small grey copies.

    A correlation does not change with brightness or contrast, nor much with recompression or another resolution.
    It does change when an image is moved, turned or cropped, so such copies are missed.

    Parameters
    ----------
    index, among : DataFrame
        Rows of an index: the images that ask, and those that may answer; by default all others of `index`.
    size : int
        Side of the small copies in pixels.

    Returns
    -------
    DataFrame
        Index as `index`; columns name, nearest (name of the image found), correlation (float, -1 to 1).

    Raises
    ------
    ValueError
        No other image is there to be found.
    """
    others = index if among is None else among
    if len(others) < 1 + (among is None):
        raise ValueError(f"Found {len(others)} images to search; expected one more. Give more rows of the index.")

    def unit_rows(rows: pd.DataFrame) -> np.ndarray:
        grey = load_pixels(rows, size, channels=1, interpolation="area").reshape(len(rows), -1).astype(np.float32)
        grey -= grey.mean(axis=1, keepdims=True)
        return grey / np.maximum(np.linalg.norm(grey, axis=1, keepdims=True), 1e-6)

    asked, known = unit_rows(index), unit_rows(others)
    found, correlation = np.empty(len(index), int), np.empty(len(index))
    for start in range(0, len(index), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(index)))
        likeness = asked[rows] @ known.T
        if among is None:
            likeness[np.arange(len(rows)), rows] = -2  # not with itself
        found[rows], correlation[rows] = likeness.argmax(axis=1), np.clip(likeness.max(axis=1), -1, 1)
    nearest = others["name"].to_numpy()[found]
    return pd.DataFrame({"name": index["name"], "nearest": nearest, "correlation": correlation}, index.index)


def _in_memory(index: pd.DataFrame, shape: tuple[int, ...], interpolation: str) -> np.ndarray:
    """Decode all images into a read-only array."""
    pixels = np.empty(shape, np.uint8)

    def keep(start: int, images: np.ndarray) -> None:
        pixels[start : start + len(images)] = images

    _decode(index, shape, interpolation, keep)
    pixels.flags.writeable = False
    return pixels


def _disk_error(reason: str | None, shape: tuple[int, ...]) -> StorageError:
    return StorageError(
        f"The store of pixels cannot be written ({reason}). It needs {math.prod(shape) / 1e6:,.0f} MB in the cache. "
        "Make room with `python -m xrayhelpers cache clear`, or set XRAYS_CACHE to a folder on a larger disk."
    )


def _decode(
    index: pd.DataFrame, shape: tuple[int, ...], interpolation: str, keep: Callable[[int, np.ndarray], object]
) -> None:
    """Decode all images with all cores, and hand them on in order, a chunk at a time."""
    broken: list[str] = []

    def one(row: tuple[str, str]) -> np.ndarray:
        try:
            return read_resized(row[0], shape[1], shape[3], interpolation)
        except UnreadableError as error:
            broken.append(f"{row[1]} ({str(error).partition(': ')[2]})")
            return np.zeros(shape[1:], np.uint8)

    rows = list(zip(index["path"], index["name"], strict=True))
    with ThreadPoolExecutor(cores()) as pool, progress(total=len(rows), desc="decoding", unit="image") as bar:
        for start in range(0, len(rows), CHUNK):
            images = np.stack(list(pool.map(one, rows[start : start + CHUNK])))
            keep(start, images)
            bar.update(len(images))
    if broken:
        names = [text.partition(" (")[0] for text in sorted(broken)][:20]
        raise DataError(
            f"{len(broken)} of {len(rows)} images cannot be decoded: {'; '.join(sorted(broken)[:5])}. Fetch them "
            f'again, or leave them out: index = index[~index["name"].isin({names})]'
        )


def _build_store(store: Path, index: pd.DataFrame, shape: tuple[int, ...], interpolation: str, key: str) -> None:
    """Write the store: part file, flush, rename, then the JSON that makes it valid. Called with the lock held."""
    part, record = store.with_suffix(".part"), store.with_suffix(".json")
    record.unlink(missing_ok=True)
    part.unlink(missing_ok=True)  # left by a killed process, or by an older one that was
    if shutil.disk_usage(store.parent).free < math.prod(shape) + 1_000_000:
        raise _disk_error("too little room on the disk", shape)
    checksum = 0
    try:
        with open(part, "wb") as file:
            # Plain writes, not writes to a memory map: on a full disk those end the process with SIGBUS.
            file.write(_npy_header(shape))

            def keep(_: int, images: np.ndarray) -> None:
                nonlocal checksum
                checksum = zlib.crc32(images, checksum)
                file.write(images)

            _decode(index, shape, interpolation, keep)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, store)
        text = {"version": VERSION, "shape": shape, "interpolation": interpolation, "key": key, "crc32": checksum}
        with open(part, "w") as file:
            json.dump(text, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, record)
    finally:
        part.unlink(missing_ok=True)


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the first bytes of a .npy file of uint8, so that `np.load` reads a store as well."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return head.getvalue()


def _open_store(store: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Map a finished store read-only; None where there is none, or where its checksum (about 1 s a GB) is wrong."""
    try:
        record = json.loads(store.with_suffix(".json").read_text())
        header = _npy_header(shape)
        # The header is compared, not parsed: a damaged one could make NumPy's reader raise anything.
        with open(store, "rb") as file:
            intact = file.read(len(header)) == header
        if record["version"] != VERSION or not intact or store.stat().st_size != len(header) + math.prod(shape):
            return None
        pixels = np.memmap(store, np.uint8, "r", len(header), shape)
        checksum = 0
        for start in range(0, len(pixels), CHUNK):
            checksum = zlib.crc32(np.ascontiguousarray(pixels[start : start + CHUNK]), checksum)
        return pixels if checksum == record["crc32"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

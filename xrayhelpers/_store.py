"""Every image decoded once: an N x S x S x C uint8 store on disk, memory-mapped, safe against crashes and neighbors.

A store is two files in the cache folder. `<key>.npy` is written atomically, then `<key>.json`, with its checksum. The
JSON is the commit point: without it, or when the checksum differs, the store does not exist. The key is a hash over
what decides the pixels: the files (path, size, time of last change), size, channels, interpolation and the version of
this format. A lock lets one process build while others wait. No pickle is ever loaded.
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import filelock
import numpy as np
import pandas as pd

from xrayhelpers._images import INTERPOLATIONS, UnreadableError, read_resized
from xrayhelpers._machine import DataError, DataWarning, StorageError, cache_folder, cores, progress, write_atomic

VERSION = 1
CHUNK = 256  # images decoded before they are written: 12 MB at 128 px, so that memory does not grow with the data
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


def load_images(index: pd.DataFrame, size: int, *, channels: int = 3, interpolation: str = "area") -> np.ndarray:
    """Return all images of an index, resized; each is decoded once, and read from a store ever after.

    Parameters
    ----------
    index : DataFrame
        From `load_index`, or some rows of it.
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
        A memory map, or an array in memory (with a warning) where the cache folder cannot be written.

    Raises
    ------
    DataError
        If images are broken, missing, or change while they are read.
    StorageError
        If the disk is full; no half file is left.
    """
    if len(index) == 0:
        raise DataError("The index has no rows, so there are no images to load. Check the rows you chose.")
    if not 1 <= size <= 4096 or channels not in (1, 3):
        raise ValueError(f"size={size}, channels={channels}: expected size 1 to 4096 and channels=3 or channels=1.")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation={interpolation!r} is unknown. Type one of {', '.join(INTERPOLATIONS)}.")
    shape = (len(index), size, size, channels)
    key = _key(index, size, channels, interpolation)
    store = cache_folder() / "pixels" / f"{size}px-{channels}ch-{interpolation}-{key}.npy"
    images = _open_store(store, shape)
    if images is not None:
        return images
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(store.with_suffix(".lock")):
            images = _open_store(store, shape)  # perhaps a neighbor built it while we waited
            if images is None:
                _build_store(store, index, shape, interpolation)
                images = _open_store(store, shape)
    except OSError as error:
        reason = (error.__cause__ or error).strerror
        if error.errno not in READ_ONLY:
            raise StorageError(
                f"The store of images cannot be written ({reason}). It needs {math.prod(shape) / 1e6:,.0f} MB in the "
                "cache. Make room with `python -m xrayhelpers cache clear`, or set XRAYS_CACHE to a folder on a larger "
                "disk."
            ) from error
        warnings.warn(
            f"The cache folder cannot be written ({reason}): {len(index)} images are decoded into memory. Set "
            "XRAYS_CACHE to a folder of yours to decode only once.",
            DataWarning,
            stacklevel=2,
        )
        images = np.empty(shape, np.uint8)
        for number, chunk in enumerate(_decode(index, shape, interpolation)):
            images[number * CHUNK : (number + 1) * CHUNK] = chunk
        images.flags.writeable = False
    if images is None:
        raise StorageError(f"The store {store.name} was damaged right after it was written. Check the disk, run again.")
    if _key(index, size, channels, interpolation) != key:
        raise DataError("Images changed while they were read. Wait until the copy is complete, then run this again.")
    return images


def _key(index: pd.DataFrame, size: int, channels: int, interpolation: str) -> str:
    """Hash what decides the pixels."""
    digest = hashlib.sha256(f"{VERSION} {size} {channels} {interpolation}\n".encode())
    for path in index["path"]:
        try:
            stat = os.stat(path)
        except OSError as error:
            raise DataError(
                f"{path} cannot be read any more ({error.strerror}). Index the folder again: load_index(folder)."
            ) from error
        # ctime catches a replaced file whose size and mtime were kept (cp -p)
        digest.update(f"{path}\t{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ctime_ns}\n".encode())
    return digest.hexdigest()[:20]


def _decode(index: pd.DataFrame, shape: tuple[int, ...], interpolation: str) -> Iterator[np.ndarray]:
    """Decode all images with all cores, and give them in order, a chunk at a time."""
    broken: list[tuple[str, str]] = []

    def one(path: str, name: str) -> np.ndarray:
        try:
            return read_resized(path, shape[1], shape[3], interpolation)
        except UnreadableError as error:
            broken.append((name, str(error).partition(": ")[2]))
            return np.zeros(shape[1:], np.uint8)

    with ThreadPoolExecutor(cores()) as pool, progress(total=len(index), desc="decoding", unit="image") as bar:
        for start in range(0, len(index), CHUNK):
            rows = index.iloc[start : start + CHUNK]
            images = np.stack(list(pool.map(one, rows["path"], rows["name"])))
            yield images
            bar.update(len(images))
    if broken:
        broken.sort()
        reasons = "; ".join(f"{name} ({reason})" for name, reason in broken[:5])
        raise DataError(
            f"{len(broken)} of {len(index)} images cannot be decoded: {reasons}. Fetch them again, or leave them out: "
            f'index = index[~index["name"].isin({[name for name, _ in broken[:20]]})]'
        )


def _build_store(store: Path, index: pd.DataFrame, shape: tuple[int, ...], interpolation: str) -> None:
    """Write the store, then the JSON that makes it valid. Called with the lock held."""
    store.with_suffix(".json").unlink(missing_ok=True)
    for part in store.parent.glob(f".{store.stem}.*.part"):  # left by a killed process
        part.unlink()
    if shutil.disk_usage(store.parent).free < math.prod(shape) + 1_000_000:
        raise OSError(errno.ENOSPC, "too little room on the disk")
    checksum = 0

    def write(file: BinaryIO) -> None:
        # Plain writes, not writes to a memory map: on a full disk those end the process with SIGBUS.
        nonlocal checksum
        file.write(_npy_header(shape))
        for images in _decode(index, shape, interpolation):
            checksum = zlib.crc32(images, checksum)
            file.write(images)

    write_atomic(store, write)
    write_atomic(store.with_suffix(".json"), json.dumps({"version": VERSION, "shape": shape, "crc32": checksum}))


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the first bytes of a .npy file of uint8, so that `np.load` reads a store as well."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return head.getvalue()


def _open_store(store: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Map a finished store read-only; None where there is none, or where its checksum (about 1 s per GB) is wrong."""
    try:
        record = json.loads(store.with_suffix(".json").read_text())
        header = _npy_header(shape)
        # The header is compared, not parsed: a damaged one could make NumPy's reader raise anything.
        with open(store, "rb") as file:
            intact = file.read(len(header)) == header
        if record["version"] != VERSION or not intact or store.stat().st_size != len(header) + math.prod(shape):
            return None
        images = np.memmap(store, np.uint8, "r", len(header), shape)
        checksum = 0
        for start in range(0, len(images), CHUNK):
            checksum = zlib.crc32(np.ascontiguousarray(images[start : start + CHUNK]), checksum)
        return images if checksum == record["crc32"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

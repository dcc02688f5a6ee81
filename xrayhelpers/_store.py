"""Every image decoded once: an N x S x S x C uint8 store on disk, memory-mapped, safe against crashes and neighbors.

A store is two files in the cache folder. `<key>.npy` is written atomically, then `<key>.json`, with its SHA-256. The
JSON is the commit point: without it, or when the checksum differs, the store does not exist. The key is a hash over
what decides the pixels: what the files hold, size, channels, interpolation and the version of this format. A lock lets
one process build while others wait. No pickle is ever loaded. `training.keep_features` keeps its arrays in the same
way.

`files.json` in the cache folder remembers what was seen in each image file, so that each is checked and hashed once.
`copies/` holds what other libraries would read differently, as PNG files that all of them read alike.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import filelock
import numpy as np
import pandas as pd
from PIL import Image

from xrayhelpers import _machine
from xrayhelpers._images import INTERPOLATIONS, UnreadableError, inspect, read_image, read_resized
from xrayhelpers._machine import DataError, DataWarning, StorageError, cache_folder, commit, committed, progress

VERSION = 4
MOST_REMEMBERED = 200_000  # files
CHUNK = 256  # images decoded before they are written: 12 MB at 128 px, so that memory does not grow with the data


def load_images(index: pd.DataFrame, size: int, *, channels: int = 3, interpolation: str = "area") -> np.ndarray:
    """Return all images of an index, resized; each is decoded once, and read from a store ever after.

    Parameters
    ----------
    index : DataFrame
        From `load_index`, or some rows of it.
    size : int
        Side of the result in pixels.
    channels : int
        3 (RGB) or 1 (gray).
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
    images = keep_array(store, shape, "|u1", lambda: _decode(index, shape, interpolation))
    if _key(index, size, channels, interpolation) != key:
        raise DataError("Images changed while they were read. Wait until the copy is complete, then run this again.")
    return images


def _key(index: pd.DataFrame, size: int, channels: int, interpolation: str) -> str:
    """Hash what decides the pixels."""
    digest = hashlib.sha256(f"{VERSION} {size} {channels} {interpolation}\n".encode())
    for path, facts in zip(index["path"], look_at(index["path"]), strict=True):
        if reason := facts.get("reason"):
            raise DataError(f"{path} cannot be read any more ({reason}). Index the folder again: load_index(folder).")
        digest.update(f"{facts['sha256']}\n".encode())
    return digest.hexdigest()[:20]


def look_at(paths: Iterable[str]) -> list[dict]:
    """Inspect files with all cores, each once: what was seen is remembered by the file's inode, size and times.

    Returns
    -------
    list of dict
        As `_images.inspect`; for a file that cannot be used only "reason".
    """
    file, keys = cache_folder() / "files.json", {}
    known = _remembered(file)
    for path in paths:
        with contextlib.suppress(OSError, ValueError):  # not there, or no name: `inspect` says so
            about = os.stat(path)
            # The time of change (ctime) catches a file that was replaced with its size and date kept.
            keys[path] = f"{about.st_ino} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"

    def one(path: str) -> dict:
        try:
            return inspect(path)
        except UnreadableError as error:
            return {"reason": str(error)}

    new = [path for path in dict.fromkeys(paths) if keys.get(path) not in known]
    seen = dict(zip(new, _machine.in_threads(one, new, desc="checking"), strict=True))
    if fresh := {keys[path]: facts for path, facts in seen.items() if "reason" not in facts and path in keys}:
        known.update(fresh)
        body = json.dumps(dict(list({**_remembered.__wrapped__(file), **known}.items())[-MOST_REMEMBERED:]))
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, and nothing else
            _machine.write_atomic(file, f"{VERSION} {zlib.crc32(body.encode())}\n{body}")
    return [seen[path] if path in seen else known[keys[path]] for path in paths]


@functools.cache
def _remembered(file: Path) -> dict[str, dict]:
    """Read what earlier processes saw; empty where there is nothing, or where it is damaged."""
    with contextlib.suppress(OSError, ValueError):
        head, _, body = file.read_text("utf-8").partition("\n")
        if head == f"{VERSION} {zlib.crc32(body.encode())}":
            return json.loads(body)
    return {}


def readable_copies(rows: pd.DataFrame) -> list[str]:
    """Copy images as gray or RGB PNG files of 8 bits, upright, and return their paths; each is copied once and kept."""

    def one(path: str, mode: str, facts: dict) -> str:
        copy = cache_folder() / "copies" / f"{facts['sha256'][:20]}-{mode.partition(';')[2] or 8}.png"
        if not copy.is_file():
            image = Image.fromarray(read_image(path, mode=mode)).convert("L" if mode[0] in "1LI" else "RGB")
            _machine.write_atomic(copy, lambda file: image.save(file, "PNG"))
        return str(copy)

    return _machine.in_threads(one, rows["path"], rows["mode"], look_at(rows["path"]), desc="copying")


def _decode(index: pd.DataFrame, shape: tuple[int, ...], interpolation: str) -> Iterator[np.ndarray]:
    """Decode all images with all cores, and give them in order, a chunk at a time; name all that are broken."""
    broken: dict[str, str] = {}

    def one(path: str, name: str) -> np.ndarray | None:
        try:
            return read_resized(path, shape[1], shape[3], interpolation)
        except UnreadableError as error:
            broken[name] = str(error)

    with ThreadPoolExecutor(_machine.THREADS) as pool, progress(total=len(index), desc="decoding", unit="image") as bar:
        for start in range(0, len(index), CHUNK):
            rows = index.iloc[start : start + CHUNK]
            images = list(pool.map(one, rows["path"], rows["name"]))
            if not broken:
                yield np.stack(images)
            bar.update(len(rows))
    if broken:
        text = f"{len(broken)} of {len(index)} images cannot be read: {'; '.join([*broken.values()][:5])}"
        raise DataError(f'{text}. Leave them out: index = index[~index["name"].isin({sorted(broken)})]')


def keep_array(path: Path, shape: tuple, dtype: str, chunks: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
    """Compute an array once, some rows at a time, and keep it in a file, which is mapped read-only ever after.

    Where the file cannot be written, because the disk is read-only or no folder is there, the array is computed in
    memory, with a warning. A full disk is a `StorageError`.
    """

    def write(file: BinaryIO) -> None:
        # Plain writes, not writes to a memory map: on a full disk those end the process with SIGBUS.
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        for rows in chunks():
            file.write(np.ascontiguousarray(rows, dtype))

    try:
        with _machine.storing(path):
            if committed(path) is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                with filelock.FileLock(path.with_suffix(".lock")):
                    if committed(path) is None:  # else a neighbor made it while we waited
                        if shutil.disk_usage(path.parent).free < math.prod(shape) * np.dtype(dtype).itemsize + 1e6:
                            raise OSError(errno.ENOSPC, "too little room on the disk")
                        commit(path, write)
                        _machine.trim_cache()
    except StorageError as error:
        if error.errno in _machine.FULL:
            raise
        warnings.warn(f"{error} Until then all is computed in memory, each time.", DataWarning, stacklevel=3)
        array = np.concatenate(list(chunks())).astype(dtype, copy=False)
        array.flags.writeable = False
        return array
    return np.load(path, mmap_mode="r", allow_pickle=False)

"""What is kept between runs so that it is made once: phantom images, decoded pixels, weights."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from xrayhelpers import sources

#: All that this package ever puts there. `XRAYS_CACHE` may name a folder that holds other people's files.
OURS = ("pixels", "features", "vgg16", "phantom-*")


@dataclass(frozen=True)
class Entry:
    """One thing in the cache folder: a folder or a file, with its size in bytes."""

    name: str
    path: Path
    bytes: int


def list_cache() -> list[Entry]:
    """List what the cache folder holds, by name; `pixels/` is listed store by store."""
    folder = sources.cache_folder()
    paths = [path for path in _ours(folder) if path.name != "pixels" and path.suffix != ".lock"]
    paths += (folder / "pixels").glob("*.npy")
    return [Entry(path.relative_to(folder).as_posix(), path, _size(path)) for path in sorted(paths)]


def clear_cache() -> int:
    """Delete what this package put into the cache folder, nothing else; return how many bytes that were.

    A notebook that has a store open keeps reading it on Linux and macOS; on Windows such a file stays and the
    error says so.
    """
    folder = sources.cache_folder()
    ours = _ours(folder)
    before = sum(_size(path) for path in ours)
    for path in ours:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return before


def _ours(folder: Path) -> list[Path]:
    return [path for pattern in OURS for path in folder.glob(pattern)]


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

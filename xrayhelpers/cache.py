"""What is kept between runs so that it is made once: phantom images, decoded pixels, weights."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from xrayhelpers import sources


@dataclass(frozen=True)
class Entry:
    """One thing in the cache folder: a folder or a file, with its size in bytes."""

    name: str
    path: Path
    bytes: int


def list_cache() -> list[Entry]:
    """List what the cache folder holds, by name; `pixels/` is listed store by store."""
    folder = sources.cache_folder()
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if path.name != "pixels" and path.suffix != ".lock"]
    paths += (folder / "pixels").glob("*.npy")
    return [Entry(path.relative_to(folder).as_posix(), path, _size(path)) for path in sorted(paths)]


def clear_cache() -> int:
    """Delete all that the cache folder holds and return how many bytes that were.

    A notebook that has a store open keeps reading it on Linux and macOS; on Windows such a file stays and the
    error says so.
    """
    folder = sources.cache_folder()
    before = _size(folder) if folder.exists() else 0
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return before


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

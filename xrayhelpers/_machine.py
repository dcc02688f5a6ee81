"""The machine: its folders, cores and threads, a progress bar, the one way to write a file, the errors of all rooms."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import hashlib
import json
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import platformdirs
import psutil
from tqdm import tqdm

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]  # in the names of unfinished files, with the process
KAGGLE_INPUT = Path("/kaggle/input/chest-xray-pneumonia")  # where a notebook of Kaggle finds the images
MOST_CACHE, KEPT_FOR = 5e9, 86_400  # bytes of old stores, and seconds after their last use in which all are kept


class DataError(ValueError):
    """The data are not what they should be; the text says what was found and what to do next."""


class DataNotFoundError(DataError, FileNotFoundError):
    """No data where they were looked for."""


class StorageError(DataError, OSError):
    """The disk is full, or a file cannot be written."""


class FetchError(DataError, RuntimeError):
    """A download failed; running the same command again resumes it."""


class DataWarning(UserWarning):
    """Something about the data a reader should know, although work can go on."""


def setting(name: str) -> str:
    """Return an environment variable without the spaces and quotes that a shell or a file left around it."""
    return _unquoted(os.environ.get(name, ""))


def _unquoted(text: str) -> str:
    return re.sub(r"""^\s*(["']?)\s*(.*?)\s*\1\s*$""", r"\2", text, flags=re.DOTALL)


def resolve(path: str | Path) -> Path:
    """Return an absolute path without quotes around it, `~` expanded; a relative one from here, or the repository."""
    path = Path(os.path.expanduser(_unquoted(str(path))))
    # `Path.exists` raises where a name fits no disk
    return next((p for p in (path, repository() / path) if os.path.exists(p)), path).absolute()


def setting_path(name: str) -> Path | None:
    """Return the absolute path that an environment variable holds, None if it is not set."""
    return resolve(setting(name)) if setting(name) else None


def repository() -> Path:
    """Return the working folder, or the nearest folder above it, that holds `xrayhelpers/`; else the working folder."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "xrayhelpers" / "__init__.py").is_file()), here)


def cache_folder() -> Path:
    """Return the folder for what can be made again: `XRAYS_CACHE`, else the user's own; it may not exist yet."""
    return setting_path("XRAYS_CACHE") or Path(platformdirs.user_cache_dir("xrayhelpers", appauthor=False))


def run_folder() -> Path:
    """Return the folder of this run: `XRAYS_RUN`, else `runs/interactive` of the repository; it may not exist yet."""
    return setting_path("XRAYS_RUN") or repository() / "runs" / "interactive"


def default_data() -> str:
    """Return what "auto" means here: a path, or "phantom" perhaps with options."""
    named, homes = setting("XRAYS_DATA"), (Path.cwd(), repository(), Path(__file__).resolve().parents[1])
    places = [*(home / "data" / "chest_xray" for home in homes), KAGGLE_INPUT]
    return named if named not in ("", "auto") else next((str(place) for place in places if place.is_dir()), "phantom")


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


THREADS = min(cores(), 16)  # each may need 0.5 GB for the largest images that are read


def progress(iterable: Iterable | None = None, *, total: float | None = None, desc: str = "", unit: str = "it") -> tqdm:
    """Show a plain bar for what takes over half a second, and leave nothing behind; `XRAYS_PROGRESS=off` turns it off.

    It goes to stderr, and in a notebook, where even an empty line of stderr stays and looks like an error, to stdout.
    """
    out = sys.stdout if type(sys.stdout).__module__.startswith("ipykernel") else sys.stderr
    how = {"disable": setting("XRAYS_PROGRESS").lower() == "off", "file": out, "unit_scale": unit == "B"}
    return tqdm(iterable, total=total, desc=desc, unit=unit, leave=False, delay=0.5, **how)


def in_threads(function: Callable, *columns: Sequence, desc: str) -> list:
    """Map a function over columns of equal length, one row per image, with `THREADS` threads under a progress bar."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(progress(pool.map(function, *columns), total=len(columns[0]), desc=desc, unit="image"))


def write_atomic(path: str | Path, content: bytes | str | Callable[[BinaryIO], object]) -> None:
    """Write a file so that nobody, not even after a power cut, ever finds half of it.

    Parameters
    ----------
    path : str or Path
        An older file of this name is replaced; missing folders are made.
    content : bytes, str or callable
        Text is written as UTF-8; a callable gets the open binary file and writes to it.

    Raises
    ------
    StorageError
        If the disk is full or must not be written (`errno` says which). An older file stays as it was.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{HOST}-{os.getpid()}-{threading.get_ident()}.part")
    with storing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for old in filter(_is_litter, path.parent.glob(f".{glob.escape(path.name)}.*.part")):
                old.unlink(missing_ok=True)
            with open(part, "wb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()


def _is_litter(part: Path) -> bool:
    """Tell whether a process of this machine left an unfinished file and is dead for sure; a zombie is dead."""
    host, _, process = part.name.split(".")[-2].partition("-")
    with contextlib.suppress(psutil.NoSuchProcess, ValueError):
        return host == HOST and psutil.Process(int(process.partition("-")[0])).status() == psutil.STATUS_ZOMBIE
    return host == HOST


@contextlib.contextmanager
def storing(path: str | Path) -> Iterator[None]:
    """Turn what the system says of storage that failed into a `StorageError`: the path, what is kept, what to type."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DataError):
            raise
        homes = {"XRAYS_CACHE": cache_folder(), "XRAYS_RUN": run_folder()}
        named = next((name for name, folder in homes.items() if Path(path).is_relative_to(folder)), None)
        other = f"let {named} name another folder (export {named}=/another/folder)" if named else "use another folder"
        room = "make room (python -m xrayhelpers cache clear), or " if error.errno in FULL else ""
        text = f"{path} cannot be written ({error.strerror or error}). What is complete is kept: {room}{other}."
        failure = StorageError(text)
        failure.errno = error.errno
        raise failure from error


def commit(path: Path, content: Callable[[BinaryIO], object], record: dict | None = None) -> None:
    """Write a file, then the JSON record beside it, with its SHA-256, which makes it valid."""
    write_atomic(path, content)
    write_atomic(path.with_suffix(".json"), json.dumps({**(record or {}), "sha256": sha256_of(path)}, indent=1))


def committed(path: Path) -> dict | None:
    """Return the record of a file; None if there is none, or if the file is not the one it describes."""
    try:
        record = json.loads(path.with_suffix(".json").read_text("utf-8"))
        valid = record["sha256"] == sha256_of(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    with contextlib.suppress(OSError):  # where nothing can be written
        os.utime(path.with_suffix(".json"))  # used now: `trim_cache` goes by that
    return record if valid else None


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def package_digest() -> str:
    """Return 12 hex digits that stand for the code of this package."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


#: Every file that this package puts into the cache folder, which may hold other people's files as well.
OURS = re.compile(
    r"\.?files\.json(\.[\w-]+\.part)?"
    r"|(pixels/\.?\d+px-[13]ch-(nearest|bilinear|area)-[0-9a-f]{20}|features/\.?features-[0-9a-f]{16}"
    r"|vgg16/\.?imagenet-[0-9a-f]{12}|copies/\.?[0-9a-f]{20}-\d+)"
    r"\.(npy|npz|json|png|lock|part|npy\.lock)(\.[\w-]+\.part)?"
    r"|phantom-\d+-train\d+-test\d+-val\d+-seed\d+[^/]*(\.lock|/phantom\.json"
    r"|/chest_xray/(train|test|val)/(NORMAL|PNEUMONIA)/((NORMAL2-)?IM-\d|person\d)[^/]*\.jpeg)"
)


def trim_cache() -> None:
    """Delete the stores and features that were used least lately, where all together have more than `MOST_CACHE`."""
    root, total = cache_folder(), 0
    with contextlib.suppress(OSError):  # another process deletes as well, or maps a file (Windows)
        records = [path for path in root.glob("*/*.json") if OURS.fullmatch(path.relative_to(root).as_posix())]
        stores = [path for path in records if path.with_suffix(".npy").exists()]
        for used, record in sorted(((path.stat().st_mtime, path) for path in stores), reverse=True):
            total += record.with_suffix(".npy").stat().st_size
            if total > MOST_CACHE and time.time() - used > KEPT_FOR:
                for suffix in (".json", ".npy", ".lock"):  # without its record, a store does not exist
                    record.with_suffix(suffix).unlink(missing_ok=True)


def list_cache() -> dict[str, int]:
    """List what the cache folder holds: name -> bytes; `pixels/` is listed store by store."""
    sizes: dict[str, int] = {}
    for path in _cached()[0]:
        name = path.relative_to(cache_folder())
        if path.suffix not in (".lock", ".part"):
            key = f"pixels/{path.stem}" if name.parts[0] == "pixels" else name.parts[0]
            sizes[key] = sizes.get(key, 0) + path.stat().st_size
    return dict(sorted(sizes.items()))


def clear_cache() -> tuple[int, int]:
    """Delete the files that this package put into the cache folder, and no others.

    Returns
    -------
    deleted : int
        Bytes.
    left : int
        Files and folders in the cache folder that are not of this package; they stay.
    """
    ours, others = _cached()
    deleted = sum(path.stat().st_size for path in ours)
    for path in sorted(ours, key=lambda path: path.suffix != ".json"):  # first what makes a store or phantom valid
        with storing(path):
            path.unlink(missing_ok=True)
    inside = {parent for path in ours for parent in path.relative_to(cache_folder()).parents[:-1]}
    for folder in sorted(inside, key=lambda path: -len(path.parts)):
        with contextlib.suppress(OSError):  # not empty
            (cache_folder() / folder).rmdir()
    return deleted, others


def _cached() -> tuple[list[Path], int]:
    """Return the files of this package in the cache folder, and how many others there are."""
    folder, ours, others = cache_folder(), [], 0
    for top in folder.glob("*"):
        known = top.name.startswith(("pixels", "features", "vgg16", "copies", "phantom-")) and top.is_dir()
        for path in top.rglob("*") if known else [top]:
            if path.is_file() and OURS.fullmatch(path.relative_to(folder).as_posix()):
                ours.append(path)
            else:
                others += not path.is_dir() or path == top
    return ours, others

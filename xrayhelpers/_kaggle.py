"""Bring the real images from Kaggle: download, check, unpack, rename.

Kaggle's own command line does the download, as a program of its own: old versions of it end the process at
`import kaggle`. It finds your token by itself; this module reads token files only to keep them out of every text.
The folder gets its final name as the last step, so a killed run never leaves one that looks complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path, PurePosixPath

import filelock

from xrayhelpers._images import IMAGE_SUFFIXES
from xrayhelpers._machine import DataWarning, FetchError, StorageError, progress, resolve, storing
from xrayhelpers.data import KAGGLE, SPLITS, DataSource, open_data

SLUG = KAGGLE.address.partition("/datasets/")[2]
ZIP_BYTES, FOLDER_BYTES = 2_460_000_000, 1_250_000_000
STALLED_AFTER = 330  # seconds without a new byte after which a download is given up; it can be resumed
GUIDE = "docs/kaggle.md shows how to get a token and where to put it"
AGAIN = "run the same command again"
LARGEST = 8e9  # bytes unpacked: three times today's archive, which holds all images twice
# What the command line says -> what it means and what to do. The first that is found counts: causes here before causes
# there, and both before what any failure ends in.
MEANINGS = {
    r"no space left|file too large|disk quota": f"The disk is full. Make room and {AGAIN}.",
    r"unrecognized arg|no such option|invalid choice": "The client is too old. Type: python -m pip install -U kaggle",
    r"no module named|importerror": "The client is not whole. Type: python -m pip install --force-reinstall kaggle",
    r"permissionerror|errno 13|errno 30": "The file or folder named at the end cannot be written: see who owns it. "
    "For the client's own folder, let KAGGLE_CONFIG_DIR name one of yours.",
    r"certificate": "This network has a certificate of its own (a school, a firm), or the clock here is wrong: try "
    "another network, or let REQUESTS_CA_BUNDLE name the certificate's file.",
    r"\b407\b|proxy auth|tunnel connection failed: 4": "The proxy of this network refuses, or wants a password. Type: "
    "export https_proxy=http://user:password@host:port",
    r"authentication required|\b401\b|unauth|must authenticate|could not find kaggle\.json|expecting property name": ""
    f"Kaggle gets no valid token (401). {GUIDE}.",
    r"\b403\b|forbidden|permission": f"Kaggle refuses (403): open the data page once, and accept its rules. {GUIDE}.",
    r"\b404\b|not found\b": "Kaggle has no such data set (404). Check its address.",
    r"\b429\b|too many requests": f"Too many requests (429). Wait a few minutes and {AGAIN}.",
    r"expecting value|wrong_version_number": "A proxy or log-in page answers instead of Kaggle. Try another network.",
    r"(?<!timeout=)\b50\d\b": f"Kaggle's service has a problem (50x). Wait some minutes and {AGAIN}.",
    r"does not match expected size": f"The file came with a wrong length. {AGAIN.capitalize()}.",
    r"max retries exceeded|connection|resolve|timed? ?out|incompleteread": f"The connection failed: {AGAIN} to resume.",
}


def _token_files() -> list[Path]:
    """List the files that may hold a Kaggle credential."""
    homes = [Path.home() / ".kaggle", Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"]
    homes += [Path(os.environ["KAGGLE_CONFIG_DIR"])] if os.environ.get("KAGGLE_CONFIG_DIR") else []
    names = ("kaggle.json", "access_token", "access_token.txt", "credentials.json")
    return [home / name for home in homes for name in names if (home / name).is_file()]


def _mask(text: str) -> str:
    """Replace whatever is or looks like a credential by `***`."""
    secrets = [os.environ.get(name, "") for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY")]
    for path in _token_files():
        with contextlib.suppress(OSError, ValueError, AttributeError):  # not to be read, or a bare token, no JSON
            secrets.append(path.read_text(errors="replace").strip())
            values = json.loads(secrets[-1])
            secrets += [str(value) for key, value in values.items() if key not in ("username", "scopes")]
    for secret in sorted(filter(lambda s: len(s) > 5, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r"KGAT_\w+|\b[0-9a-fA-F]{32,}\b|(?<=//)[^/@\s]+(?=@)", "***", text)
    return re.sub(r"(https?://[^\s?]+)\?\S+", r"\1?***", text)  # signed addresses


def _need(folder: Path, size: int, what: str) -> None:
    """Raise StorageError where `size` bytes do not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise StorageError(f"{what} needs {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free. Make room, or use --to.")


def _download(archive: Path) -> None:
    """Run the command line until the archive is complete; it resumes what an earlier run left."""
    program = shutil.which("kaggle", path=str(Path(sys.executable).parent)) or shutil.which("kaggle")
    if program is None:
        raise FetchError("The kaggle command line is not installed. Type: python -m pip install kaggle")
    command = [program, "datasets", "download", "-q", "-d", SLUG, "-p", str(archive.parent)]
    with tempfile.TemporaryFile() as said, progress(total=ZIP_BYTES, desc="download", unit="B") as bar:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        grown = time.monotonic()
        try:
            while process.poll() is None:
                time.sleep(0.2)
                size = archive.stat().st_size if archive.exists() else 0
                grown = time.monotonic() if size != bar.n else grown
                bar.update(size - bar.n)
                if time.monotonic() - grown > STALLED_AFTER:
                    raise FetchError(f"Nothing came for {STALLED_AFTER} s. Run the same command again to resume.")
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        text = _mask(said.read().decode(errors="replace")).strip()
    if process.returncode != 0 or not archive.is_file():
        meaning = next((m for pattern, m in MEANINGS.items() if re.search(pattern, text, re.I)), None)
        last = text.splitlines()[-1][:300] if text else f"exit status {process.returncode}"
        kind = StorageError if meaning and "disk" in meaning else FetchError
        raise kind(f"{meaning or 'The kaggle command line failed. Run the same command again.'} It said: {last}")


def _check_archive(archive: Path) -> list[tuple[zipfile.ZipInfo, Path]]:
    """Check every member of a zip file (name, kind, size, CRC) before anything is unpacked.

    Returns
    -------
    list of (member, path below chest_xray/)
        The images of one tree: litter is left out, and of a tree that is there twice the larger or outer one is taken.

    Raises
    ------
    FetchError
        If the file is damaged, would write outside its folder, repeats a name or has one that no disk takes, holds
        links, is far larger than it may be, or holds no `train/` with images.
    """
    total, names = 0, set()
    try:
        with zipfile.ZipFile(archive) as file:
            members = [info for info in file.infolist() if not info.is_dir()]
            for info in members:
                path, name, total = PurePosixPath(info.filename), info.filename, total + info.file_size
                fits = path.as_posix() == name and max(map(len, path.parts)) <= 200 and not re.search(r"[\\:\0]", name)
                inside = not path.is_absolute() and ".." not in path.parts
                wrong = "" if fits and inside else "would be written outside its folder, or fits no disk"
                if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG) or info.flag_bits & 1:
                    wrong = "is a link or a locked file"
                if name.lower() in names or total > LARGEST:
                    wrong = f"is there twice, or makes it larger than {LARGEST / 1e9:g} GB"
                if wrong:
                    raise FetchError(f"{name[:80]!r} in the archive {wrong}; it is not unpacked.")
                names.add(name.lower())
            if broken := file.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {broken}")
    except FetchError:
        raise
    except Exception as error:  # each kind of damage and each method of compression has its own
        raise FetchError(f"The archive is damaged ({type(error).__name__}: {error}).") from error
    trees: dict[tuple[str, ...], list[tuple[zipfile.ZipInfo, Path]]] = {}
    for info in members:
        parts = PurePosixPath(info.filename).parts
        litter = parts[-1].startswith(".") or "__MACOSX" in parts
        if len(parts) > 2 and parts[-3] in SPLITS and not litter and parts[-1].lower().endswith(IMAGE_SUFFIXES):
            trees.setdefault(parts[:-3], []).append((info, Path(*parts[-3:])))
    if not trees:
        raise FetchError("The archive holds no {train,test,val}/{NORMAL,PNEUMONIA} images. Check its address.")
    return max(trees.values(), key=lambda tree: (len(tree), -len(tree[0][0].filename)))


def fetch_kaggle(destination: str | Path = "data") -> DataSource:
    """Bring the real data set to `destination/chest_xray`; run it again to resume after an interruption.

    Parameters
    ----------
    destination : str or Path
        Folder that gets `chest_xray/`; "data" is where `open_data("auto")` looks.

    Returns
    -------
    DataSource

    Raises
    ------
    FetchError
        If the download fails, or the archive is damaged or unsafe.
    StorageError
        If the disk has too little room, or cannot be written.
    """
    destination = resolve(destination)
    folder, temporary = destination / "chest_xray", destination / ".chest_xray-unpacking"
    archive = destination / ".download" / f"{SLUG.partition('/')[2]}.zip"
    with storing(destination):
        archive.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(destination / ".fetch.lock"):
            with contextlib.suppress(OSError):  # holds something, or is not there
                folder.rmdir()
            if folder.exists():
                note = f"already there, {open_data(folder).note}. Move the folder away to fetch it again"
                return DataSource("kaggle", folder, KAGGLE, note)
            for path in _token_files():
                if os.name == "posix" and path.stat().st_mode & 0o077:
                    text = f"Others can read your Kaggle token. Type: chmod 600 {shlex.quote(str(path))}"
                    warnings.warn(text, DataWarning, stacklevel=2)
            have = archive.stat().st_size if archive.exists() else 0
            _need(destination, max(ZIP_BYTES - have, 0) + FOLDER_BYTES, "Download and unpacking")
            _download(archive)
            try:
                members = _check_archive(archive)
            except FetchError as error:
                archive.replace(archive.with_suffix(".bad"))  # or it would be found complete, and refused, forever
                raise FetchError(f"{error} It was put aside as {archive.stem}.bad: {AGAIN}.") from error
            _need(destination, sum(info.file_size for info, _ in members), "Unpacking")
            try:
                _unpack(archive, members, temporary)
                temporary.rename(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            for path in archive.parent.glob(f"{archive.stem}.*"):
                path.unlink()
    with contextlib.suppress(OSError):  # holds something else
        archive.parent.rmdir()
    return dataclasses.replace(open_data(folder), name="kaggle")


def _unpack(archive: Path, members: list[tuple[zipfile.ZipInfo, Path]], temporary: Path) -> None:
    """Unpack the members into a new folder."""
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed run
    with zipfile.ZipFile(archive) as file:
        for info, path in progress(members, desc="unpacking", unit="file"):
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            with file.open(info) as source, open(temporary / path, "xb") as target:
                shutil.copyfileobj(source, target)

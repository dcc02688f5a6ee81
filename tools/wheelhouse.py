"""Put all that the lessons need into one folder for a USB stick: `python tools/wheelhouse.py [FOLDER]`.

The folder gets all wheels for this machine's kind and Python, VGG16's weights and the phantom data (as the cache
folder that the package reads), the repository as committed, and `install.py`, which needs no network.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = """Chest X-ray lessons, for a computer without network. For learning, not for diagnosis.

Made for {made_for}. You need that Python, 3 GB of free disk and about five minutes.

1. Type in a terminal, in this folder:    python3 install.py
   It writes to the folder xray-lessons in your home folder; another one: python3 install.py FOLDER
   (Windows: py install.py)
2. Type what it says at its end. JupyterLab opens with the first lesson.
"""


def collect_wheels(folder: Path, root: Path = ROOT) -> None:
    """Fetch or build every wheel of requirements.txt at the versions of constraints.txt, and what installs itself."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    wanted = ["-r", "requirements.txt", "-c", "constraints.txt", "setuptools>=77", "wheel"]
    subprocess.run([*command, "--wheel-dir", str(folder), *wanted], cwd=root, check=True)


def export_repository(folder: Path, root: Path = ROOT) -> None:
    """Unpack the repository as it was last committed: no images, runs or keys that lie about."""
    packed = subprocess.run(["git", "archive", "HEAD"], cwd=root, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")


def fill_cache(folder: Path) -> None:
    """Draw the phantom and keep VGG16's weights in a cache folder that can be copied to another machine."""
    from functools import partial

    import numpy as np

    from xrayhelpers import _vgg16
    from xrayhelpers._machine import write_atomic

    arrays = dict(zip(_vgg16.ARRAY_NAMES, _vgg16.vgg16_weights().arrays, strict=True))
    write_atomic(folder / "vgg16" / f"imagenet-{_vgg16.VGG16_SHA256[:12]}.npz", partial(np.savez, **arrays))
    environment = os.environ | {"XRAYS_CACHE": str(folder)}
    subprocess.run(
        [sys.executable, "-m", "xrayhelpers", "fetch", "folder", "phantom"], cwd=ROOT, env=environment, check=True
    )


def finish(folder: Path) -> None:
    """Add the installer and the instructions, then the checksums of everything."""
    shutil.copy(Path(__file__).with_name("install_offline.py"), folder / "install.py")
    made_for = f"Python {sys.version_info.major}.{sys.version_info.minor}, {sysconfig.get_platform()}"
    (folder / "made-for.txt").write_text(made_for + "\n", "utf-8")
    (folder / "README.txt").write_text(README.format(made_for=made_for), "utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = []
    for path in files:
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}\n")
    (folder / "SHA256SUMS").write_text("".join(lines), "utf-8")


def build(folder: Path, root: Path = ROOT) -> None:
    """Make the whole folder; wheels that are there already are not fetched again."""
    for name in ("xray-lessons", "cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
    collect_wheels(folder / "wheels", root)
    export_repository(folder / "xray-lessons", root)
    fill_cache(folder / "cache")
    finish(folder)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "wheelhouse").absolute()
    build(target)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{size / 1e6:.0f} MB in {target.name}/: copy the folder to a USB stick; its README.txt says the rest")

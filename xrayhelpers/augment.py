"""The report's augmentation, a whole batch at a time, inside ``tf.data``.

The report augments with ``ImageDataGenerator(shear_range=0.2, zoom_range=0.2, horizontal_flip=True)``: one image after
the other, in Python. Here shear, zoom and flip of an image are multiplied into *one* matrix, and one TensorFlow
operation warps the whole batch. The pictures are the same (tested against ``ImageDataGenerator`` itself).

All randomness of an epoch is drawn from ``(seed, epoch)`` before its first batch. An epoch therefore looks the same
whether or not the run was stopped and continued before it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xrayhelpers._quiet import tf

__all__ = [
    "NONE",
    "REPORT",
    "Augmentation",
    "affine_matrices",
    "epoch_data",
    "epoch_draws",
    "plain_data",
    "random_matrices",
    "warp",
]


@dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed at random.

    Attributes
    ----------
    shear : float
        Shear angle in *degrees*, drawn from [-shear, shear]. The report's 0.2 is therefore next to nothing.
    zoom : float
        Width and height are scaled apart, by factors drawn from [1 - zoom, 1 + zoom].
    flip : bool
        Mirror left and right in half of the cases.
    """

    shear: float = 0.2
    zoom: float = 0.2
    flip: bool = True

    def __post_init__(self) -> None:
        if self.shear < 0 or not 0 <= self.zoom < 1:
            raise ValueError(
                f"Augmentation has shear={self.shear} and zoom={self.zoom}; expected shear >= 0 (degrees) and "
                f"0 <= zoom < 1. Type Augmentation(shear=0.2, zoom=0.2) for the report's values."
            )


REPORT = Augmentation()
NONE = Augmentation(shear=0.0, zoom=0.0, flip=False)


def random_matrices(
    n: int, size: int, augmentation: Augmentation = REPORT, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Draw one random warp for each of `n` images.

    Parameters
    ----------
    n : int
        Number of images.
    size : int
        Side of the square images, in pixels.
    augmentation : Augmentation
        Limits of the draw.
    rng : numpy.random.Generator, optional
        Source of randomness; seeded with 0 if missing.

    Returns
    -------
    numpy.ndarray
        float32 of shape (n, 8), in the order that `warp` takes: output pixel (x, y) shows the input at
        (a0 x + a1 y + a2, b0 x + b1 y + b2); the last two numbers are 0 (no perspective).
    """
    rng = rng or np.random.default_rng(0)
    shear = np.deg2rad(rng.uniform(-augmentation.shear, augmentation.shear, n))
    zoom_x, zoom_y = rng.uniform(1 - augmentation.zoom, 1 + augmentation.zoom, (2, n))
    flip = (rng.random(n) < 0.5) & augmentation.flip
    return affine_matrices(shear, zoom_x, zoom_y, flip, size)


def affine_matrices(
    shear: np.ndarray, zoom_x: np.ndarray, zoom_y: np.ndarray, flip: np.ndarray, size: int
) -> np.ndarray:
    """Multiply shear (radians), zoom and flip into one (n, 8) matrix an image, about the image's centre.

    Same convention as ``keras.src.legacy.preprocessing.image.apply_affine_transform``: shear, then zoom, about
    (size - 1) / 2; the finished picture is mirrored last.
    """
    centre = (size - 1) / 2
    a0, a1 = zoom_x, -np.sin(shear) * zoom_y
    b1 = np.cos(shear) * zoom_y
    a2 = centre - a0 * centre - a1 * centre
    b2 = centre - b1 * centre
    # Mirrored, output column x shows what column size - 1 - x would have shown.
    a2 = np.where(flip, a2 + a0 * (size - 1), a2)
    a0 = np.where(flip, -a0, a0)
    zero = np.zeros_like(a0)
    return np.stack([a0, a1, a2, zero, b1, b2, zero, zero], axis=1).astype(np.float32)


def warp(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Warp a whole batch with one operation, bilinear, repeating the edge pixels outside the image.

    Parameters
    ----------
    images : tensor or array
        (B, S, S, C), uint8 or float, any range.
    matrices : tensor or array
        (B, 8) from `random_matrices`.

    Returns
    -------
    tf.Tensor
        float32 (B, S, S, C), range of the input.
    """
    images = tf.cast(images, tf.float32)
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=matrices,
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    return tf.ensure_shape(warped, images.shape)


def epoch_draws(
    n: int, size: int, *, epoch: int, seed: int = 0, augmentation: Augmentation = REPORT
) -> tuple[np.ndarray, np.ndarray]:
    """Everything random about one epoch, drawn from ``(seed, epoch)`` alone.

    Returns
    -------
    order : numpy.ndarray
        int64 (n,): position of the image that is shown first, second, ...
    matrices : numpy.ndarray
        float32 (n, 8): row i is the warp of image i (not of the i-th image shown).
    """
    rng = np.random.default_rng([seed, epoch])
    return rng.permutation(n), random_matrices(n, size, augmentation, rng)


def epoch_data(
    pixels: np.ndarray,
    labels: np.ndarray,
    *,
    epoch: int,
    seed: int = 0,
    batch_size: int = 16,
    augmentation: Augmentation = REPORT,
    rescale: float = 1 / 255,
    preprocess: Callable | None = None,
    class_weight: dict[int, float] | None = None,
) -> tf.data.Dataset:
    """One epoch of training batches: shuffled, warped, scaled.

    Parameters
    ----------
    pixels : numpy.ndarray
        (N, S, S, C), usually the memory-mapped uint8 array of `pixels.load_pixels`. Only the images of the next few
        batches are read; the array is never copied.
    labels : numpy.ndarray
        (N,) of 0 and 1.
    epoch, seed : int
        The order and every warp depend on these two alone.
    batch_size : int
        Images a batch; the last batch may be smaller.
    augmentation : Augmentation
        `REPORT`, `NONE` (no warp at all) or your own.
    rescale : float
        Factor on the pixels, applied after the warp.
    preprocess : callable, optional
        Takes a float32 batch in the range of `pixels` and replaces `rescale`, for example
        ``keras.applications.vgg16.preprocess_input``.
    class_weight : dict, optional
        Weight of an image in the loss by label, for example ``{0: 1.94, 1: 0.67}``.

    Returns
    -------
    tf.data.Dataset
        Of (float32 (B, S, S, C), float32 (B,)), with `class_weight` also float32 (B,) of weights.

    Raises
    ------
    ValueError
        If `pixels` and `labels` differ in length or are empty.
    """
    labels = _checked_labels(pixels, labels)
    order, matrices = epoch_draws(len(pixels), pixels.shape[1], epoch=epoch, seed=seed, augmentation=augmentation)
    columns = [labels[order], matrices[order]]
    if class_weight is not None:
        columns.append(np.array([class_weight[int(label)] for label in columns[0]], np.float32))

    def finish(images: tf.Tensor, label: tf.Tensor, matrix: tf.Tensor, *weight: tf.Tensor) -> tuple:
        if augmentation == NONE:
            images = tf.cast(images, tf.float32)
        else:
            images = warp(images, matrix)
            images = tf.tile(images, [1, 1, 1, pixels.shape[-1] // tf.shape(images)[-1]])
            images.set_shape((None, *pixels.shape[1:]))  # Keras compiles a convolution with XLA if it sees no channels
        return (preprocess(images) if preprocess else images * rescale, label, *weight)

    return _batches(pixels, order, columns, batch_size, finish, thin=augmentation != NONE)


def plain_data(
    pixels: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    batch_size: int = 64,
    rescale: float = 1 / 255,
    preprocess: Callable | None = None,
) -> tf.data.Dataset:
    """Batches in the order of `pixels`, not augmented, for evaluation and prediction.

    Returns
    -------
    tf.data.Dataset
        Of (float32 (B, S, S, C),), with `labels` of (float32 (B, S, S, C), float32 (B,)).
    """
    columns = [] if labels is None else [_checked_labels(pixels, labels)]

    def finish(images: tf.Tensor, *label: tf.Tensor) -> tuple:
        images = tf.cast(images, tf.float32)
        return (preprocess(images) if preprocess else images * rescale, *label)

    return _batches(pixels, np.arange(len(pixels)), columns, batch_size, finish)


def _checked_labels(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels, np.float32)
    if len(pixels) == 0 or labels.shape != (len(pixels),):
        raise ValueError(
            f"Found {len(pixels)} images and labels of shape {labels.shape}; expected at least one image and one "
            "label each. Take both from the same rows: load_pixels(rows) and rows['label']."
        )
    return labels


def _is_grey(images: np.ndarray) -> bool:
    """Whether these uint8 images have three equal channels; faster than comparing channel by channel."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        return False
    flat = images.reshape(-1)
    same = flat[1:] == flat[:-1]
    return bool(same[::3].all() and same[1::3].all())


def _batches(
    pixels: np.ndarray,
    order: np.ndarray,
    columns: list[np.ndarray],
    batch_size: int,
    finish: Callable,
    thin: bool = False,
) -> tf.data.Dataset:
    """`finish` of (images, *columns) a batch; `pixels` is read at `order`, `columns` are already in that order.

    With `thin`, `finish` gets one channel of a grey batch: a warp has a third of the work then.
    """
    # np.asarray of a memory map is a view of the same file, without the slow subclass machinery.
    source = np.asarray(pixels)
    # Kept features are float16, which NumPy widens anywhere; TensorFlow on some CPUs only with a complaint.
    dtype = np.dtype(np.float32) if source.dtype == np.float16 else source.dtype

    def read(positions: np.ndarray) -> np.ndarray:
        images = source[positions].astype(dtype, copy=False)
        return images[..., :1] if thin and _is_grey(images) else images

    def gather(positions: tf.Tensor, *rest: tf.Tensor) -> tuple:
        images = tf.numpy_function(read, [positions], dtype, stateful=False)
        images.set_shape((None, *source.shape[1:-1], None if thin else source.shape[-1]))
        return (images, *rest)

    # Each batch is a slice of these small arrays; only `pixels` is too large to hand to TensorFlow.
    dataset = tf.data.Dataset.from_tensor_slices((order, *columns)).batch(batch_size)
    # One batch is made while the model learns from another. Autotuning is off: its thread sleeps for periods that
    # double, 10 ms, 20 ms, ..., and the end of an epoch waits for it to wake, which can double a short epoch's time.
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.map(gather).map(finish, 2).prefetch(2).with_options(options)

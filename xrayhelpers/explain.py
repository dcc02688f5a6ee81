"""Show where a network looks, and check what such a map is worth.

Grad-CAM and occlusion draw one map per image. A map always looks convincing, so two checks stand beside them: whether
it changes when the model's weights are thrown away (`sanity_check`), and whether it lies on the disease
(`heat_on_mask`). Images are given as models take them: uint8, or float in [0, 255].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from xrayhelpers._keras import keras, tf
from xrayhelpers._phantom import lesion_mask
from xrayhelpers.evaluate import paired_change

__all__ = ["before_sigmoid", "grad_cam", "heat_on_mask", "lesion_mask", "occlusion", "sanity_check"]


def before_sigmoid(model: keras.Model) -> keras.Model:
    """Build the same model without its last sigmoid: its output is the log-odds of pneumonia.

    A score of 0.9999 cannot rise and hardly falls, and its gradient is nearly zero; its log-odds have no such limit.

    Parameters
    ----------
    model : keras.Model
        Ends in a dense layer of one unit with a sigmoid, as both networks of `models` do.

    Returns
    -------
    keras.Model
        A copy with the same weights, and the output (B, 1) float32, any number.

    Raises
    ------
    ValueError
        If the model ends in anything else.
    """
    last = model.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", None)
    if not isinstance(last, keras.layers.Dense) or last.units != 1 or activation not in ("sigmoid", "linear"):
        raise ValueError(
            f"Model {model.name!r} ends in {last.name!r} ({type(last).__name__}, activation {activation}); expected "
            "Dense(1, activation='sigmoid'). Pass the whole model, such as report_cnn()."
        )
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.layers[-1].activation = keras.activations.linear
    return copy


def grad_cam(model: keras.Model, images: ArrayLike) -> np.ndarray:
    """Draw where the last convolution finds what speaks *for* pneumonia (Grad-CAM, Selvaraju et al., 2017).

    Each of its feature maps is weighted by the mean gradient of the log-odds with respect to it. The maps are
    added, and what is below zero is dropped.

    Parameters
    ----------
    model : keras.Model
        See `before_sigmoid`.
    images : (N, S, S, C) array
        uint8, or float in [0, 255].

    Returns
    -------
    (N, S, S) float32 in [0, 1]
        Enlarged from the size of the feature maps. The highest value of each map is 1; a map is all 0 if nothing speaks
        for pneumonia.

    Raises
    ------
    ValueError
        If the model has no convolution, or does not end in a score.
    """
    # A copy, because a Sequential model that grew by `add` has called its layers many times, and `layer.output` would
    # belong to the first call.
    inner = before_sigmoid(model)
    convolutions = [layer for layer in inner.layers if isinstance(layer, keras.layers.Conv2D)]
    if not convolutions:
        raise ValueError(f"Found no Conv2D layer in {model.name!r}; expected a network such as report_cnn().")
    both = keras.Model(inner.inputs, [convolutions[-1].output, inner.layers[-1].output])
    images, maps = np.asarray(images), []
    for start in range(0, len(images), 32):
        batch = tf.constant(images[start : start + 32], tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(batch)  # frozen layers are not recorded otherwise
            features, score = both(batch, training=False)
        slopes = tape.gradient(score, features)
        weights = tf.reduce_mean(slopes, axis=(1, 2), keepdims=True)
        heat = tf.nn.relu(tf.reduce_sum(tf.cast(weights * features, tf.float32), axis=-1, keepdims=True))
        maps.append(tf.image.resize(heat, images.shape[1:3])[..., 0].numpy())
    heat = np.concatenate(maps)
    highest = heat.max(axis=(1, 2), keepdims=True)
    return np.divide(heat, highest, out=np.zeros_like(heat), where=highest > 0)


def occlusion(
    predict: Callable[[np.ndarray], ArrayLike], images: ArrayLike, patch: int = 8, stride: int = 4
) -> np.ndarray:
    """Cover one patch after the other with gray and see how far the score falls (Zeiler & Fergus, 2014).

    Parameters
    ----------
    predict : function
        Images of the same dtype (N, S, S, C) -> (N,) or (N, 1) scores. It is called once per place, with all images.
        Log-odds (`before_sigmoid`) show more than probabilities near 0 or 1.
    images : (N, S, S, C) array
        Covered with the mean of each image.
    patch, stride : int
        Side of the patch, and distance between places, in pixels.

    Returns
    -------
    (N, S, S) float32
        Mean fall of the score over the patches that cover a pixel, in units of the score; below 0 where covering
        raises the score.

    Raises
    ------
    ValueError
        If some pixels would never be covered.
    """
    images = np.asarray(images)
    height, width = images.shape[1:3]
    if not 1 <= stride <= patch <= min(height, width):
        raise ValueError(
            f"Found patch={patch}, stride={stride}; expected 1 <= stride <= patch <= {min(height, width)}."
        )
    under, whole = images.mean(axis=(1, 2, 3), keepdims=True), np.ravel(predict(images))
    fall, times = np.zeros(images.shape[:3]), np.zeros((height, width))
    # The last place of a row or column ends at the border, even if the stride does not reach it.
    for top in sorted({*range(0, height - patch, stride), height - patch}):
        for left in sorted({*range(0, width - patch, stride), width - patch}):
            at = slice(top, top + patch), slice(left, left + patch)
            covered = images.copy()
            covered[:, *at] = under
            fall[:, *at] += (whole - np.ravel(predict(covered)))[:, None, None]
            times[at] += 1
    return (fall / times).astype(np.float32)


def sanity_check(
    model: keras.Model, images: ArrayLike, patients: ArrayLike | None = None, seed: int = 0
) -> pd.DataFrame:
    """Check that Grad-CAM's maps change when the model forgets (cascading randomization, Adebayo et al., 2018).

    The weights are replaced by random ones from the output down, one more layer in each row, and the maps are compared
    with those of the trained model by Spearman's rank correlation over pixels. Maps that stay as they are do not
    depend on what the model has learned, however good they look. There is no rule for how low is low enough: the images
    and the shape of the network alone make maps alike, so that 0 is not to be expected.

    Parameters
    ----------
    model : keras.Model
    images : (N, S, S, C) array
        uint8, or float in [0, 255].
    patients : (N,) array, optional
        For the interval.
    seed : int
        Of the random weights.

    Returns
    -------
    DataFrame
        Index "randomized down to" (name of a layer; "nothing" for the trained model against itself); columns value
        (mean correlation over images), low, high (95 %, by patient) and blank (share of images for which either map
        is constant; such maps have no ranks and are left out).
    """
    trained, rows, rng = grad_cam(model, images), {}, np.random.default_rng(seed)
    patients = np.arange(len(trained)) if patients is None else np.asarray(patients)
    copy, new = keras.models.clone_model(model), keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    pairs = [pair for pair in zip(copy.layers, new.layers, strict=True) if pair[0].weights]  # Rescaling has none
    for layer, start in [(None, None), *reversed(pairs)]:
        for variable, value in zip(layer.weights, start.get_weights(), strict=True) if layer else ():
            # Not the layer's own initializer: its seed would bring back the weights that the model started from.
            draw = keras.initializers.GlorotUniform(seed=int(rng.integers(2**31)))
            variable.assign(draw(value.shape) if value.ndim > 1 else value)
        maps = grad_cam(copy, images)
        drawn = (np.ptp(trained, axis=(1, 2)) > 0) & (np.ptp(maps, axis=(1, 2)) > 0)
        alike = [stats.spearmanr(a, b, axis=None).statistic for a, b in zip(trained[drawn], maps[drawn], strict=True)]
        found = paired_change(np.zeros(len(alike)), alike, patients[drawn]) if alike else {}
        name = layer.name if layer else "nothing"
        rows[name] = {"value": np.nan, "low": np.nan, "high": np.nan, **found, "blank": 1 - drawn.mean()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("randomized down to")


def heat_on_mask(maps: ArrayLike, masks: Sequence[np.ndarray]) -> pd.DataFrame:
    """Measure how much of the heat lies on the disease, compared with heat spread evenly over the image.

    Parameters
    ----------
    maps : (N, S, S) array
        Values below 0 count as 0.
    masks : sequence of N bool arrays (H, W) of any size
        True on the disease: `[lesion_mask(path) for path in rows["path"]]`. They are shrunk to S x S, so that the
        border of a mask counts in part.

    Returns
    -------
    DataFrame
        One row per image, float in [0, 1]: heat (share of the heat that lies on the mask; NaN for a map without heat),
        area (share of the pixels: what chance gives) and hit (1 if the hottest pixel lies on the mask, 0 if not: the
        pointing game of Zhang et al., 2018; NaN without heat). All are NaN if the mask is empty.

    Raises
    ------
    ValueError
        If there is not one map per mask.
    """
    maps = np.clip(np.asarray(maps, dtype=np.float64), 0, None)
    if len(maps) != len(masks):
        raise ValueError(f"Found {len(maps)} maps and {len(masks)} masks; expected one mask per map.")
    rows = []
    for heat, mask in zip(maps, masks, strict=True):
        share = cv2.resize(np.asarray(mask, dtype=np.float32), heat.shape[::-1], interpolation=cv2.INTER_AREA)
        if share.max() == 0:
            rows.append((np.nan, np.nan, np.nan))
        elif heat.max() == 0:
            rows.append((np.nan, share.mean(), np.nan))
        else:
            hottest = share[heat == heat.max()]
            rows.append(((heat * share).sum() / heat.sum(), share.mean(), (hottest >= 0.5).mean()))
    return pd.DataFrame(rows, columns=["heat", "area", "hit"], dtype=float)

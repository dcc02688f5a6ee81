"""Where does a network look, and is the answer worth anything?

Grad-CAM and occlusion draw a map an image. A map always looks convincing, so two checks stand beside them: does it
change when the model's weights are thrown away (`sanity_check`), and does it lie on the disease (`heat_on_mask`)?

Images are given as the model takes them: float, or uint8, which is divided by 255 as `training.predict` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from xrayhelpers._quiet import keras, tf
from xrayhelpers.evaluate import paired_change


def _as_input(images: ArrayLike) -> np.ndarray:
    """Return float32 images; uint8 is divided by 255."""
    images = np.asarray(images)
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)


def _tensors(model: keras.Model) -> tuple:
    """Return a model's inputs and a dict of the output of each layer on the way, and of "before last".

    A Sequential model that grew by `add` has called its layers many times, and `layer.output` is that of the first
    call, which leads nowhere: its layers are called once more, in a row.
    """
    if not isinstance(model, keras.Sequential):
        return model.inputs, {one.name: one.output for one in model.layers} | {"before last": model.layers[-1].input}
    inputs = tensor = keras.Input(model.input_shape[1:])
    outputs = {}
    for one in model.layers[:-1]:
        outputs[one.name] = tensor = one(tensor)
    return inputs, outputs | {"before last": tensor}


def before_sigmoid(model: keras.Model) -> keras.Model:
    """Build the same model without its last sigmoid: its output is the log-odds of pneumonia.

    A score of 0.9999 cannot rise and hardly falls, and its gradient is nearly zero; its log-odds can do all of that.

    Parameters
    ----------
    model : keras.Model
        Ends in a dense layer of one unit, with a sigmoid or linear, as both of `models` do.

    Returns
    -------
    keras.Model
        Output (B, 1) float32, any number; all weights are those of `model` (shared, but the last layer's are copied).

    Raises
    ------
    ValueError
        If the model ends in anything else.
    """
    return _log_odds(model)


def _log_odds(model: keras.Model, layer: str | None = None) -> keras.Model:
    """Build `before_sigmoid`; with the name of a layer its output comes first."""
    last = model.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", None)
    if not isinstance(last, keras.layers.Dense) or last.units != 1 or activation not in ("sigmoid", "linear"):
        raise ValueError(
            f"Model {model.name!r} ends in {last.name!r} ({type(last).__name__}, activation {activation}); expected "
            "Dense(1, activation='sigmoid'). Give the whole model, such as models.report_cnn()."
        )
    inputs, outputs = _tensors(model)
    linear = keras.layers.Dense(1, use_bias=last.use_bias, dtype="float32", name=last.name)
    output = linear(outputs["before last"])
    linear.set_weights(last.get_weights())
    return keras.Model(inputs, [outputs[layer], output] if layer else output, name="before_sigmoid")


def grad_cam(model: keras.Model, images: ArrayLike, layer: str | None = None, batch_size: int = 32) -> np.ndarray:
    """Draw where a convolution saw what speaks *for* pneumonia (Grad-CAM, Selvaraju et al., 2017).

    Each feature map of the layer is weighted by the mean gradient of the log-odds with respect to it; the maps are
    added, and what is below zero is dropped.

    Parameters
    ----------
    model : keras.Model
        See `before_sigmoid`.
    images : (N, S, S, C) array
    layer : str, optional
        Name of a layer with an output (B, h, w, channels). Default: the last convolution.
    batch_size : int

    Returns
    -------
    (N, S, S) float32 in [0, 1]
        Enlarged from h x w; the highest value of each map is 1. A map is all 0 where nothing speaks for pneumonia.

    Raises
    ------
    ValueError
        If there is no such layer, or it has no height and width.
    """
    convolutions = [one.name for one in model.layers if isinstance(one, keras.layers.Conv2D)]
    layer = layer or (convolutions or [None])[-1]
    found = [one for one in model.layers if one.name == layer]
    if not found or len(found[0].output.shape) != 4:
        raise ValueError(
            f"Found no layer {layer!r} with height and width in {model.name!r}; its convolutions are "
            f"{', '.join(convolutions) or 'none'}. Type layer={(convolutions or ['conv2'])[-1]!r}."
        )
    both = _log_odds(model, layer)
    images, maps = _as_input(images), []
    for start in range(0, len(images), batch_size):
        batch = tf.constant(images[start : start + batch_size])
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
    predict: Callable[[np.ndarray], ArrayLike],
    images: ArrayLike,
    patch: int = 8,
    stride: int = 4,
    fill: float | None = None,
) -> np.ndarray:
    """Cover one patch after the other and see how far the score falls (Zeiler & Fergus, 2014).

    Parameters
    ----------
    predict : images of the same dtype (N, S, S, C) -> (N,) or (N, 1) scores
        Called once a place, with all images. Log-odds (`before_sigmoid`) show more than probabilities near 0 or 1.
    images : (N, S, S, C) array
    patch, stride : int
        Side of the patch and distance between places, in pixels.
    fill : float, optional
        Value under the patch. Default: the mean of each image.

    Returns
    -------
    (N, S, S) float32
        Mean fall of the score over the patches that cover a pixel, in units of the score; below 0 where covering
        raises it.
    """
    images = np.asarray(images)
    height, width = images.shape[1:3]
    if not (1 <= patch <= min(height, width) and 1 <= stride <= patch):
        raise ValueError(
            f"Found patch={patch} and stride={stride} for images of {height} x {width}; expected 1 <= stride <= patch "
            "<= side, so that every pixel is covered once. Type patch=8, stride=4."
        )
    under = images.mean(axis=(1, 2, 3), keepdims=True) if fill is None else np.full((len(images), 1, 1, 1), fill)
    whole = np.ravel(predict(images))
    fall, times = np.zeros(images.shape[:3]), np.zeros((height, width))
    # The last place of a row or column ends at the border, also where the stride does not get there.
    for top in sorted({*range(0, height - patch, stride), height - patch}):
        for left in sorted({*range(0, width - patch, stride), width - patch}):
            at = slice(top, top + patch), slice(left, left + patch)
            covered = images.copy()
            covered[:, *at] = under
            fall[:, *at] += (whole - np.ravel(predict(covered)))[:, None, None]
            times[at] += 1
    return (fall / times).astype(np.float32)


def randomised(model: keras.Model, seed: int = 0, layers: int | None = None) -> keras.Model:
    """Copy a model and throw away what it has learnt, from its output downwards.

    Parameters
    ----------
    model : keras.Model
    seed : int
        Kernels are drawn anew from Glorot's uniform distribution; biases and the like get their starting values.
    layers : int, optional
        So many of the last layers with weights. Default: all.

    Returns
    -------
    keras.Model
        Not compiled; shares nothing with `model`.
    """
    copy = keras.models.clone_model(model)
    seeds = np.random.default_rng(seed).integers(0, 2**31 - 1, len(model.weights)).tolist()
    having = [number for number, layer in enumerate(model.layers) if layer.weights]
    lost = set(having if layers is None else having[len(having) - layers :])
    for number, (old, new) in enumerate(zip(model.layers, copy.layers, strict=True)):
        if number not in lost:
            new.set_weights(old.get_weights())
            continue
        for variable in new.weights:
            if len(variable.shape) > 1:
                # Not the layer's own initializer: its seed would bring back the weights the model started from.
                variable.assign(keras.initializers.GlorotUniform(seed=seeds.pop())(variable.shape))
    return copy


def sanity_check(
    model: keras.Model,
    images: ArrayLike,
    patients: ArrayLike | None = None,
    explain: Callable[[keras.Model, ArrayLike], np.ndarray] = grad_cam,
    seed: int = 0,
) -> pd.DataFrame:
    """Do the maps change when the model forgets? (Adebayo et al., 2018: cascading randomisation.)

    The weights are drawn anew from the output down, one layer more in each row, and the maps are compared with those
    of the trained model by Spearman's rank correlation over pixels. Maps that stay as they are do not depend on what
    the model has learnt, however well they look. Nothing says how low is low enough: the shape of the images and of
    the network alone makes maps alike, so 0 is not to be expected.

    Parameters
    ----------
    model : keras.Model
    images : (N, S, S, C) array
    patients : (N,) array, optional
        For the interval.
    explain : (model, images) -> (N, S, S) maps
    seed : int

    Returns
    -------
    DataFrame, index "randomised down to" (name of a layer; "nothing" for the trained model against itself)
        value (mean correlation over images), low, high (95 %, by patient), blank (share of images where either map
        is the same everywhere; they have no ranks and are left out)
    """
    names = [layer.name for layer in model.layers if layer.weights][::-1]
    trained, rows = np.asarray(explain(model, images)), {}
    patients = np.arange(len(trained)) if patients is None else np.asarray(patients)
    for layers, name in enumerate(["nothing", *names]):
        maps = np.asarray(explain(randomised(model, seed, layers), images))
        drawn = (np.ptp(trained, axis=(1, 2)) > 0) & (np.ptp(maps, axis=(1, 2)) > 0)
        pairs = zip(trained[drawn], maps[drawn], strict=True)
        correlation = np.array([stats.spearmanr(a, b, axis=None).statistic for a, b in pairs])
        found = paired_change(np.zeros_like(correlation), correlation, patients[drawn]) if drawn.any() else {}
        rows[name] = {"value": np.nan, "low": np.nan, "high": np.nan, **found, "blank": 1 - drawn.mean()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("randomised down to")


def heat_on_mask(maps: ArrayLike, masks: Sequence[np.ndarray]) -> pd.DataFrame:
    """How much of the heat lies on the disease, beside what heat spread at random would have there?

    Parameters
    ----------
    maps : (N, S, S) array
        Below 0 counts as 0.
    masks : N bool arrays (H, W) of any size
        True on the disease: `[phantom.lesion_mask(path) for path in rows["path"]]`. They are shrunk to S x S, so that
        the border of a mask counts in part.

    Returns
    -------
    DataFrame, one row an image, float in [0, 1]
        heat (share of the heat that lies on the mask; NaN for a map without heat), area (share of the pixels: what
        chance gives), hit (1 where the hottest pixel lies on the mask, 0 where not: the pointing game of Zhang et
        al., 2018; NaN without heat). All are NaN where the mask is empty.
    """
    maps = np.clip(np.asarray(maps, dtype=np.float64), 0, None)
    if maps.ndim != 3 or len(maps) != len(masks):
        raise ValueError(
            f"Found maps of shape {maps.shape} and {len(masks)} masks; expected maps (N, S, S) and one mask each. "
            'Type masks=[phantom.lesion_mask(path) for path in rows["path"]].'
        )
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

"""Show where a network looks.

Grad-CAM draws one map per image. A map always looks convincing: lesson 8 measures how much of it lies on the disease,
and whether it changes when the model's weights are thrown away. Images are given as models take them: uint8, or float
in [0, 255].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from xrayhelpers._keras import keras, tf
from xrayhelpers._phantom import lesion_mask

__all__ = ["before_sigmoid", "grad_cam", "lesion_mask"]


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
        text = f"Model {model.name!r} ends in {last.name!r} ({type(last).__name__}, activation {activation}); expected"
        raise ValueError(f"{text} Dense(1, activation='sigmoid'). Pass the whole model, such as report_cnn().")
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
        weights = tf.reduce_mean(tf.cast(slopes, tf.float32), axis=(1, 2), keepdims=True)
        heat = tf.nn.relu(tf.reduce_sum(weights * tf.cast(features, tf.float32), axis=-1, keepdims=True))
        maps.append(tf.image.resize(heat, images.shape[1:3])[..., 0].numpy())
    heat = np.concatenate(maps)
    highest = heat.max(axis=(1, 2), keepdims=True)
    return np.divide(heat, highest, out=np.zeros_like(heat), where=highest > 0)

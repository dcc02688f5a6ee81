"""The report's two networks, exactly; VGG16 cut in two where its frozen layers end.

Every random starting value is drawn from `seed`; no global random state is read or changed.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from xrayhelpers._quiet import keras, tf
from xrayhelpers.weights import VGG16_BLOCKS, VGG16_LAYERS, VGG16Weights, read_weights, vgg16_weights

__all__ = ["compile_binary", "compute_dtype", "cut_vgg16", "report_cnn", "report_vgg16", "vgg16_weights"]


def report_cnn(
    size: int = 64,
    channels: int = 3,
    units: int = 128,
    optimizer: str | keras.Optimizer = "adam",
    seed: int = 0,
    *,
    blocks: int = 2,
    dropout: float = 0.0,
) -> keras.Model:
    """Build the report's network, compiled: two convolutions and two dense layers.

    Parameters
    ----------
    size, channels : int
        Input images are (size, size, channels), in [0, 1].
    units : int
        Neurons of the dense layer (the report's tuning tries 128, 256, 512 and 1024).
    optimizer : str or keras.Optimizer
        "adam" or "sgd" as in the report, or an optimizer with its own learning rate.
    seed : int
        Decides the starting weights, and the dropout.
    blocks, dropout : int, float
        Pairs of convolution and pooling, and the dropout before the last layer: 2 and 0 in the report. Another number
        is another network, for a search that may try more than the report did.

    Returns
    -------
    keras.Model
        Output (B, 1): probability of pneumonia. 813,217 parameters at 64 px and 128 units.
    """
    dtype, layers, start = compute_dtype(), keras.layers, _starting_values(seed)
    model = keras.Sequential([keras.Input((size, size, channels))], name="report_cnn")
    for block in range(1, blocks + 1):
        name = f"conv{block}"
        model.add(layers.Conv2D(32, 3, activation="relu", kernel_initializer=start(), dtype=dtype, name=name))
        model.add(layers.MaxPooling2D(2, dtype=dtype, name=f"pool{block}"))
    model.add(layers.Flatten(dtype=dtype, name="flatten"))
    model.add(layers.Dense(units, activation="relu", kernel_initializer=start(), dtype=dtype, name="dense"))
    if dropout:
        model.add(layers.Dropout(dropout, seed=seed, dtype=dtype, name="dropout"))
    model.add(layers.Dense(1, activation="sigmoid", kernel_initializer=start(), dtype="float32", name="pneumonia"))
    return compile_binary(model, optimizer)


def report_vgg16(
    size: int = 64,
    units: int = 1024,
    dropout: float = 0.1,
    trainable_layers: int = 3,
    optimizer: str | keras.Optimizer = "adam",
    seed: int = 0,
    weights: str | Path | VGG16Weights | None = "imagenet",
) -> keras.Model:
    """Build the report's VGG16 model, compiled: ImageNet convolutions, of which the last few learn, and a new head.

    Parameters
    ----------
    size : int
        Input images are (size, size, 3) RGB; at least 32.
    units, dropout : int, float
        Dense layer of the head and its dropout.
    trainable_layers : int
        So many of VGG16's last layers learn; pooling layers count, so the report's 3 are block5_conv2,
        block5_conv3 and block5_pool. 0 to 18.
    optimizer, seed
        As in `report_cnn`; `seed` also decides the dropout.
    weights : "imagenet", path, VGG16Weights or None
        "imagenet": `vgg16_weights()`. A path: that file. None: random, only if asked for.

    Returns
    -------
    keras.Model
        Output (B, 1): probability of pneumonia. At 64 px 16,813,889 parameters, of which 6,818,817 learn.

    Raises
    ------
    WeightsError
        If the weights cannot be had or are not the published ones.
    """
    if size < 32 or not 0 <= trainable_layers <= 18:
        raise ValueError(
            f"Found size={size} and trainable_layers={trainable_layers}; VGG16 needs size >= 32 and 0 to 18 "
            "trainable layers. The report's values are size=64, trainable_layers=3."
        )
    dtype, layers, start = compute_dtype(), keras.layers, _starting_values(seed)
    base = [layers.Input((size, size, 3), name="image")]
    for block, (convolutions, filters) in enumerate(VGG16_BLOCKS, 1):
        for number in range(1, convolutions + 1):
            name = f"block{block}_conv{number}"
            base.append(
                layers.Conv2D(
                    filters,
                    3,
                    padding="same",
                    activation="relu",
                    kernel_initializer=start(),
                    dtype=dtype,
                    name=name,
                )
            )
        base.append(layers.MaxPooling2D(2, dtype=dtype, name=f"block{block}_pool"))
    for layer in base[1 : len(base) - trainable_layers]:
        layer.trainable = False
    head = [
        layers.Flatten(dtype=dtype, name="flatten"),
        layers.Dense(units, activation="relu", kernel_initializer=start(), dtype=dtype, name="dense"),
        layers.Dropout(dropout, seed=seed, dtype=dtype, name="dropout"),
        layers.Dense(1, activation="sigmoid", kernel_initializer=start(), dtype="float32", name="pneumonia"),
    ]
    model = keras.Sequential(base + head, name="report_vgg16")
    if weights is not None:
        if not isinstance(weights, VGG16Weights):
            weights = vgg16_weights() if weights == "imagenet" else read_weights(weights)
        for number, name in enumerate(VGG16_LAYERS):
            model.get_layer(name).set_weights(weights.arrays[2 * number : 2 * number + 2])
    return compile_binary(model, optimizer)


def cut_vgg16(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Cut a model in two before its first layer that learns.

    What stands before the cut gives the same output for the same image in every epoch, so it need run only once an
    image (see `training.kept_features`). Both halves share their layers with `model`: when `tail` has learnt, so has
    `model`.

    Parameters
    ----------
    model : keras.Model
        A chain of layers whose first ones are frozen, such as `report_vgg16()`.

    Returns
    -------
    frozen : keras.Model
        Image (B, S, S, 3) to features, for the report's model block5_conv1's (B, S / 16, S / 16, 512).
    tail : keras.Model
        Features to probability (B, 1), compiled like `model` with an optimizer of its own.

    Raises
    ------
    ValueError
        If the model does not begin with frozen layers, or nothing learns.
    """
    # Dropout learns nothing, but it says something else in every epoch: it belongs to the tail.
    changes = [bool(layer.trainable_weights) or hasattr(layer, "seed_generator") for layer in model.layers]
    first = changes.index(True) if any(changes) else 0
    if not any(layer.weights for layer in model.layers[:first]):
        raise ValueError(
            f"Model {model.name!r} has no frozen layers before its first layer that learns; expected a model such as "
            "report_vgg16(trainable_layers=3)."
        )
    frozen = keras.Model(model.inputs[0], model.layers[first - 1].output, name="frozen")
    tail = keras.Sequential([keras.Input(frozen.output_shape[1:]), *model.layers[first:]], name="tail")
    optimizer = keras.optimizers.get(keras.optimizers.serialize(model.optimizer))
    return frozen, compile_binary(tail, optimizer)


def compute_dtype() -> str:
    """Mixed precision where a GPU is present, plain float32 elsewhere: the only thing a GPU changes."""
    return "mixed_float16" if tf.config.list_physical_devices("GPU") else "float32"


class Adam(keras.optimizers.Adam):
    """Keras's Adam, each variable updated by one operation instead of a dozen: same rule, same numbers up to rounding.

    A dozen passes over 29.5 million weights in every step are a fifth of the widest network's training time on a CPU.
    """

    # A saved model names Keras's Adam, which any Keras can read.
    __module__ = "keras.optimizers"

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        """Apply one step to one variable (see the base class)."""
        if self.amsgrad or tf.distribute.has_strategy() or not isinstance(gradient, tf.Tensor):
            super().update_step(gradient, variable, learning_rate)
            return
        step, index = tf.cast(self.iterations + 1, variable.dtype), self._get_variable_index(variable)
        var, m, v = (getattr(one, "_value", one) for one in (variable, self._momentums[index], self._velocities[index]))
        tf.raw_ops.ResourceApplyAdam(
            var=var.handle,
            m=m.handle,
            v=v.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=tf.cast(self.beta_1, variable.dtype),
            beta2=tf.cast(self.beta_2, variable.dtype),
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
        )


def compile_binary(model: keras.Model, optimizer: str | keras.Optimizer = "adam") -> keras.Model:
    """Compile as the report does: binary cross-entropy and accuracy."""
    optimizer = keras.optimizers.get(optimizer)
    if type(optimizer) is keras.optimizers.Adam:
        optimizer = Adam.from_config(optimizer.get_config())
    wrapped = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if not wrapped and any(layer.dtype_policy.name == "mixed_float16" for layer in model.layers):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    # XLA makes the report's network half as fast on a CPU; no version of Keras shall choose it by itself.
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def _starting_values(seed: int) -> Callable[[], keras.Initializer]:
    """Glorot-uniform initializers (Keras's default) with seeds of their own, one a call."""
    seeds = iter(np.random.default_rng(seed).integers(0, 2**31 - 1, 1000).tolist())
    return lambda: keras.initializers.GlorotUniform(seed=next(seeds))

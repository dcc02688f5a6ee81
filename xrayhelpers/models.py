"""The report's two networks, exactly; VGG16 split where its frozen layers end.

Both take pixels from 0 to 255 and scale them inside, so that nobody forgets to. Every random starting value is drawn
from `seed`; no global random state is read or changed.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from xrayhelpers._keras import keras, tf
from xrayhelpers._vgg16 import VGG16_BLOCKS, VGG16_LAYERS, VGG16Weights, vgg16_weights

__all__ = ["report_cnn", "report_vgg16", "set_precision", "split_frozen", "vgg16_weights"]


def report_cnn(
    size: int = 64, units: int = 128, *, optimizer: str | keras.Optimizer = "adam", seed: int = 0
) -> keras.Model:
    """Build the report's network, compiled: two convolutions and two dense layers.

    Parameters
    ----------
    size : int
        Input images are (size, size, 3), pixels 0 to 255.
    units : int
        Neurons of the dense layer (the report's tuning tries 128, 256, 512, and 1024).
    optimizer : str or keras.Optimizer
        "adam" or "sgd" as in the report, or an optimizer with its own learning rate.
    seed : int
        Decides the starting weights.

    Returns
    -------
    keras.Model
        Output (B, 1): probability of pneumonia. 813,217 parameters at 64 px and 128 units.
    """
    layers, start = keras.layers, _starting_values(seed)
    stack = [
        keras.Input((size, size, 3)),
        layers.Rescaling(1 / 255, name="rescale"),
        layers.Conv2D(32, 3, activation="relu", kernel_initializer=start(), name="conv1"),
        layers.MaxPooling2D(2, name="pool1"),
        layers.Conv2D(32, 3, activation="relu", kernel_initializer=start(), name="conv2"),
        layers.MaxPooling2D(2, name="pool2"),
        layers.Flatten(name="flatten"),
        layers.Dense(units, activation="relu", kernel_initializer=start(), name="dense"),
        layers.Dense(1, activation="sigmoid", kernel_initializer=start(), name="pneumonia", dtype="float32"),
    ]
    return _compiled(keras.Sequential(stack, name="report_cnn"), optimizer)


def report_vgg16(
    size: int = 64,
    units: int = 1024,
    *,
    trainable_layers: int = 3,
    pixels: str = "unit",
    seed: int = 0,
    weights: VGG16Weights | str | None = "imagenet",
) -> keras.Model:
    """Build the report's VGG16 model, compiled: ImageNet convolutions, of which the last few learn, and a new head.

    Parameters
    ----------
    size : int
        Input images are (size, size, 3), pixels 0 to 255; at least 32.
    units : int
        Neurons of the head's dense layer; a dropout of 0.1 follows it.
    trainable_layers : int
        How many of VGG16's last layers learn; pooling layers count, so the report's 3 are block5_conv2, block5_conv3,
        and block5_pool. 0 to 18.
    pixels : {"unit", "imagenet"}
        How the model scales pixels: to 0 to 1 as the report did, or as VGG16 was trained, which subtracts ImageNet's
        mean color. The latter equals ``keras.applications.vgg16.preprocess_input`` for images whose three channels are
        equal, as those of X-ray images are.
    seed : int
        Decides the starting weights of the head, and the dropout.
    weights : VGG16Weights, "imagenet", or None
        "imagenet": `vgg16_weights()`. None: random.

    Returns
    -------
    keras.Model
        Output (B, 1): probability of pneumonia. At 64 px 16,813,889 parameters, of which 6,818,817 learn.

    Raises
    ------
    WeightsError
        If the weights cannot be obtained or are not the published ones.
    """
    if size < 32 or not 0 <= trainable_layers <= 18 or pixels not in ("unit", "imagenet"):
        text = f"Found size={size}, trainable_layers={trainable_layers}, and pixels={pixels!r}; VGG16 needs size >= 32"
        raise ValueError(f'{text} (report: 64), trainable_layers 0 to 18 (3), and pixels="unit" or "imagenet".')
    layers, start = keras.layers, _starting_values(seed)
    scale = (1 / 255, 0.0) if pixels == "unit" else (1.0, [-103.939, -116.779, -123.68])  # means of blue, green, red
    base = [keras.Input((size, size, 3), name="image"), layers.Rescaling(*scale, name="rescale")]
    for block, (convolutions, filters) in enumerate(VGG16_BLOCKS, 1):
        how = {"padding": "same", "activation": "relu"}
        names = [f"block{block}_conv{number}" for number in range(1, convolutions + 1)]
        base += [layers.Conv2D(filters, 3, kernel_initializer=start(), name=name, **how) for name in names]
        base.append(layers.MaxPooling2D(2, name=f"block{block}_pool"))
    for layer in base[1 : len(base) - trainable_layers]:
        layer.trainable = False
    head = [
        layers.Flatten(name="flatten"),
        layers.Dense(units, activation="relu", kernel_initializer=start(), name="dense"),
        layers.Dropout(0.1, seed=seed, name="dropout"),
        layers.Dense(1, activation="sigmoid", kernel_initializer=start(), name="pneumonia", dtype="float32"),
    ]
    model = keras.Sequential(base + head, name="report_vgg16")
    if weights is not None:
        arrays = (vgg16_weights() if isinstance(weights, str) else weights).arrays
        for number, name in enumerate(VGG16_LAYERS):
            model.get_layer(name).set_weights(arrays[2 * number : 2 * number + 2])
    return _compiled(model, "adam")


def split_frozen(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Split a model before its first layer that learns.

    The frozen part computes the same output for the same image in every epoch, so it need run only once per image
    (see `training.keep_features`). Both parts share their layers with `model`: what the tail learns, `model` knows.

    Parameters
    ----------
    model : keras.Model
        A compiled chain of layers whose first ones are frozen, such as `report_vgg16()`.

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
    # Dropout learns nothing, but its output differs in every epoch: it belongs to the tail.
    changes = [bool(layer.trainable_weights) or hasattr(layer, "seed_generator") for layer in model.layers]
    first = changes.index(True) if any(changes) else 0
    if not any(layer.weights for layer in model.layers[:first]):
        text = f"Model {model.name!r} has no frozen layers before its first layer that learns"
        raise ValueError(f"{text}; expected a model such as report_vgg16(trainable_layers=3).")
    # Layers that belong to another model as well have their outputs there, so they are called once more.
    before = [layer for layer in model.layers[:first] if not isinstance(layer, keras.layers.InputLayer)]
    frozen = keras.Sequential([keras.Input(model.input_shape[1:]), *before], name="frozen")
    frozen.jit_compile = False
    tail = keras.Sequential([keras.Input(frozen.output_shape[1:]), *model.layers[first:]], name="tail")
    tail.compile_from_config(model.get_compile_config())
    return frozen, tail


def set_precision(policy: str | None = None) -> str:
    """Let Keras calculate in half precision where this machine is faster at it, and say what was chosen and why.

    With Keras's policy "mixed_bfloat16" the multiplications have 8 instead of 24 significant bits; weights, their
    updates and the loss keep 32-bit floats. Build models after this call, and give the last layer
    ``dtype="float32"``, so that scores are not rounded.

    Parameters
    ----------
    policy : {"mixed_bfloat16", "float32"}, optional
        Without it, the environment variable ``XRAYS_PRECISION`` decides, and without that the machine: half precision
        with the processor instructions avx512_bf16 or amx_bf16, or an NVIDIA GPU of compute capability 8 or more.

    Returns
    -------
    str
        The policy and the reason, for example "mixed_bfloat16 (this machine has avx512_bf16)".
    """
    cpu, reason = Path("/proc/cpuinfo"), "as asked for"
    policy = policy or os.environ.get("XRAYS_PRECISION")
    if not policy:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
        flags = set(cpu.read_text().split()) & {"avx512_bf16", "amx_bf16"} if cpu.is_file() else set()
        fast = ["a GPU" for one in details if one.get("compute_capability", (0,))[0] >= 8] or sorted(flags)
        policy = "mixed_bfloat16" if fast else "float32"
        reason = f"this machine has {' and '.join(fast) or 'no fast half precision'}"
    keras.mixed_precision.set_global_policy(policy)
    return f"{policy} ({reason})"


class Adam(keras.optimizers.Adam):
    """Keras's Adam, each variable updated by one operation instead of a dozen: the same numbers up to rounding.

    A dozen passes over 29.5 million weights per step take a third of the widest network's training time on a CPU, and
    16 % of the time of the report's eight networks together (the 128 px images, batches of 16, 2 cores).
    """

    __module__ = "keras.optimizers"  # a saved model names Keras's Adam, which any Keras can read

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        """Apply one step to one variable."""
        index, step = self._get_variable_index(variable), tf.cast(self.iterations + 1, tf.float32)
        slots = variable, self._momentums[index], self._velocities[index]
        var, m, v = (getattr(one, "_value", one).handle for one in slots)
        powers = {f"beta{i}_power": tf.pow(beta, step) for i, beta in enumerate((self.beta_1, self.beta_2), 1)}
        how = {"lr": tf.cast(learning_rate, tf.float32), "epsilon": self.epsilon, "grad": gradient, **powers}
        tf.raw_ops.ResourceApplyAdam(var=var, m=m, v=v, beta1=self.beta_1, beta2=self.beta_2, **how)


def _compiled(model: keras.Model, optimizer: str | keras.Optimizer) -> keras.Model:
    """Compile as the report does: binary cross-entropy and accuracy."""
    # XLA makes the report's network half as fast on a CPU; no version of Keras may choose it by itself.
    optimizer = Adam() if optimizer == "adam" else optimizer
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def _starting_values(seed: int) -> Callable[[], keras.Initializer]:
    """Give Glorot-uniform initializers (Keras's default) with a seed of their own, one per call."""
    seeds = iter(np.random.default_rng(seed).integers(0, 2**31 - 1, 1000).tolist())
    return lambda: keras.initializers.GlorotUniform(seed=next(seeds))

"""The ways that are compared, each run in a process of its own: `python -m benchmarks.ways <function> '<arguments>'`.

The report's way is what its notebook does, written for today's library: `ImageDataGenerator` reads, resizes and warps
every JPEG file again in each epoch, in Python.
"""

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

BATCH = 16


@contextlib.contextmanager
def clock(figures: dict, name: str) -> Iterator[None]:
    """Write wall-clock and processor seconds (over all threads) of a block into `figures`."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    figures[f"{name}_seconds"] = time.perf_counter() - wall
    figures[f"{name}_cpu_seconds"] = time.process_time() - cpu


def load(folder: str, size: int) -> tuple[dict, dict]:
    """Images and labels by part, as the lessons load them."""
    from xrayhelpers.data import load_index, load_parts, split_index

    return load_parts(split_index(load_index(folder), protocol="report"), size, interpolation="nearest")


def warm_up(model, data) -> None:
    """Train on two batches and put the weights back: tracing happens once and is not timed."""
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    before = [variable.numpy() for variable in variables]
    model.fit(data, steps_per_epoch=2, verbose=0)
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)


def report_epoch(folder: str, size: int) -> dict:
    """One epoch of the report's network on the report's generator."""
    from xrayhelpers._keras import tf
    from xrayhelpers.models import report_cnn

    loader = tf.keras.preprocessing.image.ImageDataGenerator(shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
    with contextlib.redirect_stdout(io.StringIO()):  # "Found 5216 images belonging to 2 classes."
        how = {"target_size": (size, size), "batch_size": BATCH, "class_mode": "binary", "seed": 0}
        train = loader.flow_from_directory(f"{folder}/train", **how)
    model, figures = report_cnn(size), {"images": train.samples}
    warm_up(model, train)
    with clock(figures, "input"):
        for number in range(len(train)):
            train[number]
    with clock(figures, "epoch"):
        model.fit(train, verbose=0)
    return figures


def our_epoch(folder: str, size: int) -> dict:
    """Decode once, then the same two passes through `training_data`."""
    from xrayhelpers.augment import training_data
    from xrayhelpers.models import report_cnn

    figures = {}
    with clock(figures, "decode_once"):
        images, labels = load(folder, size)
    data, model = training_data(images["train"], labels["train"], batch_size=BATCH), report_cnn(size)
    warm_up(model, data)
    with clock(figures, "input"):
        for _ in data:
            pass
    with clock(figures, "epoch"):
        model.fit(data, verbose=0)
    return figures | {"images": len(labels["train"])}


def ready_epoch(folder: str, size: int) -> dict:
    """The limit: `model.fit` on a float array in memory, nothing decoded, nothing augmented."""
    from xrayhelpers.models import report_cnn

    images, labels = load(folder, size)
    ready, figures, model = images["train"].astype(np.float32), {"images": len(labels["train"])}, report_cnn(size)
    few = BATCH + len(ready) % BATCH  # a last batch as small as the epoch's, or Keras would trace again
    model.fit(ready[:few], labels["train"][:few], batch_size=BATCH, verbose=0)
    with clock(figures, "epoch"):
        model.fit(ready, labels["train"], batch_size=BATCH, verbose=0)
    return figures


def vgg16(folder: str, size: int, keep: bool, epochs: int = 5) -> dict:
    """Train VGG16: all layers in every epoch, or the frozen ones once per image."""
    from xrayhelpers.models import report_vgg16, split_frozen
    from xrayhelpers.training import keep_features

    images, labels = load(folder, size)
    model, x, figures = report_vgg16(size), images["train"], {"images": len(labels["train"])}
    with clock(figures, "training"):
        if keep:
            frozen, model = split_frozen(model)
            x = keep_features(frozen, x)
        model.fit(x, labels["train"], epochs=epochs, batch_size=BATCH, verbose=0)
    return figures


def start_up(code: str) -> dict:
    """A whole Python process that runs some code."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return {"wall_seconds": time.perf_counter() - started}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))

"""The ways that are compared, each run in a process of its own: `python -m benchmarks.ways <function> '<arguments>'`.

The report's way is what its notebook does, written for today's library: `ImageDataGenerator` reads, resizes and warps
every JPEG file again in each epoch, in Python; Keras's own Adam; 32-bit floats. Ours, and the limit (ready arrays), run
in the precision that `set_precision` chooses.
"""

import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

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


def time_passes(figures: dict, model, data, batches=None) -> None:
    """Time a pass over the batches without a model, then an epoch of training."""
    warm_up(model, data)
    with clock(figures, "input"):
        for _ in data if batches is None else batches:
            pass
    with clock(figures, "epoch"):
        model.fit(data, verbose=0)


def generator(folder: str, size: int):
    """The report's input: files of train, read and changed again in each epoch."""
    from xrayhelpers._keras import tf

    loader = tf.keras.preprocessing.image.ImageDataGenerator(shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
    with contextlib.redirect_stdout(io.StringIO()):  # "Found 5216 images belonging to 2 classes."
        how = {"target_size": (size, size), "batch_size": BATCH, "class_mode": "binary", "seed": 0}
        return loader.flow_from_directory(f"{folder}/train", **how)


def report_epoch(folder: str, size: int) -> dict:
    """One epoch of the report's network on the report's generator."""
    from xrayhelpers._keras import keras
    from xrayhelpers.models import report_cnn

    train = generator(folder, size)
    model, figures = report_cnn(size, optimizer=keras.optimizers.Adam()), {"images": train.samples}
    time_passes(figures, model, train, (train[number] for number in range(len(train))))
    return figures


def our_epoch(folder: str, size: int) -> dict:
    """Decode once, then the same two passes through `training_data`."""
    from xrayhelpers.augment import training_data
    from xrayhelpers.models import report_cnn, set_precision

    figures = {}
    set_precision()
    with clock(figures, "decode_once"):
        images, labels = load(folder, size)
    data, model = training_data(images["train"], labels["train"], batch_size=BATCH), report_cnn(size)
    time_passes(figures, model, data)
    return figures | {"images": len(labels["train"])}


def ready_epoch(folder: str, size: int) -> dict:
    """The limit: `model.fit` on a float array in memory, nothing decoded, nothing augmented."""
    from xrayhelpers.models import report_cnn, set_precision

    set_precision()
    images, labels = load(folder, size)
    ready, figures, model = images["train"].astype(np.float32), {"images": len(labels["train"])}, report_cnn(size)
    few = BATCH + len(ready) % BATCH  # a last batch as small as the epoch's, or Keras would trace again
    model.fit(ready[:few], labels["train"][:few], batch_size=BATCH, verbose=0)
    with clock(figures, "epoch"):
        model.fit(ready, labels["train"], batch_size=BATCH, verbose=0)
    return figures


def train_tail(model, images: np.ndarray, labels: np.ndarray, epochs: int, **how) -> None:
    """Train VGG16 on kept features: its frozen layers run once per image, with `how` for `keep_features`."""
    from xrayhelpers.models import split_frozen
    from xrayhelpers.training import keep_features

    frozen, tail = split_frozen(model)
    tail.fit(keep_features(frozen, images, **how), labels, epochs=epochs, batch_size=BATCH, verbose=0)


def vgg16(folder: str, size: int, keep: bool, epochs: int = 5) -> dict:
    """Train VGG16: all layers in every epoch in 32 bits, or the frozen ones once per image."""
    from sklearn.metrics import roc_auc_score

    from xrayhelpers.models import report_vgg16, set_precision

    set_precision(None if keep else "float32")
    images, labels = load(folder, size)
    model, figures = report_vgg16(size), {"images": len(labels["train"])}
    with clock(figures, "training"):
        if keep:
            train_tail(model, images["train"], labels["train"], epochs)
        else:
            model.fit(images["train"], labels["train"], epochs=epochs, batch_size=BATCH, verbose=0)
    seen = model.predict(images["validation"], verbose=0)[:, 0]  # from the test folder, as in the report
    return figures | {"validation_auc": roc_auc_score(labels["validation"], seen)}


def better_epoch(folder: str, ready: bool, size: int = 64, batch: int = 32) -> dict:
    """One epoch of lesson 9's better model on random crops, or on ready arrays."""
    import tensorflow as tf

    from benchmarks.better import WAYS, build
    from xrayhelpers.augment import training_data
    from xrayhelpers.models import set_precision

    set_precision()
    images, labels = load(folder, size)
    x, y = images["train"], labels["train"]
    if ready:
        data = tf.data.Dataset.from_tensor_slices((x.astype(np.float32), y.astype(np.float32))).batch(batch)
    else:
        data = training_data(x, y, augmentation=WAYS["crops"], batch_size=batch)
    model, figures = build(size, 10 * len(data), 1e-4, seed=0), {"images": len(y)}
    time_passes(figures, model, data)
    for name in ("input", "epoch"):
        figures[f"{name}_images_per_second"] = len(y) / figures[f"{name}_seconds"]
    return figures


def pruned_search(folder: str, trials: int = 12, side: int = 32, epochs: int = 10) -> float:
    """Lesson 6's search in place of the grid: small images, hopeless trials stopped. The best AUC on validation."""
    import optuna

    from xrayhelpers._keras import keras
    from xrayhelpers.augment import training_data

    images, labels = load(folder, side)
    held_out, layers = (images["validation"], labels["validation"]), keras.layers

    def objective(trial):
        keras.utils.set_random_seed(0)
        stack = [keras.Input((side, side, 3)), layers.Rescaling(1 / 255)]
        for _ in range(trial.suggest_int("blocks", 2, 3)):
            stack += [layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D()]
        units = trial.suggest_categorical("units", [32, 128, 512])
        stack += [layers.Flatten(), layers.Dense(units, activation="relu")]
        stack.append(layers.Dropout(trial.suggest_float("dropout", 0, 0.5, step=0.25)))
        network = keras.Sequential([*stack, layers.Dense(1, "sigmoid", dtype="float32")])
        rate = trial.suggest_float("rate", 3e-4, 3e-3, log=True)
        network.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["AUC"], jit_compile=False)

        def report(epoch, logs):
            trial.report(logs["val_AUC"], epoch + 1)
            if trial.should_prune():
                raise optuna.TrialPruned

        watch = keras.callbacks.LambdaCallback(on_epoch_end=report)
        data = training_data(images["train"], labels["train"], batch_size=2 * BATCH)
        past = network.fit(data, validation_data=held_out, epochs=epochs, callbacks=[watch], verbose=0)
        return past.history["val_AUC"][-1]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    how = {"sampler": optuna.samplers.TPESampler(seed=0, n_startup_trials=4)}
    how["pruner"] = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=3)
    study = optuna.create_study(direction="maximize", **how)
    study.enqueue_trial({"blocks": 2, "units": 128, "dropout": 0.0, "rate": 1e-3})
    study.optimize(objective, n_trials=trials)
    return study.best_value


def read_pixels(folder: str, split: str, side: int = 32) -> tuple[np.ndarray, list[str]]:
    """The report's way to the pixels of a split: one file after the other."""
    import cv2

    files = sorted(Path(folder, split).glob("*/*"))
    read = [cv2.resize(cv2.imread(str(file)), (side, side)).ravel() for file in files]
    return np.array(read), [file.parent.name for file in files]


def score_neighbors(folder: str, ours: bool) -> float:
    """Accuracy of the three nearest neighbors on the test folder, from the files on."""
    from sklearn.neighbors import KNeighborsClassifier

    if ours:
        images, labels = load(folder, 32)
        tested = [*images["validation"], *images["test"]], [*labels["validation"], *labels["test"]]
        (x, y), (x_test, y_test) = (
            (np.reshape(some, (len(some), -1)), known) for some, known in ((images["train"], labels["train"]), tested)
        )
    else:
        (x, y), (x_test, y_test) = read_pixels(folder, "train"), read_pixels(folder, "test")
    return KNeighborsClassifier(3).fit(x, y).score(x_test, y_test)


def neighbors(folder: str, ours: bool) -> dict:
    """The neighbors on all images of a folder, a first time and again."""
    import cv2  # noqa: F401 - not timed
    import sklearn.neighbors  # noqa: F401

    import xrayhelpers.data  # noqa: F401

    figures = {}
    for turn in ("first", "again"):
        with clock(figures, turn):
            figures[f"{turn}_accuracy"] = score_neighbors(folder, ours)
    return figures


def whole_report(folder: str, ours: bool, search: bool = False, epochs: int = 5, side: int = 128) -> dict:
    """The report's four models: neighbors, small network, VGG16, and the grid of eight networks (or our search)."""
    import cv2  # noqa: F401 - not timed
    import sklearn.neighbors  # noqa: F401
    from sklearn.metrics import roc_auc_score

    from xrayhelpers._keras import keras
    from xrayhelpers.augment import REPORT, training_data
    from xrayhelpers.models import report_cnn, report_vgg16, set_precision

    def batches(size):
        if not ours:
            return generator(folder, size)
        images, labels = load(folder, size)
        return training_data(images["train"], labels["train"], batch_size=BATCH)

    def fit(data, size, units=128, optimizer="adam"):
        plain = keras.optimizers.Adam() if optimizer == "adam" and not ours else optimizer
        model = report_cnn(size, units, optimizer=plain)
        model.fit(data, epochs=epochs, verbose=0)
        return model

    set_precision(None if ours else "float32")
    figures = {}
    with clock(figures, "neighbors"):
        score_neighbors(folder, ours)
    with clock(figures, "cnn"):
        fit(batches(64), 64)
    with clock(figures, "vgg16"):
        model = report_vgg16(64)
        if ours:
            images, labels = load(folder, 64)
            train_tail(model, images["train"], labels["train"], epochs, augmentation=REPORT)
        else:
            model.fit(generator(folder, 64), epochs=epochs, verbose=0)
    networks = []
    with clock(figures, "grid"):
        if search:
            figures["validation_auc"] = pruned_search(folder)
        else:
            data = batches(side)
            for units in (128, 256, 512, 1024):
                networks += [fit(data, side, units, optimizer) for optimizer in ("adam", "sgd")]
    if networks:  # after the clock: both ways score in the same time
        images, labels = load(folder, side)
        seen = [model.predict(images["validation"], verbose=0)[:, 0] for model in networks]
        figures["validation_auc"] = max(roc_auc_score(labels["validation"], one) for one in seen)
    for kind in ("seconds", "cpu_seconds"):
        figures[f"all_{kind}"] = sum(figures[f"{part}_{kind}"] for part in ("neighbors", "cnn", "vgg16", "grid"))
    return figures


def precision(folder: str, network: str, policy: str, seed: int, epochs: int = 5) -> dict:
    """Train one of the report's networks in one precision, and score it on validation by patient (never on test)."""
    from sklearn.metrics import roc_auc_score, roc_curve

    from xrayhelpers.augment import REPORT, training_data
    from xrayhelpers.data import load_index, load_parts, split_index
    from xrayhelpers.models import report_cnn, report_vgg16, set_precision, split_frozen
    from xrayhelpers.training import keep_features

    set_precision(policy)
    index, size = split_index(load_index(folder), "patient"), 128 if network == "tuned" else 64
    images, labels = load_parts(index, size)
    x, truth, figures = images["train"], labels["validation"], {"images": len(labels["train"])}
    with clock(figures, "training"):
        if network == "vgg16":
            frozen, model = split_frozen(report_vgg16(size, pixels="imagenet", seed=seed))
            held_out = keep_features(frozen, images["validation"])
            x = keep_features(frozen, x, augmentation=REPORT, seed=seed)
            model.optimizer.learning_rate = 1e-4
            model.fit(x, labels["train"], epochs=epochs, batch_size=BATCH, verbose=0)
        else:
            model, held_out = report_cnn(size, 512 if network == "tuned" else 128, seed=seed), images["validation"]
            model.fit(training_data(x, labels["train"], batch_size=BATCH, seed=seed), epochs=epochs, verbose=0)
    scores = model.predict(held_out, verbose=0)[:, 0]
    alarms, found, _ = roc_curve(truth, scores)
    best = ((1 - alarms + found) / 2).max()
    return figures | {"auc": roc_auc_score(truth, scores), "best_balanced_accuracy": float(best)}


def many_images(folder: str, images: int) -> dict:
    """Index and decode a folder of so many files, copies of those of a smaller one, and do both again."""
    from xrayhelpers.data import load_images, load_index

    files, figures = sorted(Path(folder).glob("t*/*/*")), {"images": images}
    with tempfile.TemporaryDirectory() as tree:
        for number in range(images):
            file = files[number % len(files)]
            copy = Path(tree, file.parents[1].name, file.parent.name, f"person{number // 3}_{number}_{file.name}")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        for turn in ("first", "again"):
            with clock(figures, f"index_{turn}"):
                index = load_index(tree)
            with clock(figures, f"decode_{turn}"):
                load_images(index, 64)
    return figures


def start_up(code: str) -> dict:
    """A whole Python process that runs some code."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return {"wall_seconds": time.perf_counter() - started}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))

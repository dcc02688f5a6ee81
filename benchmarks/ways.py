"""The ways that are compared, each run in a process of its own: `python -m benchmarks.ways <function> '<arguments>'`.

The report's way is what its notebook does, written for today's library: `ImageDataGenerator` reads, resizes and warps
every JPEG file anew in each epoch, in Python. Its networks are compiled as the report did, `model.compile(optimizer,
loss, metrics)`; Keras 3.15 then leaves XLA off on a CPU by itself, as ours does explicitly.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

EPOCHS, BATCH = 5, 16


class Clock:
    """Wall-clock seconds since the last look; `cpu` keeps the processor seconds of that lap, over all threads."""

    def __init__(self) -> None:
        self.last, self.last_cpu, self.cpu = time.perf_counter(), time.process_time(), 0.0

    def lap(self) -> float:
        """Seconds since the last lap."""
        now, cpu = time.perf_counter(), time.process_time()
        seconds, self.cpu = now - self.last, cpu - self.last_cpu
        self.last, self.last_cpu = now, cpu
        return seconds


def anonymous_mb() -> float:
    """Memory of this process that is its own (RssAnon): mapped files, which the system may drop, are left out."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) / 1000
    return psutil.Process().memory_info().rss / 1e6


@contextlib.contextmanager
def peak_memory(figures: dict) -> Iterator[None]:
    """Look at the memory every 20 ms; add its peak, and what came on top of the start, to `figures`."""
    before, stop = anonymous_mb(), threading.Event()
    seen = [before]

    def watch() -> None:
        while not stop.wait(0.02):
            seen.append(anonymous_mb())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        figures |= {"peak_mb": max(seen), "added_mb": max(seen) - before}


# ------------------------------------------------------------------------------------------------- the report's input
def generators(folder: str, size: int) -> tuple:
    """The report's three generators: train augmented, validation and test scaled only.

    The report moved 15 % of the test files to a folder of their own; `validation_split` reads the same first 15 %.
    """
    from xrayhelpers._quiet import tf

    loader = tf.keras.preprocessing.image.ImageDataGenerator
    augmented = loader(rescale=1 / 255, shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
    plain = loader(rescale=1 / 255, validation_split=0.15)
    how = {"target_size": (size, size), "batch_size": BATCH, "class_mode": "binary"}
    with contextlib.redirect_stdout(io.StringIO()):  # "Found 5216 images belonging to 2 classes."
        train = augmented.flow_from_directory(f"{folder}/train", seed=0, **how)
        validation = plain.flow_from_directory(f"{folder}/test", subset="validation", shuffle=False, **how)
        test = plain.flow_from_directory(f"{folder}/test", subset="training", shuffle=False, **how)
    return train, validation, test


def our_data(folder: str, size: int, interpolation: str = "nearest", protocol: str = "report") -> tuple[dict, dict]:
    """Images and labels of train, validation and test, as the lessons load them."""
    from xrayhelpers import dataset, pixels

    index = dataset.split_index(dataset.load_index(folder), protocol=protocol)
    parts = {part: index[index["part"] == part] for part in ("train", "validation", "test")}
    images = {part: pixels.load_pixels(rows, size, interpolation=interpolation) for part, rows in parts.items()}
    return images, {part: rows["label"].to_numpy() for part, rows in parts.items()}


@contextlib.contextmanager
def unchanged(model) -> Iterator[None]:
    """Put weights and optimizer back to what they were: a warm-up must not teach."""
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    before = [variable.numpy() for variable in variables]
    yield
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)


def warm_up(model, size: int) -> None:
    """Train on 32 images of noise: what is timed later does not pay for tracing and compiling, which happens once."""
    from xrayhelpers import training

    noise = np.random.default_rng(0).integers(0, 256, (2 * BATCH, size, size, 3), np.uint8)
    labels = np.arange(2 * BATCH) % 2
    with unchanged(model):
        training.train(model, noise, labels, epochs=1, batch_size=BATCH, validation=(noise, labels))


def warm_up_tail(frozen, tail) -> None:
    """The same for the tail of a network that was cut."""
    from xrayhelpers import training

    blank = np.zeros((2 * BATCH, *frozen.output_shape[1:]), np.float16)
    zeros = np.zeros(len(blank))
    with unchanged(tail):
        training.train_on_features(tail, blank[None], zeros, epochs=1, batch_size=BATCH, validation=(blank, zeros))


def warm_up_report(model, train, validation, test) -> None:
    """The same for the report's way: two steps, one of validation, one of prediction."""
    with unchanged(model):
        model.fit(train, steps_per_epoch=2, validation_data=validation, validation_steps=1, verbose=0)
    model.predict(test, steps=1, verbose=0)


# -------------------------------------------------------------------------------------------------- 1 and 2: one epoch
def report_compile(model, optimizer: str = "adam"):
    """Compile as the report's notebook does."""
    model.compile(optimizer=optimizer, loss="binary_crossentropy", metrics=["accuracy"])
    return model


def report_epoch(folder: str, size: int) -> dict:
    """Iterate over the report's generator once without and once with the network."""
    from xrayhelpers import models

    train, validation, test = generators(folder, size)
    model = report_compile(models.report_cnn(size))
    warm_up_report(model, train, validation, test)
    figures = {"images": train.samples}
    with peak_memory(figures):
        clock = Clock()
        for number in range(len(train)):
            train[number]
        figures["input_seconds"] = clock.lap()
        train.on_epoch_end()
        clock.lap()
        model.fit(train, epochs=1, verbose=0)
        figures["epoch_seconds"] = clock.lap()
        figures["epoch_cpu_seconds"] = clock.cpu
    return figures


def our_epoch(folder: str, size: int) -> dict:
    """Decode once, then the same two passes through the package's pipeline."""
    from xrayhelpers import augment, models, training

    model = models.report_cnn(size)
    warm_up(model, size)
    figures = {}
    with peak_memory(figures):
        clock = Clock()
        images, labels = our_data(folder, size)
        figures["decode_once_seconds"] = clock.lap()
        for _ in augment.epoch_data(images["train"], labels["train"], epoch=0, batch_size=BATCH):
            pass
        figures["input_seconds"] = clock.lap()
        training.train(model, images["train"], labels["train"], epochs=1, batch_size=BATCH)
        figures["epoch_seconds"] = clock.lap()
        figures["epoch_cpu_seconds"] = clock.cpu
    return {"images": len(labels["train"]), **figures}


def ready_epoch(folder: str, size: int) -> dict:
    """The limit: `model.fit` on a float array that lies ready in memory, nothing decoded, nothing augmented."""
    from xrayhelpers import models

    images, labels = our_data(folder, size)
    ready = images["train"].astype(np.float32) / 255
    model = models.report_cnn(size)
    few = BATCH + len(ready) % BATCH  # a last batch as small as the epoch's, or Keras would trace again
    model.fit(ready[:few], labels["train"][:few], batch_size=BATCH, epochs=1, verbose=0)
    clock = Clock()
    model.fit(ready, labels["train"], batch_size=BATCH, epochs=1, verbose=0)
    return {"images": len(ready), "epoch_seconds": clock.lap(), "epoch_cpu_seconds": clock.cpu}


# ---------------------------------------------------------------------------------------------------------- 3: VGG16
def report_vgg16(folder: str, size: int = 64, epochs: int = EPOCHS) -> dict:
    """Train the report's VGG16 from the report's generators."""
    from xrayhelpers import models

    train, validation, test = generators(folder, size)
    model = report_compile(models.report_vgg16(size))
    warm_up_report(model, train, validation, test)
    clock = Clock()
    model.fit(train, epochs=epochs, validation_data=validation, verbose=0)
    figures = {"images": train.samples, "training_seconds": clock.lap(), "training_cpu_seconds": clock.cpu}
    return figures | area(test.labels, model.predict(test, verbose=0)[:, 0])


def our_vgg16(folder: str, views: int, size: int = 64, epochs: int = EPOCHS) -> dict:
    """Train it from our arrays; `views` = 0 runs all layers in every epoch, else the frozen ones once a view."""
    from xrayhelpers import augment, models, training

    images, labels = our_data(folder, size)
    model = models.report_vgg16(size)
    how = {"epochs": epochs, "batch_size": BATCH}
    figures = {"images": len(labels["train"])}
    if not views:
        warm_up(model, size)
        clock = Clock()
        held_out = (images["validation"], labels["validation"])
        training.train(model, images["train"], labels["train"], validation=held_out, **how)
        figures["training_seconds"] = clock.lap()
        figures["training_cpu_seconds"] = clock.cpu
    else:
        frozen, tail = models.cut_vgg16(model)
        warm_up_tail(frozen, tail)
        clock = Clock()
        features = training.kept_features(frozen, images["train"], views=views)
        plain = training.kept_features(frozen, images["validation"], augmentation=augment.NONE)[0]
        figures["features_seconds"] = clock.lap()
        figures["training_cpu_seconds"] = clock.cpu
        training.train_on_features(tail, features, labels["train"], validation=(plain, labels["validation"]), **how)
        figures["tail_seconds"] = clock.lap()
        figures["training_cpu_seconds"] += clock.cpu
        figures["training_seconds"] = figures["features_seconds"] + figures["tail_seconds"]
    return figures | area(labels["test"], training.predict(model, images["test"]))


def area(labels: np.ndarray, scores: np.ndarray) -> dict:
    """Test AUC with its 95 % interval."""
    from xrayhelpers import evaluate

    row = evaluate.measure(labels, scores).loc["roc_auc"]
    return {"auc": row["value"], "auc_low": row["low"], "auc_high": row["high"]}


# ------------------------------------------------------------------------------------------------ 4: the whole report
class Bill:
    """Add up seconds: `work` grows with the images and epochs, `fixed` (building, tracing) does not."""

    def __init__(self, scale: float) -> None:
        self.scale, self.clock, self.seconds = scale, Clock(), defaultdict(float)

    def fixed(self, stage: str) -> None:
        """Book the time since the last entry as it is."""
        self.seconds[stage] += self.clock.lap()

    def work(self, stage: str, times: float = 1) -> None:
        """Book the time since the last entry, scaled to all images, and to `times` epochs."""
        self.seconds[stage] += self.clock.lap() * self.scale * times

    def epochs(self, stage: str, history: pd.DataFrame, times: float = 1) -> None:
        """Book a training: its epochs as work; checkpoints and the like, which cost the same for any number of images,
        as they are.
        """
        worked, lap = history["seconds"].sum(), self.clock.lap()
        booked = (worked * self.scale + lap - worked) * times
        self.seconds[stage] += booked

    def figures(self) -> dict:
        """Seconds by stage, and of all."""
        return {f"{stage}_seconds": s for stage, s in self.seconds.items()} | {
            "all_seconds": sum(self.seconds.values())
        }


def grid() -> list[dict]:
    """The report's eight trials."""
    from xrayhelpers import tuning

    return tuning.grid(optimizer=["adam", "sgd"], units=[128, 256, 512, 1024])


def whole_report(folder: str, scale: float, small: int = 64, large: int = 128) -> dict:
    """KNN, CNN, VGG16 and tuning as the report does them; a trial of the tuning runs 1 of its 5 epochs, scaled."""
    import cv2
    from imutils import paths
    from sklearn.neighbors import KNeighborsClassifier

    from xrayhelpers import models

    bill = Bill(scale)
    rows = {}
    for split in ("train", "test"):
        files = list(paths.list_images(f"{folder}/{split}"))
        rows[split] = [cv2.resize(cv2.imread(file), (32, 32)).flatten() for file in files]
        rows[split, "labels"] = [int("PNEUMONIA" in file) for file in files]
    KNeighborsClassifier(3).fit(rows["train"], rows["train", "labels"]).predict(rows["test"])
    bill.work("knn")
    for stage, build in (("cnn", models.report_cnn), ("vgg16", models.report_vgg16)):
        model, (train, validation, test) = report_compile(build(small)), generators(folder, small)
        warm_up_report(model, train, validation, test)
        bill.fixed(stage)
        model.fit(train, epochs=EPOCHS, validation_data=validation, verbose=0)
        model.predict(test, verbose=0)
        bill.work(stage)
    for trial in grid():
        model = report_compile(models.report_cnn(large, units=trial["units"]), trial["optimizer"])
        train, validation, test = generators(folder, large)
        warm_up_report(model, train, validation, test)
        bill.fixed("tuning")
        model.fit(train, epochs=1, validation_data=validation, verbose=0)
        bill.work("tuning", EPOCHS)
        model.predict(test, verbose=0)
        bill.work("tuning")
    return bill.figures()


def whole_ours(folder: str, scale: float, small: int = 64, large: int = 128, views: int = 2) -> dict:
    """The same work as the lessons do it, checkpoints and kept features included."""
    from sklearn.neighbors import KNeighborsClassifier

    from xrayhelpers import augment, models, results, training

    bill = Bill(scale)
    images, labels = our_data(folder, 32, "bilinear")
    flat = {part: array.reshape(len(array), -1) for part, array in images.items()}
    knn = KNeighborsClassifier(3).fit(flat["train"], labels["train"])
    knn.predict(np.concatenate([flat["validation"], flat["test"]]))
    bill.work("knn")

    images, labels = our_data(folder, small)
    bill.work("cnn")
    how = {"batch_size": BATCH, "folder": results.run_folder() / "checkpoints"}
    held_out = (images["validation"], labels["validation"])
    model = models.report_cnn(small)
    warm_up(model, small)
    bill.fixed("cnn")
    history = training.train(model, images["train"], labels["train"], epochs=EPOCHS, validation=held_out, **how)
    bill.epochs("cnn", history)
    training.predict(model, images["test"])
    bill.work("cnn")

    frozen, tail = models.cut_vgg16(models.report_vgg16(small))
    warm_up_tail(frozen, tail)
    bill.fixed("vgg16")
    features = training.kept_features(frozen, images["train"], views=views)
    plain = {
        part: training.kept_features(frozen, images[part], augmentation=augment.NONE)[0]
        for part in ("validation", "test")
    }
    bill.work("vgg16")
    held_out = (plain["validation"], labels["validation"])
    history = training.train_on_features(tail, features, labels["train"], epochs=EPOCHS, validation=held_out, **how)
    bill.epochs("vgg16", history)
    training.predict(tail, plain["test"], rescale=1)
    bill.work("vgg16")

    images, labels = our_data(folder, large)
    bill.work("tuning")
    held_out = (images["validation"], labels["validation"])
    for number, trial in enumerate(grid()):
        model = models.report_cnn(large, **trial)
        warm_up(model, large)
        bill.fixed("tuning")
        name = f"trial{number}"
        history = training.train(
            model, images["train"], labels["train"], epochs=1, validation=held_out, name=name, **how
        )
        bill.epochs("tuning", history, EPOCHS)
        training.predict(model, images["test"])
        bill.work("tuning")
    return bill.figures()


# -------------------------------------------------------------------------------------------------- 5: cost by size
def size_cost(folder: str, size: int = 32) -> dict:
    """Index, decode and train one epoch; seconds a thousand images, so that equal figures mean a flat cost."""
    from xrayhelpers import augment, dataset, models, pixels, training

    model = models.report_cnn(size)
    warm_up(model, size)
    figures = {}
    with peak_memory(figures):
        clock = Clock()
        index = dataset.load_index(folder)
        index = index[index["split"] == "train"]
        figures["index"] = clock.lap()
        images, labels = pixels.load_pixels(index, size, interpolation="area"), index["label"].to_numpy()
        figures["decode"] = clock.lap()
        for _ in augment.epoch_data(images, labels, epoch=0, batch_size=BATCH):
            pass
        figures["input"] = clock.lap()
        training.train(model, images, labels, epochs=1, batch_size=BATCH)
        figures["epoch"] = clock.lap()
    each = {
        f"{name}_ms_an_image": figures.pop(name) / len(index) * 1000 for name in ("index", "decode", "input", "epoch")
    }
    return {"images": len(index), **each, **figures, "store_mb": images.nbytes / 1e6}


# ---------------------------------------------------------------------------------------------------------- 6: search
# As in lesson 6, with films of a quarter and a half of the side, and twice the epochs.
SPACE = {"units": [32, 128, 512], "blocks": [2, 3], "dropout": [0.0, 0.3]}


def search(
    folder: str,
    kind: str = "grid",
    size: int = 64,
    epochs: int = EPOCHS,
    storage: str | None = None,
    seconds: float = 0,
    seed: int = 0,
) -> dict:
    """Run the report's grid, or a search with pruning that starts no trial after `seconds`."""
    from optuna.distributions import FloatDistribution

    from xrayhelpers import models, training, tuning
    from xrayhelpers._quiet import keras

    sides = [size] if kind == "grid" else sorted({max(32, size // 4), max(32, size // 2)})
    space = SPACE | {"image_size": sides, "rate": FloatDistribution(3e-4, 3e-3, log=True)}
    reports_own = {"image_size": sides[-1], "blocks": 2, "units": 128, "dropout": 0.0, "rate": 1e-3}
    data = {side: our_data(folder, side, "area", "patient") for side in sides}
    epochs, trained = epochs if kind == "grid" else 2 * epochs, []

    def objective(params: dict, report: Callable) -> float:
        chosen = dict(params)
        images, labels = data[side := chosen.pop("image_size", size)]
        areas, rate = [], chosen.pop("rate", None)
        if rate is not None:
            chosen["optimizer"] = keras.optimizers.Adam(rate)

        def after(row: dict) -> None:
            areas.append(row["val_auc"])
            trained.append(row["seconds"])
            report(row["epoch"], row["val_auc"])

        held_out = (images["validation"], labels["validation"])
        how = {"epochs": epochs, "batch_size": BATCH, "validation": held_out, "on_epoch": after}
        training.train(models.report_cnn(side, **chosen), images["train"], labels["train"], **how)
        return areas[-1]

    clock = Clock()
    if kind == "grid":
        table = tuning.search(objective, grid(), name="grid", storage=storage)
    else:
        how = {"n_more": 40, "space": space, "pruner": "median", "max_seconds": seconds, "seed": seed}
        table = tuning.search(objective, [reports_own], name="pruned", settings={"seed": seed}, storage=storage, **how)
    figures = {"wall_seconds": clock.lap(), "training_seconds": sum(trained), "epochs": len(trained)}
    return figures | {"trials": len(table), "best_val_auc": table["score"].max()}


def two_workers(folder: str, size: int = 64, epochs: int = EPOCHS) -> dict:
    """The grid by two processes that share one journal; each trial must be run once."""
    storage = str(Path(os.environ["XRAYS_RUN"], "grid.log"))
    arguments = json.dumps({"folder": folder, "size": size, "epochs": epochs, "storage": storage})
    our_data(folder, size, "area", "patient")  # decoded before, as for a single worker
    command = [sys.executable, "-m", "benchmarks.ways", "search", arguments]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    figures = [json.loads(worker.communicate()[0].splitlines()[-1]) for worker in workers]
    return {
        "wall_seconds": max(one["wall_seconds"] for one in figures),
        "training_seconds": sum(one["training_seconds"] for one in figures),
        "epochs": sum(one["epochs"] for one in figures),
        "trials": figures[0]["trials"],
        "best_val_auc": figures[0]["best_val_auc"],
    }


# -------------------------------------------------------------------------------------------------------- 7: start-up
FIRST_IMAGE = (
    "import sys; from xrayhelpers import dataset, pixels; "
    "pixels.read_image(dataset.load_index(sys.argv[1])['path'].iloc[0])"
)


def start_up(what: str, folder: str = "") -> dict:
    """Wall-clock seconds of a fresh process, from the command to its end."""
    commands = {
        "python": ["-c", "pass"],
        "import": ["-c", "import xrayhelpers"],
        "first image": ["-c", FIRST_IMAGE, folder],
        "tensorflow": ["-c", "import xrayhelpers.augment"],
        "doctor": ["-m", "xrayhelpers", "doctor"],
    }
    clock = Clock()
    subprocess.run([sys.executable, *commands[what]], check=True, capture_output=True)
    return {"wall_seconds": clock.lap()}


if __name__ == "__main__":
    print(json.dumps({name: float(value) for name, value in globals()[sys.argv[1]](**json.loads(sys.argv[2])).items()}))

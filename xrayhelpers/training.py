"""Training that can be killed and goes on where it was; predictions; features kept from frozen layers; saved models.

There is one training loop. After each epoch, or every few, it writes the weights, the optimizer's state and the
history, and commits them with one rename. A run that was killed continues after its last committed epoch and ends bit
for bit where an unbroken one does, because epoch e draws everything from ``(seed, e)``. Keras's own
``BackupAndRestore`` is not used: it keeps no history, and it writes the weights first and the epoch's number second
(Keras 3.15), so that a kill between the two trains an epoch twice.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from xrayhelpers import sources
from xrayhelpers._quiet import keras, tf
from xrayhelpers.augment import NONE, REPORT, Augmentation, epoch_data, epoch_draws, plain_data, warp

__all__ = ["kept_features", "load_model", "predict", "save_model", "train", "train_on_features"]

Labelled = tuple[np.ndarray, np.ndarray]


def train(
    model: keras.Model,
    pixels: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int = 5,
    seed: int = 0,
    batch_size: int = 16,
    augmentation: Augmentation = REPORT,
    rescale: float = 1 / 255,
    preprocess: Callable | None = None,
    validation: Labelled | None = None,
    class_weight: dict[int, float] | None = None,
    name: str = "cnn",
    folder: str | Path | None = None,
    on_epoch: Callable[[dict], None] | None = None,
    best_epoch: bool = False,
    checkpoint_every: int = 1,
) -> pd.DataFrame:
    """Train `model` in place on augmented images.

    Parameters
    ----------
    model : keras.Model
        Compiled, output (B, 1).
    pixels, labels : numpy.ndarray
        uint8 (N, S, S, C), usually memory-mapped, and (N,) of 0 and 1. With one more axis in front, (views, N, ...),
        epoch e (from 0) sees view e % views.
    epochs, seed, batch_size, augmentation, rescale, preprocess, class_weight
        See `augment.epoch_data`.
    validation : (pixels, labels), optional
        Measured after each epoch, not augmented.
    name : str
        Names the progress bar and the checkpoint.
    folder : path, optional
        Where checkpoints are kept. The same call with the same `folder` continues a killed run, loads a finished one,
        or waits for another process that is at it. None: no checkpoint.
    on_epoch : callable, optional
        Called with the row of each epoch after its checkpoint, also with the rows of a run that is continued; a search
        stops a hopeless trial by raising here.
    best_epoch : bool
        End with the weights of the epoch with the smallest val_loss, not with those of the last. Needs `validation`.
    checkpoint_every : int
        Epochs from one checkpoint to the next; the last epoch has one in any case. Those of a large network take as
        long as an epoch on few images.

    Returns
    -------
    pandas.DataFrame
        One row an epoch: epoch (from 1), accuracy, loss, seconds; with `validation` also val_accuracy, val_loss,
        val_auc.

    Raises
    ------
    FloatingPointError
        If the loss is not a number.
    """
    how = {"rescale": rescale, "preprocess": preprocess}
    settings = {"seed": seed, "batch_size": batch_size, "augmentation": str(augmentation), "rescale": rescale}
    settings |= {"preprocess": _name_of(preprocess), "class_weight": class_weight and sorted(class_weight.items())}
    settings |= {"best_epoch": True} if best_epoch else {}
    checkpoint, held, key = None, contextlib.nullcontext(), ""
    if folder is not None:
        key = _key(model, [(pixels, labels), validation], settings)
        checkpoint = Path(folder) / f"{name}-{key[:12]}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        held = FileLock(checkpoint / "lock")  # who asks for a training that another process is at, waits for it
    steps = -(-len(labels) // batch_size)
    with held, sources.progress(total=epochs * steps, desc=name, unit="batch") as bar:
        rows, kept = _restore(model, checkpoint, key, epochs) if checkpoint is not None else ([], [])
        if rows:
            left = f"continuing with epoch {len(rows) + 1}" if len(rows) < epochs else "nothing left to train"
            print(f"{name}: {len(rows)} of {epochs} epochs were already trained, {left}.")
        for row in rows if on_epoch else []:
            on_epoch(row)
        bar.update(len(rows) * steps)
        tick = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: bar.update())
        for epoch in range(len(rows), epochs):
            started = time.perf_counter()
            _reset_dropout(model, seed, epoch)
            data = epoch_data(
                pixels[epoch % len(pixels)] if pixels.ndim > len(model.input_shape) else pixels,
                labels,
                epoch=epoch,
                seed=seed,
                batch_size=batch_size,
                augmentation=augmentation,
                class_weight=class_weight,
                **how,
            )
            fitted = model.fit(data, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose=0, callbacks=[tick])
            row = {"epoch": epoch + 1, **{measure: float(values[-1]) for measure, values in fitted.history.items()}}
            if not np.isfinite(row["loss"]):
                raise FloatingPointError(
                    f"The loss of {name!r} became {row['loss']} in epoch {epoch + 1}; expected a finite number. Lower "
                    "the learning rate, for example optimizer=keras.optimizers.Adam(1e-4), and check that `rescale` or "
                    "`preprocess` fits the pixels."
                )
            if validation is not None:
                row |= _validate(model, validation, how)
            if best_epoch and all(row["val_loss"] < earlier["val_loss"] for earlier in rows):
                kept = [variable.numpy() for variable in model.variables]
            rows.append(row | {"seconds": time.perf_counter() - started})
            if checkpoint is not None and (epoch + 1 == epochs or (epoch + 1) % checkpoint_every == 0):
                _commit(model, checkpoint, key, rows, kept)
            if on_epoch:
                on_epoch(rows[-1])
    for variable, values in zip(model.variables, kept, strict=False):  # nothing is kept without `best_epoch`
        variable.assign(values)
    return pd.DataFrame(rows)


def train_on_features(
    model: keras.Model, features: np.ndarray, labels: np.ndarray, *, name: str = "tail", **settings
) -> pd.DataFrame:
    """Train the tail of `models.cut_vgg16` on what `kept_features` kept; epoch e (from 0) sees view e % views.

    With as many views as epochs and one seed throughout, this is the training of the whole model, except for the
    rounding to float16. With fewer views the model meets the same augmented copies again: that is what is given up.

    Parameters
    ----------
    model : keras.Model
        The tail, compiled.
    features : numpy.ndarray
        (views, N, h, w, channels).
    labels : numpy.ndarray
        (N,) of 0 and 1.
    name, **settings
        As in `train`: epochs, seed, batch_size, validation, class_weight, folder, best_epoch. The features of
        `validation` are (M, h, w, channels): one view, not augmented.

    Returns
    -------
    pandas.DataFrame
        As from `train`.
    """
    return train(model, features, labels, augmentation=NONE, rescale=1.0, name=name, **settings)


def _validate(model: keras.Model, validation: Labelled, how: dict) -> dict[str, float]:
    """Accuracy, loss and AUC from one pass over the validation images."""
    scores, labels = predict(model, validation[0], **how).astype(float), np.asarray(validation[1]).astype(int)
    return {
        "val_accuracy": float(accuracy_score(labels, scores > 0.5)),
        "val_loss": float(log_loss(labels, np.clip(scores, 1e-7, 1 - 1e-7), labels=[0, 1])),
        "val_auc": float(roc_auc_score(labels, scores)) if len(np.unique(labels)) == 2 else float("nan"),
    }


def _reset_dropout(model: keras.Model, seed: int, epoch: int) -> None:
    """Start every dropout layer's random numbers anew from ``(seed, epoch)``."""
    states = [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]
    for number, state in enumerate(states):
        state.assign(np.random.SeedSequence([seed, epoch, number]).generate_state(2).astype(state.dtype))


def _variables(model: keras.Model) -> list[keras.Variable]:
    """Everything that training changes: weights, statistics, optimizer state."""
    model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


def _key(model: keras.Model, data: Sequence[Labelled | None], settings: dict) -> str:
    """What a run's result depends on, as one SHA-256: another key is another run, never continued."""
    about = [_description(model), settings, keras.version(), tf.__version__]
    arrays = [variable.numpy() for variable in _variables(model)]
    return _digest(about, arrays + [array for pair in data if pair is not None for array in pair])


def _commit(model: keras.Model, folder: Path, key: str, rows: list[dict], kept: Sequence[np.ndarray]) -> None:
    """Write the state after an epoch; the rename of ``checkpoint.json`` is the moment it counts."""
    state = folder / f"epoch-{len(rows):04d}.npz"
    temporary = state.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, *[variable.numpy() for variable in _variables(model)], *kept)
    checksum = _sha256(temporary)
    temporary.replace(state)
    _write_json(folder / "checkpoint.json", {"key": key, "state": state.name, "sha256": checksum, "history": rows})
    for old in set(folder.glob("epoch-*")) - {state}:
        old.unlink(missing_ok=True)


def _restore(model: keras.Model, folder: Path, key: str, epochs: int) -> tuple[list[dict], list[np.ndarray]]:
    """Load the last committed epoch into `model`; its history and the best epoch's weights, empty if none can be."""
    try:
        record = json.loads((folder / "checkpoint.json").read_text("utf-8"))
        state = folder / Path(record["state"]).name
        if record["key"] != key or _sha256(state) != record["sha256"]:
            return [], []
        rows = record["history"]
        if len(rows) > epochs:  # trained further than asked for now: those weights are not the wanted ones
            return [], []
    except (OSError, ValueError, KeyError):
        return [], []
    with np.load(state, allow_pickle=False) as file:
        for number, variable in enumerate(_variables(model)):
            variable.assign(file[f"arr_{number}"])
        return rows, [file[f"arr_{number}"] for number in range(number + 1, len(file.files))]


def predict(
    model: keras.Model,
    pixels: np.ndarray,
    batch_size: int = 64,
    rescale: float = 1 / 255,
    preprocess: Callable | None = None,
    flips: bool = False,
) -> np.ndarray:
    """Score images.

    Parameters
    ----------
    model : keras.Model
        Output (B, 1).
    pixels : numpy.ndarray
        uint8 (N, S, S, C), or features for a tail (then ``rescale=1``).
    batch_size, rescale, preprocess
        See `augment.plain_data`.
    flips : bool
        Average the scores of each image and its mirror image.

    Returns
    -------
    numpy.ndarray
        float32 (N,): probability of pneumonia, in [0, 1], in the order of `pixels`.
    """
    data = plain_data(pixels, batch_size=batch_size, rescale=rescale, preprocess=preprocess)
    scores = model.predict(data, verbose=0)[:, 0]
    if flips:
        scores = (scores + model.predict(data.map(lambda images: tf.reverse(images, axis=[2])), verbose=0)[:, 0]) / 2
    return scores.astype(np.float32)


def kept_features(
    frozen: keras.Model,
    pixels: np.ndarray,
    *,
    views: int = 1,
    augmentation: Augmentation = REPORT,
    seed: int = 0,
    rescale: float = 1 / 255,
    preprocess: Callable | None = None,
    batch_size: int = 64,
    folder: str | Path | None = None,
) -> np.ndarray:
    """Run the frozen layers once an image and view, and keep what they say.

    View v of an image is warped exactly as epoch v of `train` with the same seed warps it.

    Parameters
    ----------
    frozen : keras.Model
        First half of `models.cut_vgg16`.
    pixels : numpy.ndarray
        uint8 (N, S, S, C).
    views : int
        Augmented copies of each image, 1 to the number of epochs.
    augmentation, seed, rescale, preprocess
        See `augment.epoch_data`; ``augmentation=NONE`` for validation and test images.
    batch_size : int
        Images a forward pass; also the piece after which a killed run continues.
    folder : path, optional
        Where the file is kept and found again; the cache folder if missing.

    Returns
    -------
    numpy.ndarray
        float16 (views, N, h, w, channels), memory-mapped, read-only.

    Raises
    ------
    FloatingPointError
        If a feature is too large for float16.
    """
    settings = {"views": views, "augmentation": str(augmentation), "seed": seed, "rescale": rescale}
    settings |= {"preprocess": _name_of(preprocess), "batch_size": batch_size}
    key = _digest([_description(frozen), settings], [*(variable.numpy() for variable in frozen.variables), pixels])
    folder = Path(folder) if folder is not None else sources.cache_folder() / "features"
    folder.mkdir(parents=True, exist_ok=True)
    path, growing = folder / f"features-{key[:16]}.npy", folder / f"features-{key[:16]}.part"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            shape = (views, len(pixels), *frozen.output_shape[1:])
            forward = tf.function(lambda images: frozen(images, training=False), reduce_retracing=True)
            finish = preprocess or (lambda images: images * rescale)

            def features_of(view: int, first: int, last: int) -> np.ndarray:
                images = np.asarray(pixels[first:last], np.float32)
                if augmentation != NONE:
                    draws = epoch_draws(len(pixels), pixels.shape[1], epoch=view, seed=seed, augmentation=augmentation)
                    images = warp(images, draws[1][first:last])
                return forward(finish(images)).numpy()

            _write_features(growing, shape, features_of, batch_size)
            growing.replace(path)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _write_features(path: Path, shape: tuple, features_of: Callable, batch_size: int) -> None:
    """Append batch after batch to `path` in NumPy's own format; a file cut short is continued where it ends."""
    views, n, bytes_each = shape[0], shape[1], 2 * int(np.prod(shape[2:]))
    path.touch()
    written = path.stat().st_size
    with path.open("r+b") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        start = file.tell()
        batches = [(view, first) for view in range(views) for first in range(0, n, batch_size)]
        for view, first in sources.progress(batches, desc="features", unit="batch"):
            last = min(first + batch_size, n)
            if start + (view * n + last) * bytes_each <= written:
                continue
            features = features_of(view, first, last)
            if not np.abs(features).max() < np.finfo(np.float16).max:
                raise FloatingPointError(
                    f"A kept feature is {np.abs(features).max():g}; expected less than 65504, the largest float16. "
                    "Feed pixels in [0, 1] (rescale=1/255), or train the whole model with train()."
                )
            file.seek(start + (view * n + first) * bytes_each)
            file.write(features.astype("<f2").tobytes())
            file.flush()


def save_model(model: keras.Model, path: str | Path, card: dict) -> Path:
    """Save a model as ``.keras``, with a JSON card of the same name beside it.

    Parameters
    ----------
    model : keras.Model
        Any model of this package.
    path : path
        Ends in ``.keras``.
    card : dict
        What a reader must know: data fingerprint, parameters, seed, metrics. Versions and checksum are added.

    Returns
    -------
    pathlib.Path
        The ``.keras`` file.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"Found the model path {path.name!r}; expected it to end in '.keras'.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    model.save(temporary)
    versions = {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.version()}
    temporary.replace(path)
    _write_json(path.with_suffix(".json"), {**card, "versions": versions, "sha256": _sha256(path)})
    return path


def load_model(path: str | Path) -> tuple[keras.Model, dict]:
    """Load a model that `save_model` wrote, in Keras's safe mode, which refuses to run code from the file.

    Returns
    -------
    model : keras.Model
        Ready to predict; compile it (`models.compile_binary`) to train it further.
    card : dict
        The JSON card beside it.

    Raises
    ------
    FileNotFoundError
        If the model or its card is missing.
    ValueError
        If the model is not the one that the card describes.
    """
    path = Path(path)
    for needed in (path, path.with_suffix(".json")):
        if not needed.is_file():
            raise FileNotFoundError(
                f"There is no file {needed.name!r} in {path.parent.name!r}; expected a model and its card, as written "
                "by save_model(model, path, card). Run the lesson that trains it first."
            )
    card = json.loads(path.with_suffix(".json").read_text("utf-8"))
    if _sha256(path) != card.get("sha256"):
        raise ValueError(f"{path.name!r} is not the file its card describes. Train and save the model again.")
    model = keras.models.load_model(path, compile=False, safe_mode=True)
    model.jit_compile = False  # as in compile_binary: Keras 3.10, Colab's, chooses XLA for what is not compiled
    return model, card


def _description(model: keras.Model) -> str:
    """A model's layers, loss and optimizer as text, without the names that Keras counts up ("conv2d_7")."""
    text = model.to_json()
    for number, name in enumerate(dict.fromkeys(re.findall(r'"name": "([^"]+)"', text))):
        text = text.replace(f'"{name}"', f'"{number}"')
    return text


def _name_of(function: Callable | None) -> str:
    """A function's full name, the same in every process (its repr holds an address)."""
    return "none" if function is None else f"{function.__module__}.{function.__qualname__}"


def _digest(about: object, arrays: Sequence[np.ndarray]) -> str:
    """SHA-256 over plain values and whole arrays."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for array in map(np.asarray, arrays):
        digest.update(f"{array.shape}{array.dtype}".encode())
        # A piece at a time: a memory-mapped array must not be pulled into memory whole.
        for piece in np.array_split(array.reshape(len(array) if array.ndim else 1, -1), array.size // 10**7 + 1):
            digest.update(np.ascontiguousarray(piece))
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, content: dict) -> None:
    """Write JSON so that a reader finds the old file or the new one, never half of one."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    temporary.write_text(json.dumps(content, indent=1), "utf-8")
    temporary.replace(path)

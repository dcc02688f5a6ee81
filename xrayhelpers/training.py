"""A training that can be killed and continues; features kept from frozen layers; saved models; a search by many.

Whatever this room writes is committed in one way: the file is written atomically, then a JSON record with its SHA-256.
Without a record that fits, the file does not exist. No pickle is ever loaded.
"""

from __future__ import annotations

import inspect
import json
import platform
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import filelock
import numpy as np

from xrayhelpers import augment
from xrayhelpers._keras import keras, tf
from xrayhelpers._machine import DataNotFoundError, DataWarning, cache_folder, progress, sha256_of, write_atomic
from xrayhelpers.augment import NONE, Augmentation, digest

if TYPE_CHECKING:
    import optuna

__all__ = ["Resume", "keep_features", "load_model", "run_trials", "save_model"]

BATCH = 64  # images per forward pass of keep_features
#: Callbacks that steer a training, and the attributes in which they count; Resume keeps these and the best weights.
STEERING = (keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau)
PLAIN = (str, bool, int, float)
COUNTERS = ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter")


class Resume(keras.callbacks.Callback):
    """Make `model.fit` continue where an earlier, killed one was, and end bit for bit where an unbroken one ends.

    ``model.fit(data, epochs=n, callbacks=[Resume(folder, data)])`` commits the weights, the optimizer, the state of
    dropout, the history, and the number of epochs that `data` has served. The same call in a new process continues
    after the last committed epoch; if all epochs are trained already, it loads the end. The History that `fit` returns
    holds all epochs. `EarlyStopping` and `ReduceLROnPlateau` in the same list continue as well.

    Another architecture, starting weight, optimizer, image, label, setting of `training_data`, argument of `fit`
    (except for `epochs`), or version of Keras is another training with a checkpoint of its own. Layers with chance in
    them need a seed, or no two processes start alike. More epochs than before continue; fewer start over from the
    beginning. Another process that asks for the same training waits until it is done.

    Keras's own `BackupAndRestore` keeps no history and no order of the images, and it writes the weights first and the
    number of the epoch second (Keras 3.15), so that a kill between the two trains an epoch twice.

    Parameters
    ----------
    folder : path
        Where checkpoints are kept, in a folder of their own per training.
    data : tf.data.Dataset
        From `augment.training_data`; the same that `fit` gets.
    name : str
        Names the checkpoint and starts the message.
    every : int
        Epochs from one checkpoint to the next; the last epoch has one in any case. For a large network a checkpoint
        takes as long as a short epoch.

    Raises
    ------
    ValueError
        If `fit` gets other data.
    StorageError
        If a checkpoint cannot be written.
    """

    def __init__(self, folder: str | Path, data: tf.data.Dataset, *, name: str = "model", every: int = 1) -> None:
        super().__init__()
        if not hasattr(data, "state"):
            raise ValueError(f"Found data of type {type(data).__name__}; expected the dataset of training_data().")
        self.folder, self.data, self.name, self.every = Path(folder), data, name, every

    def set_model(self, model: keras.Model) -> None:
        """Move to the end of Keras's list of callbacks, so that the others have counted when an epoch is committed."""
        super().set_model(model)
        callbacks = _caller("__init__")["self"]  # Keras tells a callback nothing of its neighbors
        callbacks.callbacks = [*(one for one in callbacks.callbacks if one is not self), self]
        self.steering = [one for one in callbacks.callbacks if isinstance(one, STEERING)]

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Load the last committed epoch of this training, if there is one."""
        fit, epochs = _caller("fit"), self.params["epochs"]
        if fit["x"] is not self.data:
            raise ValueError("model.fit trains on other data than Resume has; expected one dataset for both.")
        self.key = self._key(fit)
        self.place = self.folder / f"{self.name}-{self.key[:16]}"
        self.place.mkdir(parents=True, exist_ok=True)
        # A singleton: a training that was interrupted in a notebook holds the lock still, and may have it again.
        self.lock = filelock.FileLock(self.place / "lock", is_singleton=True)
        try:
            self.lock.acquire(timeout=0)
        except filelock.Timeout:
            print(f"{self.name}: another process trains this model; waiting for it.")
            self.lock.acquire()
        self.model._initial_epoch = None
        for path in sorted(self.place.glob("epoch-*.json"), reverse=True):
            path = path.with_suffix(".npz")
            if _committed(path) is None:
                print(f"{self.name}: the checkpoint {path.name} is damaged and is ignored.")
            elif self._load(path, epochs):
                break

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Forget where this `fit` began: the next one begins at its own first epoch."""
        self.model._initial_epoch = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Commit the epoch; then delete the one before."""
        done, stopped, history = epoch + 1, self.model.stop_training, self.model.history
        if done % self.every and done < self.params["epochs"] and not stopped:
            return
        counts = [{name: value for name, value in vars(one).items() if name in COUNTERS} for one in self.steering]
        best = [getattr(one, "best_weights", None) or [] for one in self.steering]
        arrays = [variable.numpy() for variable in _variables(self.model)] + [array for some in best for array in some]
        record = {"epoch": done, "stopped": stopped, "begun": self.data.state.begun, "history": history.history}
        record |= {"epochs": history.epoch, "counts": counts, "best": list(map(len, best))}
        arrays.append(np.frombuffer(json.dumps(record).encode(), np.uint8))
        path = self.place / f"epoch-{done:06d}.npz"
        _commit(path, lambda file: np.savez(file, *arrays))
        for old in self.place.iterdir():
            if old.stem not in (path.stem, "lock"):
                old.unlink()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Let the next process have it."""
        self.model._initial_epoch = None
        self.lock.release(force=True)

    def _key(self, fit: dict) -> str:
        """Hash all that this training's end depends on, except for the number of epochs."""
        settings = [fit[name] for name in ("class_weight", "steps_per_epoch", "initial_epoch", "validation_freq")]
        for one in self.steering:
            # Keras 3.8 changes the sign of min_delta after the first epoch.
            plain = {name: str(value).lstrip("-") for name, value in vars(one).items() if type(value) in PLAIN}
            settings += [type(one).__name__, *(item for item in plain.items() if item[0] not in (*COUNTERS, "verbose"))]
        about = [_description(self.model), settings, self.data.identity(), self.data.state.begun]
        validation = fit["validation_data"] if isinstance(fit["validation_data"], tuple | list) else ()
        arrays = [*(variable.numpy() for variable in _variables(self.model)), *validation]
        return digest([*about, keras.version(), tf.__version__], arrays)

    def _load(self, path: Path, epochs: int) -> bool:
        """Give model, data, history, and the steering callbacks the state that they had after the committed epoch."""
        with np.load(path, allow_pickle=False) as file:
            *arrays, text = [file[name] for name in file.files]
        record = json.loads(text.tobytes())
        done = record["epoch"]
        if done > epochs:
            print(f"{self.name}: {done} epochs were trained before; for {epochs} the training starts over.")
            return False
        rest = iter(arrays)
        for variable in _variables(self.model):
            variable.assign(next(rest))
        for one, counts, best in zip(self.steering, record["counts"], record["best"], strict=True):
            vars(one).update(counts)
            if best:
                one.best_weights = [next(rest) for _ in range(best)]
        self.data.state.begun = record["begun"]
        self.model.history.history, self.model.history.epoch = record["history"], record["epochs"]
        first = self.model._initial_epoch = epochs if record["stopped"] else done  # as in Keras's BackupAndRestore
        left = f"continuing with epoch {done + 1}" if first < epochs else "nothing left to train"
        print(f"{self.name}: {done} of {epochs} epochs were already trained; {left}.")
        return True


def keep_features(
    model: keras.Model,
    images: np.ndarray,
    *,
    augmentation: Augmentation = NONE,
    seed: int = 0,
    folder: Path | None = None,
) -> np.ndarray:
    """Run a model once on each image, batch by batch, and keep the outputs in a file for the next time.

    Parameters
    ----------
    model : keras.Model
        Usually the frozen part of `models.split_frozen`.
    images : numpy.ndarray
        (N, S, S, C), pixels 0 to 255.
    augmentation, seed : Augmentation, int
        With an augmentation, the model sees one random version of each image, drawn from `seed`.
    folder : path, optional
        Where the file is kept; ``features`` in the cache folder if missing.

    Returns
    -------
    numpy.ndarray
        float16 (N, ...), read-only: a memory map, or an array in memory (with a warning) where no file can be written.

    Raises
    ------
    FloatingPointError
        If a feature is too large for float16.
    """
    forward = tf.function(lambda batch: model(batch, training=False), reduce_retracing=True)
    draws = augment.draw(len(images), images.shape[1], augmentation, np.random.default_rng(seed))

    def batches() -> Iterator[np.ndarray]:
        for first in progress(range(0, len(images), BATCH), desc="features", unit="batch"):
            rows = slice(first, first + BATCH)
            features = forward(augment.change(images[rows], draws[rows], augmentation)).numpy()
            if not np.abs(features).max() < np.finfo(np.float16).max:
                raise FloatingPointError(f"A feature is {np.abs(features).max():g}, but the largest float16 is 65504.")
            yield features.astype("<f2")

    def write(file: BinaryIO) -> None:
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(images), *model.output_shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        for features in batches():
            file.write(features)

    about = [_description(model), astuple(augmentation), seed, Path(augment.__file__).read_text("utf-8")]
    key = digest(about, [*(variable.numpy() for variable in model.variables), images])[:16]
    folder = Path(folder) if folder is not None else cache_folder() / "features"
    path = folder / f"features-{key}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if _committed(path) is None:
            with filelock.FileLock(path.with_suffix(".lock")):
                for part in folder.glob(f".features-{key}.*.part"):  # left by a killed process
                    part.unlink()
                if _committed(path) is None:  # else another process has made it while we waited
                    _commit(path, write)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        reason = (error.__cause__ or error).strerror
        notice = f"Features cannot be kept in {folder} ({reason}), so they are computed in memory."
        warnings.warn(f"{notice} Set XRAYS_CACHE to a folder of yours with room.", DataWarning, stacklevel=2)
        features = np.concatenate(list(batches()))
        features.flags.writeable = False
        return features


def save_model(model: keras.Model, path: str | Path, card: dict) -> Path:
    """Save a model as ``.keras``, with a JSON card of the same name beside it.

    Parameters
    ----------
    model : keras.Model
        Any model that Keras can save.
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
    versions = {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.version()}
    with tempfile.TemporaryDirectory(prefix="xrays-") as folder:
        model.save(Path(folder, path.name))
        with open(Path(folder, path.name), "rb") as saved:
            _commit(path, lambda file: shutil.copyfileobj(saved, file), {**card, "versions": versions})
    return path


def load_model(path: str | Path) -> tuple[keras.Model, dict]:
    """Load a model that `save_model` wrote, in Keras's safe mode, which refuses to run code from the file.

    Returns
    -------
    model : keras.Model
        Ready to predict; compile it to train it further.
    card : dict
        The JSON card beside it.

    Raises
    ------
    DataNotFoundError
        If the model or its card is missing, or the model is not the one that the card describes.
    """
    path = Path(path)
    card = _committed(path)
    if card is None:
        raise DataNotFoundError(
            f"There is no model {path.name!r} in {path.parent.name!r} with a card that describes it; expected both, as "
            "written by save_model(model, path, card). Run the lesson that trains it."
        )
    model = keras.models.load_model(path, compile=False, safe_mode=True)
    model.jit_compile = False  # Keras 3.10, Colab's, chooses XLA for what is not compiled
    return model, card


def run_trials(study: optuna.Study, objective: Callable[[optuna.Trial], float]) -> None:
    """Run the enqueued trials of a study, shared with every other process that does the same, until all are finished.

    Plain Optuna leaves four gaps, which this function closes:

    - Two processes that call ``enqueue_trial(params, skip_if_exists=True)`` at once may both enqueue: the later trial
      of a pair is marked as failed before it runs.
    - ``study.optimize(n_trials=1)`` draws new parameters if another process took the last waiting trial: such a trial
      is marked as failed before it runs.
    - A trial that failed, by an error, by Ctrl-C, or because its process was killed, counts as existing for
      `skip_if_exists`: it is enqueued again (an error in `objective` is raised first).
    - Somebody must be there for that: a process with nothing left to run waits until the others have finished. A
      killed process is noticed if the storage has a heartbeat, after its grace period. A process that was only taken
      for dead does not stop with an error; its score is not counted.

    Parameters
    ----------
    study : optuna.Study
        With trials enqueued by ``enqueue_trial``. Other trials are left alone. A storage for several processes, such as
        ``RDBStorage(url, heartbeat_interval=5, grace_period=15)``; a retry callback is possible but not needed.
    objective : callable
        As for ``study.optimize``.
    """
    import optuna
    from optuna.trial import TrialState

    class NotMine(Exception):
        """The trial was drawn, or it repeats another."""

    def given(trial: optuna.trial.FrozenTrial) -> str:
        params = trial.system_attrs.get("fixed_params") or ("failed_trial" in trial.system_attrs and trial.params)
        return json.dumps(params, sort_keys=True) if params else ""

    def run(trial: optuna.Trial) -> float:
        trials = study.get_trials(deepcopy=False)
        taken = {given(earlier) for earlier in trials[: trial.number] if earlier.state != TrialState.FAIL}
        if given(trials[trial.number]) in taken | {""}:
            raise NotMine
        return objective(trial)

    while True:
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            optuna.storages.fail_stale_trials(study)
        found = [(given(trial), trial.state) for trial in study.get_trials(deepcopy=False) if given(trial)]
        failed = {params for params, _ in found} - {params for params, state in found if state != TrialState.FAIL}
        for params in sorted(failed):
            study.enqueue_trial(json.loads(params))
        if failed or any(state == TrialState.WAITING for _, state in found):
            try:
                study.optimize(run, n_trials=1, catch=(NotMine,))
            except (optuna.exceptions.UpdateFinishedTrialError, ValueError) as error:
                if not re.search("has already finished|Cannot tell a", str(error)):
                    raise  # else: this process was taken for dead, and another runs the trial
        elif any(state == TrialState.RUNNING for _, state in found):
            time.sleep(0.5)
        else:
            return


def _caller(function: str) -> dict:
    """Return the variables of the nearest calling function of this name."""
    frame = inspect.currentframe().f_back.f_back
    while frame.f_code.co_name != function:
        frame = frame.f_back
    return frame.f_locals


def _variables(model: keras.Model) -> list[keras.Variable]:
    """Return everything that training changes: weights, statistics, dropout's state, the optimizer's state."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


def _description(model: keras.Model) -> str:
    """Describe layers, loss, and optimizer as text, without the names that Keras counts up ("conv2d_7")."""
    text = model.to_json()
    for number, name in enumerate(dict.fromkeys(re.findall(r'"name": "((?!b?float|mixed)[^"]+)"', text))):
        text = text.replace(f'"{name}"', f'"{number}"')
    return text


def _commit(path: Path, content: Callable[[BinaryIO], object], record: dict | None = None) -> None:
    """Write a file, then the JSON record beside it, which makes it valid."""
    write_atomic(path, content)
    write_atomic(path.with_suffix(".json"), json.dumps({**(record or {}), "sha256": sha256_of(path)}, indent=1))


def _committed(path: Path) -> dict | None:
    """Return the record of a file; None if there is none, or if the file is not the one it describes."""
    try:
        record = json.loads(path.with_suffix(".json").read_text("utf-8"))
        return record if record["sha256"] == sha256_of(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

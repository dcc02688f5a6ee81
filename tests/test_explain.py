"""Maps with known answers: models made by hand that look at one place, and checks that must notice what is wrong."""

import numpy as np
import pytest

from xrayhelpers import explain, models
from xrayhelpers._keras import keras

SIZE = 16


def handmade(kernel, weights, dense_bias=0.0):
    """Build a convolution (1 x 1, one channel in), the mean over space and a dense layer, all with given weights."""
    inputs = keras.Input((SIZE, SIZE, 1))
    features = keras.layers.Conv2D(len(kernel), 1, activation="relu", name="conv")(inputs)
    mean = keras.layers.GlobalAveragePooling2D(name="mean")(features)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", name="pneumonia")(mean), name="handmade")
    model.get_layer("conv").set_weights([np.array(kernel, float).reshape(1, 1, 1, -1), np.zeros(len(kernel))])
    model.get_layer("pneumonia").set_weights([np.array(weights, float).reshape(-1, 1), np.array([dense_bias])])
    return model


def corner_reader(side=4, bias=0.0):
    """Build a model whose log-odds are the sum of the top left corner's pixels plus a bias, and nothing else."""
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 1)),
            keras.layers.Conv2D(1, 1, name="conv"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(1, activation="sigmoid", name="pneumonia"),
        ]
    )
    corner = np.zeros((SIZE, SIZE))
    corner[:side, :side] = 1
    model.get_layer("conv").set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    model.get_layer("pneumonia").set_weights([corner.reshape(-1, 1), np.array([bias])])
    return model


@pytest.fixture
def images():
    return np.random.default_rng(0).random((5, SIZE, SIZE, 1), dtype=np.float32)


# ---- Grad-CAM


def test_grad_cam_by_hand(images):
    """Two feature maps, x and 2x with weights 3 and -1: the map is relu(3x - 2x) = x, up to its scale."""
    maps = explain.grad_cam(handmade([1, 2], [3, -1]), images)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, (images / images.max(axis=(1, 2, 3), keepdims=True))[..., 0], rtol=1e-5)


def test_what_speaks_against_pneumonia_is_not_drawn(images):
    np.testing.assert_array_equal(explain.grad_cam(handmade([1, 2], [1, -1]), images), 0)


def test_saturated_scores_still_have_a_map(images):
    """At log-odds of 200 the score is 1.0 exactly and has no gradient; the map is that of the same model at 0."""
    sure, unsure = handmade([1, 2], [3, -1], 200.0), handmade([1, 2], [3, -1])
    np.testing.assert_array_equal(sure.predict(images, verbose=0), 1)
    np.testing.assert_allclose(explain.grad_cam(sure, images), explain.grad_cam(unsure, images), rtol=1e-5)


def test_grad_cam_averages_gradients_over_the_layer():
    """A corner reader's one feature map is the image, so bright pixels anywhere glow: a known weakness of Grad-CAM."""
    image = np.zeros((1, SIZE, SIZE, 1), np.float32)
    image[0, 12, 12] = 1
    assert explain.grad_cam(corner_reader(), image)[0, 12, 12] == 1


def test_a_model_that_reads_only_the_corner_has_its_heat_there():
    """A feature map that is on only in the corner, as a trained detector of a marker would be."""
    inputs = keras.Input((SIZE, SIZE, 1))
    corner = np.zeros((SIZE, SIZE, 1), np.float32)
    corner[:4, :4] = 1
    seen = keras.layers.Conv2D(1, 1, name="conv")(
        keras.layers.Multiply()([inputs, keras.ops.convert_to_tensor(corner[None])])
    )
    answer = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Flatten()(seen))
    model = keras.Model(inputs, answer)
    model.get_layer("conv").set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    model.layers[-1].set_weights([np.ones((SIZE * SIZE, 1)), np.zeros(1)])
    found = explain.heat_on_mask(explain.grad_cam(model, np.ones((2, SIZE, SIZE, 1))), [corner[..., 0] > 0] * 2)
    assert found["heat"].tolist() == [1, 1]
    assert found["hit"].tolist() == [1, 1]
    assert found["area"].tolist() == [1 / 16, 1 / 16]


def test_grad_cam_of_the_reports_networks():
    all_images = np.random.default_rng(1).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    for model, layer, side, n in (
        (models.report_cnn(32, units=8), "conv2", 13, 40),  # more than one batch
        (models.report_vgg16(32, units=8, weights=None), "block5_conv3", 2, 3),
    ):
        images = all_images[:n]
        maps = explain.grad_cam(model, images)
        assert maps.shape == (n, 32, 32)
        assert model.get_layer(layer).output.shape[1] == side
        assert maps.min() >= 0
        assert maps.max() == 1
        np.testing.assert_allclose(maps[:3], explain.grad_cam(model, images[:3].astype("float32")), atol=1e-4)
        # The output before the sigmoid is the score's logit.
        odds = explain.before_sigmoid(model).predict(images, verbose=0)
        np.testing.assert_allclose(1 / (1 + np.exp(-odds)), model.predict(images, verbose=0), rtol=1e-4)


def test_a_model_without_convolutions_is_refused(images):
    dense = keras.Sequential([keras.Input((SIZE, SIZE, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="no Conv2D layer"):
        explain.grad_cam(dense, images)


def test_a_model_without_a_score_at_its_end_is_refused():
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"expected Dense\(1"):
        explain.before_sigmoid(model)


# ---- occlusion


def test_occlusion_by_hand():
    """A dark image with a bright corner: a patch of 4 on it lowers the mean of the corner by what it covers."""
    image = np.zeros((2, SIZE, SIZE, 1))
    image[:, :4, :4] = 16  # its mean is 1
    maps = explain.occlusion(lambda x: x[:, :4, :4].sum(axis=(1, 2, 3)), image, patch=4, stride=4)
    expected = np.zeros((SIZE, SIZE))
    expected[:4, :4] = 16 * 15
    np.testing.assert_allclose(maps, [expected] * 2)
    assert maps.dtype == np.float32
    assert image[0, 0, 0] == 16


def test_occlusion_averages_over_the_patches_that_cover_a_pixel():
    image = np.zeros((1, SIZE, SIZE, 1))
    image[:, :4, :4] = 16
    maps = explain.occlusion(lambda x: x[:, :4, :4].sum(axis=(1, 2, 3)), image, patch=4, stride=2)[0] / 15
    assert maps[0, 0] == pytest.approx(16)  # one patch covers it
    assert maps[0, 2] == pytest.approx((16 + 8) / 2)  # and the one two pixels further to the right
    assert maps[2, 2] == pytest.approx((16 + 8 + 8 + 4) / 4)
    assert maps[4, 4] == pytest.approx((4 + 0 + 0 + 0) / 4)
    assert (maps[6:] == 0).all()


def test_occlusion_of_the_corner_reader_has_its_heat_in_the_corner(images):
    model = explain.before_sigmoid(corner_reader())
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:4, :4] = True
    bright = images + 5 * mask[..., None]
    maps = explain.occlusion(lambda x: np.asarray(model(x)), bright, patch=4, stride=4)
    found = explain.heat_on_mask(maps, [mask] * len(images))
    assert found["heat"].min() > 0.9999
    assert found["hit"].tolist() == [1] * 5


def test_occlusion_reaches_every_border():
    image = np.zeros((1, 10, 13, 1), np.uint8)
    image[0, -1, -1] = 130
    maps = explain.occlusion(lambda x: x[:, -1, -1, 0].astype(float), image, patch=4, stride=3)
    assert maps[0, -1, -1] == 129  # the mean is 130 / 130
    assert (maps[0, :6] == 0).all()
    assert (maps[0, :, :9] == 0).all()


def test_occlusion_refuses_patches_that_leave_gaps(images):
    for wrong in ({"patch": 17}, {"stride": 9}, {"stride": 0}):
        with pytest.raises(ValueError, match="expected 1 <= stride <= patch"):
            explain.occlusion(lambda x: x.sum(axis=(1, 2, 3)), images, **wrong)


# ---- what the maps are worth


def test_sanity_check_forgets_from_the_output_down(monkeypatch):
    """Also not the weights that the model started from come back, although the layers know their seeds."""
    model = models.report_cnn(16, units=8, seed=3)
    seen = []

    def keep(model, images):
        seen.append(model.get_weights())
        return np.random.default_rng(len(seen)).random((3, 16, 16))

    def check(seed=0):
        seen.clear()
        explain.sanity_check(model, np.zeros((3, 16, 16, 3)), seed=seed)
        return list(seen)

    monkeypatch.setattr(explain, "grad_cam", keep)
    before = [array.copy() for array in model.get_weights()]
    _, *steps = check()  # the first maps are the trained model's
    kept = [[np.array_equal(a, b) for a, b in zip(before[::2], step[::2], strict=True)] for step in steps]
    assert kept == [[True] * (4 - lost) + [False] * lost for lost in range(5)]
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    np.testing.assert_array_equal(steps[-1][0], check()[-1][0])
    assert not np.array_equal(steps[-1][0], check(seed=1)[-1][0])


@pytest.fixture(scope="module")
def trained():
    """Build a model that learned to see a bright square, and images with it."""
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(0, 100, (200, SIZE, SIZE, 3)).astype(np.float32), np.arange(200) % 2
    masks = np.zeros((200, SIZE, SIZE), bool)
    for mask, label in zip(masks, labels, strict=True):
        top, left = rng.integers(1, 10, 2)
        mask[top : top + 5, left : left + 5] = label
    images[masks] += 150
    model = models.report_cnn(SIZE, units=8, seed=1)
    model.fit(images, labels, epochs=15, batch_size=20, verbose=0)
    assert model.evaluate(images, labels, verbose=0)[1] > 0.95
    return model, images[labels == 1][:30], masks[labels == 1][:30]


def test_sanity_check_of_grad_cam(trained):
    model, images, _ = trained
    table = explain.sanity_check(model, images)
    assert table.index.tolist() == ["nothing", "pneumonia", "dense", "conv2", "conv1"]
    assert table.loc["nothing", ["value", "low", "high"]].tolist() == pytest.approx([1, 1, 1])
    assert table["blank"].between(0, 1).all()
    assert abs(table.loc["conv1", "value"]) < 0.5


def test_sanity_check_catches_a_map_that_does_not_look_at_the_model(trained, monkeypatch):
    """An edge detector looks like an explanation and is none: it stays the same for a model that knows nothing."""
    model, images, _ = trained
    monkeypatch.setattr(explain, "grad_cam", lambda _, images: np.abs(np.gradient(images[..., 0], axis=2)))
    table = explain.sanity_check(model, images)
    np.testing.assert_allclose(table["value"], 1)
    assert table["blank"].tolist() == [0] * 5


def test_sanity_check_counts_blank_maps(trained, monkeypatch):
    model, images, _ = trained
    half = (np.arange(len(images)) % 2)[:, None, None]
    monkeypatch.setattr(explain, "grad_cam", lambda _, images: images[..., 0] * half)
    assert explain.sanity_check(model, images)["blank"].tolist() == [0.5] * 5
    monkeypatch.setattr(explain, "grad_cam", lambda _, images: 0 * images[..., 0])
    assert explain.sanity_check(model, images)["value"].isna().all()


def test_a_model_that_looks_at_the_square_has_its_heat_there(trained):
    model, images, masks = trained
    log_odds = explain.before_sigmoid(model)
    maps = explain.occlusion(lambda x: np.asarray(log_odds(x)), images, patch=4, stride=2)
    found = explain.heat_on_mask(maps, masks)
    assert found["heat"].mean() > 2 * found["area"].mean()
    assert found["hit"].mean() > 0.5


def test_heat_on_mask_by_hand():
    heat = np.zeros((4, 4, 4))
    heat[0, 0, 0], heat[0, 3, 3], heat[0, 2, 2] = 3, 1, -5  # below zero is no heat
    heat[1] = 1  # everywhere alike: chance
    heat[3, 0, 0] = 1
    mask = np.zeros((8, 8), bool)
    mask[:2, :4] = True
    found = explain.heat_on_mask(heat, [mask, mask, mask, np.zeros((5, 7), bool)])
    np.testing.assert_allclose(found["heat"], [0.75, 1 / 8, np.nan, np.nan])
    np.testing.assert_allclose(found["area"], [1 / 8, 1 / 8, 1 / 8, np.nan])
    np.testing.assert_allclose(found["hit"], [1, 1 / 8, np.nan, np.nan])


def test_a_mask_of_another_size_counts_its_border_in_part():
    mask = np.zeros((6, 6), bool)
    mask[:, :2] = True  # shrunk to 4 x 4: the first column whole, a third of the second
    found = explain.heat_on_mask(np.ones((1, 4, 4)), [mask])
    np.testing.assert_allclose(found.loc[0, ["heat", "area", "hit"]].astype(float), [1 / 3, 1 / 3, 1 / 4], rtol=1e-6)


def test_heat_needs_one_mask_per_map():
    with pytest.raises(ValueError, match="2 masks"):
        explain.heat_on_mask(np.ones((3, 4, 4)), [np.ones((4, 4))] * 2)


def test_a_network_that_grew_layer_by_layer_has_the_same_maps(tmp_path):
    """Lesson 4 builds its network with `add`, which calls the layers again and again, and saves it."""
    grown = keras.Sequential([keras.Input((16, 16, 1))])
    start = iter(keras.initializers.GlorotUniform(seed) for seed in range(3))  # any weights could give empty maps
    grown.add(keras.layers.Conv2D(3, 3, activation="relu", kernel_initializer=next(start), name="conv1"))
    grown.add(keras.layers.Conv2D(3, 3, activation="relu", kernel_initializer=next(start), name="conv2"))
    grown.add(keras.layers.Flatten())
    grown.add(keras.layers.Dense(1, activation="sigmoid", kernel_initializer=next(start)))
    grown.save(tmp_path / "grown.keras")
    read = keras.models.load_model(tmp_path / "grown.keras", compile=False)
    images = np.random.default_rng(0).uniform(size=(3, 16, 16, 1)).astype("float32")
    maps = explain.grad_cam(read, images)
    assert maps.max() == 1
    np.testing.assert_allclose(maps, explain.grad_cam(grown, images), atol=1e-5)
    odds = explain.before_sigmoid(read).predict(images, verbose=0)
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), read.predict(images, verbose=0), atol=1e-5)

"""Maps with known answers: models made by hand that look at one place, and checks that must notice what is wrong."""

import ast
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

from tools.lessons import ROOT
from xrayhelpers import explain, models
from xrayhelpers._keras import keras, tf

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


def test_a_model_that_reads_only_the_corner_has_its_heat_there(lesson):
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
    found = lesson.heat_on_mask(explain.grad_cam(model, np.ones((2, SIZE, SIZE, 1))), [corner[..., 0] > 0] * 2)
    assert found["heat"].tolist() == [1, 1]
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


# ---- what lesson 8 writes in the open
@pytest.fixture(scope="module")
def lesson():
    """The functions of lesson 8."""
    cells = nbformat.read(ROOT / "notebooks" / "08_shortcuts.ipynb", as_version=4).cells
    body = [node for cell in cells if cell.cell_type == "code" for node in ast.parse(cell.source).body]
    body = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)]
    names = {}
    exec(compile(ast.Module(body, []), "08_shortcuts", "exec"), names)
    return SimpleNamespace(**names)


def test_the_lessons_grad_cam_is_the_packages(lesson, images):
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    network = models.report_cnn(32, units=8)
    np.testing.assert_allclose(lesson.our_grad_cam(network, pixels), explain.grad_cam(network, pixels), atol=1e-5)
    for weights in ([3, -1], [1, -1]):  # the second has no heat at all
        network = handmade([1, 2], weights)
        np.testing.assert_allclose(lesson.our_grad_cam(network, images), explain.grad_cam(network, images), atol=1e-5)


def test_grad_cam_agrees_with_an_independent_library():
    """tf-keras-vis, before it enlarges: it uses splines where we interpolate linearly."""
    from tf_keras_vis.gradcam import Gradcam

    pixels = np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)
    for network, layer in (
        (models.report_cnn(32, units=8, seed=3), "conv2"),
        (models.report_vgg16(32, units=8, weights=None), "block5_conv3"),
    ):
        inner = explain.before_sigmoid(network)
        how = {"penultimate_layer": layer, "seek_penultimate_conv_layer": False, "expand_cam": False}
        cam = Gradcam(inner, clone=False)(lambda odds: odds[:, 0], pixels, normalize_cam=False, **how)
        theirs = tf.image.resize(np.maximum(cam, 0)[..., None], (32, 32))[..., 0].numpy()
        theirs /= np.maximum(theirs.max(axis=(1, 2), keepdims=True), 1e-12)
        ours = explain.grad_cam(network, pixels)
        assert ours.max() == 1
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_occlusion_by_hand(lesson):
    """A dark image with a bright corner: a patch on it lowers the sum of the corner by what it covers."""
    image = np.zeros((2, SIZE, SIZE, 1))
    image[:, :4, :4] = 16  # its mean is 1
    read = lambda x: x[:, :4, :4].sum(axis=(1, 2, 3))  # noqa: E731
    expected = np.zeros((SIZE, SIZE))
    expected[:4, :4] = 16 * 15
    np.testing.assert_allclose(lesson.occlude(read, image, 4, 4), [expected] * 2)
    assert image[0, 0, 0] == 16
    maps = lesson.occlude(read, image, 4, 2)[0] / 15
    # The mean over the patches that cover a pixel: one at the corner, two beside it, four further in.
    assert [maps[0, 0], maps[0, 2], maps[2, 2]] == pytest.approx([16, (16 + 8) / 2, (16 + 8 + 8 + 4) / 4])
    assert (maps[6:] == 0).all()


def test_occlusion_of_the_corner_reader_has_its_heat_in_the_corner(images, lesson):
    model = explain.before_sigmoid(corner_reader())
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:4, :4] = True
    maps = lesson.occlude(lambda x: np.asarray(model(x))[:, 0], images + 5 * mask[..., None], 4, 4)
    found = lesson.heat_on_mask(maps, [mask] * len(images))
    assert found["heat"].min() > 0.9999


def test_occlusion_reaches_every_border(lesson):
    image = np.zeros((1, 13, 13, 1), np.uint8)
    image[0, -1, -1] = 169
    maps = lesson.occlude(lambda x: x[:, -1, -1, 0].astype(float), image, 4, 3)
    assert maps[0, -1, -1] == 168  # the mean is 169 / 169
    assert (maps[0, :9] == 0).all()


def test_agreement_of_maps(lesson):
    maps = np.random.default_rng(0).random((4, SIZE, SIZE))
    assert lesson.agreement(maps, maps**3) == pytest.approx(1)  # ranks alone count
    assert lesson.agreement(maps, -maps) == pytest.approx(-1)
    assert abs(lesson.agreement(maps, np.random.default_rng(1).random(maps.shape))) < 0.1
    blank = maps * np.array([0, 1, 1, 1])[:, None, None]
    assert lesson.agreement(maps, blank) == pytest.approx(3 / 4)  # unrelated
    assert lesson.agreement(blank, maps) == pytest.approx(1)  # there was nothing to keep
    assert lesson.agreement(0 * maps, maps) == 0


def test_interval_over_draws_holds_the_true_mean(lesson):
    """Ten draws each, even or heaped at both ends as agreements are: about 95 % of the intervals hold the mean."""
    rng = np.random.default_rng(0)
    for name, draws in {"even": rng.random((2000, 10)), "both ends": rng.beta(0.5, 0.5, (2000, 10))}.items():
        low, high = np.transpose([lesson.interval(ten) for ten in draws])
        held = ((low < 0.5) & (high > 0.5)).mean()
        assert 0.92 <= held <= 0.98, (name, held)
    assert lesson.interval([0.0, 1.0]) == pytest.approx((0.5 - 6.353, 0.5 + 6.353), abs=0.001)  # t = 12.706, 1 degree


def test_forgetting_draws_all_weights_with_their_spread(lesson):
    """Also not those that the network started from, although its layers know their seeds."""
    network = models.report_cnn(16, units=8, seed=3)
    before = [array.copy() for array in network.get_weights()]
    one, same, other = (lesson.forget(network, draw).get_weights() for draw in (0, 0, 1))
    for kept, a, b, c in zip(before, one, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        if kept.ndim > 1:
            assert a.std() == pytest.approx(kept.std(), rel=0.5)
            assert max(abs(np.corrcoef(a.ravel(), x.ravel())[0, 1]) for x in (kept, c)) < 0.9
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))


# ---- what the maps are worth


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


def test_maps_of_a_network_that_learned_change_when_it_forgets(trained, lesson):
    """And an edge detector, which looks like an explanation and is none, does not."""
    model, images, _ = trained
    maps = explain.grad_cam(model, images)
    found = [lesson.agreement(maps, explain.grad_cam(lesson.forget(model, draw), images)) for draw in range(10)]
    assert lesson.interval(found)[1] < 0.7
    edges = [np.abs(np.gradient(images[..., 0], axis=2)) for _ in range(2)]
    assert lesson.agreement(*edges) == pytest.approx(1)


def test_a_model_that_looks_at_the_square_has_its_heat_there(trained, lesson):
    model, images, masks = trained
    log_odds = explain.before_sigmoid(model)
    maps = lesson.occlude(lambda x: np.asarray(log_odds(x))[:, 0], images, 4, 2)
    found = lesson.heat_on_mask(maps, masks)
    assert found["heat"].mean() > 2 * found["area"].mean()


def test_heat_on_mask_by_hand(lesson):
    heat = np.zeros((4, 4, 4))
    heat[0, 0, 0], heat[0, 3, 3], heat[0, 2, 2] = 3, 1, -5  # below zero is no heat
    heat[1] = 1  # everywhere alike: chance
    heat[3, 0, 0] = 1
    mask = np.zeros((8, 8), bool)
    mask[:2, :4] = True
    found = lesson.heat_on_mask(heat, [mask, mask, mask, np.zeros((5, 7), bool)])
    np.testing.assert_allclose(found["heat"], [0.75, 1 / 8, np.nan, np.nan])
    np.testing.assert_allclose(found["area"], [1 / 8, 1 / 8, 1 / 8, np.nan])


def test_a_mask_of_another_size_counts_its_border_in_part(lesson):
    mask = np.zeros((6, 6), bool)
    mask[:, :2] = True  # shrunk to 4 x 4: the first column whole, a third of the second
    found = lesson.heat_on_mask(np.ones((1, 4, 4)), [mask])
    np.testing.assert_allclose(found.loc[0].astype(float), [1 / 3, 1 / 3], rtol=1e-6)


def test_heat_needs_one_mask_per_map(lesson):
    with pytest.raises(ValueError, match="zip"):
        lesson.heat_on_mask(np.ones((3, 4, 4)), [np.ones((4, 4))] * 2)


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

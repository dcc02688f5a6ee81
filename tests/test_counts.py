"""Work is done once: an image is decoded once, a batch warped once, frozen layers run once an image and view.

Speed itself is measured in benchmarks/, never here.
"""

from collections import Counter
from functools import partial

import numpy as np
import pytest

from xrayhelpers import augment, dataset, decode, models, pixels, training
from xrayhelpers._quiet import keras, tf


def counting(calls, tensor):
    """Let `tensor` through, and note how many images it holds each time that it is computed."""

    def note(n):
        calls.append(int(n))
        return n

    with tf.control_dependencies([tf.numpy_function(note, [tf.shape(tensor)[0]], tf.int32, stateful=True)]):
        return tf.identity(tensor)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (37, 24, 24, 3), dtype=np.uint8), np.arange(37) % 2


def test_an_image_is_decoded_once(phantom_root, cache, monkeypatch):
    decoded, open_upright = [], decode._open_upright

    def counted(path, *arguments, **options):
        decoded.append(str(path))
        return open_upright(path, *arguments, **options)

    monkeypatch.setattr(decode, "_open_upright", counted)
    index = dataset.split_index(dataset.load_index(phantom_root))
    assert decoded == [], "an index is made from headers alone"
    parts = {part: index[index["part"] == part] for part in ("train", "validation", "test")}
    for _ in range(2):  # the second time, everything is found in the store
        stores = {part: pixels.load_pixels(rows, 24) for part, rows in parts.items()}
    held_out = (stores["validation"], parts["validation"]["label"].to_numpy())
    model = models.report_cnn(24, units=4)
    training.train(model, stores["train"], parts["train"]["label"].to_numpy(), epochs=3, validation=held_out)
    training.predict(model, stores["test"])
    used = index.loc[index["part"] != "unused", "path"]
    assert Counter(decoded) == Counter(used)


@pytest.mark.parametrize(("augmentation", "warps"), [(augment.REPORT, 1), (augment.NONE, 0)])
def test_a_batch_is_warped_once(augmentation, warps, images, monkeypatch):
    warped, operation = [], tf.raw_ops.ImageProjectiveTransformV3

    def counted(images, **how):
        return operation(images=counting(warped, images), **how)

    monkeypatch.setattr(tf.raw_ops, "ImageProjectiveTransformV3", counted)
    batches = [
        len(labels) for _, labels in augment.epoch_data(*images, epoch=0, batch_size=16, augmentation=augmentation)
    ]
    assert sorted(batches) == [5, 16, 16]
    assert sorted(warped) == sorted(batches * warps)


class Counting(keras.layers.Layer):
    """Stands among the frozen layers."""

    def __init__(self, calls, **options):
        super().__init__(**options)
        self.let_through = partial(counting, calls)  # a bare list would be copied by Keras

    def call(self, inputs):
        return self.let_through(inputs)

    def get_config(self):
        return {"name": self.name}


def counted_model(calls):
    model = keras.Sequential(
        [
            keras.Input((24, 24, 3)),
            Counting(calls, name="counting"),
            keras.layers.Conv2D(4, 3, strides=4, trainable=False, name="frozen"),
            keras.layers.Flatten(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    return models.compile_binary(model)


@pytest.mark.parametrize("views", [1, 3])
def test_frozen_layers_run_once_an_image_and_view(views, images, tmp_path):
    calls = []
    frozen, tail = models.cut_vgg16(counted_model(calls))
    for _ in range(2):  # the second time, the features are found in the cache
        features = training.kept_features(frozen, images[0], views=views, batch_size=16, folder=tmp_path)
    training.train_on_features(tail, features, images[1], epochs=5)
    assert sum(calls) == views * len(images[0])


def test_the_plain_way_runs_them_in_every_epoch(images):
    calls = []
    training.train(counted_model(calls), *images, epochs=3)
    assert sum(calls) == 3 * len(images[0]), "the counter counts"

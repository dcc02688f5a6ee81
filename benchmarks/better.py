"""The better model of lesson 9: VGG16, fine-tuned on random crops, chosen by a stress test on train alone.

Candidates and their scores on validation and on the stress test, without any look at the test set:

    python -m benchmarks.better --data /path/to/chest_xray --size 96 --seeds 1
"""

import time

import click
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks.phantom import reframe
from xrayhelpers._keras import keras
from xrayhelpers._machine import cache_folder
from xrayhelpers._vgg16 import vgg16_weights
from xrayhelpers.augment import Augmentation, training_data
from xrayhelpers.data import fingerprint, load_images, load_index, open_data, split_index
from xrayhelpers.models import set_precision

WAYS = {
    "crops": Augmentation(shear=0, zoom=0, crop=0.2, brightness=0.25, contrast=0.25),
    "report": Augmentation(),
    "as they are": None,
}
SENSITIVITY = 0.95  # on validation; the threshold is the highest that reaches it
VIEWS = 4  # of the stress test


def build(size: int, steps: int, rate: float, seed: int) -> keras.Model:
    """Build VGG16 with its first two blocks frozen, and one new neuron on the average of its last maps."""
    keras.utils.set_random_seed(seed)
    layers, shape = keras.layers, (size, size, 3)
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=shape)
    base.set_weights(vgg16_weights().arrays)
    for layer in base.layers[:7]:
        layer.trainable = False
    scaling = layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68])
    head = [layers.GlobalAveragePooling2D(), layers.Dense(1, activation="sigmoid", dtype="float32")]
    model = keras.Sequential([keras.Input(shape), scaling, *base.layers[1:], *head])
    # Up to the highest rate and down again ("one cycle").
    cycle = keras.optimizers.schedules.CosineDecay(
        rate / 20, decay_steps=steps * 3 // 4, warmup_target=rate, warmup_steps=steps // 4
    )
    model.compile(keras.optimizers.AdamW(cycle, weight_decay=1e-4), "binary_crossentropy", jit_compile=False)
    return model


def train(rows: pd.DataFrame, seed: int, *, size: int, epochs: int, rate: float, way: str) -> keras.Model:
    """Train on some rows of an index, or load what was trained before; the last epoch counts."""
    name = f"{way.replace(' ', '-')}-{size}px-{epochs}-{rate:g}-{seed}-{fingerprint(rows)}.keras"
    path = cache_folder() / "better" / name
    if path.is_file():
        return keras.models.load_model(path, compile=False)
    click.echo(set_precision())
    images, labels = load_images(rows, size), rows["label"].to_numpy()
    weight = {label: len(labels) / 2 / (labels == label).sum() for label in (0, 1)}
    data = training_data(images, labels, augmentation=WAYS[way], batch_size=32, seed=seed)
    model = build(size, epochs * len(data), rate, seed)
    began = time.perf_counter()
    model.fit(data, epochs=epochs, class_weight=weight, verbose=2)
    seconds = time.perf_counter() - began
    per_second = len(rows) * epochs / seconds
    click.echo(f"{name}: {seconds / 60:.1f} minutes, {per_second:.0f} images/s, {keras.config.dtype_policy().name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def score(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the mean score of each image and its mirror image."""
    images = np.asarray(images)
    return np.mean([model.predict(x, batch_size=64, verbose=0)[:, 0] for x in (images, images[:, :, ::-1])], axis=0)


def stressed(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the mean score of four views of each image, reframed and re-exposed at random."""
    return np.mean([score(model, reframe(images, seed)) for seed in range(VIEWS)], axis=0)


def shares(labels: np.ndarray, scores: np.ndarray, threshold: float) -> tuple[float, float, float]:
    """Return AUC, sensitivity, and specificity."""
    found = scores >= threshold
    return roc_auc_score(labels, scores), found[labels == 1].mean(), 1 - found[labels == 0].mean()


def choose_threshold(labels: np.ndarray, scores: np.ndarray, sensitivity: float = SENSITIVITY) -> float:
    """Return the threshold with the highest specificity among those that reach a sensitivity.

    It lies halfway between two scores; of equally good ones the nearest to 0.5 is taken.
    """
    scores = np.asarray(scores, float)
    alarms, hit, cuts = roc_curve(labels, scores, drop_intermediate=False)
    thresholds = np.r_[np.nextafter(scores.max(), 2), (cuts[1:-1] + cuts[2:]) / 2, 0.0]
    worth = np.where(hit >= sensitivity, 1 - alarms, -1.0)
    best = thresholds[worth >= worth.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def fit(
    rows: pd.DataFrame, seed: int, *, size: int, epochs: int, rate: float, way: str
) -> tuple[keras.Model, float, np.ndarray, np.ndarray]:
    """Train on whole patients; return the model, its threshold, and the validation images and labels."""
    index = split_index(rows, "patient", seed=seed)
    model = train(index[index["part"] == "train"], seed, size=size, epochs=epochs, rate=rate, way=way)
    held = index[index["part"] == "validation"]
    images, labels = load_images(held, size), held["label"].to_numpy()
    return model, choose_threshold(labels, score(model, images)), images, labels


def candidate(size: int, epochs: int, rate: float = 1e-4, way: str = "crops"):
    """Return a candidate for `benchmarks.test_set`: train rows and a seed -> a threshold and a scoring function."""

    def run(rows: pd.DataFrame, seed: int):
        model, threshold, *_ = fit(rows, seed, size=size, epochs=epochs, rate=rate, way=way)
        return threshold, lambda wanted: score(model, load_images(wanted, size))

    return run


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--data", required=True, help="A chest_xray folder, or phantom.")
@click.option("--way", default="crops", type=click.Choice(list(WAYS)))
@click.option("--size", default=96, type=click.IntRange(32))
@click.option("--epochs", default=6, type=click.IntRange(1))
@click.option("--rate", default=1e-4)
@click.option("--seeds", default=1, type=click.IntRange(1))
def main(data, way, size, epochs, rate, seeds) -> None:
    """Train a candidate and score it on validation and on the stress test; the test set is not touched."""
    index = load_index(open_data(data).folder)
    rows = index[index["split"] == "train"].reset_index(drop=True)
    table = []
    for seed in range(seeds):
        model, threshold, images, labels = fit(rows, seed, size=size, epochs=epochs, rate=rate, way=way)
        plain, hard = score(model, images), stressed(model, images)
        table.append([seed, threshold, *shares(labels, plain, threshold), *shares(labels, hard, threshold)])
    columns = [
        "seed",
        "threshold",
        *(f"{of} {what}" for of in ("validation", "stressed") for what in ("AUC", "sensitivity", "specificity")),
    ]
    click.echo(pd.DataFrame(table, columns=columns).round(4).to_string(index=False))


if __name__ == "__main__":
    main()

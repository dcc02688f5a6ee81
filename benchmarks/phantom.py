"""Is the phantom worth learning on? Every model of the lessons on several phantoms, each from a seed of its own.

The seed of the data is also the seed of the split and of the network. From the repository's root:

    python -m benchmarks.phantom --seeds 10
"""

import argparse

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from xrayhelpers._keras import keras, tf
from xrayhelpers._vgg16 import vgg16_weights
from xrayhelpers.data import load_index, load_parts, open_data, split_index

HEADER = ["width", "height", "bytes"]


def reframe(images, seed=None):
    """Return a random crop of 50 to 100 % of each image's area, with brightness and contrast changed by up to 20 %."""
    draw = tf.random.Generator.from_seed(seed).uniform if seed is not None else tf.random.uniform
    images = tf.cast(images, tf.float32)
    count, size = tf.shape(images)[0], images.shape[1]
    side = tf.sqrt(draw((count, 1), 0.5, 1.0))
    corner = draw((count, 2)) * (1 - side)
    images = tf.image.crop_and_resize(images, tf.concat([corner, corner + side], 1), tf.range(count), (size, size))
    middle = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    images = (images - middle) * draw((count, 1, 1, 1), 0.8, 1.2) + middle * draw((count, 1, 1, 1), 0.8, 1.2)
    return tf.clip_by_value(images, 0, 255)


def train_cnn(images, labels, seed, augment):
    """Train the report's network until the validation loss has not improved for eight epochs."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    report = keras.Sequential([layers.RandomZoom((-0.2, 0.2), (-0.2, 0.2)), layers.RandomFlip("horizontal")])
    change = {
        "none": lambda x: tf.cast(x, tf.float32),
        "zoom and flip": lambda x: report(tf.cast(x, tf.float32), training=True),
        "crops and jitter": lambda x: tf.image.random_flip_left_right(reframe(x)),
    }[augment]
    batches = tf.data.Dataset.from_tensor_slices((images["train"], labels["train"]))
    batches = batches.shuffle(len(labels["train"]), seed=seed).batch(16).map(lambda x, y: (change(x), y))
    model = keras.Sequential([keras.Input(images["train"].shape[1:]), layers.Rescaling(1 / 255)])
    for _ in range(2):
        model.add(layers.Conv2D(32, 3, activation="relu"))
        model.add(layers.MaxPooling2D())
    for layer in (layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(1, activation="sigmoid")):
        model.add(layer)
    model.compile("adam", "binary_crossentropy", jit_compile=False)
    stop = keras.callbacks.EarlyStopping(patience=8, restore_best_weights=True)
    known = (images["validation"], labels["validation"])
    history = model.fit(batches, epochs=60, validation_data=known, callbacks=[stop], verbose=0)
    return model, int(np.argmin(history.history["val_loss"])) + 1


def score(model, images):
    """Return the score of each image, 0 to 1."""
    return model.predict(np.asarray(images), verbose=0).ravel()


def load(seed):
    """Return the index, images and labels of the phantom of this seed, validation split from train by patient."""
    index = split_index(load_index(open_data(f"phantom:seed={seed}").folder), "patient", seed=seed)
    return index, *load_parts(index, 64)


def row(seed, name, labels, scores, **more):
    """Return one row of the table: AUC, and balanced accuracy at threshold 0.5, of each part."""
    found = {"seed": seed, "model": name}
    for part, one in scores.items():
        found[f"{part} AUC"] = roc_auc_score(labels[part], one)
        found[f"{part} balanced accuracy"] = balanced_accuracy_score(labels[part], one >= 0.5)
    return found | more


def measure_simple(seed, base):
    """Return one row per model that is no network of its own: constant, header, neighbors, head on VGG16."""
    index, images, labels = load(seed)
    header = {part: index.loc[index["part"] == part, HEADER].to_numpy() for part in labels}
    flat = {part: one.reshape(len(one), -1).astype("float32") for part, one in load_parts(index, 32)[0].items()}
    prepare = keras.applications.vgg16.preprocess_input
    deep = {part: base.predict(prepare(one.astype("float32")), verbose=0) for part, one in images.items()}
    rule = DecisionTreeClassifier(max_depth=2, class_weight="balanced", random_state=0)  # as in lesson 6
    rows = []
    for name, model, inputs in (
        ("constant answer", DummyClassifier(), header),
        ("header-only rule", rule, header),
        ("KNN, k = 3, 32 px", KNeighborsClassifier(3), flat),
        ("VGG16 frozen + head", make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)), deep),
    ):
        model.fit(inputs["train"], labels["train"])
        scores = {part: model.predict_proba(inputs[part])[:, 1] for part in ("validation", "test")}
        rows.append(row(seed, name, labels, scores))
    return rows


def measure_networks(seed, augmentations=("none", "zoom and flip", "crops and jitter")):
    """Return one row per augmentation; "stressed" is the specificity over eight reframed copies of validation."""
    _, images, labels = load(seed)
    healthy = {part: images[part][labels[part] == 0] for part in ("validation", "test")}
    stressed = tf.concat([reframe(healthy["validation"], seed=view) for view in range(8)], 0)
    rows = []
    for augment in augmentations:
        model, epochs = train_cnn(images, labels, seed, augment)
        scores = {part: score(model, images[part]) for part in ("validation", "test")}
        plain, stress, test = (
            np.mean(score(model, one) < 0.5) for one in (healthy["validation"], stressed, healthy["test"])
        )
        more = {"specificity": plain, "stressed": stress, "test specificity": test, "epochs": epochs}
        rows.append(row(seed, f"CNN, augmentation: {augment}", labels, scores, **more))
    return rows


def main():
    """Measure every model on every phantom; print the table in Markdown, and the test AUC of each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(parser.parse_args().seeds)
    vgg16 = keras.applications.VGG16(include_top=False, weights=None, input_shape=(64, 64, 3))
    vgg16.set_weights(vgg16_weights().arrays)
    base = keras.Sequential([vgg16, keras.layers.Flatten()])
    base.compile(jit_compile=False)
    rows = [found for seed in seeds for found in measure_simple(seed, base) + measure_networks(seed)]
    table = pd.DataFrame(rows)
    print_table(table.drop(columns="seed"))
    print(table.pivot(index="seed", columns="model", values="test AUC").round(3).to_string())


def print_table(table):
    """Print mean and standard deviation over seeds, one line per model."""
    groups = table.groupby("model", sort=False)
    mean, deviation = groups.mean(), groups.std()
    print("| model | " + " | ".join(mean.columns) + " |\n|---" + "|---" * len(mean.columns) + "|")
    for name in mean.index:
        pairs = zip(mean.loc[name], deviation.loc[name], strict=True)
        print(f"| {name} | " + " | ".join("" if np.isnan(m) else f"{m:.3f} ± {d:.3f}" for m, d in pairs) + " |")


if __name__ == "__main__":
    main()

"""The better model: small networks, or borrowed features, on small pictures, chosen on pseudo-batches.

The normal films of the official test set come from another batch than those of train. A validation drawn at random from
train cannot see that, and the better a network fits train, the more of the batch it learns. So: few pixels, few
parameters, and a validation whose normal films are another batch as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from xrayhelpers._quiet import keras
from xrayhelpers.augment import NONE
from xrayhelpers.intervals import check_scores, patient_weights, weighted_metrics
from xrayhelpers.models import _starting_values, compile_binary, compute_dtype, report_vgg16
from xrayhelpers.training import kept_features, predict, train
from xrayhelpers.weights import VGG16Weights

__all__ = [
    "fold_areas",
    "held_out_scores",
    "pooled_features",
    "predict_average",
    "predict_heads",
    "pseudo_batches",
    "small_cnn",
    "train_average",
    "train_heads",
]


def small_cnn(
    size: int = 32,
    channels: int = 1,
    filters: Sequence[int] = (32, 64, 128, 128),
    optimizer: str | keras.Optimizer = "adam",
    seed: int = 0,
) -> keras.Model:
    """Build a small network, compiled: a block a number of `filters`, then the average over the picture.

    A block is a 3x3 convolution, batch normalisation and ReLU; between two blocks the picture is halved.

    Parameters
    ----------
    size, channels : int
        Input images are (size, size, channels), in [0, 1].
    filters : sequence of int
        Filters of each block.
    optimizer, seed
        As in `models.report_cnn`.

    Returns
    -------
    keras.Model
        Output (B, 1): probability of pneumonia. 241,441 parameters, of which 240,737 learn.
    """
    dtype, layers, start = compute_dtype(), keras.layers, _starting_values(seed)
    chain = [keras.Input((size, size, channels))]
    for number, count in enumerate(filters, 1):
        if number > 1:
            chain.append(layers.MaxPooling2D(2, dtype=dtype, name=f"pool{number - 1}"))
        convolution = {"padding": "same", "use_bias": False, "kernel_initializer": start(), "dtype": dtype}
        chain += [
            layers.Conv2D(count, 3, **convolution, name=f"conv{number}"),
            layers.BatchNormalization(dtype=dtype, name=f"norm{number}"),
            layers.ReLU(dtype=dtype, name=f"relu{number}"),
        ]
    chain += [
        layers.GlobalAveragePooling2D(dtype=dtype, name="average"),
        layers.Dense(1, activation="sigmoid", kernel_initializer=start(), dtype="float32", name="pneumonia"),
    ]
    return compile_binary(keras.Sequential(chain, name="small_cnn"), optimizer)


def train_average(
    pixels: np.ndarray,
    labels: np.ndarray,
    *,
    members: int = 5,
    epochs: int = 15,
    batch_size: int = 64,
    seed: int = 0,
    filters: Sequence[int] = (32, 64, 128, 128),
    name: str = "better",
    folder: str | Path | None = None,
) -> list[keras.Model]:
    """Train `members` networks that differ in their seeds alone, with the report's augmentation.

    The learning rate falls from 0.001 to 0 along a cosine over all steps.

    Parameters
    ----------
    pixels, labels : numpy.ndarray
        uint8 (N, S, S, C) and (N,) of 0 and 1.
    members, epochs, batch_size : int
        Networks, and how each is trained.
    seed : int
        Member m has the seed ``1000 * seed + m``: averages of different seeds share no member.
    filters : sequence of int
        See `small_cnn`.
    name, folder
        See `training.train`: a killed call goes on where it was.

    Returns
    -------
    list of keras.Model
    """
    found = []
    for member in range(1000 * seed, 1000 * seed + members):
        steps = epochs * -(-len(labels) // batch_size)
        rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
        model = small_cnn(pixels.shape[1], pixels.shape[-1], filters, keras.optimizers.Adam(rate), member)
        how = {"epochs": epochs, "batch_size": batch_size, "seed": member}
        train(model, pixels, labels, **how, name=f"{name}-{member}", folder=folder)
        found.append(model)
    return found


def predict_average(models: Sequence[keras.Model], pixels: np.ndarray) -> np.ndarray:
    """Score images by the mean of all networks, each on the image and on its mirror image.

    Returns
    -------
    numpy.ndarray
        float32 (N,), in [0, 1].
    """
    return np.mean([predict(model, pixels, flips=True) for model in models], axis=0, dtype=np.float32)


def pseudo_batches(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Say for each fold which training images are held out, so that the normals held out are another batch.

    Fold "series IM" holds out the normals of that series, "other series" all others, "low numbers" those whose number
    is at most the median of their series: official test numbers lie below those of train. Each fold also holds out a
    random half of the pneumonia patients. A fold that would leave no normals on one side is left out.

    Parameters
    ----------
    rows : DataFrame
        Training rows of the index: patient and label.
    seed : int
        Decides the pneumonia patients.

    Returns
    -------
    DataFrame
        bool, index as `rows`, a column a fold; True: held out.

    Raises
    ------
    ValueError
        If there are fewer than two normal or pneumonia patients.
    """
    normal = rows["label"] == 0
    sick = np.array(sorted(set(rows.loc[~normal, "patient"])), dtype=object)
    if len(sick) < 2 or rows.loc[normal, "patient"].nunique() < 2:
        raise ValueError(
            f"Found {rows.loc[normal, 'patient'].nunique()} normal and {len(sick)} pneumonia patients; expected two or "
            'more of each. Use more images, e.g. data="phantom:train=60,test=30".'
        )
    # Names of another kind than the published ones are one series, numbered in their order.
    parts = rows["patient"].str.extract(r"^((?:NORMAL2-)?IM-)(\d+)$")
    series = parts[0].fillna("")
    number = parts[1].astype(float).fillna(rows["patient"].rank(method="dense"))
    first = normal & ~rows["patient"].duplicated()
    middle = number[first].groupby(series[first]).median()
    away = {"series IM": series == "IM-", "other series": series != "IM-", "low numbers": number <= series.map(middle)}
    folds = {}
    for k, (name, batch) in enumerate(away.items()):
        drawn = np.random.default_rng([seed, k]).permutation(sick)[: len(sick) // 2]
        if 0 < batch[normal].sum() < normal.sum():
            folds[name] = batch.where(normal, rows["patient"].isin(drawn))
    return pd.DataFrame(folds, index=rows.index, dtype=bool)


def held_out_scores(
    rows: pd.DataFrame, score: Callable[[np.ndarray, np.ndarray], np.ndarray], seed: int = 0
) -> pd.DataFrame:
    """Learn from what each fold of `pseudo_batches` leaves, and score what it holds out.

    Parameters
    ----------
    rows : DataFrame
        Training rows of the index.
    score : callable
        Takes the positions of the rows to learn from and of those held out; returns the scores of the latter.
    seed : int
        As in `pseudo_batches`.

    Returns
    -------
    DataFrame
        One row a fold and held-out image: label, patient, fold, score. The threshold is chosen on these.
    """
    parts = []
    for fold, held in pseudo_batches(rows, seed).items():
        away = np.flatnonzero(held)
        part = rows.iloc[away][["label", "patient"]]
        parts.append(part.assign(fold=fold, score=score(np.flatnonzero(~held), away)))
    return pd.concat(parts)


def pooled_features(
    pixels: np.ndarray, block: int = 3, weights: str | VGG16Weights = "imagenet", folder: str | Path | None = None
) -> np.ndarray:
    """Run VGG16 up to the end of a block, once an image, and average over the picture and its mirror image.

    Parameters
    ----------
    pixels : numpy.ndarray
        uint8 (N, S, S, 3), S at least 32.
    block : int
        1 to 5: 64, 128, 256, 512, 512 features.
    weights, folder
        See `models.report_vgg16` and `training.kept_features`.

    Returns
    -------
    numpy.ndarray
        float32 (N, features).
    """
    vgg16 = report_vgg16(pixels.shape[1], units=1, trainable_layers=0, weights=weights)
    answer = keras.layers.GlobalAveragePooling2D()(vgg16.get_layer(f"block{block}_pool").output)
    frozen = keras.Model(vgg16.inputs[0], answer)
    how = {"augmentation": NONE, "preprocess": keras.applications.vgg16.preprocess_input, "folder": folder}
    sides = [kept_features(frozen, side, **how)[0] for side in (pixels, pixels[:, :, ::-1])]
    return np.mean(sides, axis=0, dtype=np.float32)


def train_heads(
    features: np.ndarray, rows: pd.DataFrame, *, members: int = 10, strength: float = 0.1, seed: int = 0
) -> list[Pipeline]:
    """Fit logistic regressions, each on patients drawn with replacement (bagging; Breiman, 1996).

    Parameters
    ----------
    features : numpy.ndarray
        float (N, features), of `rows`: label and patient.
    members : int
        How many are fitted.
    strength : float
        Inverse strength of the L2 penalty on standardised features: smaller is simpler.
    seed : int
        Decides the patients.

    Returns
    -------
    list of sklearn.pipeline.Pipeline
        To be scored by `predict_heads`.
    """
    labels, _, patients = check_scores(rows["label"], np.zeros(len(rows)), rows["patient"])
    heads = []
    for weight in patient_weights(labels, patients, members, seed):
        head = make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=300))
        heads.append(head.fit(features, labels, logisticregression__sample_weight=weight))
    return heads


def predict_heads(heads: Sequence[Pipeline], features: np.ndarray) -> np.ndarray:
    """Score features by the mean of all heads: float32 (N,), in [0, 1]."""
    return np.mean([head.predict_proba(features)[:, 1] for head in heads], axis=0).astype(np.float32)


def fold_areas(rows: pd.DataFrame, held: pd.DataFrame, n_resamples: int = 300) -> pd.Series:
    """ROC AUC of each fold, their `mean`, and its standard `error` over resamples of the patients.

    Parameters
    ----------
    rows : DataFrame
        Training rows of the index.
    held : DataFrame
        What `held_out_scores` returned for them.
    n_resamples : int
        The folds are scored on the same resamples, as they share patients.
    """
    labels, _, patients = check_scores(rows["label"], np.zeros(len(rows)), rows["patient"])
    weights = np.vstack([np.ones(len(rows)), patient_weights(labels, patients, n_resamples, 0)])
    areas = {}
    with np.errstate(divide="ignore", invalid="ignore"):  # of few patients, a resample may miss a class in a fold
        for fold, part in held.groupby("fold", sort=False):
            drawn = weights[:, rows.index.get_indexer(part.index)]
            areas[fold] = weighted_metrics(part["label"].to_numpy(), part["score"].to_numpy(), 0.5, drawn)["roc_auc"]
    mean = np.mean(list(areas.values()), axis=0)
    return pd.Series({fold: area[0] for fold, area in areas.items()} | {"mean": mean[0], "error": np.nanstd(mean[1:])})

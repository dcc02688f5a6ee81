"""The better model: an average of small networks on small pictures, chosen on pseudo-batches.

The normal films of the official test set come from another batch than those of train. A validation drawn at random from
train cannot see that, and the better a network fits train, the more of the batch it learns. So: few pixels, few
parameters, and a validation whose normal films are another batch as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from xrayhelpers._quiet import keras
from xrayhelpers.models import _starting_values, compile_binary, compute_dtype
from xrayhelpers.training import predict, train

__all__ = ["held_out_scores", "predict_average", "pseudo_batches", "small_cnn", "train_average"]


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
        Output (B, 1): probability of pneumonia. 241,697 parameters, of which 240,993 learn.
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


def held_out_scores(pixels: np.ndarray, rows: pd.DataFrame, **how) -> pd.DataFrame:
    """Train on what each fold of `pseudo_batches` leaves, and score what it holds out.

    Parameters
    ----------
    pixels : numpy.ndarray
        uint8 (N, S, S, C), the images of `rows`.
    rows : DataFrame
        Training rows of the index.
    **how
        As for `train_average`; `seed` also decides the folds' pneumonia patients.

    Returns
    -------
    DataFrame
        One row a fold and held-out image: fold, label, patient, score. The threshold is chosen on these.
    """
    labels, parts = rows["label"].to_numpy(), []
    for fold, held in pseudo_batches(rows, how.get("seed", 0)).items():
        away = held.to_numpy()
        models = train_average(pixels[~away], labels[~away], **how)
        scores = predict_average(models, pixels[away])
        parts.append(rows.loc[away, ["label", "patient"]].assign(fold=fold, score=scores))
    return pd.concat(parts)

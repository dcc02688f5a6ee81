"""`python -m benchmarks.choose`: score the variants of the better model on the pseudo-batches of train.

No test image is opened. Killed, it goes on where it was. docs/test-set-log.md holds the rule that reads the table.
"""

from pathlib import Path

import click
import numpy as np
import pandas as pd

from benchmarks.measure import ROOT
from xrayhelpers import better, dataset, intervals, models, pixels, sources, training
from xrayhelpers._quiet import keras

NARROW = (16, 32, 64, 64)
VARIANTS: dict[str, dict] = {
    "32 px": {},
    "32 px, narrow": {"filters": NARROW},
    "32 px, each image standardised": {"prepare": "standardise"},
    "28 px": {"size": 28},
    "40 px, narrow": {"size": 40, "filters": NARROW},
    "64 px, narrow": {"size": 64, "filters": NARROW},
}
HEADS = {f"VGG16 block {block}, 32 px, linear": block for block in (2, 3, 4, 5)}


def standardise(images: np.ndarray) -> np.ndarray:
    """Give every image the mean 128 and the standard deviation 48: no exposure is left to learn."""
    centred = images - images.mean(axis=(1, 2, 3), keepdims=True)
    spread = images.std(axis=(1, 2, 3), keepdims=True) + 1e-6
    return np.clip(centred / spread * 48 + 128, 0, 255).astype(np.uint8)


def network_scores(train: pd.DataFrame, folder: Path, size: int = 32, prepare: str = "", **settings) -> pd.DataFrame:
    images = pixels.load_pixels(train, size, channels=1, interpolation="area")
    images = standardise(images) if prepare else images
    return better.held_out_scores(images, train, members=1, **settings, folder=folder)


def head_scores(train: pd.DataFrame, folder: Path, block: int, strength: float = 1e-3) -> pd.DataFrame:
    """Logistic regression on VGG16's features of a block, averaged over the picture and over its mirror image."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    vgg16 = models.report_vgg16(32, units=1, trainable_layers=0)
    answer = keras.layers.GlobalAveragePooling2D()(vgg16.get_layer(f"block{block}_pool").output)
    frozen = keras.Model(vgg16.inputs[0], answer)
    images = pixels.load_pixels(train, 32, interpolation="area")
    how = {"augmentation": training.NONE, "preprocess": keras.applications.vgg16.preprocess_input, "folder": folder}
    views = [training.kept_features(frozen, side, **how)[0] for side in (images, images[:, :, ::-1])]
    features, labels, parts = np.mean(views, axis=0, dtype=np.float32), train["label"].to_numpy(), []
    for fold, held in better.pseudo_batches(train).items():
        away = held.to_numpy()
        head = make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=300))
        scores = head.fit(features[~away], labels[~away]).predict_proba(features[away])[:, 1]
        parts.append(train.loc[away, ["label", "patient"]].assign(fold=fold, score=scores))
    return pd.concat(parts)


def areas(train: pd.DataFrame, held: pd.DataFrame, n_resamples: int = 300) -> dict[str, float]:
    """ROC AUC of each fold, their mean, and its standard error over resamples of the patients of train."""
    labels, _, patients = intervals.check_scores(train["label"], np.zeros(len(train)), train["patient"])
    weights = np.vstack([np.ones(len(train)), intervals.patient_weights(labels, patients, n_resamples, 0)])
    found = {}
    for fold, part in held.groupby("fold", sort=False):
        away = train.index.get_indexer(part.index)
        told = intervals.weighted_metrics(part["label"].to_numpy(), part["score"].to_numpy(), 0.5, weights[:, away])
        found[fold] = told["roc_auc"]
    mean = np.mean(list(found.values()), axis=0)
    return {fold: values[0] for fold, values in found.items()} | {"mean": mean[0], "error": mean[1:].std()}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--data", required=True, help="A chest_xray folder, or phantom.")
@click.option("--only", multiple=True, help="Names of variants.  [default: all]")
@click.option("--epochs", default=15)
@click.option("--folder", default=ROOT / "runs" / "choice", type=click.Path(path_type=Path), show_default=False)
def main(data, only, epochs, folder) -> None:
    """Print a table: one row a variant, its areas on the pseudo-batches."""
    index = dataset.load_index(sources.open_data(data).folder)
    train, rows = index[index["split"] == "train"], {}
    unknown = set(only) - {*VARIANTS, *HEADS}
    if unknown:
        raise click.BadParameter(f"{sorted(unknown)} unknown; expected some of {[*VARIANTS, *HEADS]}.")
    for name in only or [*VARIANTS, *HEADS]:
        if name in VARIANTS:
            held = network_scores(train, folder, epochs=epochs, **VARIANTS[name])
        else:
            held = head_scores(train, folder, HEADS[name])
        rows[name] = areas(train, held)
        click.echo(f"{name}: {rows[name]['mean']:.4f}")
    click.echo(pd.DataFrame(rows).T.sort_values("mean", ascending=False).to_markdown(floatfmt=".4f"))


if __name__ == "__main__":
    main()

"""`python -m benchmarks.test_set`: one look of a finished candidate at the test set, written into docs/test-set-log.md.

Nothing else writes there, and no lesson can: the command refuses to work inside a run.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
import pandas as pd

from benchmarks.measure import ROOT
from xrayhelpers import better, dataset, evaluate, pixels, sources

LOG = ROOT / "docs" / "test-set-log.md"
# Finished candidates: networks and heads (either may be missing); where both are there, their scores are averaged.
NARROW = {"size": 32, "members": 1, "epochs": 15, "filters": (16, 32, 64, 64)}
HEADS = {"size": 32, "members": 10, "block": 3, "strength": 0.1}
CANDIDATES: dict[str, dict[str, dict]] = {
    "vgg16-heads": {"heads": HEADS},
    "narrow-cnn": {"networks": NARROW},
    "both": {"networks": NARROW, "heads": HEADS},
}
MEASURES = ("roc_auc", "accuracy", "sensitivity", "specificity")
TITLES = "date (UTC)", "candidate", "why", "images", "threshold", *(name.replace("_", " ") for name in MEASURES)
MOST_LOOKS, SENSITIVITY = 3, 0.95


def rows_of(log: Path) -> list[list[str]]:
    """Return the cells of every look that is written down, without the titles."""
    lines = [line for line in log.read_text("utf-8").split("## Looks\n")[1].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def check_free(log: Path, candidate: str) -> None:
    """Refuse a look from inside a lesson's run, a second look at a candidate, and a fourth candidate."""
    names = [row[1] for row in rows_of(log)]
    if candidate not in CANDIDATES:
        raise click.UsageError(f"Found --candidate {candidate}; expected one of {', '.join(CANDIDATES)}.")
    if os.environ.get("XRAYS_RUN"):
        raise click.ClickException(
            "Found XRAYS_RUN, so this is a lesson's run; a look is taken from a shell without it."
        )
    if candidate in names:
        raise click.ClickException(f"{candidate} has had its look ({log.name}); each candidate is looked at once.")
    if len(names) >= MOST_LOOKS:
        raise click.ClickException(f"{log.name} holds {len(names)} looks; expected at most {MOST_LOOKS} candidates.")


class Networks:
    """Networks on grey pictures; `rows` are positions in the index."""

    def __init__(self, index: pd.DataFrame, folder: Path, *, size: int, **settings) -> None:
        self.images = pixels.load_pixels(index, size, channels=1, interpolation="area")
        self.labels, self.settings = index["label"].to_numpy(), {**settings, "folder": folder}

    def train(self, rows: np.ndarray, seed: int) -> list:
        """Learn from these rows."""
        return better.train_average(self.images[rows], self.labels[rows], **self.settings, seed=seed)

    def score(self, models: list, rows: np.ndarray) -> np.ndarray:
        """Probability of pneumonia of these rows."""
        return better.predict_average(models, self.images[rows])


class Heads:
    """Heads on VGG16's pooled features. Those of test images are made only when they are scored."""

    def __init__(self, index: pd.DataFrame, folder: Path, *, size: int, block: int, **settings) -> None:
        self.index, self.folder, self.block, self.settings = index, folder, block, settings
        self.images = pixels.load_pixels(index, size, interpolation="area")
        self.kept: dict[str, np.ndarray] = {}

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Features of a whole split are made at once and kept; then rows are taken."""
        (split,) = set(self.index["split"].iloc[rows])
        whole = np.flatnonzero(self.index["split"] == split)
        if split not in self.kept:
            self.kept[split] = better.pooled_features(self.images[whole], self.block, folder=self.folder)
        return self.kept[split][np.searchsorted(whole, rows)]

    def train(self, rows: np.ndarray, seed: int) -> list:
        """Learn from these rows."""
        return better.train_heads(self.features(rows), self.index.iloc[rows], **self.settings, seed=seed)

    def score(self, models: list, rows: np.ndarray) -> np.ndarray:
        """Probability of pneumonia of these rows."""
        return better.predict_heads(models, self.features(rows))


KINDS = {"networks": Networks, "heads": Heads}


def held_out(parts: list, index: pd.DataFrame) -> pd.DataFrame:
    """Score the pseudo-batches of train with models that never saw them (see `better.held_out_scores`)."""
    train = np.flatnonzero(index["split"] == "train")

    def score(learn: np.ndarray, held: np.ndarray) -> np.ndarray:
        return np.mean([part.score(part.train(train[learn], 0), train[held]) for part in parts], axis=0)

    return better.held_out_scores(index.iloc[train], score)


def make_parts(settings: dict[str, dict], index: pd.DataFrame, folder: Path) -> list:
    return [KINDS[kind](index, folder, **how) for kind, how in settings.items()]


def describe(tables: list[pd.DataFrame], name: str) -> str:
    """Say mean and range over the seeds, then every seed with its interval."""
    values = np.array([table.loc[name, "value"] for table in tables])
    each = [f"{t.loc[name, 'value']:.3f} [{t.loc[name, 'low']:.2f}, {t.loc[name, 'high']:.2f}]" for t in tables]
    return f"**{values.mean():.3f}** ({values.min():.3f} to {values.max():.3f}): {'; '.join(each)}"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--candidate", required=True, help="A name in CANDIDATES.")
@click.option("--why", required=True, help="What was chosen, and on which validation.")
@click.option("--data", required=True, help="A chest_xray folder, or phantom.")
@click.option("--seeds", default=5, type=click.IntRange(5))
@click.option("--train-only", is_flag=True, help="Train, and stop before the look. May be killed and repeated.")
@click.option("--log", default=LOG, type=click.Path(path_type=Path, exists=True), show_default=False)
@click.option("--folder", default=ROOT / "runs" / "candidates", type=click.Path(path_type=Path), show_default=False)
def main(candidate, why, data, seeds, train_only, log, folder) -> None:
    """Train a finished candidate on train alone, look at the test set once, and append the look to the log."""
    check_free(log, candidate)
    index = dataset.load_index(sources.open_data(data).folder)
    parts = make_parts(CANDIDATES[candidate], index, folder)
    held = held_out(parts, index)
    threshold = evaluate.choose_threshold(held["label"], held["score"], rule="sensitivity", at_least=SENSITIVITY)
    train, rows = (np.flatnonzero(index["split"] == split) for split in ("train", "test"))
    models = [[part.train(train, seed) for part in parts] for seed in range(seeds)]
    if train_only:
        click.echo(
            f"{candidate}: {seeds} seeds are trained, threshold {threshold:.3f}; the test set was not looked at."
        )
        return
    test = index.iloc[rows]
    scores = [np.mean([p.score(m, rows) for p, m in zip(parts, found, strict=True)], axis=0) for found in models]
    tables = [evaluate.measure(test["label"], s, threshold, test["patient"]) for s in scores]
    counted = f"{len(test)} ({dataset.fingerprint(index)})"
    row = [f"{datetime.now(UTC):%Y-%m-%d %H:%M}", candidate, " ".join(why.replace("|", "/").split()), counted]
    row += [f"{threshold:.3f}", *(describe(tables, name) for name in MEASURES)]
    with log.open("a", encoding="utf-8") as file:
        file.write(f"| {' | '.join(row)} |\n")
    names = test[["name", "label", "patient", "cause"]].reset_index(drop=True)
    names.join(pd.DataFrame(np.transpose(scores))).to_csv(folder / f"{candidate}.csv", index=False)
    click.echo("\n".join(f"{title}: {cell}" for title, cell in zip(TITLES, row, strict=True)))


if __name__ == "__main__":
    main()

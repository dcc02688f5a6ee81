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
# Finished candidates: size of the pictures, and what `better.train_average` is called with.
CANDIDATES: dict[str, dict] = {
    "narrow-cnn": {"size": 32, "members": 1, "epochs": 15, "filters": (16, 32, 64, 64)},
    "narrow-cnn-x3": {"size": 32, "members": 3, "epochs": 15, "filters": (16, 32, 64, 64)},
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
    if os.environ.get("XRAYS_RUN"):
        raise click.ClickException(
            "Found XRAYS_RUN, so this is a lesson's run; a look is taken from a shell without it."
        )
    if candidate in names:
        raise click.ClickException(f"{candidate} has had its look ({log.name}); each candidate is looked at once.")
    if len(names) >= MOST_LOOKS:
        raise click.ClickException(f"{log.name} holds {len(names)} looks; expected at most {MOST_LOOKS} candidates.")


def prepare(candidate: str, train: pd.DataFrame, seeds: int, folder: Path) -> tuple[float, list]:
    """Train on train alone: threshold on the pseudo-batches, then `seeds` averages. What is trained is not repeated."""
    settings = dict(CANDIDATES[candidate])
    images = pixels.load_pixels(train, settings.pop("size"), channels=1, interpolation="area")
    held = better.held_out_scores(images, train, **{**settings, "members": 1}, folder=folder)
    threshold = evaluate.choose_threshold(held["label"], held["score"], rule="sensitivity", at_least=SENSITIVITY)
    labels = train["label"].to_numpy()
    return threshold, [better.train_average(images, labels, **settings, seed=s, folder=folder) for s in range(seeds)]


def describe(tables: list[pd.DataFrame], name: str) -> str:
    """Say mean and range over the seeds, then every seed with its interval."""
    values = np.array([table.loc[name, "value"] for table in tables])
    each = [f"{t.loc[name, 'value']:.3f} [{t.loc[name, 'low']:.2f}, {t.loc[name, 'high']:.2f}]" for t in tables]
    return f"**{values.mean():.3f}** ({values.min():.3f} to {values.max():.3f}): {'; '.join(each)}"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--candidate", required=True, type=click.Choice(sorted(CANDIDATES)))
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
    threshold, models = prepare(candidate, index[index["split"] == "train"], seeds, folder)
    if train_only:
        click.echo(
            f"{candidate}: {seeds} seeds are trained, threshold {threshold:.3f}; the test set was not looked at."
        )
        return
    test = index[index["split"] == "test"]
    images = pixels.load_pixels(test, CANDIDATES[candidate]["size"], channels=1, interpolation="area")
    scores = [better.predict_average(members, images) for members in models]
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

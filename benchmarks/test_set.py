"""`python -m benchmarks.test_set`: one look of a finished candidate at the test set, written into docs/test-set-log.md.

Nothing else writes there, and no lesson can: the command refuses to work inside a run.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd

from benchmarks.better import candidate as fine_tuned
from xrayhelpers.data import fingerprint, load_index, open_data
from xrayhelpers.evaluate import measure

LOG = Path(__file__).resolve().parents[1] / "docs" / "test-set-log.md"
#: A candidate gets the index of train and a seed. It returns its threshold, and a function that scores any rows of an
#: index; test images are first shown to that function.
Candidate = Callable[[pd.DataFrame, int], tuple[float, Callable[[pd.DataFrame], np.ndarray]]]
CANDIDATES: dict[str, Candidate] = {f"vgg16-crops-{size}": fine_tuned(size, epochs=6) for size in (64, 96, 128)}
MEASURES = ("roc_auc", "accuracy", "sensitivity", "specificity")
TITLES = "date (UTC)", "candidate", "why", "images", "threshold", *(name.replace("_", " ") for name in MEASURES)
MOST_LOOKS = 8  # three of 2026-11-23, five of issue 12


def rows_of(log: Path) -> list[list[str]]:
    """Return the cells of every look that is written down, without the titles."""
    lines = [line for line in log.read_text("utf-8").split("## Looks\n")[1].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def check_free(log: Path, candidate: str) -> None:
    """Refuse a look from inside a lesson's run, a second look at a candidate, and one look too many."""
    names = [row[1] for row in rows_of(log)]
    if candidate not in CANDIDATES:
        raise click.UsageError(f"Found --candidate {candidate}; expected one of {', '.join(CANDIDATES) or 'none yet'}.")
    if os.environ.get("XRAYS_RUN"):
        raise click.ClickException("XRAYS_RUN is set, so this is a lesson's run. Type this in a shell without it.")
    if candidate in names:
        raise click.ClickException(f"{candidate} has had its look ({log.name}); each candidate is looked at once.")
    if len(names) >= MOST_LOOKS:
        raise click.ClickException(f"{log.name} holds {len(names)} looks; expected at most {MOST_LOOKS}.")


def describe(tables: list[pd.DataFrame], name: str) -> str:
    """Give mean and range over the seeds, then every seed with its interval."""
    values = np.array([table.loc[name, "value"] for table in tables])
    each = [f"{t.loc[name, 'value']:.3f} [{t.loc[name, 'low']:.2f}, {t.loc[name, 'high']:.2f}]" for t in tables]
    return f"**{values.mean():.3f}** ({values.min():.3f} to {values.max():.3f}): {'; '.join(each)}"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--candidate", required=True, help="A name in CANDIDATES.")
@click.option("--why", required=True, help="What was chosen, and on which validation.")
@click.option("--data", required=True, help="A chest_xray folder, or phantom.")
@click.option("--seeds", default=5, type=click.IntRange(5))
@click.option("--log", default=LOG, type=click.Path(path_type=Path, exists=True), show_default=False)
def main(candidate, why, data, seeds, log) -> None:
    """Train a finished candidate on train alone, look at the test set once, and append the look to the log."""
    check_free(log, candidate)
    index = load_index(open_data(data).folder)
    train, test = (index[index["split"] == split].reset_index(drop=True) for split in ("train", "test"))
    trained = [CANDIDATES[candidate](train, seed) for seed in range(seeds)]
    thresholds, scores = [threshold for threshold, _ in trained], [score(test) for _, score in trained]
    judge = partial(measure, test["label"], patients=test["patient"])
    tables = [judge(one, threshold) for one, threshold in zip(scores, thresholds, strict=True)]
    row = [f"{datetime.now(UTC):%Y-%m-%d %H:%M}", candidate, " ".join(why.replace("|", "/").split())]
    row += [f"{len(test)} ({fingerprint(index)})", f"{min(thresholds):.3f} to {max(thresholds):.3f}"]
    row += [describe(tables, name) for name in MEASURES]
    with log.open("a", encoding="utf-8") as file:
        file.write(f"| {' | '.join(row)} |\n")
    together = judge(np.mean(scores, axis=0), float(np.mean(thresholds))).loc[list(MEASURES), ["value", "low", "high"]]
    click.echo(f"mean of all seeds' scores, at the mean threshold:\n{together.round(3)}")
    click.echo("\n".join(f"{title}: {cell}" for title, cell in zip(TITLES, row, strict=True)))


if __name__ == "__main__":
    main()

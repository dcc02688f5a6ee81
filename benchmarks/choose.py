"""`python -m benchmarks.choose`: score the variants of the better model on the pseudo-batches of train.

No test image is opened. Killed, it goes on where it was. docs/test-set-log.md holds the rule that reads the table.
"""

from pathlib import Path

import click
import pandas as pd

from benchmarks.measure import ROOT
from benchmarks.test_set import held_out, make_parts
from xrayhelpers import better, dataset, sources

NETWORK = {"size": 32, "members": 1, "epochs": 15}
NARROW = {**NETWORK, "filters": (16, 32, 64, 64)}
HEADS = {"size": 32, "members": 10}
VARIANTS: dict[str, dict[str, dict]] = {
    "network, 32 px": {"networks": NETWORK},
    "narrow network, 32 px": {"networks": NARROW},
    "narrow network, 28 px": {"networks": {**NARROW, "size": 28}},
    "narrow network, 40 px": {"networks": {**NARROW, "size": 40}},
    **{
        f"heads on block {block}, C = {strength:g}": {"heads": {**HEADS, "block": block, "strength": strength}}
        for block in (2, 3, 4, 5)
        for strength in (0.001, 0.01, 0.1)
    },
    "narrow network and heads on block 3": {"networks": NARROW, "heads": {**HEADS, "block": 3, "strength": 0.1}},
}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--data", required=True, help="A chest_xray folder, or phantom.")
@click.option("--only", multiple=True, help="Names of variants.  [default: all]")
@click.option("--folder", default=ROOT / "runs" / "choice", type=click.Path(path_type=Path), show_default=False)
def main(data, only, folder) -> None:
    """Print a table: one row a variant, its areas on the pseudo-batches."""
    index = dataset.load_index(sources.open_data(data).folder)
    train, rows = index[index["split"] == "train"].reset_index(drop=True), {}
    unknown = set(only) - set(VARIANTS)
    if unknown:
        raise click.BadParameter(f"{sorted(unknown)} unknown; expected some of {list(VARIANTS)}.")
    for name in only or VARIANTS:
        held = held_out(make_parts(VARIANTS[name], train, folder), train)
        rows[name] = better.fold_areas(train, held)
        click.echo(f"{name}: {rows[name]['mean']:.4f}")
    click.echo(pd.DataFrame(rows).T.sort_values("mean", ascending=False).to_markdown(floatfmt=".4f"))


if __name__ == "__main__":
    main()

"""Run the lessons in order and collect notebooks, pages and results in runs/: `python tools/run.py --help`.

The same command again continues a run that was stopped.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `tools` is not installed

from xrayhelpers import __main__

# What takes a second to import is imported where it is needed: `--help` answers at once.


@contextmanager
def plain_errors() -> Iterator[None]:
    """Show what went wrong as the package's commands do, and say after Ctrl-C how to continue."""
    try:
        with __main__.plain_errors():
            yield
    except KeyboardInterrupt:
        raise click.ClickException("Stopped. What is complete is kept; the same command continues.") from None


def split_words(_context: click.Context, _option: click.Parameter, text: str) -> list[str]:
    """Turn "04,05" into ["04", "05"]."""
    return text.replace(",", " ").split()


def check_classes(_context: click.Context, _option: click.Parameter, text: str) -> str:
    """See that the labels of class folders are given as healthy=0,ill=1."""
    if text and {label for _, _, label in (part.rpartition("=") for part in text.split(","))} != {"0", "1"}:
        raise click.BadParameter(f"{text!r} is not of the form folder=label with labels 0 and 1: healthy=0,ill=1")
    return text


def split_pairs(_context: click.Context, _option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """Turn ("epochs=2",) into {"epochs": "2"}."""
    for pair in pairs:
        if "=" not in pair:
            raise click.BadParameter(f"{pair!r} is not of the form name=value, for example `-p epochs=2`.")
    return dict(pair.split("=", 1) for pair in pairs)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", default="phantom", help='"phantom", "auto", or the path of a chest_xray folder.')
@click.option("--classes", default="", callback=check_classes, help="Labels of class folders: healthy=0,ill=1")
@click.option("--only", default="", callback=split_words, help="Lessons, for example 04,05.")
@click.option("-p", "parameters", multiple=True, callback=split_pairs, help="A lesson's parameter: -p epochs=2")
@click.option("--name", help="Name of the folder in runs/ instead of the automatic one.")
@click.option("--force", is_flag=True, help="Run lessons again that are complete.")
@click.option("--sweep", help="Every combination of a YAML file, see docs/batch.md.")
@click.option("--workers", default=1, show_default=True, help="Processes at a time, with --sweep.")
@click.option("--scheduler", default="", help="A Dask scheduler, with --sweep: tcp://host:8786.")
def main(data, classes, only, parameters, name, force, sweep, workers, scheduler) -> None:
    if classes:
        os.environ["XRAYS_CLASSES"] = classes  # what `load_index` reads, here and in the lessons
    if sweep is not None:
        if only or parameters or name:
            raise click.UsageError("With --sweep, its file names the lessons and parameters: no --only, -p or --name.")
        run_sweep(sweep, data, workers, scheduler, force)
        return
    with plain_errors():
        from tools.runner import collect_results, run_lessons, seen_from

        finished = run_lessons(only, data, parameters, name, force)
        table = collect_results(finished.folder)
        page = seen_from(Path.cwd(), finished.folder / "index.html")
    shown = None if table is None else table.drop(columns="parameters").to_string(index=False)  # the page has them
    click.echo(f"\n{shown or 'No lesson has left a result.'}")
    click.echo(f"\nLook at {shlex.quote(page)} (runs/latest points there).")
    sys.exit(not finished.complete)


def run_sweep(file: str, data: str, workers: int, scheduler: str, force: bool) -> None:
    """Run every combination of a sweep file; the table gets the file's name."""
    with plain_errors():
        from tools.runner import ROOT, seen_from
        from tools.sweep import read_sweep, run_sweep
        from xrayhelpers._machine import resolve

        path = resolve(file)
        table = ROOT / "runs" / f"{path.stem}.csv"
        complete = run_sweep(read_sweep(path, data), table, workers, scheduler, force)
        click.echo(f"\nAll results: {seen_from(Path.cwd(), table)}")
    if not complete:
        raise click.ClickException("Some combinations failed; the same command runs only those again.")


if __name__ == "__main__":
    main()

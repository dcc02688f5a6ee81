"""The command line: ``python -m xrayhelpers run``, ``fetch``, ``doctor``, ``cache``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

# Every command imports what it needs by itself: `--help` answers at once.


@contextmanager
def plain_errors() -> Iterator[None]:
    """Show what went wrong as one paragraph, without a stack trace."""
    try:
        yield
    except (ValueError, FileNotFoundError, OSError) as error:
        raise click.ClickException(str(error)) from error


def split_words(_context: click.Context, _option: click.Parameter, text: str) -> list[str]:
    """Turn "04,05" into ["04", "05"]."""
    return text.replace(",", " ").split()


def split_pairs(_context: click.Context, _option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """Turn ("epochs=2",) into {"epochs": "2"}."""
    for pair in pairs:
        if "=" not in pair:
            raise click.BadParameter(f"{pair!r} is not of the form name=value, for example `-p epochs=2`.")
    return dict(pair.split("=", 1) for pair in pairs)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="xrayhelpers")
def main() -> None:
    """Chest X-ray lessons: run them, fetch images, look at this machine. For learning, not for diagnosis."""


@main.command()
@click.option("--data", default="phantom", help='"phantom", "auto", or the path of a chest_xray folder.')
@click.option("--only", default="", callback=split_words, help="Lessons, for example 04,05.")
@click.option("-p", "parameters", multiple=True, callback=split_pairs, help="A lesson's parameter: -p epochs=2")
@click.option("--name", help="Name of the folder in runs/ instead of the automatic one.")
@click.option("--force", is_flag=True, help="Run lessons again that are complete.")
@click.option("--sweep", type=click.Path(path_type=Path), help="Every combination of a YAML file, see docs/batch.md.")
@click.option("--workers", default=1, show_default=True, help="Processes at a time, with --sweep.")
def run(
    data: str,
    only: list[str],
    parameters: dict[str, str],
    name: str | None,
    force: bool,
    sweep: Path | None,
    workers: int,
) -> None:
    """Run the lessons in order and collect notebooks, pages and results in runs/.

    The same command again goes on where a stopped run was.
    """
    if sweep is not None:
        if only or parameters or name:
            raise click.UsageError(
                "With --sweep, the lessons and parameters stand in its file, not in --only, -p, --name."
            )
        run_sweep(sweep, data, workers, force)
        return
    with plain_errors():
        from xrayhelpers import run as runner

        finished = runner.run_lessons(only, data, parameters, name, force)
        table = runner.collect_results(finished.folder)
    click.echo("\nNo lesson has left a result." if table is None else f"\n{table.to_string(index=False)}")
    click.echo(f"\nLook at {os.path.relpath(finished.folder / 'index.html')} (runs/latest points there).")
    if not finished.complete:
        sys.exit(1)


def run_sweep(file: Path, data: str, workers: int, force: bool) -> None:
    """Run every combination of a sweep file; the table gets the file's name."""
    with plain_errors():
        from xrayhelpers import sweep
        from xrayhelpers.lessons import ROOT

        table = ROOT / "runs" / f"{file.stem}.csv"
        complete = sweep.run_sweep(sweep.read_sweep(file, data), table, workers, force)
    click.echo(f"\nAll results: {os.path.relpath(table)}")
    if not complete:
        click.echo("Some combinations failed; the same command runs only those again.")
        sys.exit(1)


@main.group()
def fetch() -> None:
    """Bring images onto this machine: from Kaggle, from a folder, or drawn."""


@fetch.command("kaggle")
@click.option("--to", "destination", default="data", type=click.Path(path_type=Path), help="Where to put chest_xray/.")
def fetch_kaggle(destination: Path) -> None:
    """Download and unpack the real images (2.3 GB); run it again after an interruption."""
    with plain_errors():
        from xrayhelpers import sources

        click.echo(sources.fetch_kaggle(destination))


@fetch.command("folder")
@click.argument("path", type=click.Path(path_type=Path))
def fetch_folder(path: Path) -> None:
    """Look at a folder of your own and say how to use it."""
    with plain_errors():
        from xrayhelpers import sources

        click.echo(f"{sources.fetch_folder(path)}\nUse it: python -m xrayhelpers run --data {path}")


@fetch.command("phantom")
@click.option("--train", default=400, show_default=True, help="Number of training images.")
@click.option("--test", default=160, show_default=True, help="Number of test images.")
@click.option("--val", default=16, show_default=True, help="Number of images in the val folder.")
@click.option("--seed", default=0, show_default=True, help="Another seed draws other images.")
def fetch_phantom(train: int, test: int, val: int, seed: int) -> None:
    """Draw the embedded data, in any size."""
    with plain_errors():
        from xrayhelpers import phantom

        folder = phantom.phantom_folder(train=train, test=test, val=val, seed=seed)
    options = f"train={train},test={test},val={val},seed={seed}"
    click.echo(f"{folder}\nUse it: python -m xrayhelpers run --data phantom:{options}")


@main.command()
def doctor() -> None:
    """Name versions, device, data, weights and free disk, and what to fix."""
    from xrayhelpers.doctor import check_all

    for check in check_all():
        advice = f"  -> {check.advice}" if check.advice else ""
        click.echo(f"{check.name:<14} {check.found}{advice}")


@main.group()
def cache() -> None:
    """What is kept between runs so that it is made once: phantom images, decoded pixels, weights."""


@cache.command("list")
def cache_list() -> None:
    """List what is kept, with its size."""
    from xrayhelpers.cache import list_cache

    entries = list_cache()
    for entry in entries:
        click.echo(f"{entry.bytes / 1e6:9.1f} MB  {entry.name}")
    click.echo(f"{sum(entry.bytes for entry in entries) / 1e6:9.1f} MB  in all")


@cache.command("clear")
@click.confirmation_option(prompt="Delete it all? It is made again when needed.")
def cache_clear() -> None:
    """Delete all that is kept; it is made again when needed."""
    with plain_errors():
        from xrayhelpers.cache import clear_cache

        click.echo(f"{clear_cache() / 1e6:.1f} MB deleted.")


if __name__ == "__main__":
    main(prog_name="python -m xrayhelpers")

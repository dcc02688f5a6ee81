"""The command line: ``python -m xrayhelpers fetch`` and ``cache``."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click

# Every command imports what it needs by itself: `--help` answers at once.


@contextmanager
def plain_errors() -> Iterator[None]:
    """Show what went wrong, and warnings, as a paragraph each, without a stack trace or a line of code."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
            yield
    except (ValueError, OSError) as error:
        gone = str(error) == "[Errno 2] No such file or directory"  # os.getcwd() names no file
        raise click.ClickException("The folder you are in is gone. Type: cd ~" if gone else str(error)) from error


class Commands(click.Group):
    """Commands with plain errors."""

    def invoke(self, context: click.Context) -> object:
        """Run the command that was typed."""
        with plain_errors():
            return super().invoke(context)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="xrayhelpers")
def main() -> None:
    """Fetch images for the chest X-ray lessons, and tidy up. For learning, not for diagnosis."""


@main.group()
def fetch() -> None:
    """Bring the real images here, or look at a folder of your own."""


@fetch.command("kaggle")
@click.option("--to", "destination", default="data", help="Where to put chest_xray/.")
def fetch_kaggle(destination: str) -> None:
    """Download and unpack the real images (2.3 GB). Run it again after an interruption."""
    from xrayhelpers import _kaggle

    click.echo(_kaggle.fetch_kaggle(destination))


@fetch.command("folder")
@click.argument("path")
@click.option("--classes", default="", help="Labels of class folders with other names: healthy=0,ill=1")
def fetch_folder(path: str, classes: str) -> None:
    """Look at a folder of your own and say how to use it."""
    from xrayhelpers.data import load_index, open_data

    source, words = open_data(path, classes), ["--data", path, *(["--classes", classes] if classes else [])]
    load_index(source.folder)  # says what is wrong with the files
    there = f"data = {path!r}" + (f", classes = {classes!r}" if classes else "")
    click.echo(f"{source}\nUse it: python tools/run.py {shlex.join(words)}, or {there} in a notebook.")


@main.group()
def cache() -> None:
    """Show or clear what is kept: phantom images, pixels, weights."""


@cache.command("list")
def cache_list() -> None:
    """List what is kept, with its size."""
    from xrayhelpers._machine import MOST_CACHE, list_cache

    sizes = list_cache()
    for name, size in sizes.items():
        click.echo(f"{size / 1e6:9.1f} MB  {name}")
    click.echo(f"{sum(sizes.values()) / 1e6:9.1f} MB  in all. Stores of pixels and features that were not used for a")
    click.echo(f"day are deleted, oldest first, when these have more than {MOST_CACHE / 1e9:g} GB.")


@cache.command("clear")
@click.confirmation_option(prompt="Delete it all? It is made again when needed.")
def cache_clear() -> None:
    """Delete what is kept, and nothing else. It is made again when needed."""
    from xrayhelpers._machine import clear_cache

    deleted, left = clear_cache()
    click.echo(f"{deleted / 1e6:.1f} MB deleted.")
    if left:
        click.echo(f"{left} other files or folders there are not from this package: they stay.")


if __name__ == "__main__":
    main(prog_name="python -m xrayhelpers")

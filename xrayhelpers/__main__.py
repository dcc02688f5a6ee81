"""The command line: ``python -m xrayhelpers fetch``, ``doctor``, ``cache``."""

from __future__ import annotations

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
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="xrayhelpers")
def main() -> None:
    """Fetch images for the chest X-ray lessons, and look at this machine. For learning, not for diagnosis."""


@main.group()
def fetch() -> None:
    """Bring images onto this machine: from Kaggle, from a folder, or drawn."""


@fetch.command("kaggle")
@click.option("--to", "destination", default="data", type=click.Path(path_type=Path), help="Where to put chest_xray/.")
def fetch_kaggle(destination: Path) -> None:
    """Download and unpack the real images (2.3 GB); run it again after an interruption."""
    with plain_errors():
        from xrayhelpers import _kaggle

        click.echo(_kaggle.fetch_kaggle(destination))


@fetch.command("folder")
@click.argument("path", type=click.Path(path_type=Path))
def fetch_folder(path: Path) -> None:
    """Look at a folder of your own and say how to use it."""
    with plain_errors():
        from xrayhelpers.data import open_data

        source = open_data(path)
    click.echo(f'{source}\nUse it: make run DATA="{path}", or data = "{path}" in a notebook.')


@fetch.command("phantom")
@click.option("--train", default=400, show_default=True, help="Number of training images.")
@click.option("--test", default=160, show_default=True, help="Number of test images.")
@click.option("--val", default=16, show_default=True, help="Number of images in the val folder.")
@click.option("--seed", default=0, show_default=True, help="Another seed draws other images.")
def fetch_phantom(train: int, test: int, val: int, seed: int) -> None:
    """Draw the embedded data, in any size."""
    data = f"phantom:train={train},test={test},val={val},seed={seed}"
    with plain_errors():
        from xrayhelpers.data import open_data

        source = open_data(data)
    click.echo(f'{source.folder}\nUse it: make run DATA="{data}", or data = "{data}" in a notebook.')


@main.command()
def doctor() -> None:
    """Name versions, device, data, weights and free disk, and what to fix."""
    from xrayhelpers._doctor import check_all

    for check in check_all():
        advice = f"  -> {check.advice}" if check.advice else ""
        click.echo(f"{check.name:<14} {check.found}{advice}")


@main.group()
def cache() -> None:
    """What is kept between runs so that it is made once: phantom images, decoded pixels, weights."""


@cache.command("list")
def cache_list() -> None:
    """List what is kept, with its size."""
    from xrayhelpers._machine import list_cache

    sizes = list_cache()
    for name, size in sizes.items():
        click.echo(f"{size / 1e6:9.1f} MB  {name}")
    click.echo(f"{sum(sizes.values()) / 1e6:9.1f} MB  in all")


@cache.command("clear")
@click.confirmation_option(prompt="Delete it all? It is made again when needed.")
def cache_clear() -> None:
    """Delete what is kept, and nothing else; it is made again when needed."""
    with plain_errors():
        from xrayhelpers._machine import clear_cache

        deleted, left = clear_cache()
    click.echo(f"{deleted / 1e6:.1f} MB deleted.")
    if left:
        click.echo(f"{left} other files or folders there are not from this package: they stay.")


if __name__ == "__main__":
    main(prog_name="python -m xrayhelpers")

"""Run the lessons in order and collect notebooks, pages and results in runs/.

The same command again continues a run that was stopped.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `tools` is not installed

from xrayhelpers import __main__

# What takes a second to import is imported where it is needed: `--help` answers at once.

# The columns of the results that only the page has room for.
ON_PAGE = ["lesson", "sensitivity", "specificity", "parameters"]


@contextmanager
def plain_errors() -> Iterator[None]:
    """Show what went wrong as the package's commands do, and say after Ctrl-C or a kill how to continue."""
    try:
        with __main__.plain_errors():
            yield
    except KeyboardInterrupt as stop:
        raise click.ClickException(f"{stop if stop.args else 'Stopped.'} {how_to_continue()}") from None


def how_to_continue() -> str:
    """Say what is kept, and the command that was typed; with --force it would begin again."""
    words = [word for word in sys.orig_argv if word != "--force"]
    command = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
    return f"Complete lessons are kept, and so are the saved epochs of a training. To continue, type:\n  {command}"


def split_words(_context: click.Context, _option: click.Parameter, text: str) -> list[str]:
    """Turn "04,05" into ["04", "05"]."""
    return text.replace(",", " ").split()


def split_pairs(_context: click.Context, _option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """Turn ("epochs=2",) into {"epochs": "2"}."""
    for pair in pairs:
        if "=" not in pair:
            raise click.BadParameter(f"{pair!r} is not of the form name=value, for example `-p epochs=2`.")
    return dict(pair.split("=", 1) for pair in pairs)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", default="phantom", help='"phantom", "auto", or the path of a chest_xray folder.')
@click.option("--classes", default="", help="Labels of class folders: healthy=0,ill=1")
@click.option("--only", default="", callback=split_words, help="Lessons, for example 04,05.")
@click.option("-p", "parameters", multiple=True, callback=split_pairs, help="A lesson's parameter: -p epochs=2")
@click.option("--name", help="Name of the folder in runs/ instead of the automatic one.")
@click.option("--force", is_flag=True, help="Run lessons again that are complete.")
@click.option("--status", is_flag=True, help="Say how far the last run has got, or the one of --name.")
@click.option("--sweep", help="Every combination of a YAML file, see docs/batch.md.")
@click.option("--workers", default=1, show_default=True, help="Processes at a time, with --sweep.")
@click.option("--scheduler", default="", help="A Dask scheduler, with --sweep: tcp://host:8786.")
def main(data, classes, only, parameters, name, force, status, sweep, workers, scheduler) -> None:
    if not sys.stderr.isatty():
        os.environ["XRAYS_PROGRESS"] = "off"  # no bars in a log
    if classes:
        os.environ["XRAYS_CLASSES"] = classes  # what `load_index` reads, here and in the lessons
    if status:
        with plain_errors():
            from tools.runner import show_status

            click.echo(show_status(name))
        return
    if sweep is not None:
        if only or parameters or name:
            raise click.UsageError("With --sweep, its file names the lessons and parameters: no --only, -p or --name.")
        run_sweep(sweep, data, workers, scheduler, force)
        return
    with plain_errors():
        from tools.runner import run_lessons, seen_from

        finished = run_lessons(only, data, parameters, name, force)
        from tools.pages import collect_results

        table = collect_results(finished.folder)
        page = seen_from(Path.cwd(), finished.folder / "index.html")
    shown = None if table is None else table.drop(columns=ON_PAGE).to_string(index=False)
    click.echo(f"\n{shown or 'No lesson of this run has scored a model.'}")
    click.echo(f"\nLook at {shlex.quote(page)} (runs/latest points there).")
    if not finished.complete:
        raise click.ClickException(f"Not all lessons are complete: see above. {how_to_continue()}")


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
        raise click.ClickException(f"Some combinations failed. {how_to_continue()}")


if __name__ == "__main__":
    for name in {"SIGTERM", "SIGHUP"} & set(dir(signal)):  # a batch system, or a terminal that was closed: as Ctrl-C
        if signal.getsignal(getattr(signal, name)) == signal.SIG_DFL:  # not under nohup
            signal.signal(getattr(signal, name), signal.default_int_handler)
    main()

"""Run lessons, and the solutions of their exercises, on the phantom data and store them, with their outputs, in place.

`make refresh`, or `make refresh ONLY=04,09`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `tools` is not installed

from tools import lessons
from tools.cards import copy_cards
from xrayhelpers._machine import write_atomic


def refresh_lessons(only: Iterable[str] = (), root: Path = lessons.ROOT) -> None:
    """Run lessons on the phantom data with their own parameters and store them in place.

    Lessons that a chosen one needs or reads are run before it, but not stored. The cards that lesson 9 writes go to
    `docs/cards`. Nothing is stored of a lesson that fails, and nothing that differs from run to run: no times, no
    stderr, no state of widgets.
    """
    chosen = lessons.find_lessons(root, only)
    needed = {name for lesson in chosen for name in (lesson.name, *lesson.needs, *lesson.reads)}
    to_run = [lesson for lesson in lessons.find_lessons(root) if lesson.name in needed]
    with (
        tempfile.TemporaryDirectory() as folder,
        lessons.kernel_environment(Path(folder), XRAYS_DATA="phantom"),
    ):
        stored = {
            path for lesson in chosen for path in (lesson.path, lesson.path.parent / "solutions" / lesson.path.name)
        }
        paths = sorted({lesson.path for lesson in to_run} | {path for path in stored if path.is_file()})
        for path in tqdm(paths, desc="refresh", unit="notebook"):
            notebook = nbformat.read(path, as_version=4)
            NotebookClient(
                notebook,
                timeout=None,
                kernel_name="python3",
                resources={"metadata": {"path": str(root)}},
                store_widget_state=False,
                record_timing=False,
                extra_arguments=lessons.KERNEL_ARGUMENTS,
            ).execute()
            if path in stored:
                write_atomic(path, nbformat.writes(clean_notebook(notebook)) + "\n")
        if Path(folder, "cards").is_dir():  # lesson 9 has run
            copy_cards(Path(folder), root / "docs" / "cards")


def clean_notebook(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop what a stored lesson must not hold, and join stream outputs that came in pieces."""
    kept = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    kept |= {"language_info": {"name": "python"}}
    notebook.metadata = nbformat.from_dict(kept | {k: v for k, v in notebook.metadata.items() if k == "xrays"})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        outputs = []
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr" or lessons.WIDGET_VIEW in output.get("data", {}):
                continue
            if output.get("name") == "stdout" and outputs and outputs[-1].get("name") == "stdout":
                outputs[-1].text += output.text
            else:
                outputs.append(output)
        if "outputs" in cell:
            cell.outputs = outputs
    return notebook


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="lessons, for example 04,05")
    refresh_lessons(parser.parse_args().only.replace(",", " ").split())

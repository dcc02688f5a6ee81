"""The lessons as files: find them, read their parameters, and prepare what their kernels inherit.

Nothing here knows what a lesson teaches. A lesson says what it builds on in its notebook metadata::

    "xrays": {"needs": ["04_cnn"], "reads": ["02_knn", "04_cnn"]}
"""

from __future__ import annotations

import ast
import json
import os
import shlex
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The repository: the folder that holds `notebooks/`, `tools/` and `xrayhelpers/`.
ROOT = Path(__file__).resolve().parents[1]

#: For papermill and nbclient: a kernel on our own machine need not warn that its sockets are not encrypted, nor print
#: what it was doing when Ctrl-C ended it.
KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=CRITICAL"]

#: How many images `minutes` and `real_minutes` in docs/lessons.toml were measured on.
PHANTOM_IMAGES, REAL_IMAGES = 576, 5544

#: MIME type of a widget's view. Without its kernel it is an error message, so it is neither stored nor put on a page.
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Lesson:
    """One notebook: its parameters with their defaults, the lessons it builds on, and the source of its cells.

    `code_cells` counts those that run.
    """

    path: Path
    parameters: Mapping[str, Any]
    needs: tuple[str, ...]
    reads: tuple[str, ...]
    cells: tuple[str, ...]
    code_cells: int

    @property
    def name(self) -> str:
        """File name without its ending, for example ``04_cnn``."""
        return self.path.stem


def read_lesson(path: Path) -> Lesson:
    """Read one notebook; ValueError if its parameters cell holds anything but ``name = literal``."""
    notebook = json.loads(path.read_text("utf-8"))  # nbformat takes seconds to import
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    tags = [cell["metadata"].get("tags", []) for cell in notebook["cells"]]
    parameters = {}
    tagged = [source for source, own in zip(sources, tags, strict=True) if "parameters" in own]
    for statement in [line for source in tagged for line in ast.parse(source).body]:
        try:
            (target,) = statement.targets
            parameters[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError):
            raise ValueError(
                f"The parameters cell of {path.name} holds {ast.unparse(statement)!r}. "
                "Write one `name = literal` per line, for example `epochs = 5`."
            ) from None
    notes = notebook["metadata"].get("xrays", {})
    count = sum(cell["cell_type"] == "code" for cell in notebook["cells"])
    return Lesson(path, parameters, tuple(notes.get("needs", ())), tuple(notes.get("reads", ())), tuple(sources), count)


def read_catalog(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Return what ``docs/lessons.toml`` says of each lesson, by name; nothing where there is no such file."""
    path = Path(root) / "docs" / "lessons.toml"
    entries = tomllib.loads(path.read_text("utf-8"))["lesson"] if path.is_file() else []
    return {entry["name"]: entry for entry in entries}


def expected_minutes(entry: Mapping[str, Any], images: int, phantom: bool) -> float | None:
    """Return how long a lesson takes with its own parameters on so many images; None where it was not measured.

    Both measured times lie on a line: a lesson takes its time to start, and then some time for each image.
    """
    drawn, real = entry.get("minutes"), entry.get("real_minutes")
    if drawn and real:
        return max(0.1, drawn + (real - drawn) * (images - PHANTOM_IMAGES) / (REAL_IMAGES - PHANTOM_IMAGES))
    measured, on = (drawn, PHANTOM_IMAGES) if phantom else (real, REAL_IMAGES)
    return measured and measured * images / on


def find_lessons(root: Path = ROOT, only: Iterable[str] = ()) -> list[Lesson]:
    """Find the lessons of a repository, sorted by number.

    Parameters
    ----------
    root : Path
        The repository; its folder ``notebooks`` holds ``01_eda.ipynb`` and so on.
    only : iterable of str
        Numbers ("04" or "4") or names ("04_cnn"); empty means all.

    Raises
    ------
    FileNotFoundError
        If no lesson is there.
    ValueError
        If `only` names a lesson that is not there.
    """
    paths = sorted(Path(root).glob("notebooks/[0-9][0-9]_*.ipynb"))
    if not paths:
        raise FileNotFoundError(f"There is no lesson in {Path(root) / 'notebooks'}. Run this in a whole clone.")
    wanted = [word.zfill(2) for word in only]
    unknown = [word for word in wanted if not any(word in (path.stem, path.stem[:2]) for path in paths)]
    if unknown:
        names = ", ".join(path.stem for path in paths)
        raise ValueError(f"There is no lesson {', '.join(unknown)}. The lessons are {names}; type for example `04,05`.")
    return [read_lesson(path) for path in paths if not wanted or {path.stem, path.stem[:2]} & set(wanted)]


def convert_value(name: str, value: Any, default: Any) -> Any:
    """Bring a value from the command line (text) to the type of the parameter's default, or raise ValueError."""
    if isinstance(value, str) and not isinstance(default, str):
        with suppress(ValueError, SyntaxError):  # what stays text is refused below, with what was expected
            value = ast.literal_eval(value)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and value is not None and type(value) is not type(default):
        raise ValueError(
            f"The parameter {name} is {value!r}, but a value like {default!r} ({type(default).__name__}) "
            f"was expected. Type for example `-p {shlex.quote(f'{name}={default}')}`."
        )
    counts = type(default) in (int, float) and default > 0 and value is not None  # a seed, whose default is 0, does not
    if counts and value <= 0:
        raise ValueError(f"The parameter {name} is {value}; expected more than 0, for example `-p {name}={default}`.")
    return value


def choose_parameters(lessons: Iterable[Lesson], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the values each lesson runs with: its defaults, and of the given values those that it knows.

    Returns
    -------
    dict
        Lesson name -> {parameter: value}, given values converted to the type of the lesson's default.

    Raises
    ------
    ValueError
        If no lesson knows a name, or a value has the wrong type.
    """
    lessons = list(lessons)
    known = sorted({name for lesson in lessons for name in lesson.parameters})
    for name in given:
        if name not in known:
            names = ", ".join(lesson.name for lesson in lessons)
            raise ValueError(f"No parameter is called {name}. Known in {names}: {', '.join(known) or 'none'}.")
    return {
        lesson.name: {
            name: convert_value(name, given.get(name, default), default) for name, default in lesson.parameters.items()
        }
        for lesson in lessons
    }


@contextmanager
def kernel_environment(folder: Path, **more: str) -> Iterator[None]:
    """Set what the kernels of the lessons inherit while the block runs.

    JUPYTER_PATH makes `python3` mean this environment's kernel, not one the user has registered elsewhere.
    """
    before = os.environ.copy()
    os.environ |= {
        "XRAYS_RUN": str(folder),
        "XRAYS_PROGRESS": "off",
        "JUPYTER_PATH": str(Path(sys.prefix, "share", "jupyter")),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else the kernel prints a debugger's warning
        **more,
    }
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)

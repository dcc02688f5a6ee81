"""Run the lessons one after another, headless, and keep what came of them in one folder.

``runs/<data>-<hash>/`` holds the executed notebooks, an HTML page of each, ``index.html``, ``status.json``
and ``results/*.json`` (written by the lessons). The hash stands for the data and for every parameter of every
lesson, so the same command goes on with a killed run, and other parameters never do. ``runs/latest`` points to
the last run.

A lesson is skipped when one that it `needs` failed, and run again when one that it `needs` or `reads` ran anew.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from filelock import FileLock, Timeout
from nbconvert import HTMLExporter

from xrayhelpers import results, sources
from xrayhelpers.lessons import (
    KERNEL_ARGUMENTS,
    ROOT,
    WIDGET_VIEW,
    Lesson,
    choose_parameters,
    find_lessons,
    kernel_environment,
    write_text,
)

#: nbconvert's page without the scripts that it would load from other addresses.
PAGE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}{% block jupyter_widgets %}{% endblock %}
{% block data_png %}{% set alt = output | get_metadata('alt', 'image/png') or '' %}
{{ super() | replace('<img ', '<img alt="' ~ (alt | escape_html) ~ '" ', 1) }}{% endblock %}"""

INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }}
div {{ overflow-x: auto; }} table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ border-bottom: 1px solid #bbb; padding: .3rem .8rem; text-align: left; }} a {{ color: #0b57a4; }}
</style></head><body><main><h1>{title}</h1>
<p>{data}</p><p><strong>For learning, not for diagnosis.</strong></p>
<h2>Lessons</h2><div>{lessons}</div><h2>Results</h2><div>{results}</div></main></body></html>
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a lesson: `state` is "done", "kept", "failed" or "skipped"."""

    state: str
    seconds: float
    digest: str
    message: str = ""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, which data it used, and the outcome of each lesson by name."""

    folder: Path
    data: str
    outcomes: Mapping[str, Outcome]

    @property
    def complete(self) -> bool:
        """Whether no lesson failed and none was skipped."""
        return all(outcome.state in ("done", "kept") for outcome in self.outcomes.values())


# ------------------------------------------------------------------------------------------------- running
def digest_of(*parts: Any) -> str:
    """Return 16 hex digits that stand for the parts (anything JSON can hold)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def list_files(folder: Path) -> list[tuple[str, int]]:
    """List (relative name, bytes) of all files below a folder: cheap, and it tells two data sets apart."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return sorted((path.relative_to(folder).as_posix(), path.stat().st_size) for path in files)


def describe_failure(error: Exception, executed: Path) -> str:
    """Say in one paragraph in which cell (counted as in the lesson) it ended, and how."""
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, papermill.PapermillExecutionError):
        what = f"{error.ename}: {error.evalue}"
    if not executed.exists():
        return what
    cells = [cell for cell in nbformat.read(executed, as_version=4).cells if cell.cell_type == "code"]
    cells = [cell for cell in cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    # After a killed kernel papermill calls every cell "completed"; only those it began have a time of execution.
    begun = [cell for cell in cells if "execution" in cell.metadata]
    if not begun:
        return what
    first_line = (begun[-1].source.strip().splitlines() or [""])[0]
    return f"code cell {cells.index(begun[-1]) + 1} `{first_line}`: {what}"


def execute(lesson: Lesson, values: Mapping[str, Any], folder: Path, root: Path) -> Outcome:
    """Run one lesson with papermill into `folder` and write its HTML page.

    papermill's file can look complete though its kernel was killed, so only its normal return counts as done.
    """
    executed, started, message = folder / lesson.path.name, time.monotonic(), ""
    # tqdm's `disable=None` shows the bar on a terminal only, not in a log file.
    off = True if os.environ.get("XRAYS_PROGRESS") == "off" else None
    try:
        with kernel_environment(folder):
            papermill.execute_notebook(
                lesson.path,
                executed,
                parameters=dict(values),
                cwd=root,
                kernel_name="python3",
                language="python",
                progress_bar={"desc": lesson.name, "leave": False, "disable": off},
                extra_arguments=KERNEL_ARGUMENTS,
            )
    except Exception as error:  # whatever stops one lesson, the others still run
        message = describe_failure(error, executed)
    seconds = round(time.monotonic() - started, 1)
    if executed.exists():
        write_page(executed)
    return Outcome("failed" if message else "done", seconds, digest_lesson(lesson, values), message)


def digest_lesson(lesson: Lesson, values: Mapping[str, Any]) -> str:
    """Return a digest of what decides the outcome: a lesson's cells and parameters, and the package's code."""
    package = [path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))]
    return digest_of(lesson.cells, values, package)


def run_lessons(
    only: Iterable[str] = (),
    data: str | None = "phantom",
    parameters: Mapping[str, Any] | None = None,
    name: str | None = None,
    force: bool = False,
    root: Path = ROOT,
    wait: bool = False,
) -> Run:
    """Run lessons in order; a lesson that is already complete in the same run is kept.

    Parameters
    ----------
    only : iterable of str
        Numbers or names of lessons; empty means all.
    data : str or None
        What `sources.open_data` takes. None: the lessons' own default, and no data is opened here.
    parameters : mapping, optional
        Values for the lessons' parameters cells; each lesson gets those that it knows.
    name : str, optional
        Name of the run's folder instead of ``<data>-<hash>``.
    force : bool
        Run complete lessons again, too.
    root : Path
        Holds ``notebooks/`` and gets ``runs/``; the lessons' working folder.
    wait : bool
        Wait for another run of the same name instead of raising.

    Raises
    ------
    ValueError, FileNotFoundError
        Unknown lesson, parameter or data, or a run of this name is going on: before any lesson starts.
    """
    root = Path(root).resolve()
    lessons = find_lessons(root, only)
    given = dict(parameters or {})
    data = given.pop("data", data)
    if name and Path(name).name != name:
        raise ValueError(f"--name {name!r} is not the name of one folder. Type for example `--name monday`.")
    source = sources.open_data(data) if data is not None else None
    if source is not None and any("data" in lesson.parameters for lesson in lessons):
        given["data"] = data if source.name == "phantom" else Path(os.path.relpath(source.folder, root)).as_posix()
    values = choose_parameters(lessons, given)
    everything = choose_parameters(find_lessons(root), given)  # so that `--only` is a part of the whole run
    identity = [source.name, list_files(source.folder)] if source is not None else ["lessons", []]
    folder = root / "runs" / (name or f"{identity[0]}-{digest_of(identity, everything)[:8]}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=-1 if wait else 0):
            return _run_in(folder, lessons, values, str(source) if source else "The lessons' own data.", force, root)
    except Timeout:
        raise ValueError(
            f"Another run is writing to runs/{folder.name}. Wait until it ends, or type `--name another`."
        ) from None


def _run_in(folder: Path, lessons: list[Lesson], values: Mapping[str, dict], data: str, force: bool, root: Path) -> Run:
    point_latest(folder)
    status = folder / "status.json"
    known = json.loads(status.read_text("utf-8"))["lessons"] if status.exists() else {}
    outcomes = {key: Outcome(**value) for key, value in known.items()}
    ran, here = set(), {}
    print(f"{data}\nWriting to {folder.relative_to(root)}", flush=True)
    for lesson in lessons:
        digest, before = digest_lesson(lesson, values[lesson.name]), outcomes.get(lesson.name)
        failed = [need for need in lesson.needs if need in here and here[need].state in ("failed", "skipped")]
        complete = before is not None and before.state in ("done", "kept") and before.digest == digest
        if failed:
            outcome = Outcome("skipped", 0.0, digest, f"needs {', '.join(failed)}, which did not finish")
        elif complete and not force and not ran & {*lesson.needs, *lesson.reads}:
            outcome = Outcome("kept", before.seconds, digest)
        else:
            outcome = execute(lesson, values[lesson.name], folder, root)
            ran.add(lesson.name)
        here[lesson.name] = outcomes[lesson.name] = outcome
        print(
            f"{lesson.name:<20} {outcome.state:<8} {outcome.seconds / 60:5.1f} min  {outcome.message}",
            flush=True,
        )
        write_text(
            status,
            json.dumps({"data": data, "lessons": {k: asdict(v) for k, v in outcomes.items()}}, indent=1),
        )
        write_index(folder, data, outcomes)
    return Run(folder, data, here)


# ---------------------------------------------------------------------------------------------- what is left
def point_latest(folder: Path) -> None:
    """Let ``runs/latest`` point to a run: a link, or a text file with its name where links cannot be made."""
    latest, temporary = folder.parent / "latest", folder.parent / f".latest.{os.getpid()}"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name, target_is_directory=True)
        os.replace(temporary, latest)
    except OSError:
        write_text(latest, folder.name + "\n")


def write_page(executed: Path) -> None:
    """Write the HTML page of an executed notebook beside it; it needs no network to be read."""
    notebook = nbformat.read(executed, as_version=4)
    for cell in notebook.cells:
        if "outputs" in cell:  # without a kernel a widget is dead: its static figure speaks
            cell.outputs = [output for output in cell.outputs if WIDGET_VIEW not in output.get("data", {})]
    notebook.metadata.pop("widgets", None)
    exporter = HTMLExporter(raw_template=PAGE, anchor_link_text=" ")
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": executed.stem}})
    write_text(executed.with_suffix(".html"), page)


def collect_results(folder: Path) -> Any:
    """Return the table of `results.results_table` over a run, or None where no lesson left a result."""
    if not any((folder / "results").glob("*.json")):
        return None
    return results.results_table(results.read_results(folder / "results"))


def write_index(folder: Path, data: str, outcomes: Mapping[str, Outcome]) -> None:
    """Write ``index.html``: the lessons with their state and minutes, and the results table."""
    rows = "".join(
        f'<tr><td><a href="{name}.html">{name}</a></td><td>{outcome.state}</td>'
        f"<td>{outcome.seconds / 60:.1f}</td><td>{html.escape(outcome.message)}</td></tr>"
        for name, outcome in sorted(outcomes.items())
    )
    lessons = f"<table><tr><th>lesson</th><th>state</th><th>minutes</th><th>note</th></tr>{rows}</table>"
    table = collect_results(folder)
    scores = "<p>No lesson has left a result yet.</p>" if table is None else table.to_html(border=0)
    title = f"Chest X-ray lessons: {html.escape(folder.name)}"
    write_text(
        folder / "index.html",
        INDEX.format(title=title, data=html.escape(data), lessons=lessons, results=scores),
    )

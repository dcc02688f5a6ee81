"""Run the lessons one after another, headless, and keep what came of them in one folder.

``runs/<data>-<hash>/`` holds the executed notebooks, an HTML page of each, ``index.html``, ``status.json``
and ``results/*.json`` (written by the lessons). The hash stands for the data and for every parameter of every
lesson, so the same command continues a run that was killed, and other parameters never do. ``runs/latest`` points to
the last run. Whatever is read from such a folder may be damaged, or come from anywhere: it is checked, and what data
wrote into an output is shown on a page, never run.

A lesson is skipped when one that it `needs` failed, and run again when one that it `needs` or `reads` has run.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
from filelock import FileLock, Timeout
from nbconvert import HTMLExporter
from nbconvert.preprocessors.sanitize import SanitizeHTML

from tools.lessons import (
    KERNEL_ARGUMENTS,
    ROOT,
    WIDGET_VIEW,
    Lesson,
    choose_parameters,
    find_lessons,
    kernel_environment,
)
from xrayhelpers._machine import StorageError, package_digest, setting, storing, write_atomic

#: nbconvert's page without the scripts that it would load from other addresses.
PAGE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}{% block jupyter_widgets %}{% endblock %}
{% block data_png %}{% set alt = output | get_metadata('alt', 'image/png') or '' %}
{{ super() | replace('<img ', '<img alt="' ~ (alt | escape_html) ~ '" ', 1) }}{% endblock %}"""

#: What may be in an output: the tags of tables, cards and exercises; no script, no event, no address that runs code.
SAFE = SanitizeHTML()
SAFE.tags = [*SAFE.tags, "br", "details", "div", "hr", "p", "pre", "span", "summary", *(f"h{n}" for n in range(1, 7))]
SAFE.tags += ["caption", "table", "tbody", "td", "tfoot", "th", "thead", "tr"]
SAFE.attributes = {**SAFE.attributes, "*": ["border", "class", "colspan", "open", "rowspan", "style"]}

INDEX = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body {{ font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }}
div {{ overflow-x: auto; }} table {{ border-collapse: collapse; }} a {{ color: #0b57a4; }}
th, td {{ border-bottom: 1px solid #bbb; padding: .3rem .8rem; text-align: left; }}</style></head>
<body><main><h1>{title}</h1><p>{data}</p><p><strong>For learning, not for diagnosis.</strong></p>
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
    """A finished run: its folder, and the outcome of each lesson by name."""

    folder: Path
    outcomes: Mapping[str, Outcome]

    @property
    def complete(self) -> bool:
        """Whether no lesson failed and none was skipped."""
        return all(outcome.state in ("done", "kept") for outcome in self.outcomes.values())


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
        What `xrayhelpers.data.open_data` takes. None: the lessons' own default, and no data is opened here.
    parameters : mapping, optional
        Values for the lessons' parameters cells; each lesson gets those that it knows.
    name : str, optional
        Name of the run's folder instead of ``<data>-<hash>``.
    force : bool
        Run complete lessons again, too, without the checkpoints and the search that they keep.
    root : Path
        Holds ``notebooks/`` and gets ``runs/``; the lessons' working folder.
    wait : bool
        Wait for another run of the same name instead of raising.

    Raises
    ------
    ValueError, FileNotFoundError
        Unknown lesson, parameter or data, a run of this name is going on, or one of other data has this name: before
        any lesson starts.
    StorageError
        The run's folder cannot be made.
    """
    root = Path(root).resolve()
    lessons, given = find_lessons(root, only), dict(parameters or {})
    data = given.pop("data", data)
    if name and (name == "latest" or not re.fullmatch(r"\w[\w.-]*", name)):
        raise ValueError(f"--name {name!r} is not the name of a folder for a run. Type for example `--name monday`.")
    identity, words = ["lessons", []], "The lessons' own data."
    if data is not None:
        from xrayhelpers.data import fingerprint, load_index, open_data

        source = open_data(data, given.get("classes", ""))
        identity, words = [source.name, fingerprint(load_index(source.folder)), setting("XRAYS_CLASSES")], str(source)
        if any("data" in lesson.parameters for lesson in lessons):
            given["data"] = data if source.name == "phantom" else seen_from(root, source.folder)
    values = choose_parameters(lessons, given)
    everything = choose_parameters(find_lessons(root), given)  # so that `--only` is a part of the whole run
    folder = root / "runs" / (name or f"{identity[0]}-{digest_of(identity, everything)[:8]}")
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=-1 if wait else 0):
            return _run_in(folder, lessons, values, words, digest_of(identity), force, root)
    except Timeout:
        raise ValueError(
            f"Another run is writing to runs/{folder.name}. Wait until it ends, or type `--name another`."
        ) from None


def _run_in(
    folder: Path, lessons: list[Lesson], values: Mapping[str, dict], data: str, identity: str, force: bool, root: Path
) -> Run:
    owner, outcomes = read_status(folder / "status.json")
    if owner not in ("", identity):
        raise ValueError(f"runs/{folder.name} holds results of other data. Type `--name {folder.name}-2`, or another.")
    point_latest(folder)
    ran, here = set(), {}
    print(f"{data}\nWriting to {folder.relative_to(root)}", flush=True)
    if force:
        forget(folder, lessons)
    for lesson in lessons:
        digest, before = digest_lesson(lesson, values[lesson.name]), outcomes.get(lesson.name)
        failed = [need for need in lesson.needs if need in here and here[need].state in ("failed", "skipped")]
        complete = before is not None and before.state in ("done", "kept") and before.digest == digest
        if failed:
            outcome = Outcome("skipped", 0.0, digest, f"needs {', '.join(failed)}, which did not finish")
        elif complete and not force and not ran & {*lesson.needs, *lesson.reads}:
            outcome = Outcome("kept", before.seconds, digest)
        else:
            seconds, message = execute(lesson, values[lesson.name], folder, root)
            outcome = Outcome("failed" if message else "done", seconds, digest, message)
            ran.add(lesson.name)
        here[lesson.name] = outcomes[lesson.name] = outcome
        print(f"{lesson.name:<20} {outcome.state:<8} {outcome.seconds / 60:5.1f} min  {outcome.message}", flush=True)
        noted = {"data": data, "identity": identity, "lessons": {k: asdict(v) for k, v in outcomes.items()}}
        try:
            write_atomic(folder / "status.json", json.dumps(noted))
            write_index(folder, data, outcomes)
        except StorageError as error:  # the other lessons may still fit, and this one is run again the next time
            print(error, flush=True)
    return Run(folder, here)


def read_status(path: Path) -> tuple[str, dict[str, Outcome]]:
    """Read what an earlier run noted: a digest of its data ("" if unknown), and the lessons' outcomes."""
    try:
        status, outcomes = json.loads(path.read_text("utf-8")), {}
        for name, kept in status["lessons"].items():
            if re.fullmatch(r"\d\d_\w+", name):
                texts = (str(kept["state"]), float(kept["seconds"]), str(kept["digest"]), str(kept["message"]))
                outcomes[name] = Outcome(*texts)
        return str(status.get("identity", "")), outcomes
    except FileNotFoundError:
        return "", {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        print(f"{path.name} is damaged ({type(error).__name__}: {error}), so all lessons run again.", flush=True)
        return "", {}


def forget(folder: Path, lessons: Iterable[Lesson]) -> None:
    """Delete the checkpoints and the search of a run, where one of these lessons keeps them."""
    text = "\n".join(cell for lesson in lessons for cell in lesson.cells)
    if "checkpoints" in text:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    if "search.db" in text:
        for path in folder.glob("search.db*"):
            path.unlink()


def execute(lesson: Lesson, values: Mapping[str, Any], folder: Path, root: Path) -> tuple[float, str]:
    """Run one lesson with papermill into `folder` and write its page; return its seconds and what went wrong.

    papermill's file can look complete though its kernel was killed, so only its normal return counts as done.
    """
    executed, started, message = folder / lesson.path.name, time.monotonic(), ""
    bar = sys.stderr.isatty() and os.environ.get("XRAYS_PROGRESS") != "off"
    how = {"kernel_name": "python3", "language": "python", "extra_arguments": KERNEL_ARGUMENTS}
    print(f"{lesson.name:<20} started {time.strftime('%H:%M')}", flush=True)
    try:
        with kernel_environment(folder), storing(executed):
            papermill.execute_notebook(lesson.path, executed, dict(values), cwd=root, progress_bar=bar, **how)
    except Exception as error:  # whatever stops one lesson, the others still run
        message = describe_failure(error, executed)
    seconds = round(time.monotonic() - started, 1)
    try:
        write_page(executed)
    except (OSError, ValueError) as error:  # no notebook, or half of one
        message = message or f"no page: {error}"
    return seconds, message


def describe_failure(error: Exception, executed: Path) -> str:
    """Say in one paragraph in which cell (counted as in the lesson) it ended, and how."""
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, papermill.PapermillExecutionError):
        what = f"{error.ename}: {error.evalue}"
    if isinstance(error, StorageError):
        return str(error)
    cells = nbformat.read(executed, as_version=4).cells if executed.exists() else []
    cells = [cell for cell in cells if cell.cell_type == "code"]
    cells = [cell for cell in cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    # After a killed kernel papermill calls every cell "completed"; only those it began have a time of execution.
    begun = [cell for cell in cells if "execution" in cell.metadata]
    if not begun:
        return what
    first_line = (begun[-1].source.strip().splitlines() or [""])[0]
    return f"code cell {cells.index(begun[-1]) + 1} `{first_line}`: {what}"


# ------------------------------------------------------------------------------------------------ what is the same
def digest_of(*parts: Any) -> str:
    """Return 16 hex digits that stand for the parts (anything JSON can hold)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def digest_lesson(lesson: Lesson, values: Mapping[str, Any]) -> str:
    """Return a digest of what decides the outcome: a lesson's cells and parameters, and the package's code."""
    return digest_of(lesson.cells, values, package_digest())


def seen_from(root: Path, folder: Path) -> str:
    """Return a folder as a path relative to `root`; in full where it lies on another drive (Windows)."""
    try:
        return Path(os.path.relpath(folder, root)).as_posix()
    except ValueError:
        return Path(folder).as_posix()


# ---------------------------------------------------------------------------------------------------- what is left
def point_latest(folder: Path) -> None:
    """Let ``runs/latest`` point to a run: a link, or a text file with its name where links cannot be made."""
    latest, temporary = folder.parent / "latest", folder.parent / f".latest.{os.getpid()}"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name, target_is_directory=True)
        os.replace(temporary, latest)
    except OSError:
        write_atomic(latest, folder.name + "\n")


def write_page(executed: Path) -> None:
    """Write the HTML page of an executed notebook beside it; it needs no network to be read.

    The notebook itself loses the paths of this machine that papermill noted.
    """
    notebook = nbformat.read(executed, as_version=4)
    for key in {"input_path", "output_path"} & set(notebook.metadata.get("papermill", {})):
        notebook.metadata.papermill[key] = executed.name
    write_atomic(executed, nbformat.writes(notebook) + "\n")
    for cell in notebook.cells:
        if "outputs" in cell:  # without a kernel a widget shows nothing: its static figure is kept
            cell.outputs = [output for output in cell.outputs if WIDGET_VIEW not in output.get("data", {})]
            for output in cell.outputs:  # pandas brings a style sheet with each table; the page has its own
                if "text/html" in output.get("data", {}):
                    output.data["text/html"] = re.sub(r"(?s)<style.*?</style>", "", output.data["text/html"])
            cell.outputs = SAFE.sanitize_code_outputs(cell.outputs)
    notebook.metadata.pop("widgets", None)
    exporter = HTMLExporter(raw_template=PAGE, anchor_link_text=" ")
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": executed.stem}})
    # In Markdown, a link may run code; ours are addresses, or names without a colon.
    page = re.sub(r'(<a\b[^>]*? href=")(?!https?:|mailto:|[^":&]*")[^"]*"', r'\1#"', page)
    # Links to other lessons lead to their pages, and links to the repository start two folders higher.
    page = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', page)
    page = page.replace('href="../docs/', 'href="../../docs/').replace(
        'href="solutions/', 'href="../../notebooks/solutions/'
    )
    write_atomic(executed.with_suffix(".html"), page)


def collect_results(folder: Path) -> Any:
    """Return the table of `results.results_table` over a run, or None where no lesson left a result."""
    if not any((folder / "results").glob("*.json")):
        return None
    from xrayhelpers.results import read_results, results_table

    try:
        return results_table(read_results(folder / "results"))
    except FileNotFoundError:  # none of the files is a result
        return None


def write_index(folder: Path, data: str, outcomes: Mapping[str, Outcome]) -> None:
    """Write ``index.html``: the lessons with their state and minutes, and the results table."""
    lessons = pd.DataFrame(
        {
            "lesson": f'<a href="{name}.html">{name}</a>',
            "state": html.escape(outcome.state),
            "minutes": f"{outcome.seconds / 60:.1f}",
            "note": html.escape(outcome.message),
        }
        for name, outcome in sorted(outcomes.items())
    )
    table, title = collect_results(folder), f"Chest X-ray lessons: {folder.name}"
    scores = "<p>No lesson has left a result yet.</p>" if table is None else table.to_html(border=0)
    tables = {"lessons": lessons.to_html(escape=False, index=False, border=0), "results": scores}
    write_atomic(folder / "index.html", INDEX.format(title=title, data=html.escape(data), **tables))

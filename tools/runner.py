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
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tools.lessons import (
    KERNEL_ARGUMENTS,
    ROOT,
    Lesson,
    choose_parameters,
    expected_minutes,
    find_lessons,
    kernel_environment,
)
from tools.waiting import NOTE_TRAINING, Watch, in_words
from xrayhelpers._machine import StorageError, cores, package_digest, setting, storing, write_atomic

# papermill and nbconvert, which take seconds to import, are imported when nothing is left to refuse.

PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn")


@dataclass(frozen=True)
class Outcome:
    """What became of a lesson: `state` is "running", "done", "kept", "failed", "skipped" or "stopped".

    `memory` is the most that its kernel had, in GB.
    """

    state: str
    seconds: float
    digest: str
    message: str = ""
    memory: float = 0.0


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
    choose_parameters(lessons, given)  # refused before anything is drawn or read
    data = given.pop("data", data)
    if name and (name == "latest" or not re.fullmatch(r"\w[\w.-]*", name)):
        raise ValueError(f"--name {name!r} is not the name of a folder for a run. Type for example `--name monday`.")
    identity, words, images = ["lessons", []], "The lessons' own data.", None
    if data is not None:
        from xrayhelpers.data import fingerprint, load_index, open_data

        source = open_data(data, given.get("classes", ""))
        index = load_index(source.folder)
        identity, words = [source.name, fingerprint(index), setting("XRAYS_CLASSES")], str(source)
        images = len(index)
        if any("data" in lesson.parameters for lesson in lessons):
            given["data"] = data if source.name == "phantom" else seen_from(root, source.folder)
    values = choose_parameters(lessons, given)
    everything = choose_parameters(find_lessons(root), given)  # so that `--only` is a part of the whole run
    folder = root / "runs" / (name or f"{identity[0]}-{digest_of(identity, everything)[:8]}")
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=-1 if wait else 0):
            about, outcomes = read_status(folder / "status.json")
            if about.get("identity", "") not in ("", digest_of(identity)):
                text = f"runs/{folder.name} holds results of other data. Type `--name {folder.name}-2`, or another."
                raise ValueError(text)
            about = {"identity": digest_of(identity), "data": words, **describe_machine()}
            record = Record(folder, root, about, outcomes)
            expected = {
                one.name: expect(one, values[one.name], record.pages.catalog, images, identity[0]) for one in lessons
            }
            return _run_in(record, lessons, values, expected, force)
    except Timeout:
        raise ValueError(
            f"Another run is writing to runs/{folder.name}. Wait until it ends, or type `--name another`."
        ) from None


def _run_in(
    record: Record, lessons: list[Lesson], values: Mapping[str, dict], expected: Mapping[str, str], force: bool
) -> Run:
    point_latest(record.folder)
    ran, here = set(), {}
    print(f"{record.about['data']}\nWriting to {record.folder.relative_to(record.root)}", flush=True)
    if force:
        forget(record.folder, lessons)
    try:
        for lesson in lessons:
            digest, before = digest_lesson(lesson, values[lesson.name]), record.outcomes.get(lesson.name)
            failed = [need for need in lesson.needs if need in here and here[need].state in ("failed", "skipped")]
            complete = before is not None and before.state in ("done", "kept") and before.digest == digest
            if failed:
                outcome = Outcome("skipped", 0.0, digest, f"needs {', '.join(failed)}, which did not finish")
            elif complete and not force and not ran & {*lesson.needs, *lesson.reads}:
                outcome = replace(before, state="kept", message="")
            else:
                print(f"{lesson.name}: {expected[lesson.name]} (started at {time.strftime('%H:%M')})", flush=True)
                outcome = execute(lesson, values[lesson.name], digest, record)
                ran.add(lesson.name)
            here[lesson.name] = outcome
            print(in_one_line(lesson.name, outcome), flush=True)
            record.note(lesson.name, outcome)
            if outcome.state == "stopped":
                raise KeyboardInterrupt(f"Stopped in {lesson.name}, {outcome.message}.")
        run = Run(record.folder, here)
        record.state = "done" if run.complete else "failed"
        return run
    finally:
        record.state = "stopped" if record.state == "running" else record.state
        record.write()


# ------------------------------------------------------------------------------------------------ what is written down
class Record:
    """What is written down of a run as it goes on: ``status.json`` and ``index.html``.

    Whoever makes one holds the run's lock, so a lesson that was running before was stopped.
    """

    def __init__(self, folder: Path, root: Path, about: Mapping[str, str], outcomes: Mapping[str, Outcome]):
        from tools.pages import Pages

        self.folder, self.root, self.about, self.outcomes = folder, root, dict(about), dict(outcomes)
        self.pages, self.state = Pages(folder, root), "running"
        self.stop()

    def stop(self) -> None:
        """Nothing runs any more."""
        for name, outcome in self.outcomes.items():
            if outcome.state == "running":
                self.outcomes[name] = replace(outcome, state="stopped")

    def note(self, name: str, outcome: Outcome) -> None:
        """Note what became of a lesson, or how far it is."""
        self.outcomes[name] = outcome
        self.write()

    def write(self) -> None:
        """Write it all down; a disk that is full is named, and stops no lesson."""
        if self.state != "running":
            self.stop()
        self.about |= {"state": self.state, "written": time.strftime("%Y-%m-%d %H:%M:%S")}
        noted = self.about | {"lessons": {name: asdict(outcome) for name, outcome in self.outcomes.items()}}
        try:
            write_atomic(self.folder / "status.json", json.dumps(noted, indent=1))
            self.pages.write_index(self.about, self.outcomes)
        except StorageError as error:  # the other lessons may still fit, and this one is run again the next time
            print(error, flush=True)


def read_status(path: Path) -> tuple[dict[str, str], dict[str, Outcome]]:
    """Read what an earlier run noted: about itself, and the lessons' outcomes; nothing where there is none."""
    try:
        status, outcomes = json.loads(path.read_text("utf-8")), {}
        for name, kept in status["lessons"].items():
            if re.fullmatch(r"\d\d_\w+", name):
                texts = (str(kept["state"]), float(kept["seconds"]), str(kept["digest"]), str(kept["message"]))
                outcomes[name] = Outcome(*texts, float(kept.get("memory", 0.0)))
        return {key: str(text) for key, text in status.items() if key != "lessons"}, outcomes
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        print(f"{path.name} is damaged ({type(error).__name__}: {error}), so all lessons run again.", flush=True)
        return {}, {}


def show_status(name: str | None = None, root: Path = ROOT) -> str:
    """Say how far the last run is, or the one of this name; a run that was killed is noted as stopped.

    Raises
    ------
    ValueError
        There is no such run.
    """
    latest = root / "runs" / (name or "latest")
    folder = (root / "runs" / latest.read_text().strip() if latest.is_file() else latest).resolve()
    if not (folder / "status.json").is_file():
        raise ValueError(f"There is no run in {seen_from(root, latest)}. Type `python tools/run.py`, or name another.")
    about, outcomes = read_status(folder / "status.json")
    try:
        with FileLock(folder / ".lock", timeout=0):
            if about.get("state") == "running":
                record = Record(folder, root, about, outcomes)
                record.state = "stopped"
                record.write()
                about, outcomes = record.about, record.outcomes
    except Timeout:
        pass  # it is running
    lines = [f"{seen_from(root, folder)}: {about.get('state', 'done')}, written {about.get('written', 'long ago')}"]
    for lesson, outcome in outcomes.items():
        lines.append(in_one_line(lesson, outcome))
    return "\n".join(lines)


def in_one_line(name: str, outcome: Outcome) -> str:
    """Return what became of a lesson as a line of a table."""
    figures = f"{outcome.seconds / 60:5.1f} min {outcome.memory:5.1f} GB" if outcome.seconds else ""
    return f"{name:<20} {outcome.state:<8} {figures}  {outcome.message}".rstrip()


def describe_machine() -> dict[str, str]:
    """Return when this is, the processor, and the versions; not the name of the machine."""
    found = Path("/proc/cpuinfo")
    lines = found.read_text().splitlines() if found.exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    versions = {"Python": platform.python_version(), "system": platform.system()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "started": time.strftime("%Y-%m-%d %H:%M"),
        "device": f"{model or platform.machine()}, {cores()} cores",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }


def expect(lesson: Lesson, values: Mapping[str, Any], catalog: Mapping, images: int | None, source: str) -> str:
    """Say how long a lesson will take, by the minutes in the catalog of lessons."""
    entry = catalog.get(lesson.name, {})
    minutes = None if images is None else expected_minutes(entry, images, source == "phantom")
    if minutes is None:
        return "no measured time" + (f" on {images:,} images" if images else "")
    same = {name: value for name, value in values.items() if name not in ("data", "classes", "seed")}
    other = "" if same.items() <= lesson.parameters.items() else " with its default parameters"
    return f"about {in_words(60 * minutes)} on {images:,} images{other}"


# ------------------------------------------------------------------------------------------------ one lesson
def forget(folder: Path, lessons: Iterable[Lesson]) -> None:
    """Delete the checkpoints of these lessons, which bear the names that they give to `Resume`, and their search."""
    text = "\n".join(cell for lesson in lessons for cell in lesson.cells)
    for name in re.findall(r'\bname=f?"(\w+)', text):
        for place in (folder / "checkpoints").glob(f"{name}-*"):
            shutil.rmtree(place, ignore_errors=True)
    if "search.db" in text:
        for path in folder.glob("search.db*"):
            path.unlink()


def execute(lesson: Lesson, values: Mapping[str, Any], digest: str, record: Record) -> Outcome:
    """Run one lesson with papermill, show and note how far it is, and write its page.

    papermill's file can look complete though its kernel was killed, so only its normal return counts as done.
    """
    executed, began, state, message = record.folder / lesson.path.name, time.monotonic(), "done", ""

    def seconds() -> float:
        return round(time.monotonic() - began, 1)

    def note(words: str) -> None:
        record.note(lesson.name, Outcome("running", seconds(), digest, words))

    note("begins")
    how = {"kernel_name": "python3", "language": "python", "extra_arguments": [*KERNEL_ARGUMENTS, *NOTE_TRAINING]}
    how |= {"cwd": record.root, "progress_bar": False}
    with Watch(lesson, record.folder, note) as watch:
        try:
            with kernel_environment(record.folder), storing(executed):
                run_notebook(lesson.path, executed, dict(values), on_cell_execute=watch.on_cell, **how)
        except KeyboardInterrupt:
            state, message = "stopped", watch.place
        except Exception as error:  # whatever stops one lesson, the others still run
            state, message = "failed", describe_failure(error, watch.place)
    outcome = Outcome(state, seconds(), digest, message, round(watch.memory, 2))
    try:
        record.pages.write_lesson(executed)
    except (OSError, ValueError) as error:  # no notebook, or half of one
        outcome = outcome if message else replace(outcome, state="failed", message=f"no page: {error}")
    return outcome


def run_notebook(path: Path, executed: Path, values: dict[str, Any], **how: Any) -> None:
    """Run a notebook with papermill, and again where no kernel came up.

    Kernels of two processes that start at the same moment may choose the same ports, and one of them dies (as in a
    sweep with several workers; jupyter_client keeps ports apart within one process only).
    """
    import papermill

    for left in (2, 1, 0):
        try:
            papermill.execute_notebook(path, executed, values, **how)
            return
        except RuntimeError as error:
            if not left or "died before replying" not in str(error):
                raise


def describe_failure(error: Exception, place: str) -> str:
    """Say in one paragraph in which cell (counted as in the lesson) it ended, and how."""
    if isinstance(error, StorageError):
        return str(error)
    what = f"{type(error).__name__}: {error}"
    if hasattr(error, "ename"):  # an error of the lesson
        what = f"{error.ename}: {error.evalue}"
    if type(error).__name__ == "DeadKernelError":
        what = f"{type(error).__name__}: it was killed from outside, or the memory was full"
    return f"{place}: {what}"


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

"""Run lessons with every combination of some parameters, over several processes, and collect one table.

A file says what to run; a list is varied, a single value is the same for all::

    {lessons: [04], parameters: {seed: [0, 1, 2], image_size: [32, 64], epochs: 3}}

Each combination is an ordinary run (`runner.run_lessons`) with a folder of its own, so the same command again skips
what is complete and continues where a killed process was.
"""

from __future__ import annotations

import io
import itertools
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tools.lessons import ROOT, Lesson, choose_parameters, find_lessons
from tools.runner import run_lessons
from xrayhelpers._machine import cores, setting, write_atomic

#: What TensorFlow, and the libraries below NumPy and scikit-learn, ask for the number of their threads.
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
EXAMPLE = "lessons: [04]\nparameters:\n  seed: [0, 1, 2]\n  epochs: 3"


class UniqueKeys(yaml.SafeLoader):
    """YAML's plain values; a key that is there twice is an error, for which one would count?"""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Build one mapping."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for number, key in enumerate(keys) if key in keys[:number]]:
            raise yaml.YAMLError(f"{twice[0]} is there twice")
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class Sweep:
    """What a file asks for: the lessons, the data with its classes, and one mapping of parameters per combination."""

    lessons: list[Lesson]
    data: str
    combinations: list[dict[str, Any]]
    classes: str = ""


def read_sweep(path: Path, data: str = "phantom", root: Path = ROOT) -> Sweep:
    """Read a sweep file and check all of it before anything runs.

    Parameters
    ----------
    path : Path
        YAML with `lessons`, `parameters` and, if it differs from the argument, `data`.
    data : str
        What `xrayhelpers.data.open_data` takes, for a file that does not name its data.
    root : Path
        The repository with the lessons.

    Raises
    ------
    ValueError, FileNotFoundError
        No such file, no YAML, unknown keys, an unknown lesson or parameter, or a value of the wrong type.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Write one, for example:\n{EXAMPLE}")
    try:
        content = yaml.load(path.read_text("utf-8"), UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path.name} is not YAML ({error}). A sweep looks like this:\n{EXAMPLE}") from error
    if not isinstance(content, dict) or not set(content) <= {"lessons", "parameters", "data"}:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"Found {found} in {path.name}; expected lessons, parameters, data. For example:\n{EXAMPLE}")
    wanted, given = content.get("lessons"), content.get("parameters")
    if not isinstance(wanted, list) or not wanted or not isinstance(given, dict) or not given:
        raise ValueError(f"{path.name} needs a list `lessons` and a mapping `parameters`. For example:\n{EXAMPLE}")
    if not isinstance(content.get("data", data), str) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"`data` of {path.name} must be text, and so must be the names in `parameters`.")
    lessons = find_lessons(root, [str(word) for word in wanted])
    choices = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    for name, values in choices.items():
        if not values or len(set(map(str, values))) < len(values):
            raise ValueError(f"{name} is {values} in {path.name}; expected values that differ, for example [0, 1].")
    combinations = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    for combination in combinations:
        choose_parameters(lessons, combination)  # papermill would only warn of a name that it does not know
    return Sweep(lessons, content.get("data", data), combinations, setting("XRAYS_CLASSES"))


def run_sweep(sweep: Sweep, table: Path, workers: int = 1, scheduler: str = "", force: bool = False) -> bool:
    """Run all combinations and keep one table of them; a line is printed as each one ends.

    Parameters
    ----------
    sweep : Sweep
    table : Path
        CSV file, written again as each combination ends: one row per model and combination, with the run's folder, the
        parameters that the lesson knows, and each metric with its interval.
    workers : int
        Processes at a time on this machine; each gets its share of the cores as TensorFlow's threads.
    scheduler : str
        Address of a Dask scheduler (``tcp://host:8786``), whose workers are used instead; see docs/batch.md.
    force : bool
        Run complete combinations again, too.

    Returns
    -------
    bool
        Whether all are complete. One that fails does not stop the others.
    """
    if workers < 1:
        raise ValueError(f"--workers is {workers}; expected at least 1. Type for example `--workers 2`.")
    run, threads = (run_combination, 1) if scheduler else (_run_alone, max(1, cores() // workers))
    where = f"on {scheduler}" if scheduler else f"{workers} at a time with {threads} of {cores()} cores each"
    total, finished = len(sweep.combinations), {}
    print(f"{total} combinations, {where}", flush=True)
    with _pool(workers, scheduler) as pool:
        tasks = {pool.submit(run, sweep, values, force, threads): n for n, values in enumerate(sweep.combinations)}
        for ended, task in enumerate(as_completed(tasks), start=1):
            number, error = tasks.pop(task), task.exception()  # Dask need not keep what we have
            failure = ("failed", 0.0, f"{type(error).__name__}: {error}", None)
            state, minutes, note, rows = failure if error else task.result()
            if state != "failed":
                finished[number] = pd.DataFrame(rows)
            # In the order of the file, whichever ended first: the same sweep gives the same table.
            found = [finished[key] for key in sorted(finished) if len(finished[key])]
            write_atomic(table, (pd.concat(found) if found else pd.DataFrame()).to_csv(index=False))
            words = " ".join(f"{name}={value}" for name, value in sweep.combinations[number].items())
            print(f"{ended:>3}/{total}  {words}  {state}  {minutes:.1f} min  {note}", flush=True)
    return len(finished) == total


@contextmanager
def _pool(workers: int, scheduler: str) -> Iterator[Executor]:
    """Open the pool that runs the combinations; whatever has not begun is given up when the block is left."""
    if not scheduler:
        pool = ThreadPoolExecutor(workers)
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return
    try:
        from distributed import Client  # no requirement of the lessons
    except ImportError:
        raise ValueError("--scheduler needs the package distributed. Type `pip install distributed`.") from None
    with Client(scheduler) as client:
        yield client.get_executor(pure=False)


def _run_alone(*order: Any) -> tuple:
    """Run one combination in a pool of one process: whatever kills that process, the others go on."""
    with ProcessPoolExecutor(1, max_tasks_per_child=1) as pool:
        return pool.submit(run_combination, *order).result()


_turn = threading.Lock()  # a run sets environment variables, so a process does one at a time


def run_combination(sweep: Sweep, combination: Mapping[str, Any], force: bool, threads: int) -> tuple:
    """Run one combination; return state, minutes, what went wrong, and the rows of its results."""
    with _turn, redirect_stdout(io.StringIO()):
        os.environ |= dict.fromkeys(THREADS, str(threads)) | {"XRAYS_PROGRESS": "off"}
        os.environ["XRAYS_CLASSES"] = sweep.classes  # a Dask worker has an environment of its own
        root = sweep.lessons[0].path.parents[1]
        names = [lesson.name for lesson in sweep.lessons]
        run = run_lessons(names, sweep.data, combination, force=force, root=root, wait=True)
    outcomes = run.outcomes.values()
    state = "failed" if not run.complete else "kept" if {o.state for o in outcomes} == {"kept"} else "done"
    note = "; ".join(f"{name}: {outcome.message}" for name, outcome in run.outcomes.items() if outcome.message)
    minutes = sum(outcome.seconds for outcome in outcomes) / 60
    return state, minutes, note, tidy_results(sweep, combination, run.folder)


def tidy_results(sweep: Sweep, combination: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Return one row per model of a combination's run: the run, the parameters that the lesson knows, the metrics."""
    if not any((folder / "results").glob("*.json")):
        return []
    from xrayhelpers.results import read_results

    known = {lesson.name: lesson.parameters for lesson in sweep.lessons}
    found = [result for result in read_results(folder / "results") if result.lesson in known]
    ends, rows = {"value": "", "low": "_low", "high": "_high"}, []
    for result in found:
        row = {"lesson": result.lesson, "model": result.model, "protocol": result.protocol}
        row |= {"images": len(result.scores), "threshold": result.threshold}
        for name, figures in result.metrics[list(ends)].iterrows():
            row |= {name + end: figures[column] for column, end in ends.items()}
        rows.append(row)
    rows = pd.DataFrame(rows)
    for place, (name, value) in enumerate(combination.items(), start=3):
        if name not in rows:  # `protocol` is a column of the results already
            values = [value if name in known[lesson] else None for lesson in rows["lesson"]]
            rows.insert(min(place, len(rows.columns)), name, values)
    rows.insert(0, "run", folder.name)
    return rows.to_dict("records")

"""Run lessons with every combination of some parameters, over several processes, into one table.

A file says what to run; a list is varied, a single value is the same for all::

    {lessons: [04], parameters: {seed: [0, 1, 2], image_size: [32, 64], epochs: 3}}

Each combination is an ordinary run (`run.run_lessons`) with a folder of its own, so the same command again skips what
is complete and goes on where a killed process was.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from xrayhelpers import results, sources
from xrayhelpers.lessons import ROOT, Lesson, choose_parameters, find_lessons, write_text
from xrayhelpers.run import run_lessons

#: What TensorFlow, and the libraries below NumPy and scikit-learn, ask for the number of their threads.
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
EXAMPLE = "lessons: [04]\nparameters:\n  seed: [0, 1, 2]\n  epochs: 3"


@dataclass(frozen=True)
class Sweep:
    """What a file asks for: the lessons, the data, and one mapping of parameters a combination."""

    lessons: list[Lesson]
    data: str
    combinations: list[dict[str, Any]]


def read_sweep(path: str | Path, data: str = "phantom", root: Path = ROOT) -> Sweep:
    """Read a sweep file and check all of it before anything runs.

    Parameters
    ----------
    path : str or Path
        YAML with `lessons`, `parameters` and, if it differs from the argument, `data`.
    data : str
        What `sources.open_data` takes, for a file that does not say it.
    root : Path
        The repository with the lessons.

    Raises
    ------
    ValueError, FileNotFoundError
        No such file, no YAML, unknown keys, an unknown lesson or parameter, or a value of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Write one, for example:\n{EXAMPLE}")
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not YAML ({error}). A sweep looks like this:\n{EXAMPLE}") from error
    if not isinstance(content, dict) or not set(content) <= {"lessons", "parameters", "data"}:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"Found {found} in {path.name}; expected lessons, parameters, data. For example:\n{EXAMPLE}")
    wanted, given = content.get("lessons"), content.get("parameters")
    if not isinstance(wanted, list) or not wanted or not isinstance(given, dict) or not given:
        raise ValueError(f"{path.name} needs a list `lessons` and a mapping `parameters`. For example:\n{EXAMPLE}")
    lessons = find_lessons(root, [str(word) for word in wanted])
    choices = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    for name, values in choices.items():
        if not values or len(set(map(str, values))) < len(values):
            raise ValueError(f"{name} is {values} in {path.name}; expected values that differ, for example [0, 1].")
    combinations = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    for combination in combinations:
        choose_parameters(lessons, combination)  # papermill would only warn of a name that it does not know
    return Sweep(lessons, str(content.get("data", data)), combinations)


def run_sweep(sweep: Sweep, table: Path, workers: int = 1, force: bool = False, root: Path = ROOT) -> bool:
    """Run all combinations and keep one table of them; a line is printed as each one ends.

    Parameters
    ----------
    sweep : Sweep
    table : Path
        CSV file, written anew as each combination ends: see `tidy_results`.
    workers : int
        Processes at a time; each gets its share of this machine's cores as TensorFlow's threads.
    force : bool
        Run complete combinations again, too.

    Returns
    -------
    bool
        Whether all are complete. One that fails does not stop the others.
    """
    if workers < 1:
        raise ValueError(f"--workers is {workers}; expected at least 1. Type for example `--workers 2`.")
    threads = max(1, sources.cores() // workers)
    environment = os.environ | dict.fromkeys(THREADS, str(threads)) | {"XRAYS_PROGRESS": "off"}
    folders: dict[int, Path] = {}
    total = len(sweep.combinations)
    print(f"{total} combinations, {workers} at a time with {threads} of {sources.cores()} cores each", flush=True)
    pool = ThreadPoolExecutor(workers)
    try:
        tasks = {
            pool.submit(_start, sweep, combination, force, root, environment): number
            for number, combination in enumerate(sweep.combinations)
        }
        for ended, task in enumerate(as_completed(tasks), start=1):
            number, said = tasks[task], task.result()
            if said["folder"]:
                folders[number] = Path(said["folder"])
            # In the order of the file, whichever ended first: the same sweep gives the same table.
            rows = [tidy_results(sweep, sweep.combinations[n], folders[n]) for n in sorted(folders)]
            joined = pd.concat([row for row in rows if len(row)]) if any(map(len, rows)) else pd.DataFrame()
            table.parent.mkdir(parents=True, exist_ok=True)
            write_text(table, joined.to_csv(index=False))
            words = " ".join(f"{name}={value}" for name, value in sweep.combinations[number].items())
            print(
                f"{ended:>3}/{total}  {words}  {said['state']}  {said['minutes']:.1f} min  {said['note']}", flush=True
            )
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return len(folders) == total


def _start(sweep: Sweep, combination: dict, force: bool, root: Path, environment: Mapping[str, str]) -> dict:
    """Run one combination in a process of its own: whatever ends that process, the others go on."""
    order = {
        "only": [lesson.name for lesson in sweep.lessons],
        "data": sweep.data,
        "parameters": combination,
        "force": force,
        "root": str(root),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "xrayhelpers.sweep"],
        input=json.dumps(order),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if ended.returncode == 0:
        return json.loads(ended.stdout.splitlines()[-1])
    last = (ended.stderr.strip().splitlines() or ["no word: was memory short? Try fewer --workers"])[-1]
    return {"folder": "", "state": "failed", "minutes": 0.0, "note": f"process ended with {ended.returncode}: {last}"}


def _work(order: dict) -> dict:
    """Do what `_start` ordered; the other end of its pipe."""
    finished = run_lessons(**order | {"root": Path(order["root"]), "wait": True})
    outcomes = finished.outcomes
    states = {outcome.state for outcome in outcomes.values()}
    state = "failed" if not finished.complete else "kept" if states == {"kept"} else "done"
    minutes = sum(outcome.seconds for outcome in outcomes.values()) / 60
    note = "; ".join(f"{name}: {outcome.message}" for name, outcome in outcomes.items() if outcome.message)
    folder = str(finished.folder) if finished.complete else ""
    return {"folder": folder, "state": state, "minutes": minutes, "note": note}


def tidy_results(sweep: Sweep, combination: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    """Return one row a model of a combination's run: parameters, then metrics with their intervals.

    Returns
    -------
    DataFrame
        run, lesson, model, protocol, the parameters that the lesson knows, images, threshold, and each metric with its
        interval: accuracy, accuracy_low, accuracy_high, ... Without rows where no lesson leaves a result.
    """
    if not any((folder / "results").glob("*.json")):
        return pd.DataFrame()
    known = {lesson.name: lesson.parameters for lesson in sweep.lessons}
    found = [result for result in results.read_results(folder / "results") if result.lesson in known]
    rows = results.results_table(found, intervals="columns")
    for place, (name, value) in enumerate(combination.items(), start=3):
        if name not in rows:  # `protocol` is a column of the results already
            values = [value if name in known[lesson] else None for lesson in rows["lesson"]]
            rows.insert(min(place, len(rows.columns)), name, values)
    rows.insert(0, "run", folder.name)
    return rows


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # what the run prints must not stand in the answer
        answer = _work(json.load(sys.stdin))
    print(json.dumps(answer))

"""Run each way in a process of its own, take turns, and write down median and spread."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil

from xrayhelpers import sources

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Way:
    """One way to do something: a function of `ways.py` with its arguments."""

    name: str
    function: str
    arguments: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Ratio:
    """How many times `slow`'s figure is `fast`'s, and what must be reached (`at_most` turns the sign round)."""

    slow: str
    fast: str
    figure: str
    needed: float | None = None
    at_most: bool = False


def run_way(way: Way) -> dict[str, float]:
    """Run a way in a new process with an empty cache (VGG16's weights excepted) and return its figures."""
    kept = sources.cache_folder() / "vgg16"
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="xrays-bench-") as folder:
        Path(folder, "cache").mkdir()
        Path(folder, "cache", "vgg16").symlink_to(kept)
        places = {"XRAYS_CACHE": f"{folder}/cache", "XRAYS_RUN": f"{folder}/run", "XRAYS_PROGRESS": "off"}
        environment = {**os.environ, **places, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "benchmarks.ways", way.function, json.dumps(way.arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"The way {way.name!r} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def take_turns(ways: list[Way], repeats: int) -> pd.DataFrame:
    """Run all ways `repeats` times, in turn, so that a busy minute of the machine hits each alike.

    Returns
    -------
    DataFrame
        One row a way and figure: way, figure, median, min, max, values (list, in order of the repetitions).
    """
    values: dict[tuple[str, str], list[float]] = {}
    turns = [way for _ in range(repeats) for way in ways]
    for way in sources.progress(turns, desc="ways", unit="process"):
        for figure, value in run_way(way).items():
            values.setdefault((way.name, figure), []).append(round(float(value), 4))
    rows = [
        {"way": way, "figure": figure, "median": statistics.median(v), "min": min(v), "max": max(v), "values": v}
        for (way, figure), v in values.items()
    ]
    return pd.DataFrame(rows)


def compare(table: pd.DataFrame, ratios: list[Ratio]) -> pd.DataFrame:
    """Divide medians; the spread is that of the repetitions taken one by one."""
    measured = {(row.way, row.figure): row for row in table.itertuples()}
    rows = []
    for ratio in ratios:
        slow, fast = measured[ratio.slow, ratio.figure], measured[ratio.fast, ratio.figure]
        each = [a / b for a, b in zip(slow.values, fast.values, strict=True)]
        value = slow.median / fast.median
        digits = 4 if ratio.figure.endswith("auc") else 2
        row = {"ratio": f"{ratio.slow} / {ratio.fast}", "figure": ratio.figure, "value": round(value, digits)}
        row |= {"min": round(min(each), digits), "max": round(max(each), digits), "needed": "", "reached": ""}
        if ratio.needed is not None:
            row["needed"] = f"{'at most' if ratio.at_most else 'at least'} {ratio.needed:g}"
            row["reached"] = "yes" if (value <= ratio.needed if ratio.at_most else value >= ratio.needed) else "no"
        rows.append(row)
    return pd.DataFrame(rows)


def machine() -> dict:
    """Describe the machine without naming it."""
    from importlib.metadata import version

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    about = {"cpu": model, "cores": sources.cores(), "memory_gb": round(psutil.virtual_memory().total / 1e9)}
    about |= {"load_before": round(os.getloadavg()[0], 1)} if hasattr(os, "getloadavg") else {}
    return about | {"python": platform.python_version(), **{p: version(p) for p in ("tensorflow", "keras", "numpy")}}


def write_section(
    name: str, title: str, about: dict, table: pd.DataFrame, ratios: pd.DataFrame, folder: Path = RESULTS
) -> Path:
    """Write `<name>.json` with every single value, and `<name>.md` with the tables for the docs."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"title": title, **about, "rows": table.to_dict("records"), "ratios": ratios.to_dict("records")}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    parts = [f"### {title}", f"{about['data']}. {about['note']}".strip(), _markdown(table.drop(columns="values"))]
    parts += [_markdown(ratios)] if len(ratios) else []
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def write_summary(folder: Path = RESULTS) -> Path:
    """Write `summary.md`: of all sections in the folder the ratios that must be reached, in one table for the docs."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        asked = [ratio for ratio in record["ratios"] if ratio["needed"]]
        for ratio in asked:
            row = {"section": path.stem.partition("-")[0], "data": record["data"].partition(":")[0], **ratio}
            spread = f"{row.pop('min')} to {row.pop('max')}"
            rows.append(row | {"spread": "" if spread == " to " else spread})
    columns = ["section", "data", "ratio", "figure", "value", "spread", "needed", "reached"]
    path = folder / "summary.md"
    path.write_text(_markdown(pd.DataFrame(rows, columns=columns)) + "\n", encoding="utf-8")
    return path


def _markdown(table: pd.DataFrame) -> str:
    """Write a DataFrame as a table in Markdown."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy(dtype=object).tolist()]
    return "\n".join(f"| {' | '.join(f'{v:.4g}' if isinstance(v, float) else str(v) for v in row)} |" for row in rows)

"""Run the stored lessons and solutions as other processors compute them, on three phantoms: `make test-processors`.

Another instruction set, or another number of threads, adds up in another order, so that a trained network differs a
little. For each setting nbval runs lessons and solutions on the stored phantom (seed 0) and compares their outputs;
on phantoms of other seeds it runs the lessons and looks for errors. One line per notebook, setting and seed; it ends
with status 1 if one of them is red.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDER = {"XRAYS_PRECISION": "float32"}  # such processors have no fast half precision; this one may
SETTINGS = {
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", **OLDER},
    "sse41": {"ONEDNN_MAX_CPU_ISA": "SSE41", **OLDER},
    "no-onednn": {"TF_ENABLE_ONEDNN_OPTS": "0", **OLDER},
    "one-thread": dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1"),
}
COMPARE = ["--nbval", "--nbval-sanitize-with", "tests/sanitize.cfg"]  # as in the Makefile
RUN_ONLY = ["--nbval-lax"]


def run(paths: list[Path], setting: str, seed: int) -> dict[str, str]:
    """Run notebooks in order under a setting; return for each what was wrong with it first ("" if nothing was)."""
    environment = os.environ | SETTINGS[setting] | {"XRAYS_TEST_DATA": f"phantom:seed={seed}" if seed else "phantom"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        # Of tests/ only conftest.py is wanted, which sets what the kernels inherit.
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "--nbval-current-env"]
        command += [*(RUN_ONLY if seed else COMPARE), "tests", "--ignore-glob=*/test_*"]
        command += [str(path.relative_to(ROOT)) for path in paths]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if not report.exists():
            raise SystemExit(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    said = {}
    for path in paths:
        own = [case for case in cases if named(path) in case.get("classname", "")]
        wrong = [f"{case.get('name')}: {problem.get('message') or problem.text}" for case in own for problem in case]
        first = re.sub(r"(#x1B|\x1b)\[\d+m", "", wrong[0]) if wrong else ""  # nbval's colors
        said[named(path)] = first if own else "no cell was run"
    return said


def named(path: Path) -> str:
    """Return a notebook's path from the root, without its ending: a lesson and its solutions share their name."""
    return path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")


def main(only: list[str], settings: list[str], seeds: list[int]) -> bool:
    """Run everything that was asked for and print one line each; return whether all was green."""
    paths = sorted(ROOT.glob("notebooks/[0-9][0-9]_*.ipynb")) + sorted(ROOT.glob("notebooks/solutions/*.ipynb"))
    paths = [path for path in paths if not only or {path.stem, path.stem[:2]} & set(only)]
    green = bool(paths)
    for setting in settings:
        for seed in seeds:
            started = time.monotonic()
            wanted = [path for path in paths if not seed or path.parent.name != "solutions"]
            for name, wrong in run(wanted, setting, seed).items() if wanted else ():
                state = f"RED    {' '.join(wrong.split())[:200]}" if wrong else "green"
                print(f"{setting:<12} seed {seed}  {name:<38} {state}", flush=True)
                green = green and not wrong
            print(f"{setting:<12} seed {seed}  {(time.monotonic() - started) / 60:.1f} min", flush=True)
    return green


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = {"type": lambda text: text.replace(",", " ").split()}
    parser.add_argument("--only", default=[], help="lessons, for example 04,05", **words)
    parser.add_argument("--settings", default=list(SETTINGS), help=f"some of {', '.join(SETTINGS)}", **words)
    parser.add_argument("--seeds", default=["0", "1", "2"], help="phantoms; 0 is the stored one", **words)
    asked = parser.parse_args()
    if not set(asked.settings) <= set(SETTINGS):
        parser.error(f"--settings {','.join(asked.settings)}; expected some of {', '.join(SETTINGS)}")
    sys.exit(not main(asked.only, asked.settings, [int(seed) for seed in asked.seeds]))

"""A training lesson is killed ten times at random moments; what it leaves equals the undisturbed run, bit for bit."""

import json
import random
import shutil
import subprocess
import sys
import time

import psutil
import pytest

from xrayhelpers.lessons import ROOT

RUN = """
import sys
from pathlib import Path
from xrayhelpers.run import run_lessons

values = {"epochs": 6, "image_size": 48, "batch_size": 4, "seeds": 1}
finished = run_lessons(["04"], "phantom:train=80,test=20,val=4", values, name="killed", root=Path(sys.argv[1]))
sys.exit(not finished.complete)
"""


def start(root):
    command = [sys.executable, "-c", RUN, str(root)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process):
    """SIGKILL the runner and its kernel, which would otherwise finish its epoch alone."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    process.wait()
    psutil.wait_procs(family[1:], timeout=10)


def result(root):
    """What the lesson left, without the moments and seconds in it."""
    content = json.loads((root / "runs" / "killed" / "results" / "cnn-report.json").read_text())
    del content["written"], content["history"]["seconds"]
    return content


@pytest.mark.slow
def test_lesson_killed_ten_times_ends_as_if_undisturbed(tmp_path):
    roots = [tmp_path / "undisturbed", tmp_path / "killed"]
    for root in roots:
        shutil.copytree(ROOT / "notebooks", root / "notebooks")
    began = time.monotonic()
    assert start(roots[0]).wait() == 0
    whole = time.monotonic() - began

    chance = random.Random(0)
    interrupted = 0
    while interrupted < 10:
        process = start(roots[1])
        time.sleep(chance.uniform(0.1, 0.95) * whole)
        if process.poll() is None:
            kill(process)
            interrupted += 1
        else:  # it was done: from the beginning, or the remaining kills would hit nothing
            shutil.rmtree(roots[1] / "runs")
    assert start(roots[1]).wait() == 0
    assert result(roots[1]) == result(roots[0])

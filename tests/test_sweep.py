"""A sweep, driven on small notebooks made here that leave results like the lessons do."""

import os
import re
import subprocess
import sys
import time

import nbformat
import pandas as pd
import psutil
import pytest
from click.testing import CliRunner

from xrayhelpers import sweep
from xrayhelpers.__main__ import main
from xrayhelpers.lessons import ROOT

DATA = "phantom:train=4,test=4,val=2"
PARAMETERS = 'data = "auto"\nprotocol = "report"\nseed = 0\nimage_size = 64\nrate = 0.5'
LEAVE_RESULT = """import os, pathlib, time
import numpy as np, pandas as pd
from xrayhelpers import results
folder = pathlib.Path(os.environ["XRAYS_RUN"])
with open(folder / "log.txt", "a") as log:
    log.write(f"{seed} {image_size} {os.environ['TF_NUM_INTRAOP_THREADS']}\\n")
labels = np.arange(40) % 2
index = pd.DataFrame({"name": [f"{i}.jpeg" for i in range(40)], "label": labels, "patient": range(40), "cause": ""})
scores = np.clip(labels * 0.5 + np.random.default_rng(seed).uniform(0, 0.7, 40), 0, 1)"""
WRITE = 'results.write_result("cnn", protocol, index, scores, seed=seed, n_resamples=50)'


def write_lesson(root, name, *cells):
    (root / "notebooks").mkdir(exist_ok=True)
    first = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    rest = [nbformat.v4.new_code_cell(source) for source in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=[first, *rest]), root / "notebooks" / f"{name}.ipynb")


def write_sweep(root, text):
    path = root / "sizes.yaml"
    path.write_text(text)
    return path


def logs(root):
    """What the lesson wrote down, one line each time that it ran."""
    return sorted(line for path in root.glob("runs/phantom-*/log.txt") for line in path.read_text().splitlines())


@pytest.fixture
def root(tmp_path, cache):
    folder = tmp_path / "copy"
    folder.mkdir()
    write_lesson(folder, "04_cnn", LEAVE_RESULT, WRITE)
    return folder


def run(root, text, **options):
    asked = sweep.read_sweep(write_sweep(root, text), DATA, root)
    return sweep.run_sweep(asked, root / "runs" / "sizes.csv", root=root, **options)


SIZES = "lessons: [04]\nparameters:\n  seed: [0, 1]\n  image_size: [32, 64]\n  rate: 0.1\n"


@pytest.mark.slow
def test_two_workers_one_table_and_the_second_time_nothing_runs(root, capsys):
    assert run(root, SIZES, workers=2)
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    ran = [f"{seed} {size} {threads}" for seed in (0, 1) for size in (32, 64)]
    assert logs(root) == ran
    table = pd.read_csv(root / "runs" / "sizes.csv")
    assert table[["seed", "image_size", "rate"]].values.tolist() == [
        [0, 32, 0.1],
        [0, 64, 0.1],
        [1, 32, 0.1],
        [1, 64, 0.1],
    ]
    assert list(table)[:4] == ["run", "lesson", "model", "protocol"]
    assert (table["accuracy_low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["accuracy_high"]).all()
    assert table["roc_auc"].nunique() == 2, "the score depends on the seed alone"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 combinations, 2 at a time")
    assert sorted(re.match(r" +(\d)/4", line).group(1) for line in lines[1:]) == ["1", "2", "3", "4"]

    before = (root / "runs" / "sizes.csv").read_bytes()
    assert run(root, SIZES, workers=2)
    assert logs(root) == ran
    assert (root / "runs" / "sizes.csv").read_bytes() == before
    assert all("kept" in line for line in capsys.readouterr().out.splitlines()[1:])


@pytest.mark.slow
def test_killed_sweep_goes_on(root):
    """SIGKILL to everything while two of four are done: those are kept, the others run."""
    slow = "while seed == 1 and not (folder.parents[1] / 'go').exists():\n    time.sleep(0.2)"
    write_lesson(root, "04_cnn", LEAVE_RESULT, slow, WRITE)
    write_sweep(root, SIZES)
    code = f"from pathlib import Path; from xrayhelpers import sweep; root = Path({str(root)!r})\n"
    code += f"asked = sweep.read_sweep(root / 'sizes.yaml', {DATA!r}, root)\n"
    code += "sweep.run_sweep(asked, root / 'runs' / 'sizes.csv', 2, root=root)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while time.monotonic() < until and len(logs(root)) < 4:
        time.sleep(0.2)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    process.wait()
    psutil.wait_procs(family[1:], timeout=10)
    assert len(pd.read_csv(root / "runs" / "sizes.csv")) == 2

    (root / "go").touch()
    assert run(root, SIZES, workers=2)
    ran = [line.rsplit(" ", 1)[0] for line in logs(root)]
    assert ran == ["0 32", "0 64", "1 32", "1 32", "1 64", "1 64"], "only what was not complete ran again"
    assert pd.read_csv(root / "runs" / "sizes.csv")["seed"].tolist() == [0, 0, 1, 1]


@pytest.mark.slow
def test_one_that_fails_or_dies_does_not_stop_the_others(root, capsys):
    write_lesson(root, "04_cnn", LEAVE_RESULT, "assert seed != 1, 'unlucky'", WRITE)
    assert not run(root, "lessons: ['4']\nparameters: {seed: [0, 1, 2]}\n")
    out = capsys.readouterr().out
    assert "seed=1  failed" in out
    assert "unlucky" in out
    assert pd.read_csv(root / "runs" / "sizes.csv")["seed"].tolist() == [0, 2]
    write_lesson(
        root, "04_cnn", LEAVE_RESULT, "import psutil\nif seed == 2: psutil.Process(os.getppid()).kill()", WRITE
    )
    assert not run(root, "lessons: ['4']\nparameters: {seed: [0, 2, 3]}\n")
    assert "seed=2  failed  0.0 min  process ended with -9" in capsys.readouterr().out
    assert pd.read_csv(root / "runs" / "sizes.csv")["seed"].tolist() == [0, 3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "lessons: [04]\nparameters: {seeds: [0, 1]}",
            "No parameter is called seeds. Known in 04_cnn: data, image_size",
        ),
        ("lessons: [04]\nparameters: {seed: [0, one]}", "seed is 'one', but a value like 0 (int)"),
        ("lessons: [05]\nparameters: {seed: [0]}", "There is no lesson 05. The lessons are 04_cnn"),
        ("lessons: [04]\nparameters: {seed: []}", "seed is [] in sizes.yaml; expected values that differ"),
        ("lessons: [04]\nparameters: {seed: [1, 1]}", "seed is [1, 1] in sizes.yaml; expected values that differ"),
        ("lesson: [04]\nparameters: {seed: [1]}", "Found lesson, parameters in sizes.yaml; expected lessons"),
        ("lessons: 04", "needs a list `lessons` and a mapping `parameters`"),
        ("- 04", "Found list in sizes.yaml"),
        ("lessons: [04", "sizes.yaml is not YAML"),
    ],
)
def test_mistake_is_said_before_anything_runs(root, text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        run(root, text)
    assert not (root / "runs").exists()


def test_command_line_says_what_does_not_go_together(tmp_path):
    path = write_sweep(tmp_path, SIZES)
    for more in (["--only", "04"], ["-p", "seed=1"], ["--name", "x"]):
        asked = CliRunner().invoke(main, ["run", "--sweep", str(path), *more])
        assert asked.exit_code == 2
        assert "stand in its file" in asked.output
    asked = CliRunner().invoke(main, ["run", "--sweep", str(tmp_path / "no.yaml")])
    assert asked.exit_code == 1
    assert "There is no file" in asked.output
    path.write_text("lessons: [04]\nparameters: {seed: [0, 1]}\n")
    asked = CliRunner().invoke(main, ["run", "--sweep", str(path), "--workers", "0"])
    assert "expected at least 1" in asked.output

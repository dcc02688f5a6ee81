"""A sweep, driven on small notebooks made here that leave results like the lessons do."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from click.testing import CliRunner

from tools import sweep
from tools.lessons import ROOT
from tools.run import main
from xrayhelpers.data import open_data
from xrayhelpers.results import write_result

DATA = "phantom:train=4,test=4,val=2"
PARAMETERS = 'data = "auto"\nprotocol = "report"\nseed = 0\nimage_size = 64\nrate = 0.5'
LEAVE_RESULT = """import os, pathlib, shutil, time
folder = pathlib.Path(os.environ["XRAYS_RUN"])
with open(folder / "log.txt", "a") as log:
    log.write(f"{seed} {image_size} {os.environ['TF_NUM_INTRAOP_THREADS']}\\n")"""
WRITE = """(folder / "results").mkdir(exist_ok=True)
shutil.copy(folder.parent / "result.json", folder / "results" / "cnn-report.json")"""


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
    """What the lesson wrote down, one line for each time that it ran."""
    return sorted(line for path in root.glob("runs/phantom-*/log.txt") for line in path.read_text().splitlines())


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A result as a lesson leaves it; made once, so that the lessons here need not import the package."""
    labels = np.arange(40) % 2
    index = pd.DataFrame({"name": [f"{i}.jpeg" for i in range(40)], "label": labels, "patient": range(40)})
    index["cause"], index["part"], index["bytes"], index["path"] = "", "test", 1, index["name"]
    scores = np.clip(labels * 0.5 + np.random.default_rng(0).uniform(0, 0.7, 40), 0, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XRAYS_RUN", str(tmp_path_factory.mktemp("run")))
        patch.setenv("XRAYS_CACHE", str(tmp_path_factory.mktemp("cache")))
        write_result("cnn", "report", index, scores, source=open_data(DATA))
        return (Path(os.environ["XRAYS_RUN"]) / "results" / "cnn-report.json").read_text("utf-8")


@pytest.fixture
def root(tmp_path, cache, result):
    folder = tmp_path / "copy"
    (folder / "runs").mkdir(parents=True)
    (folder / "runs" / "result.json").write_text(result, "utf-8")
    write_lesson(folder, "04_cnn", LEAVE_RESULT, WRITE)
    return folder


def run(root, text, **options):
    asked = sweep.read_sweep(write_sweep(root, text), DATA, root)
    return sweep.run_sweep(asked, root / "runs" / "sizes.csv", **options)


SIZES = "lessons: [04]\nparameters:\n  seed: [0, 1]\n  image_size: [32, 64]\n  rate: 0.1\n"


@pytest.mark.slow
def test_two_workers_one_table_and_the_second_time_nothing_runs(root, capsys):
    assert run(root, SIZES, workers=2)
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    ran = [f"{seed} {size} {threads}" for seed in (0, 1) for size in (32, 64)]
    assert logs(root) == ran
    table = pd.read_csv(root / "runs" / "sizes.csv")
    wanted = [[0, 32, 0.1], [0, 64, 0.1], [1, 32, 0.1], [1, 64, 0.1]]
    assert table[["seed", "image_size", "rate"]].values.tolist() == wanted
    assert list(table)[:4] == ["run", "lesson", "model", "protocol"]
    assert (table["accuracy_low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["accuracy_high"]).all()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 combinations, 2 at a time")
    ended = [re.match(r" +(\d)/4", line) for line in lines[1:]]
    assert sorted(found.group(1) for found in ended if found) == ["1", "2", "3", "4"]

    before = (root / "runs" / "sizes.csv").read_bytes()
    assert run(root, SIZES, workers=2)
    assert logs(root) == ran
    assert (root / "runs" / "sizes.csv").read_bytes() == before
    assert all("kept" in line for line in capsys.readouterr().out.splitlines() if "/4 " in line)


@pytest.mark.slow
def test_killed_sweep_goes_on(root):
    """SIGKILL to everything while two of four are done: those are kept, the others run."""
    slow = "while seed == 1 and not (folder.parents[1] / 'go').exists():\n    time.sleep(0.2)"
    write_lesson(root, "04_cnn", LEAVE_RESULT, slow, WRITE)
    code = f"""from pathlib import Path; from tools import sweep; root = Path({str(root)!r})
if __name__ == "__main__":
    asked = sweep.read_sweep(root / 'sizes.yaml', {DATA!r}, root)
    sweep.run_sweep(asked, root / 'runs' / 'sizes.csv', 2)"""
    write_sweep(root, SIZES)
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(logs(root)) == 4)
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
    death = "import psutil\nif seed == 2: psutil.Process(os.getppid()).kill()"
    write_lesson(root, "04_cnn", LEAVE_RESULT, death, WRITE)
    assert not run(root, "lessons: ['4']\nparameters: {seed: [0, 2, 3]}\n", workers=2)
    assert "seed=2  failed  0.0 min  BrokenProcessPool: " in capsys.readouterr().out
    assert pd.read_csv(root / "runs" / "sizes.csv")["seed"].tolist() == [0, 3]


# -------------------------------------------------------------------------------------------------- a Dask cluster
def wait_for(condition, seconds=300):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two worker processes; yields its address and the processes of the workers."""
    address, members, log = tmp_path / "scheduler.json", [], (tmp_path / "dask.log").open("w")

    def start(*words):
        command = [sys.executable, "-m", "dask", *words, "--scheduler-file", str(address)]
        members.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log))

    start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    wait_for(lambda: address.exists() and address.read_text().endswith("}"))
    for _ in range(2):
        start("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path))
    yield json.loads(address.read_text())["address"], members[1:]
    for member in reversed(members):
        member.kill()
        member.wait()
    log.close()


@pytest.mark.slow
def test_dask_runs_again_what_a_killed_worker_had_begun(root, cluster, capsys, monkeypatch):
    scheduler, workers = cluster
    monkeypatch.setenv("XRAYS_CLASSES", "well=0,ill=1")  # after the workers started, which have it from the sweep alone
    note_parent = "(folder / 'parent').write_text(str(os.getppid()))"
    note_classes = "(folder / 'classes').write_text(os.environ['XRAYS_CLASSES'])"
    slow = "while seed == 1 and not (folder.parents[1] / 'go').exists():\n    time.sleep(0.2)"
    write_lesson(root, "04_cnn", LEAVE_RESULT, note_parent, note_classes, slow, WRITE)

    def begun():
        """The workers that are at a slow combination, by the process that started its kernel."""
        slow_ones = [
            path for path in root.glob("runs/phantom-*/parent") if (path.parent / "log.txt").read_text()[0] == "1"
        ]
        return [int(path.read_text() or 0) for path in slow_ones]

    def kill_one():
        try:
            wait_for(lambda: any(begun()))
            (worker,) = [worker for worker in workers if worker.pid == begun()[0]]
            worker.kill()
            worker.wait()
        finally:
            (root / "go").touch()

    killer = threading.Thread(target=kill_one)
    killer.start()
    assert run(root, SIZES, scheduler=scheduler)
    killer.join()
    parents = {int(path.read_text()) for path in root.glob("runs/phantom-*/parent")}
    assert parents <= {worker.pid for worker in workers}, "a lesson's kernel is a child of a Dask worker"
    assert {path.read_text() for path in root.glob("runs/phantom-*/classes")} == {"well=0,ill=1"}
    ran = Counter(line.rsplit(" ", 1)[0] for line in logs(root))
    assert set(ran) == {"0 32", "0 64", "1 32", "1 64"}
    assert sorted(ran.values()) == [1, 1, 1, 2], "one combination was run again, where the other worker is"
    table = pd.read_csv(root / "runs" / "sizes.csv")
    assert table[["seed", "image_size"]].values.tolist() == [[0, 32], [0, 64], [1, 32], [1, 64]]
    assert [line for line in capsys.readouterr().out.splitlines() if "failed" in line] == []


def test_mistake_is_said_before_anything_runs(root):
    for text, words in [
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
        ("lessons: [04]\nparameters: {seed: [0]}\nparameters: {seed: [1]}", "parameters is there twice"),
        ("lessons: [04]\nparameters: {seed: [0], seed: [1]}", "seed is there twice"),
        ("lessons: [04]\nparameters: {seed: [0]}\ndata: null", "`data` of sizes.yaml must be text"),
        ("lessons: [04]\nparameters: {1: [0]}", "so must be the names in `parameters`"),
        ("lessons: [04]\nparameters: {image_size: [0]}", "image_size is 0; expected more than 0"),
        ("lessons: [04", "sizes.yaml is not YAML"),
    ]:
        with pytest.raises(ValueError, match=re.escape(words)):
            run(root, text)
    assert [path.name for path in (root / "runs").iterdir()] == ["result.json"]


def test_command_line_says_what_does_not_go_together(tmp_path):
    path = write_sweep(tmp_path, SIZES)
    for more in (["--only", "04"], ["-p", "seed=1"], ["--name", "x"]):
        asked = CliRunner().invoke(main, ["--sweep", str(path), *more])
        assert asked.exit_code == 2
        assert "its file names the lessons" in asked.output
    asked = CliRunner().invoke(main, ["--sweep", str(tmp_path / "no.yaml")])
    assert asked.exit_code == 1
    assert "There is no file" in asked.output
    path.write_text("lessons: [04]\nparameters: {seed: [0, 1]}\n")
    asked = CliRunner().invoke(main, ["--sweep", str(path), "--workers", "0"])
    assert "expected at least 1" in asked.output

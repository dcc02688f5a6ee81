"""A search by many processes on one storage: every enqueued trial counts once, whoever dies. No TensorFlow here."""

import json
import multiprocessing
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from xrayhelpers.training import run_trials

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

GRID = [{"optimizer": name, "units": units} for name in ("adam", "sgd") for units in (128, 256, 512)]
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def worker(folder: Path, url: str, me: str, grid: list, skip_if_exists: bool) -> None:
    """What lesson 06 does, in a process of its own.

    It notes every start in a file, and holds each trial until the file `go` exists.
    """

    def objective(trial):
        params = [trial.suggest_categorical("optimizer", ["adam", "sgd"]), trial.suggest_int("units", 64, 1024)]
        with open(folder / "starts", "a") as file:
            file.write(json.dumps([me, params]) + "\n")
        wait_for((folder / "go").exists)
        time.sleep(0.05)
        return params[1] / 1024

    (folder / f"ready-{me}").touch()
    wait_for((folder / "begin").exists)
    storage = RDBStorage(url, heartbeat_interval=1, grace_period=5)
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize", load_if_exists=True)
    for params in grid:
        study.enqueue_trial(params, skip_if_exists=skip_if_exists)
    run_trials(study, objective)


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(optuna.logging.INFO)


@pytest.fixture(scope="module")
def postgres():
    """A throw-away PostgreSQL server on a Unix socket; yields its URL."""
    if not POSTGRES:
        pytest.skip("NOTHING WAS TESTED ON POSTGRESQL: no server here; on Debian: apt-get install postgresql")
    if not (find_spec("psycopg") or find_spec("psycopg2")):
        pytest.skip("NOTHING WAS TESTED ON POSTGRESQL: no driver here; pip install psycopg2-binary")
    folder = Path(tempfile.mkdtemp(prefix="xrays-pg-", dir="/tmp"))
    prefix, binaries = [], POSTGRES[-1].parent
    if os.geteuid() == 0:  # the server refuses to run as root
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        prefix = ["runuser", "-u", "postgres", "--"]

    def run(*command: str) -> None:
        subprocess.run([*prefix, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60)

    data, options = str(folder / "data"), f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    try:
        run(f"{binaries}/initdb", "-D", data, "-A", "trust", "-U", "student", "--no-sync")
        run(f"{binaries}/pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        driver = "psycopg2" if find_spec("psycopg2") else "psycopg"
        yield f"postgresql+{driver}://student@/postgres?host={folder}"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            run(f"{binaries}/pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def crew(tmp_path):
    """Start workers by name; what still runs at the end is killed."""
    processes, context = {}, multiprocessing.get_context("fork")  # no import of TensorFlow for each of them

    def start(url: str, *names: str, grid: list = GRID, skip_if_exists: bool = True) -> dict:
        study_at(url)  # Optuna fails where two processes create the tables of a new database at once
        for name in names:
            arguments = (tmp_path, url, name, grid, skip_if_exists)
            processes[name] = context.Process(target=worker, args=arguments, daemon=True)
            processes[name].start()
        wait_for(lambda: all((tmp_path / f"ready-{name}").exists() for name in names))
        (tmp_path / "begin").touch()
        return processes

    yield start
    for process in processes.values():
        process.kill()
        process.join()


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def starts(folder: Path) -> list:
    file = folder / "starts"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def finish(processes: dict, *names: str) -> None:
    for name in names:
        processes[name].join(60)
        assert processes[name].exitcode == 0, name


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder}/search.db"


def study_at(url: str) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=RDBStorage(url), direction="maximize", load_if_exists=True)


def scored(study: optuna.Study, grid: list = GRID) -> None:
    """Each trial of the grid has one score, and no other trial has any."""
    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert sorted((t.params["optimizer"], t.params["units"]) for t in done) == sorted(tuple(p.values()) for p in grid)
    assert all(trial.value == trial.params["units"] / 1024 for trial in done)
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.FAIL}


def objective_noting(ran: list):
    def objective(trial):
        ran.append(trial.suggest_categorical("optimizer", ["adam", "sgd"]))
        return trial.suggest_int("units", 64, 1024) / 1024

    return objective


def test_one_process_runs_each_trial_once_in_order_and_in_silence(tmp_path, capfd):
    ran = []
    for _ in range(2):
        study = study_at(sqlite(tmp_path))
        for params in GRID:
            study.enqueue_trial(params, skip_if_exists=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run_trials(study, objective_noting(ran))
    assert ran == ["adam"] * 3 + ["sgd"] * 3
    scored(study)
    assert len(study.trials) == 6
    assert capfd.readouterr() == ("", "")


def test_drawn_trials_are_left_alone_and_pruned_ones_count(tmp_path):
    study, ran = study_at(sqlite(tmp_path)), []
    study.optimize(objective_noting(ran), n_trials=2)
    study.enqueue_trial(GRID[0], skip_if_exists=True)

    def pruned(trial):
        ran.append("pruned")
        raise optuna.TrialPruned

    run_trials(study, pruned)
    run_trials(study, pruned)
    assert ran[2:] == ["pruned"]
    assert len(study.trials) == 3


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_trial_that_failed_is_run_again_by_the_next_call(tmp_path, error):
    ran = []

    def breaks_once(trial):
        ran.append(trial.suggest_int("units", 64, 1024))
        if len(ran) == 3:
            raise error
        trial.suggest_categorical("optimizer", ["adam", "sgd"])
        return ran[-1] / 1024

    for _ in range(2):
        study = study_at(sqlite(tmp_path))
        for params in GRID:
            study.enqueue_trial(params, skip_if_exists=True)
        if len(ran) == 0:
            with pytest.raises(type(error)):
                run_trials(study, breaks_once)
        else:
            run_trials(study, breaks_once)
    scored(study)
    assert ran == [128, 256, 512, 128, 256, 512, 512]


def test_two_processes_that_enqueue_at_once_share_one_grid(tmp_path, crew):
    url = sqlite(tmp_path)
    (tmp_path / "go").touch()
    finish(crew(url, "a", "b", skip_if_exists=False), "a", "b")
    study = study_at(url)
    scored(study)
    assert len(study.trials) >= 12


def kill_one_of_two(folder, crew, url, grid=GRID):
    """One process is killed in the middle of a trial; the other runs that trial as well; the next call runs none."""
    processes = crew(url, "a", "b", grid=grid)
    wait_for(lambda: {name for name, _ in starts(folder)} == {"a", "b"})
    processes["a"].kill()
    processes["a"].join()
    (folder / "go").touch()
    finish(processes, "b")
    study = study_at(url)
    scored(study, grid)
    (killed,) = [params for name, params in starts(folder) if name == "a"]
    assert ["b", killed] in starts(folder)
    before = len(starts(folder))
    finish(crew(url, "c", grid=grid), "c")
    assert len(starts(folder)) == before


def test_two_processes_on_sqlite_and_one_is_killed(tmp_path, crew):
    kill_one_of_two(tmp_path, crew, sqlite(tmp_path))


def test_two_processes_on_postgresql_and_one_is_killed(tmp_path, crew, postgres):
    kill_one_of_two(tmp_path, crew, postgres)


def test_a_killed_last_trial_is_run_by_who_waits(tmp_path, crew):
    kill_one_of_two(tmp_path, crew, sqlite(tmp_path), GRID[:2])


def test_a_rush_of_processes_on_postgresql(tmp_path, crew, postgres):
    (tmp_path / "go").touch()
    url = postgres.replace("/postgres?", "/template1?")
    finish(crew(url, "a", "b", "c", skip_if_exists=False), "a", "b", "c")
    scored(study_at(url))


def test_a_worker_that_slept_too_long_loses_its_trial_without_an_error(tmp_path):
    """Another process took it for dead and ran the trial; the sleeper's score is not counted."""
    study, ran = study_at(sqlite(tmp_path)), []

    def taken_over(trial):
        if trial.number == 0:
            study.tell(trial.number, state=TrialState.FAIL)  # as fail_stale_trials of another process does
        return objective_noting(ran)(trial)

    study.enqueue_trial(GRID[0])
    run_trials(study, taken_over)
    scored(study, GRID[:1])
    assert len(study.trials) == 2

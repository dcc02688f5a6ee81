"""The search: every trial once, whoever dies. Objectives here are fakes, no TensorFlow is loaded."""

import itertools
import json
import math
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from xrayhelpers import study as study_module
from xrayhelpers import tuning

ROOT = Path(__file__).parents[1]
REPORT_GRID = tuning.grid(optimizer=["adam", "sgd"], units=[128, 256, 512, 1024])
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))

# A worker in a process of its own. It notes every start in a file, and holds each trial until `go` exists.
WORKER = """
import json, os, sys, time
from pathlib import Path
from xrayhelpers import tuning

folder, storage, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
me = sys.argv[4]

def objective(params, report):
    with open(folder / "starts", "a") as file:
        file.write(json.dumps([me, params]) + "\\n")
    while not (folder / "go").exists():
        time.sleep(0.02)
    time.sleep(0.01)
    return params["units"] / 1024

(folder / f"ready-{me}").touch()
while not (folder / "begin").exists():
    time.sleep(0.005)
grid = tuning.grid(optimizer=["adam", "sgd"], units=[128 * 2 ** k for k in range(count)])
table = tuning.search(objective, grid, name="grid", storage=storage)
table.to_json(folder / f"table-{me}.json")
"""


class Crew:
    """Worker processes on one study."""

    def __init__(self, folder: Path, storage: str, count: int = 4) -> None:
        self.folder, self.arguments, self.processes = folder, [str(folder), storage, str(count)], {}

    def start(self, *names: str) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        for name in names:
            command = [sys.executable, "-c", WORKER, *self.arguments, name]
            self.processes[name] = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self.wait_for(lambda: all((self.folder / f"ready-{name}").exists() for name in names))
        (self.folder / "begin").touch()

    def wait_for(self, condition) -> None:
        end = time.monotonic() + 60
        while not condition():
            for name, process in self.processes.items():
                if process.poll() not in (None, 0, -signal.SIGKILL):
                    pytest.fail(f"worker {name} ended with {process.returncode}: {process.stderr.read()}")
            assert time.monotonic() < end, "the workers never got there"
            time.sleep(0.01)

    def starts(self) -> list:
        file = self.folder / "starts"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def kill(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def go(self) -> None:
        (self.folder / "go").touch()

    def finish(self, *names: str) -> list[dict]:
        for name in names:
            _, errors = self.processes[name].communicate(timeout=90)
            assert self.processes[name].returncode == 0, errors
            assert errors == ""
        return [json.loads((self.folder / f"table-{name}.json").read_text()) for name in names]


@pytest.fixture
def crew(tmp_path):
    crews = []

    def hire(storage: str | Path | None = None, count: int = 4) -> Crew:
        crews.append(Crew(tmp_path, str(storage or tmp_path / "grid.log"), count))
        return crews[-1]

    yield hire
    for process in (process for one in crews for process in one.processes.values()):
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def postgres():
    """A throw-away PostgreSQL server on a Unix socket; yields its URL."""
    if not POSTGRES:
        pytest.skip("no PostgreSQL server here; on Debian: apt-get install postgresql")
    if not (find_spec("psycopg") or find_spec("psycopg2")):
        pytest.skip("no PostgreSQL driver here; pip install psycopg2-binary")
    folder = Path(tempfile.mkdtemp(prefix="xrays-pg-", dir="/tmp"))
    prefix, binaries = [], POSTGRES[-1].parent
    if os.geteuid() == 0:  # the server refuses to run as root
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        prefix = ["runuser", "-u", "postgres", "--"]

    def run(*command: str) -> None:
        subprocess.run([*prefix, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60)

    data, options = (
        str(folder / "data"),
        f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off",
    )
    try:
        run(f"{binaries}/initdb", "-D", data, "-A", "trust", "-U", "student", "--no-sync")
        run(f"{binaries}/pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        yield f"postgresql://student:planted-secret@/postgres?host={folder}"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            run(f"{binaries}/pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def score_units(params, report):
    return {"score": params["units"] / 1024, "auc": 0.5}


def never(params, report):
    raise AssertionError(f"{params} was run again")


# ---------------------------------------------------------------- one process


def test_grid_orders_the_report_s_eight():
    assert len(REPORT_GRID) == 8
    assert REPORT_GRID[0] == {"optimizer": "adam", "units": 128}
    assert REPORT_GRID[4] == {"optimizer": "sgd", "units": 128}


@pytest.mark.parametrize("values", [[], "adam"])
def test_grid_refuses_what_is_no_list(values):
    with pytest.raises(ValueError, match="expected a list"):
        tuning.grid(optimizer=values)


def test_table_holds_a_row_a_trial_in_order(tmp_path):
    table = tuning.search(score_units, REPORT_GRID, name="g", storage=tmp_path / "g.log")
    assert table[["optimizer", "units"]].to_dict("records") == REPORT_GRID
    assert list(table) == [
        "trial",
        "optimizer",
        "units",
        "score",
        "auc",
        "epochs",
        "state",
        "seconds",
        "worker",
    ]
    assert (table["state"] == "complete").all()
    assert (table["worker"] == 1).all()
    assert table["score"].idxmax() == 3


def test_finished_trials_are_not_run_again(tmp_path):
    first = tuning.search(score_units, REPORT_GRID, name="g", storage=tmp_path / "g.log")
    again = tuning.search(never, REPORT_GRID, name="g", storage=tmp_path / "g.log")
    assert again.equals(first)


def test_a_longer_grid_runs_only_what_is_new(tmp_path):
    tuning.search(score_units, REPORT_GRID, name="g", storage=tmp_path / "g.log")
    ran = []

    def note(params, report):
        ran.append(params)
        return 0.5

    new = {"optimizer": "adam", "units": 2048}
    table = tuning.search(note, [new, *REPORT_GRID], name="g", storage=tmp_path / "g.log")
    assert ran == [new]
    assert len(table) == 9


def test_other_settings_are_another_study(tmp_path):
    keep = {"name": "g", "storage": tmp_path / "g.log"}
    tuning.search(score_units, REPORT_GRID[:1], settings={"epochs": 5}, **keep)
    table = tuning.search(lambda p, r: 0.25, REPORT_GRID[:1], settings={"epochs": 6}, **keep)
    assert table["score"].tolist() == [0.25]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_failed_trial_is_run_again_by_the_next_call(tmp_path, error):
    ran = []

    def breaks_once(params, report):
        ran.append(params)
        if len(ran) == 3:
            raise error
        return 0.5

    with pytest.raises(type(error)):
        tuning.search(breaks_once, REPORT_GRID, name="g", storage=tmp_path / "g.log")
    table = tuning.search(breaks_once, REPORT_GRID, name="g", storage=tmp_path / "g.log")
    assert ran == REPORT_GRID[:3] + REPORT_GRID[2:]
    assert len(table) == 8


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_stops_the_search(tmp_path, score):
    with pytest.raises(ValueError, match="expected a finite number"):
        tuning.search(lambda p, r: score, REPORT_GRID, name="g", storage=tmp_path / "g.log")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trials": REPORT_GRID + REPORT_GRID[:1]}, "given twice"),
        ({"n_more": 3}, "needs a space"),
        ({"pruner": "mean"}, "expected None, 'median', 'halving'"),
        ({"space": {"units": [1, 2]}}, "lies outside the space: '128' not in"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_trained(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        tuning.search(**{"objective": never, "trials": REPORT_GRID, "name": "g", "storage": tmp_path / "x"} | arguments)
    assert not (tmp_path / "x").exists()


def test_search_is_silent(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuning.search(
            score_units,
            REPORT_GRID,
            name="g",
            storage=tmp_path / "g.log",
            n_more=2,
            space={"units": [128, 256, 512, 1024, 64]},
        )
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


def test_default_file_lies_in_the_run_s_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("XRAYS_STORAGE", raising=False)
    monkeypatch.setenv("XRAYS_RUN", str(tmp_path))
    tuning.search(score_units, REPORT_GRID[:1], name="grid")
    assert (tmp_path / "search" / "grid.log").stat().st_size > 0


def test_storage_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XRAYS_STORAGE", f"sqlite:///{tmp_path}/shared.db")
    first = tuning.search(score_units, REPORT_GRID, name="g")
    assert (tmp_path / "shared.db").is_file()
    assert tuning.search(never, REPORT_GRID, name="g").equals(first)


def test_an_unreachable_database_is_told_without_the_password():
    url = "postgresql://student:planted-secret@127.0.0.1:1/xrays?sslkey=planted-secret"
    with pytest.raises(ConnectionError, match="XRAYS_STORAGE") as caught:
        tuning.search(never, REPORT_GRID, name="g", storage=url)
    assert "planted-secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_first_comers_who_collide_over_new_tables_try_again(tmp_path, monkeypatch):
    create, calls = optuna.create_study, itertools.count()

    def collide_once(**arguments):
        if next(calls) == 0:
            raise RuntimeError('relation "studies" already exists')
        return create(**arguments)

    monkeypatch.setattr(optuna, "create_study", collide_once)
    table = tuning.search(score_units, REPORT_GRID, name="g", storage=f"sqlite:///{tmp_path}/shared.db")
    assert len(table) == 8


def test_a_half_written_last_line_is_mended(tmp_path):
    log = tmp_path / "g.log"
    first = tuning.search(score_units, REPORT_GRID[:2], name="g", storage=log)
    with log.open("a") as file:
        file.write('{"op_code": 4, "worker')  # as a full disk leaves it
    table = tuning.search(score_units, REPORT_GRID[:3], name="g", storage=log)
    assert table.iloc[:2].equals(first)
    assert len(table) == 3


# ---------------------------------------------------------------- drawn trials

SPACE = {"optimizer": ["adam", "sgd"], "rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)}


def rate_score(params, report):
    rate = params.get("rate", 0.001)
    for epoch in range(5):
        report(epoch, epoch / 10 - abs(math.log10(rate / 0.003)))
    return 0.4 - abs(math.log10(rate / 0.003))


def draw(path, objective=rate_score, **arguments):
    keep = {"name": "s", "storage": path, "n_more": 12, "space": SPACE, "pruner": "median"}
    return tuning.search(objective, tuning.grid(optimizer=["adam", "sgd"]), **keep | arguments)


def test_the_same_seed_draws_the_same_trials(tmp_path):
    columns = ["trial", "optimizer", "rate", "score", "epochs", "state"]
    first, second = draw(tmp_path / "1.log")[columns], draw(tmp_path / "2.log")[columns]
    assert first.equals(second)
    assert not first.equals(draw(tmp_path / "3.log", seed=1)[columns])


def test_a_broken_search_goes_on_to_what_an_unbroken_one_draws(tmp_path):
    count = itertools.count()

    def breaks(params, report):
        if next(count) in (1, 6, 11):
            raise RuntimeError("killed")
        return rate_score(params, report)

    for _ in range(3):
        with pytest.raises(RuntimeError):
            draw(tmp_path / "1.log", breaks)
    columns = ["trial", "optimizer", "rate", "score", "epochs", "state"]
    assert draw(tmp_path / "1.log", breaks)[columns].equals(draw(tmp_path / "2.log")[columns])


def test_only_drawn_trials_are_pruned(tmp_path):
    def poor_grid(params, report):
        for epoch in range(5):
            report(epoch, 1.0 if "rate" in params else 0.0)
        return 1.0

    pruned = draw(tmp_path / "1.log").query("state == 'pruned'")
    assert len(pruned) > 0
    assert (pruned["trial"] >= 2).all()
    assert pruned["score"].isna().all()
    assert (pruned["epochs"] < 5).all()
    drawn_first = draw(tmp_path / "2.log", poor_grid, n_more=6)
    assert (drawn_first["state"] == "complete").all()


def test_given_trials_are_pruned_when_asked(tmp_path):
    grid = tuning.grid(level=[5, 4, 3, 2, 1, 0])

    def level(params, report):
        for epoch in range(4):
            report(epoch, params["level"])
        return params["level"]

    arguments = {"name": "s", "storage": tmp_path / "1.log", "pruner": "median"}
    table = tuning.search(level, grid, prune_given=True, **arguments)
    assert table["state"].tolist() == ["complete"] * 4 + ["pruned"] * 2


def test_the_time_spent_bounds_what_is_drawn(tmp_path):
    assert len(draw(tmp_path / "1.log", max_seconds=0.0)) == 2


def test_a_small_space_is_used_up_and_nothing_drawn_twice(tmp_path):
    space = {"optimizer": ["adam", "sgd"], "units": [128, 256, 512, 1024, 2048]}
    keep = {"name": "s", "storage": tmp_path / "1.log", "n_more": 20, "space": space}
    table = tuning.search(score_units, REPORT_GRID, **keep)
    assert len(table) == len(table.drop_duplicates(["optimizer", "units"])) == 10
    assert tuning.search(never, REPORT_GRID, **keep).equals(table)


# ---------------------------------------------------------------- many workers


@pytest.mark.parametrize("storage", ["grid.log", "sqlite"])
def test_claims_at_the_same_moment_have_one_winner(tmp_path, storage, monkeypatch):
    """The worst case, forced: all workers add their claim before any of them looks who was first."""
    place = f"sqlite:///{tmp_path}/x.db" if storage == "sqlite" else str(tmp_path / storage)
    workers = 4
    barrier = threading.Barrier(workers)
    studies = [study_module.open_study("g", {}, place, optuna.pruners.NopPruner()) for _ in range(workers)]
    for one in studies:
        monkeypatch.setattr(one, "add_trial", lambda trial, add=one.add_trial: (add(trial), barrier.wait(30)))
    winners = []

    def take_all(one):
        for params in REPORT_GRID:
            trial = study_module.claim(one, str(params), params, {})
            winners.append((str(params), trial is not None))

    threads = [threading.Thread(target=take_all, args=(one,)) for one in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == workers * 8
    for params in REPORT_GRID:
        assert sum(won for slot, won in winners if slot == str(params)) == 1
    assert sum(trial.state == TrialState.RUNNING for trial in studies[0].get_trials()) == 8


def test_two_processes_share_the_grid_on_a_journal_file(crew):
    team = crew()
    team.start("a", "b")
    team.wait_for(lambda: {name for name, _ in team.starts()} == {"a", "b"})  # both hold a trial
    team.go()
    first, second = team.finish("a", "b")
    assert first == second
    ran = [params for _, params in team.starts()]
    assert sorted(ran, key=str) == sorted(REPORT_GRID, key=str)


@pytest.mark.slow
def test_a_rush_of_processes_runs_every_trial_once(crew):
    team = crew(count=12)
    team.go()
    team.start("a", "b", "c")
    tables = team.finish("a", "b", "c")
    assert all(table == tables[0] for table in tables)
    ran = [str(params) for _, params in team.starts()]
    assert len(ran) == len(set(ran)) == 24


def kill_one_of_two(team):
    team.start("a", "b")
    team.wait_for(lambda: len(team.starts()) == 2)
    held = dict(team.starts())
    team.kill("a")
    team.go()
    (table,) = team.finish("b")
    ran = [params for _, params in team.starts()]
    assert sorted(ran, key=str) == sorted([*REPORT_GRID, held["a"]], key=str)
    assert [name for name, params in team.starts() if params == held["a"]] == ["a", "b"]
    return table


def test_the_trial_of_a_killed_worker_is_run_again_by_the_other(crew):
    table = kill_one_of_two(crew())
    assert list(table["state"].values()) == ["complete"] * 8


def test_a_killed_search_goes_on_where_it_was(crew, tmp_path):
    team = crew()
    team.start("a")
    team.wait_for(lambda: len(team.starts()) == 1)
    team.kill("a")
    ran = []

    def note(params, report):
        ran.append(params)
        return params["units"] / 1024

    keep = {"name": "grid", "storage": tmp_path / "grid.log"}
    with pytest.raises(RuntimeError):
        tuning.search(lambda p, r: note(p, r) if len(ran) < 3 else never_mind(), REPORT_GRID, **keep)
    table = tuning.search(note, REPORT_GRID, **keep)
    assert ran == REPORT_GRID
    unbroken = tuning.search(score_units, REPORT_GRID, name="grid", storage=tmp_path / "other.log")
    columns = ["trial", "optimizer", "units", "score", "state"]
    assert table[columns].equals(unbroken[columns])


def never_mind():
    raise RuntimeError("stopped")


@pytest.fixture
def far_trial(tmp_path, monkeypatch):
    """A study with a running trial of another machine, and a clock to be set by hand."""
    one = study_module.open_study("g", {}, str(tmp_path / "g.log"), optuna.pruners.NopPruner())
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(study_module, "_worker", lambda: {"host": "another machine", "pid": os.getpid()})
        trial = study_module.claim(one, "slot", {"units": 1}, {})
    clock = [1000.0]
    monkeypatch.setattr(study_module.time, "monotonic", lambda: clock[0])
    return one, trial, clock


def state_of(one, trial):
    return one.get_trials()[trial.number].state


def test_a_silent_trial_of_another_machine_is_put_back(far_trial):
    one, trial, clock = far_trial
    beats = {}
    for clock[0] in (1000.0, 1119.0):
        study_module.put_back(one, beats, patience=120)
        assert state_of(one, trial) == TrialState.RUNNING
    clock[0] = 1121.0
    study_module.put_back(one, beats, patience=120)
    assert state_of(one, trial) == TrialState.FAIL


def test_a_beating_trial_of_another_machine_is_left_alone(far_trial):
    one, trial, clock = far_trial
    beats = {}
    for count in range(1, 20):
        trial.set_user_attr("beat", count)
        clock[0] += 100
        study_module.put_back(one, beats, patience=120)
        assert state_of(one, trial) == TrialState.RUNNING


def test_a_running_trial_shows_signs_of_life(tmp_path):
    one = study_module.open_study("g", {}, str(tmp_path / "g.log"), optuna.pruners.NopPruner())
    trial = study_module.claim(one, "slot", {"units": 1}, {})
    with study_module.beating(trial, seconds=0.01):
        end = time.monotonic() + 30
        while one.get_trials()[0].user_attrs.get("beat", 0) < 2 and time.monotonic() < end:
            time.sleep(0.01)
    assert one.get_trials()[0].user_attrs["beat"] >= 2


def test_a_machine_that_slept_too_long_leaves_its_trial_to_the_other(tmp_path):
    ran = []

    def sleeper(params, report):
        ran.append("sleeper")
        if len(ran) == 1:  # while it sleeps, another worker puts the trial back and runs it
            one = study_module.open_study("g", {}, str(tmp_path / "g.log"), optuna.pruners.NopPruner())
            study_module.finish(one, 0, TrialState.FAIL)
            tuning.search(lambda p, r: 0.75, REPORT_GRID[:1], name="g", storage=tmp_path / "g.log")
        return 0.25

    table = tuning.search(sleeper, REPORT_GRID[:1], name="g", storage=tmp_path / "g.log")
    assert table["score"].tolist() == [0.75]
    assert ran == ["sleeper"]


@pytest.mark.slow
def test_two_processes_on_postgresql_and_one_is_killed(crew, postgres):
    table = kill_one_of_two(crew(postgres))
    assert list(table["state"].values()) == ["complete"] * 8
    again = tuning.search(never, REPORT_GRID, name="grid", storage=postgres)
    assert json.loads(again.to_json()) == table


@pytest.mark.slow
def test_a_rush_of_processes_on_a_new_postgresql_database(crew, postgres):
    url = postgres.replace("/postgres?", "/template1?")  # no tables yet: all three create them at once
    team = crew(url, count=6)
    team.go()
    team.start("a", "b", "c")
    tables = team.finish("a", "b", "c")
    assert all(table == tables[0] for table in tables)
    ran = [str(params) for _, params in team.starts()]
    assert len(ran) == len(set(ran)) == 12

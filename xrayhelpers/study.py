"""The storage behind a search: opening it, claiming a trial in it, putting back what a dead worker left.

How every trial is run exactly once, without a lock that a dying process could leave behind:

- A *slot* is one thing to be run: a given set of parameters, or "the k-th set the sampler draws".
- A worker claims a slot by adding a running trial that already carries the slot's name. Adding is one atomic
  step in every Optuna storage and gives the trial its number.
- The lowest-numbered trial of a slot that has not failed owns it. A worker whose claim came second sees this
  before it starts to train, marks its own claim as failed and takes another slot.

How a trial of a killed worker is put back: a running trial counts up a `beat` every few seconds. One whose
process is gone (same machine), or whose beat has stood still for `patience` seconds (another machine), is
marked as failed, so its slot is free again. No clocks of two machines are compared. The same rule serves the
journal file and every database, which is why Optuna's database-only heartbeat is not switched on as well.
"""

import contextlib
import hashlib
import importlib.util
import itertools
import json
import os
import platform
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalRedisBackend
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna's messages off, as a lesson shows the table instead; errors still come through."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)


def canonical(value: object) -> str:
    """One text a set of parameters, whatever the order of its names; NumPy's numbers as plain ones."""
    return json.dumps(value, sort_keys=True, default=lambda number: number.item())


def open_study(name: str, settings: dict, storage: str | Path | None, pruner: BasePruner) -> optuna.Study:
    """Create the study or join it; tried again, as two first comers may collide over a database's tables."""
    study_name = f"{name}-{hashlib.sha256(canonical(settings).encode()).hexdigest()[:12]}"
    place = str(storage or os.environ.get("XRAYS_STORAGE") or _default_file(name))
    for pause in (0.2, 0.5, 1.0, None):
        try:
            return optuna.create_study(
                study_name=study_name,
                storage=_open_database(place) if "://" in place else _open_journal(Path(place).resolve()),
                direction="maximize",
                pruner=pruner,
                load_if_exists=True,
            )
        except Exception as error:
            if "://" not in place:
                raise
            if pause is None or isinstance(error, ImportError):
                scheme, _, rest = place.partition("://")  # user and password stay out of the message
                raise ConnectionError(
                    f"The study's storage at {scheme}://{rest.rpartition('@')[2].partition('?')[0]} cannot "
                    f"be opened ({type(error).__name__}). Check that the server runs, the user, password and "
                    "database in XRAYS_STORAGE, and that the driver is there (pip install psycopg2-binary)."
                ) from None
            time.sleep(pause)


def _default_file(name: str) -> Path:
    from xrayhelpers.results import run_folder  # here: it brings scikit-learn, which a worker does not need

    return run_folder() / "search" / f"{name}.log"


def _open_database(url: str) -> BaseStorage:
    if url.startswith("redis"):
        return JournalStorage(JournalRedisBackend(url))
    if url.startswith("postgresql://"):  # SQLAlchemy 2.0 and 2.1 disagree on the driver this means
        driver = "psycopg" if importlib.util.find_spec("psycopg") else "psycopg2"
        url = url.replace("postgresql", f"postgresql+{driver}", 1)
    # Connections are tested before use: a trial may train for longer than a server keeps one open.
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


def _open_journal(path: Path) -> BaseStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileOpenLock(str(path))  # works on Windows too, where links need rights
    backend = JournalFileBackend(str(path), lock_obj=lock)
    lock.acquire()
    try:
        with path.open("rb+") as file:  # a half-written last line (full disk) would spoil the line after it
            file.truncate(file.read().rfind(b"\n") + 1)
    finally:
        lock.release()
    return JournalStorage(backend)


def _worker() -> dict:
    """Who runs a trial. Containers may share a host name, so the namespace of process ids belongs to it."""
    namespace = "/proc/self/ns/pid"
    here = os.readlink(namespace) if os.path.islink(namespace) else ""
    return {"host": f"{platform.node()} {here}", "pid": os.getpid()}


def put_back(study: optuna.Study, last_beats: dict[int, tuple[int, float]], patience: float) -> None:
    """Fail the running trials of dead workers, which frees their slots."""
    here, now = _worker()["host"], time.monotonic()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker, beat = trial.user_attrs["worker"], trial.user_attrs.get("beat", 0)
        if last_beats.get(trial.number, (None, now))[0] != beat:
            last_beats[trial.number] = (beat, now)
        gone = worker["host"] == here and not psutil.pid_exists(worker["pid"])
        if gone or now - last_beats[trial.number][1] > patience:
            finish(study, trial.number, TrialState.FAIL)


def finish(study: optuna.Study, number: int, state: TrialState, score: float | None = None) -> None:
    """Close a trial, unless another worker has done so (say, while this machine was asleep)."""
    with contextlib.suppress(UpdateFinishedTrialError):
        study.tell(number, score, state=state, skip_if_finished=True)


def owners_of(history: list[FrozenTrial]) -> dict[str, FrozenTrial]:
    """Slot -> the lowest-numbered trial that has not failed."""
    alive = [trial for trial in history if trial.state != TrialState.FAIL]
    return {t.user_attrs["slot"]: t for t in sorted(alive, key=lambda trial: -trial.number)}


def new_trial(params: dict, distributions: dict, attributes: dict | None = None) -> FrozenTrial:
    """A running trial to be added; names outside the space stay out of what the sampler sees."""
    shared = {key: known for key, known in distributions.items() if key in params}
    values = {key: params[key] for key in shared}
    return create_trial(state=TrialState.RUNNING, params=values, distributions=shared, user_attrs=attributes)


def claim(study: optuna.Study, slot: str, params: dict, distributions: dict) -> Trial | None:
    """Add a trial for the slot; return it if the slot is ours, None if another worker was first."""
    token, plain = uuid.uuid4().hex, json.loads(canonical(params))
    attributes = {"slot": slot, "params": plain, "worker": _worker(), "token": token}
    study.add_trial(new_trial(params, distributions, attributes))
    history = study.get_trials(deepcopy=False)
    mine = next(trial for trial in history if trial.user_attrs["token"] == token)
    if owners_of(history).get(slot) is mine:
        return Trial(study, mine._trial_id)
    finish(study, mine.number, TrialState.FAIL)
    return None


@contextlib.contextmanager
def beating(trial: Trial, seconds: float) -> Iterator[None]:
    """Count up the trial's beat while the body runs."""
    stop = threading.Event()

    def beat() -> None:
        for count in itertools.count(1):
            if stop.wait(seconds):
                return
            with contextlib.suppress(Exception):  # the storage is away; the next beat may reach it
                trial.set_user_attr("beat", count)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()

"""Search for good parameters: the report's grid first, then a sampler with pruning.

The study (one *trial* a set of parameters) lives in a storage that any number of processes and machines may
share: a journal file in the run's folder, or a database named by a URL. :func:`search` can be started as
often and in as many places as you like; every trial is run once, and every place ends with the same table.
How that is done is told in :mod:`xrayhelpers.study`.
"""

import contextlib
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from xrayhelpers.study import (
    beating,
    canonical,
    claim,
    finish,
    new_trial,
    open_study,
    owners_of,
    put_back,
    quiet_optuna,
)

PRUNERS = {
    None: NopPruner(),
    "median": MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    "halving": SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
}


def grid(**lists: list) -> list[dict]:
    """Every combination of the given values, the first name changing slowest.

    >>> grid(optimizer=["adam", "sgd"], units=[128, 256])[1]
    {'optimizer': 'adam', 'units': 256}
    """
    for name, values in lists.items():
        if isinstance(values, str) or not len(values):
            raise ValueError(f"grid({name}={values!r}): expected a list of values, such as {name}=[1, 2].")
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def search(
    objective: Callable[[dict, Callable], float | dict],
    trials: list[dict],
    *,
    name: str,
    settings: dict | None = None,
    storage: str | Path | None = None,
    n_more: int = 0,
    space: dict | None = None,
    pruner: str | BasePruner | None = None,
    prune_given: bool = False,
    max_seconds: float = math.inf,
    seed: int = 0,
    patience: float = 120.0,
) -> pd.DataFrame:
    """Run every trial once, share the work with whoever else runs the same search, return the whole table.

    Parameters
    ----------
    objective : callable
        `objective(params, report)` trains and returns the validation score (higher is better), or a dict of
        metrics with the key "score". `report(epoch, value)` tells the score after an epoch; it raises
        `optuna.TrialPruned` when the trial is not worth going on, which the objective lets through.
    trials : list of dict
        Sets of parameters that are run first, in this order; see :func:`grid`. May be empty.
    name : str
        Name of the study, and of its file.
    settings : dict
        Everything else the score depends on (data fingerprint, epochs, image size, ...). Other settings are
        another study, so that a stored score never answers for a different question.
    storage : str or Path
        A file, or a URL (`postgresql://`, `sqlite:///`, `redis://`, ...). Default: `XRAYS_STORAGE`, else
        `search/<name>.log` in the run's folder.
    n_more : int
        Trials drawn by the TPE sampler from `space` after the given ones; fewer if the space holds no more.
    space : dict
        Name -> list of choices, or a distribution such as `optuna.distributions.FloatDistribution(1e-4, 1e-2,
        log=True)`. Given trials teach the sampler through the names that they share with the space.
    pruner : {"median", "halving"} or optuna.pruners.BasePruner
        Stops drawn trials that fall behind. Given trials run to their end unless `prune_given`.
    max_seconds : float
        No further trial is drawn once the finished trials have taken this long in all.
    seed : int
        With one worker, the same seed draws the same trials.
    patience : float
        Seconds without a sign of life until a trial on another machine is put back.

    Returns
    -------
    DataFrame
        One row a trial: `trial` (its place in the order), the parameters, `score` (NaN when pruned), further
        metrics, `epochs` reported, `state` ("complete" or "pruned"), `seconds`, and `worker`, counted from 1.

    Raises
    ------
    ValueError
        Trials given twice, parameters outside `space`, a score that is not a finite number.
    ConnectionError
        The storage URL cannot be opened; passwords are left out of the text.
    """
    distributions = {
        key: values if isinstance(values, BaseDistribution) else CategoricalDistribution(values)
        for key, values in (space or {}).items()
    }
    slots: dict[str, dict | None] = {canonical(params): params for params in trials}
    if len(slots) < len(trials):
        raise ValueError(f"{len(trials) - len(slots)} of {len(trials)} trials are given twice; leave them out.")
    if n_more and not space:
        raise ValueError('n_more needs a space to draw from, such as space={"units": [128, 256]}.')
    for params in trials:
        try:
            new_trial(params, distributions)
        except ValueError as error:
            raise ValueError(f"The trial {params} lies outside the space: {error} Widen the space.") from None
    if isinstance(pruner, str) and pruner not in PRUNERS:
        raise ValueError(f"pruner={pruner!r}; expected None, 'median', 'halving' or an Optuna pruner.")
    chosen_pruner = pruner if isinstance(pruner, BasePruner) else PRUNERS[pruner]
    slots |= {f"drawn {seed}-{k}": None for k in range(n_more)}
    with quiet_optuna():
        study = open_study(name, settings or {}, storage, chosen_pruner)
        last_beats: dict[int, tuple[int, float]] = {}
        while True:
            put_back(study, last_beats, patience)
            history = study.get_trials(deepcopy=False)
            owners = owners_of(history)
            spent = sum(trial.user_attrs.get("seconds", 0.0) for trial in owners.values())
            free = [s for s, given in slots.items() if s not in owners and (given or spent < max_seconds)]
            if free:
                given = slots[free[0]]
                params = given or _draw(study, history, free[0], distributions)
                if params is None:
                    slots.pop(free[0])
                    continue
                trial = claim(study, free[0], params, distributions)
                if trial is not None:
                    _run(study, trial, objective, params, bool(prune_given or not given), min(20, patience / 4))
            elif all(owners[slot].state.is_finished() for slot in slots if slot in owners):
                return _table(owners, slots)
            else:
                time.sleep(0.5)  # others are at work; should one of them die, its trial is ours


def _draw(study: optuna.Study, history: list[FrozenTrial], slot: str, distributions: dict) -> dict | None:
    """Parameters of a drawn slot: those of a failed try, else new ones, else None (the space is used up)."""
    for trial in history:
        if trial.user_attrs["slot"] == slot:
            return trial.user_attrs["params"]
    # A sampler a slot: no two workers draw alike, and a continued search draws as an unbroken one does.
    slot_seed = int(hashlib.sha256(slot.encode()).hexdigest()[:8], 16)
    tpe = optuna.samplers.TPESampler(seed=slot_seed, n_startup_trials=6, constant_liar=True)
    chance = optuna.samplers.RandomSampler(seed=slot_seed)  # for a small space where TPE repeats itself
    known, blank = [trial.user_attrs["params"] for trial in history], create_trial(state=TrialState.RUNNING)
    for sampler in [tpe] * 10 + [chance] * 200:
        params = {key: sampler.sample_independent(study, blank, key, d) for key, d in distributions.items()}
        if params not in known:
            return params
    return None


def _run(study: optuna.Study, trial: Trial, objective: Callable, params: dict, prunable: bool, beat: float) -> None:
    def report(epoch: int, value: float) -> None:
        trial.report(float(value), int(epoch))
        if prunable and trial.should_prune():
            raise optuna.TrialPruned(f"behind the others after epoch {epoch}")

    started, score, state = time.monotonic(), None, TrialState.FAIL
    try:
        with beating(trial, beat):
            metrics = objective(dict(params), report)
        metrics = dict(metrics) if isinstance(metrics, dict) else {"score": metrics}
        if not math.isfinite(metrics["score"]):
            raise ValueError(f"The trial {params} scored {metrics['score']}; expected a finite number.")
        score, state = float(metrics.pop("score")), TrialState.COMPLETE
        trial.set_user_attr("metrics", json.loads(canonical(metrics)))
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    except UpdateFinishedTrialError:
        pass  # put back while this machine slept: the trial is another worker's now
    finally:  # also after an error or Ctrl-C, so that the next call runs this trial again
        with contextlib.suppress(UpdateFinishedTrialError):
            trial.set_user_attr("seconds", round(time.monotonic() - started, 3))
        finish(study, trial.number, state, score)


def _table(owners: dict[str, FrozenTrial], slots: dict) -> pd.DataFrame:
    by_number = sorted(owners.values(), key=lambda trial: trial.number)
    workers = list(dict.fromkeys(canonical(trial.user_attrs["worker"]) for trial in by_number))
    rows = []
    for place, trial in enumerate(owners[slot] for slot in slots if slot in owners):
        kept, done = trial.user_attrs, trial.state == TrialState.COMPLETE
        row = {"trial": place, **kept["params"], "score": trial.value if done else math.nan}
        row |= {**kept.get("metrics", {}), "epochs": len(trial.intermediate_values)}
        row |= {"state": trial.state.name.lower(), "seconds": kept["seconds"]}
        rows.append(row | {"worker": workers.index(canonical(kept["worker"])) + 1})
    return pd.DataFrame(rows)

"""papermill runs every lesson with two odd sets of parameters on a tiny phantom; no lesson is exempt."""

import subprocess
import sys
from collections import Counter

import nbformat
import optuna
import papermill
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from xrayhelpers.lessons import KERNEL_ARGUMENTS, ROOT, choose_parameters, find_lessons, kernel_environment

TINY = "phantom:train=40,test=20,val=4"
SETS = {
    "small": {
        "data": TINY,
        "image_size": 33,
        "batch_size": 7,
        "epochs": 1,
        "seed": 3,
        "protocol": "report",
        "neighbors": 1,
        "views": 1,
        "seeds": 1,
        "optimizers": "sgd",
        "units": "8",
        "members": 1,
        "better_epochs": 1,
    },
    "odd": {
        "data": TINY + ",seed=2",
        "image_size": 47,
        "batch_size": 64,
        "epochs": 2,
        "seed": 11,
        "protocol": "patient",
        "neighbors": 4,
        "views": 3,
        "seeds": 2,
        "optimizers": "adam,sgd",
        "units": "3,17",
        "members": 2,
        "better_epochs": 2,
    },
}
LESSONS = find_lessons(ROOT)
FAKE_KEY = "KGAT_" + "0123456789abcdef" * 2  # put together here, so that no scan of the repository finds a key


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_every_parameter_has_odd_values(lesson):
    for name, values in SETS.items():
        assert set(lesson.parameters) <= set(values), f"add the new parameter to {name} in tests/test_lessons.py"
        assert all(values[key] != lesson.parameters[key] for key in ("data", "seed") if key in lesson.parameters)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_lesson_runs_with_other_parameters(lesson, name, tmp_path, monkeypatch):
    """Also: a Kaggle token that lies ready reaches no output and no file of the run."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", FAKE_KEY)
    monkeypatch.setenv("KAGGLE_KEY", FAKE_KEY)
    # As in a student's JupyterLab: with the one TensorFlow is silent, with the other ipykernel does not listen to it.
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    given = {key: value for key, value in SETS[name].items() if key in lesson.parameters}
    values = choose_parameters([lesson], given)[lesson.name]
    with kernel_environment(tmp_path):
        executed = papermill.execute_notebook(
            lesson.path,
            tmp_path / lesson.path.name,
            parameters=values,
            kernel_name="python3",
            language="python",
            cwd=lesson.path.parent,
            progress_bar=False,
            extra_arguments=KERNEL_ARGUMENTS,
            execution_timeout=900,
        )
    assert "injected-parameters" in str(executed.cells[:6])
    assert not any(out.get("name") == "stderr" for cell in executed.cells for out in cell.get("outputs", []))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / lesson.path.name in written
    assert not any(FAKE_KEY.encode() in path.read_bytes() for path in written)


@pytest.mark.slow
def test_two_papermills_share_one_grid(tmp_path, monkeypatch):
    """The same command started twice: both end, every trial was trained once, both tell the same."""
    given = {key: SETS["small"][key] for key in ("data", "image_size", "epochs", "seeds", "batch_size")}
    given |= {"optimizers": "sgd,adam", "units": "4,8"}
    monkeypatch.setenv("XRAYS_RUN", str(tmp_path))
    lesson = ROOT / "notebooks" / "06_tuning.ipynb"
    command = [sys.executable, "-m", "papermill", str(lesson), "-k", "python3", "--cwd", str(lesson.parent)]
    command += [word for key, value in given.items() for word in ("-p", key, str(value))]
    both = [tmp_path / "one.ipynb", tmp_path / "two.ipynb"]
    runs = [subprocess.Popen([*command[:4], str(path), *command[4:]], stderr=subprocess.DEVNULL) for path in both]
    assert [run.wait(900) for run in runs] == [0, 0]

    for file in sorted((tmp_path / "search").glob("*.log")):
        storage = JournalStorage(JournalFileBackend(str(file)))
        (study,) = optuna.get_all_study_summaries(storage)
        trained = Counter()
        for trial in optuna.load_study(study_name=study.study_name, storage=storage).get_trials():
            trained[trial.user_attrs["slot"]] += trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        assert set(trained.values()) == {1}
    assert {file.name.split("-")[0].split(".")[0] for file in (tmp_path / "search").glob("*.log")} == {"grid", "budget"}
    answers = [
        [out.text for cell in nbformat.read(path, 4).cells for out in cell.get("outputs", []) if "promised" in str(out)]
        for path in both
    ]
    assert len(answers[0]) == 1
    assert answers[0] == answers[1]

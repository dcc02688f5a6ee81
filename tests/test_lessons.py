"""papermill runs every lesson with odd parameters on a tiny phantom; its last section also runs without the package."""

import importlib.util
import re
import subprocess
import sys
import time
from collections import Counter

import nbformat
import numpy as np
import optuna
import papermill
import pytest
from optuna.trial import TrialState

from tools.lessons import KERNEL_ARGUMENTS, ROOT, choose_parameters, find_lessons, kernel_environment
from xrayhelpers import augment, models

TINY = "phantom:train=40,test=20,val=4"
ODD = {
    "data": TINY + ",seed=2",
    "classes": "normal=0, PNEUMONIA = 1",
    "image_size": 47,
    "batch_size": 7,
    "epochs": 2,
    "longest": 3,
    "seed": 11,
    "seeds": 1,
    "protocol": "patient",
    "neighbors": 4,
    "optimizers": "sgd",
    "units": "3,17",
    "trials": 3,
}
LESSONS = find_lessons(ROOT)
FAKE_KEY = "KGAT_" + "0123456789abcdef" * 2  # put together here, so that no scan of the repository finds a key
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)


def test_every_parameter_has_an_odd_value():
    for lesson in LESSONS:
        assert set(lesson.parameters) <= set(ODD), f"add the new parameter of {lesson.name} to ODD"
        assert all(ODD[name] != lesson.parameters[name] for name in ("data", "seed"))


@pytest.mark.slow
@each_lesson
def test_lesson_runs_with_odd_parameters(lesson, tmp_path, monkeypatch):
    """Also: no cell warns, and a Kaggle token that lies ready reaches no output and no file of the run."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", FAKE_KEY)
    monkeypatch.setenv("KAGGLE_KEY", FAKE_KEY)
    # As in a student's JupyterLab: with the one TensorFlow is silent, with the other ipykernel does not listen to it.
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    given = {name: value for name, value in ODD.items() if name in lesson.parameters}
    with kernel_environment(tmp_path):
        executed = papermill.execute_notebook(
            lesson.path,
            tmp_path / lesson.path.name,
            parameters=choose_parameters([lesson], given)[lesson.name],
            kernel_name="python3",
            language="python",
            cwd=lesson.path.parent,
            progress_bar=False,
            extra_arguments=KERNEL_ARGUMENTS,
            execution_timeout=900,
        )
    assert any("injected-parameters" in cell.metadata.get("tags", []) for cell in executed.cells)
    assert [out for cell in executed.cells for out in cell.get("outputs", []) if out.get("name") == "stderr"] == []
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / lesson.path.name in written
    assert not any(FAKE_KEY.encode() in path.read_bytes() for path in written)


@pytest.mark.slow
def test_two_papermills_share_one_grid(tmp_path, monkeypatch):
    """The same command started twice: both end, and every finished trial counts once."""
    (lesson,) = find_lessons(ROOT, ["06"])
    given = {
        "data": TINY,
        "image_size": 33,
        "epochs": 1,
        "seeds": 1,
        "trials": 3,
        "optimizers": "sgd,adam",
        "units": "4,8",
    }
    given = {name: value for name, value in given.items() if name in lesson.parameters}
    monkeypatch.setenv("XRAYS_RUN", str(tmp_path))
    monkeypatch.delenv("XRAYS_STORAGE", raising=False)
    both = [tmp_path / "one.ipynb", tmp_path / "two.ipynb"]
    command = [sys.executable, "-m", "papermill", str(lesson.path), "OUT", "-k", "python3", "--cwd", str(ROOT)]
    command += [word for name, value in given.items() for word in ("-p", name, str(value))]
    runs = []
    for path in both:  # two kernels that start at the same moment may choose the same ports: one after the other
        runs.append(subprocess.Popen([*command[:4], str(path), *command[5:]], stderr=subprocess.DEVNULL))
        while runs[-1].poll() is None and not (path.is_file() and '"status": "running"' in path.read_text("utf-8")):
            time.sleep(0.2)
    assert [run.wait(900) for run in runs] == [0, 0]

    storage = f"sqlite:///{tmp_path / 'search.db'}"
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    assert len(names) >= 2, "the grid and the search with a budget"
    grids = 0
    for name in names:
        trials = optuna.load_study(study_name=name, storage=storage).get_trials()
        assert not [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
        finished = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        asked = Counter(
            str(trial.system_attrs["fixed_params"]) for trial in finished if "fixed_params" in trial.system_attrs
        )
        assert set(asked.values()) <= {1}, "a trial of the grid was trained twice"
        grids += len(asked) == 4
    assert grids >= 1
    tables = [
        [
            out
            for cell in nbformat.read(path, 4).cells
            for out in cell.get("outputs", [])
            if "sgd" in str(out.get("data"))
        ]
        for path in both
    ]
    assert tables[0], "the lesson shows the trials"
    assert [out["data"].get("text/plain") for out in tables[0]] == [out["data"].get("text/plain") for out in tables[1]]


def test_a_search_belongs_to_its_cell_its_code_and_the_values_that_this_reads(tmp_path):
    """Else the table of an older search would come back, or Optuna would refuse the new one."""
    (lesson,) = find_lessons(ROOT, ["06"])
    (cell,) = [cell for cell in lesson.cells if "def name_study" in cell]
    scope = {"training_data": augment.training_data, "report_cnn": models.report_cnn, "np": np, **lesson.parameters}

    def name(read="LOW, WIDTHS = 0.1, [32, 128]", code="return LOW, WIDTHS", cell_run="create_study()", **settings):
        path = tmp_path / f"objective{len(list(tmp_path.glob('*.py')))}.py"  # inspect wants a file
        path.write_text(f"{read}\ndef objective(trial):\n    {code}\n")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        now = {**scope, "precision": "float32 (of no reason)", "In": ["", cell_run], **settings}
        exec(cell, now)
        return now["name_study"]("search", [{"train": np.ones(3)}, {"train": np.ones(3)}], module.objective)

    others = [name(read="LOW, WIDTHS = 0.2, [32, 128]"), name(read="LOW, WIDTHS = 0.1, [32]"), name(epochs=9)]
    others += [name(code="return WIDTHS, LOW"), name(cell_run="create_study(sampler)")]
    assert name() == name()
    assert len({name(), *others}) == 6


# What a process does in which `import xrayhelpers` fails, wherever it might be installed.
BLOCK = """import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "xrayhelpers":
            raise ModuleNotFoundError("xrayhelpers is not here")
sys.meta_path.insert(0, Block())
"""


def run_blocked(code, folder):
    command = [sys.executable, "-I", "-c", BLOCK + code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@each_lesson
def test_last_section_needs_no_package(lesson, phantom_root, tmp_path):
    """The cell "Without this package" does the lesson's job where `xrayhelpers` cannot be imported."""
    cells = nbformat.read(lesson.path, as_version=4).cells
    tagged = [n for n, cell in enumerate(cells) if "without-package" in cell.metadata.get("tags", [])]
    if not tagged:  # test_house.py says which lessons have the section
        return
    (place,) = tagged
    assert len([line for line in cells[place].source.splitlines() if line.strip()]) <= 15
    before = [cell.source for cell in cells[:place] if cell.cell_type == "code"][-1]
    where = before.splitlines()[-1]  # the line that the reader changes
    assert re.fullmatch(r"folder = source\.class_folders\(\w*index\)", where), where
    source = f"folder = __import__('pathlib').Path({str(phantom_root / 'train')!r})\n"
    done = run_blocked(source + cells[place].source, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_package_is_really_blocked(tmp_path):
    for code in ("import xrayhelpers", "from xrayhelpers.data import load_index"):
        assert "xrayhelpers is not here" in run_blocked(code, tmp_path).stderr
    assert run_blocked("import json", tmp_path).returncode == 0

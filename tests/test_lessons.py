"""papermill runs every lesson with two odd sets of parameters on a tiny phantom; no lesson is exempt."""

import papermill
import pytest

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

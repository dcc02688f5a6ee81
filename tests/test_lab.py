"""The start: which Pythons are refused, the reader's copy of the lessons, and the ways that the README shows."""

import ast
import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from tools import lab
from tools.lessons import ROOT
from xrayhelpers import _machine

README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture
def repository(tmp_path):
    """A repository with two lessons, one of them with a result, and a solution."""
    new, code = nbformat.v4.new_notebook, nbformat.v4.new_code_cell
    (tmp_path / "notebooks" / "solutions").mkdir(parents=True)
    for name in ("01_a.ipynb", "02_b.ipynb", "solutions/01_a.ipynb"):
        cell = code("1 + 1", execution_count=3, outputs=[nbformat.v4.new_output("stream", text="2")])
        nbformat.write(new(cells=[cell]), tmp_path / "notebooks" / name)
    return tmp_path


def edit(path, text):
    """Change the first cell of a notebook, as its reader does, or its author."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = text
    nbformat.write(notebook, path)


def source(path):
    return nbformat.read(path, as_version=4).cells[0].source


# ------------------------------------------------------------------------------------------------ this Python
@pytest.mark.parametrize(
    ("version", "bits", "system", "machine", "said"),
    [
        ((3, 10), 64, "Linux", "x86_64", r"Python 3\.10.*3\.11 to 3\.13.*make lab PYTHON.*uv venv.*conda.*Colab"),
        ((3, 14), 64, "Darwin", "arm64", r"Python 3\.14.*3\.11 to 3\.13.*make lab PYTHON.*uv venv.*conda.*Colab"),
        ((3, 12), 32, "Windows", "AMD64", r"32 bit.*Install a 64-bit Python"),
        ((3, 12), 64, "Darwin", "x86_64", r"Macs with an Intel.*Colab"),
        ((3, 13), 64, "Windows", "ARM64", r"Windows on ARM.*x86-64.*Colab"),
        ((3, 11), 64, "Linux", "x86_64", None),
        ((3, 13), 64, "Linux", "aarch64", None),
        ((3, 12), 64, "Darwin", "arm64", None),
        ((3, 13), 64, "Windows", "AMD64", None),
    ],
)
def test_python_that_cannot_run_the_lessons_is_told_what_to_do(version, bits, system, machine, said):
    fault = lab.find_fault(version, bits, system, machine)
    assert re.search(said, fault, re.DOTALL) if said else fault == ""


def test_limits_are_those_of_the_package():
    (wanted,) = re.findall(r'requires-python = "(.+)"', (ROOT / "pyproject.toml").read_text())
    low, high = ("{}.{}".format(*version) for version in (lab.OLDEST, lab.NEWEST))
    assert wanted == f">={low},<{lab.NEWEST[0]}.{lab.NEWEST[1] + 1}"
    assert f"Python {low} to {high}, 64 bit" in README


def test_old_python_can_read_the_check():
    """An older Python must get as far as the message: no newer syntax, nothing that is not in its library."""
    tree = ast.parse((ROOT / "tools" / "lab.py").read_text("utf-8"), feature_version=(3, 7))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.arg | ast.FunctionDef) and subscripted(node)]


def subscripted(node):
    """Whether an annotation is one like list[str], which an old Python refuses."""
    note = node.annotation if isinstance(node, ast.arg) else node.returns
    return note is not None and not isinstance(note, ast.Name | ast.Constant)


def test_make_checks_python_before_it_installs():
    command = ["make", "--dry-run", "--always-make", "lab", "FRESH=1"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    order = ["lab.py --check", "-m venv", "GB", "pip install", "-c constraints.txt", "lab.py --fresh"]
    assert [said.index(word) for word in order] == sorted(said.index(word) for word in order)


# --------------------------------------------------------------------------------------------------- the copy
def test_copy_has_the_lessons_without_results(repository):
    lab.copy_lessons(repository)
    for name in ("01_a.ipynb", "02_b.ipynb", "solutions/01_a.ipynb"):
        (cell,) = nbformat.read(repository / "my-lessons" / name, as_version=4).cells
        assert (cell.source, cell.outputs, cell.execution_count) == ("1 + 1", [], None)
        assert nbformat.read(repository / "notebooks" / name, as_version=4).cells[0].outputs


def test_what_a_reader_changed_is_never_overwritten(repository):
    copy, own = repository / "my-lessons", repository / "my-lessons" / "01_a.ipynb"
    lab.copy_lessons(repository)
    edit(own, "mine")
    (copy / "notes.ipynb").write_text("{}")
    for name in ("01_a.ipynb", "02_b.ipynb"):
        edit(repository / "notebooks" / name, "better")
    (said,) = [line for line in lab.copy_lessons(repository) if "Newer" in line]
    assert "01_a.ipynb" in said
    assert "02_b.ipynb" not in said
    assert [source(own), source(copy / "02_b.ipynb")] == ["mine", "better"], "an untouched copy follows its lesson"
    (copy / lab.RECORD).write_text("{damaged")
    edit(repository / "notebooks" / "02_b.ipynb", "best")
    lab.copy_lessons(repository)
    assert [source(own), source(copy / "02_b.ipynb")] == ["mine", "better"], "nobody knows whose they are"
    assert (copy / "notes.ipynb").read_text() == "{}"


def test_fresh_copy_keeps_the_old_ones(repository):
    own = repository / "my-lessons" / "01_a.ipynb"
    for text in ("first", "second"):
        lab.copy_lessons(repository, fresh=True)
        edit(own, text)
    lab.copy_lessons(repository, fresh=True)
    assert source(own) == "1 + 1"
    kept = sorted(repository.glob("my-lessons-*"))
    assert [source(folder / "01_a.ipynb") for folder in kept] == ["first", "second"]
    assert re.fullmatch(r"my-lessons-\d{4}-\d\d-\d\d", kept[0].name)


def test_links_of_a_copy_lead_somewhere(tmp_path):
    for folder in ("docs", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("api"))
    lab.copy_lessons(tmp_path, fresh=True)
    links = []
    for path in (tmp_path / "my-lessons").rglob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        links += [path.parent / link for link in re.findall(r"\]\(([^):#]+?\.(?:ipynb|md))", text)]
    assert len(links) > 3 * len(list((tmp_path / "notebooks").glob("*.ipynb")))
    assert [link for link in links if not link.exists()] == []
    assert not [link for link in links if (tmp_path / "notebooks") in link.resolve().parents]


def test_copy_finds_the_same_data_and_the_same_run(repository, monkeypatch):
    """A kernel starts in the folder of its notebook."""
    (repository / "xrayhelpers").mkdir()
    (repository / "xrayhelpers" / "__init__.py").touch()
    (repository / "data" / "chest_xray").mkdir(parents=True)
    lab.copy_lessons(repository)
    for folder in ("notebooks", "my-lessons", "my-lessons/solutions"):
        monkeypatch.chdir(repository / folder)
        assert _machine.default_data() == str(repository / "data" / "chest_xray")
        assert _machine.run_folder() == repository / "runs" / "interactive"


def test_git_does_not_see_the_copies():
    names = ["my-lessons/01_eda.ipynb", "my-lessons-2026-01-31/solutions/01_eda.ipynb"]
    ignored = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout.split() == names
    assert subprocess.run(["git", "check-ignore", "-q", "notebooks/01_eda.ipynb"], cwd=ROOT).returncode == 1


def test_jupyter_starts_at_the_top():
    """Else a link to the glossary would lead out of what it serves."""
    command = lab.lab_command()
    assert f"--ServerApp.root_dir={ROOT}" in command
    assert command[-1] == str(ROOT / "my-lessons" / "01_eda.ipynb")


# ------------------------------------------------------------------------------------------- the ways to start
def test_every_way_installs_the_tested_versions_and_opens_the_copy():
    blocks = re.findall(r"^```(?:sh|bat)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    ways = [block for block in blocks if "pip install" in block]
    assert len(ways) == 4, "without make, Windows, conda, uv"
    for block in ways:
        assert "-r requirements.txt -c constraints.txt -e ." in block
        assert re.search(r"tools[/\\]lab\.py\s*$", block)


def test_devcontainer_makes_the_same():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["updateContentCommand"] == "make .venv/.ready && .venv/bin/python tools/lab.py --copy"
    version = tuple(int(word) for word in container["image"].rpartition(":")[2].split("."))
    assert lab.OLDEST <= version <= lab.NEWEST

"""Rules of the house that a machine can check: notebooks, the package's shape, the files that must agree."""

import ast
import base64
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
import yaml

from xrayhelpers import lessons

ROOT = lessons.ROOT
NOTEBOOKS = sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("notebooks/solutions/*.ipynb")])
LESSONS = sorted(ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))
MODULES = sorted(ROOT.glob("xrayhelpers/*.py"))

LONGEST_CELL = 20  # lines
LARGEST_PICTURE = 60_000  # bytes
LONGEST_MODULE = 250  # lines of code without docstrings, comments and blanks
SHARED_NAMES = {"data", "seed", "image_size", "batch_size", "epochs", "protocol"}

# A module may import modules of its own or of a lower floor, never of a higher one.
FLOORS = [
    {"_quiet"},
    {"sources", "download", "phantom", "radiograph"},
    {"dataset"},
    {"decode", "pixels"},
    {"augment", "models", "training", "weights"},
    {"intervals", "evaluate", "results", "plots", "explain", "tuning", "study", "shortcuts", "cards", "better"},
    {"lessons", "cache", "checks", "doctor", "play", "run", "sweep"},
    {"__main__"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}

# A path of one machine, in what is stored: home and temporary folders, drive letters, the place of an environment.
MACHINE = re.compile(
    r"(?<![\w.:/])/(?:home|root|Users|tmp|var|opt|usr|mnt|work|content|private)/\w|\b[A-Z]:\\\\?\w|site-packages"
)
CREDENTIAL = re.compile(
    r"\bKGAT_\w{8,}|\"key\"\s*:\s*\"[0-9a-f]{32}\"|\bAKIA[0-9A-Z]{16}\b|\bghp_\w{20,}|\bhf_[A-Za-z]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def outputs(path):
    return [(cell, output) for cell in code_cells(path) for output in cell.outputs]


def output_text(output):
    data = output.get("data", {})
    return "\n".join([output.get("text", ""), *(str(data[kind]) for kind in data if kind.startswith("text/"))])


def headings(path):
    """Levels of the headings of a notebook in order, without those in code blocks."""
    text = "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    return [len(marks) for marks in re.findall(r"^(#{1,6}) ", text, flags=re.MULTILINE)]


def notebook(function):
    return pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)(function)


def module(function):
    return pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)(function)


# ---------------------------------------------------------------------------------------------- notebooks
def test_there_are_seven_lessons():
    assert [path.stem[:2] for path in LESSONS] == ["01", "02", "03", "04", "05", "06", "07"]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_one_parameters_cell_of_literals(path):
    cells = code_cells(path)
    tagged = [number for number, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert tagged[0] <= 1, "the parameters stand at the top: only the cell that installs may come before"
    parameters = lessons.read_lesson(path).parameters
    assert parameters["data"] == "auto"
    assert "seed" in parameters
    assert not any("injected-parameters" in cell.metadata.get("tags", []) for cell in cells)


def test_parameters_of_one_name_have_one_type():
    kinds = {}
    for lesson in lessons.find_lessons(ROOT):
        for name, value in lesson.parameters.items():
            assert kinds.setdefault(name, type(value)) is type(value), f"{name} in {lesson.name}"
    assert set(kinds) >= SHARED_NAMES


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_needs_and_reads_are_earlier_lessons(path):
    lesson = lessons.read_lesson(path)
    names = {other.stem for other in LESSONS if other.stem < path.stem}
    assert {*lesson.needs, *lesson.reads} <= names


@notebook
def test_headings_form_an_outline(path):
    levels = headings(path)
    assert levels[0] == 1
    assert levels.count(1) == 1
    skipped = [(above, below) for above, below in pairwise(levels) if below > above + 1]
    assert skipped == []


@notebook
def test_cells_are_short(path):
    long = [cell.source.splitlines()[0] for cell in code_cells(path) if len(cell.source.splitlines()) > LONGEST_CELL]
    assert long == []


@notebook
def test_every_stored_picture_says_what_it_shows_and_is_small(path):
    for cell, output in outputs(path):
        for kind in [kind for kind in output.get("data", {}) if kind.startswith("image/")]:
            first = cell.source.splitlines()[0]
            alt = output.metadata.get(kind, {}).get("alt", "")
            assert len(alt.split()) >= 4, f"{first}: the picture's alt text is {alt!r}; use plots.show(figure, alt=...)"
            picture = output.data[kind]
            size = len(picture) if kind == "image/svg+xml" else len(base64.b64decode(picture))
            assert size < LARGEST_PICTURE, f"{first}: {size} bytes"


@notebook
def test_pictures_in_text_have_alt_text(path):
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"!\[\s*\]\(", cell.source)
            assert not re.search(r"<img(?![^>]*\balt=)", cell.source)


@notebook
def test_no_stored_error_or_warning(path):
    stored = [output for _, output in outputs(path)]
    assert not [output for output in stored if output.output_type == "error"]
    assert not [output.text for output in stored if output.get("name") == "stderr"]
    assert not [output_text(output) for output in stored if re.search(r"Warning:|Traceback", output_text(output))]


@notebook
def test_nothing_of_a_machine_is_stored(path):
    document = read(path)
    for cell in document.cells:
        assert not MACHINE.search(cell.source), MACHINE.search(cell.source)
        assert "execution" not in cell.metadata, "times of execution are stored: make refresh"
    for _, output in outputs(path):
        found = MACHINE.search(output_text(output))
        assert not found, found
    assert set(document.metadata) <= {"kernelspec", "language_info", "xrays"}
    assert set(document.metadata.get("language_info", {})) <= {"name"}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_code_cell_was_run_in_order(path):
    counts = [cell.execution_count for cell in code_cells(path) if cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1)), "outputs are missing or out of order: make refresh"


@notebook
def test_lesson_says_what_it_is_not_for(path):
    assert "not for diagnosis" in "\n".join(cell.source for cell in read(path).cells[:3]).lower()


# ------------------------------------------------------------------------------------------------ package
def imported_modules(tree):
    """Names of the modules of this package that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "xrayhelpers":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            names |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xrayhelpers."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("xrayhelpers.")}
    return names - {"__version__"}


def count_code(text):
    """Count the lines that are neither blank nor comment nor docstring."""
    documentation = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            documentation |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(bool(line.strip()) and line.lstrip()[0] != "#" and n not in documentation for n, line in lines)


@module
def test_imports_run_one_way(path):
    if path.stem == "__init__":
        return
    assert path.stem in FLOOR, "say in FLOORS above on which floor the new module lives"
    above = {name for name in imported_modules(ast.parse(path.read_text())) if FLOOR[name] > FLOOR[path.stem]}
    assert above == set()


@module
def test_module_is_one_room(path):
    assert count_code(path.read_text()) <= LONGEST_MODULE


@module
def test_module_says_what_it_is_for(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    public = [
        node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [node.name for node in public if ast.get_docstring(node) is None] == []
    functions = [node for node in public if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if node.returns is None] == [], "type hints on public functions"


def test_counting_of_code():
    assert count_code('"""Two\nlines."""\n\n# comment\ndef f():\n    """No."""\n    return 1\n') == 2


def test_import_is_light_and_quiet():
    heavy = ("tensorflow", "keras", "numpy", "pandas", "matplotlib")
    code = "import random, sys; before = random.getstate(); import xrayhelpers; assert random.getstate() == before\n"
    code += f"print(*(name for name in {heavy} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (result.stdout.strip(), result.stderr) == ("", "")


def test_modules_without_networks_do_not_load_tensorflow():
    networks = {"_quiet", "augment", "better", "models", "training", "weights", "explain", "study"}
    light = [path.stem for path in MODULES if path.stem not in networks]
    code = f"import importlib, sys\nfor name in {light}:\n    importlib.import_module('xrayhelpers.' + name)\n"
    code += "    assert 'tensorflow' not in sys.modules, name"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# --------------------------------------------------------------------------------- files that must agree
def requirement_lines(name):
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return [line for line in lines if line]


def test_environment_of_conda_is_the_requirements():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (by_pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert by_pip == [*requirement_lines("requirements.txt"), "-e ."]
    python = next(item for item in environment["dependencies"] if str(item).startswith("python"))
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert python.removeprefix("python").startswith(wanted)


def test_constraints_meet_the_requirements():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    exact = {}
    for line in requirement_lines("constraints.txt"):
        name, version = line.split("==")
        exact[canonicalize_name(name)] = version
    for line in [*requirement_lines("requirements.txt"), *requirement_lines("requirements-dev.txt")]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(exact[canonicalize_name(requirement.name)]), line
    assert "torch" not in exact


def test_every_import_of_the_package_is_required():
    from importlib.metadata import packages_distributions

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    required = {canonicalize_name(Requirement(line).name) for line in requirement_lines("requirements.txt")}
    homes = packages_distributions() | {"cv2": ["opencv-python", "opencv-python-headless"]}
    optional = {"pydicom"}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"xrayhelpers"} - optional:
                assert {canonicalize_name(home) for home in homes[top]} & required, f"{path.name} imports {top}"


def test_ci_runs_make_test_and_nothing_else():
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step] == ["make test"]


def stored_files():
    """Files that git tracks or would track: text only."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / line for line in listing.stdout.splitlines()]
    return [path for path in paths if path.suffix not in {".png", ".ipynb"} and path.is_file()]


def test_no_credential_is_stored():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: git does not say what is stored")
    for path in [*stored_files(), *NOTEBOOKS]:
        if path != Path(__file__):
            assert not CREDENTIAL.search(path.read_text("utf-8")), path.relative_to(ROOT)


def test_patterns_find_what_they_must():
    assert CREDENTIAL.search('{"username":"x","key":"' + "0a" * 16 + '"}')
    assert MACHINE.search("saved to /home/anna/x")
    assert MACHINE.search(r"C:\Users\anna")
    assert not MACHINE.search("https://example.org/home/anna")
    assert not MACHINE.search("chest_xray/train/NORMAL")

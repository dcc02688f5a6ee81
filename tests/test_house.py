"""Rules of the house that a machine can check: the package's size and order, the notebooks, English, files that agree.

`python tests/test_house.py [folder of another clone]` prints what is counted.
"""

import ast
import base64
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

from xrayhelpers import results

ROOT = Path(__file__).resolve().parents[1]

# The rooms of the package in their one order: a room imports only from rooms before it.
ROOMS = [
    *("_machine", "_keras", "_phantom", "_images", "_store", "data", "augment", "_vgg16", "models", "training"),
    *("_intervals", "evaluate", "results", "explain", "shortcuts", "plots", "widgets", "exercises"),
    *("_kaggle", "__main__"),
]
MOST_CODE, MOST_PUBLIC_CODE = 2_700, 1_800  # lines without docstrings, comments and blanks
MOST_CELLS, MOST_WORDS = 45, 1_500  # of a lesson, before its exercises
MOST_NAMES = defaultdict(lambda: 20, dict.fromkeys(("01", "02", "03", "04", "05", "06"), 12))
LONGEST_CELL, LONGEST_LINE = 15, 84  # lines that are not blank; characters (notebooks/ruff.toml)
LARGEST_PICTURE = 150_000  # bytes

# Public names that nobody outside the package uses, and parameters that nobody passes, with the reason to keep them.
UNUSED_NAMES: dict[str, str] = {}
UNPASSED = {
    "data.load_index(classes)": "for folders of readers whose classes have other names; an error names it",
    "data.load_index(on_damage)": "a reader's choice about damaged files; an error and docs/own-data.md name it",
    "models.report_vgg16(weights)": "without the internet nobody could build the network otherwise; tests do",
    "models.report_vgg16(units)": "the report's own choices, which a reader varies; tests build a small network",
    "models.report_vgg16(trainable_layers)": "as above: it was found after many tries, says the report",
    "training.keep_features(folder)": "for a class that shares the features on a disk of its own",
}

# A path of one machine, in what is stored: home and temporary folders, drive letters, the place of an environment.
MACHINE = re.compile(
    r"(?<![\w.:/])/(?:home|root|Users|tmp|var|opt|usr|mnt|work|content|private)/\w|\b[A-Z]:\\\\?\w|site-packages"
)
CREDENTIAL = re.compile(
    r"\bKGAT_\w{8,}|\"key\"\s*:\s*\"[0-9a-f]{32}\"|\bAKIA[0-9A-Z]{16}\b|\bghp_\w{20,}|\bhf_[A-Za-z]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)


def notebooks(root=ROOT):
    return sorted([*root.glob("notebooks/[0-9][0-9]_*.ipynb"), *root.glob("notebooks/solutions/*.ipynb")])


def lessons(root=ROOT):
    return sorted(root.glob("notebooks/[0-9][0-9]_*.ipynb"))


@cache
def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def outputs(path):
    return [(cell, output) for cell in code_cells(path) for output in cell.outputs]


def output_text(output):
    data = output.get("data", {})
    return "\n".join([output.get("text", ""), *(str(data[kind]) for kind in data if kind.startswith("text/"))])


def before_exercises(path):
    """The cells of a lesson's body."""
    body = []
    for cell in read(path).cells:
        if cell.cell_type == "markdown" and re.search(r"^## Exercises", cell.source, flags=re.MULTILINE):
            break
        body.append(cell)
    return body


def parse(source):
    """Syntax tree of a code cell; what only IPython understands is left out."""
    return ast.parse(re.sub(r"^( *)[%!?].*$", r"\1pass", source, flags=re.MULTILINE))


# ------------------------------------------------------------------------------------------------------- counting
def count_code(text):
    """Count the lines that hold code: no blank, no comment, no docstring."""
    documentation, code = set(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            documentation |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING):
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - documentation)


def count_words(cells):
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return len([word for word in text.split() if re.search(r"\w", word)])


def names_used(sources):
    """Distinct names of this package, and of all other libraries, that code imports or reaches through a module."""
    trees = [parse(source) for source in sources]
    origin, package, used = {}, set(), set()
    for node in [node for tree in trees for node in ast.walk(tree)]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.split(".")[0]
                origin[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                origin[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for tree in trees:
        inner = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            chain, root = [], node
            while isinstance(root, ast.Attribute):
                chain.insert(0, root.attr)
                root = root.value
            if chain and node not in inner and isinstance(root, ast.Name) and root.id in origin:
                used.add(".".join([origin[root.id], *chain]))
    for full in [*used, *origin.values()]:
        if full.startswith("xrayhelpers.") and full.count(".") >= 2:
            package.add(".".join(full.split(".")[1:3]))
    others = {full for full in used if not full.startswith("xrayhelpers")}
    # `from x import y`: y itself is the name, unless something is reached through it.
    others |= {
        full
        for full in origin.values()
        if "." in full and not full.startswith("xrayhelpers") and not any(o.startswith(f"{full}.") for o in others)
    }
    return package, others


def count(root=ROOT):
    """Code lines of each room, and of each lesson the figures that are limited."""
    rooms = {path.stem: count_code(path.read_text("utf-8")) for path in sorted(root.glob("xrayhelpers/*.py"))}
    table = {}
    for path in lessons(root):
        body = before_exercises(path)
        package, others = names_used([cell.source for cell in body if cell.cell_type == "code"])
        table[path.stem] = {"package names": len(package), "library names": len(others), "cells": len(body)}
        table[path.stem]["words"] = count_words(body)
        table[path.stem]["longest cell"] = max(
            len([line for line in cell.source.splitlines() if line.strip()])
            for cell in body
            if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
        )
    return rooms, table


def is_public(room):
    return not room.startswith("_")


def test_the_house_keeps_its_size():
    """The one test that counts: code lines, rooms, and what a lesson asks of its reader."""
    rooms, table = count()
    assert sorted(rooms) == sorted([*ROOMS, "__init__"]), "a room came or went: say so in ROOMS and docs/design.md"
    assert sum(rooms.values()) <= MOST_CODE
    assert sum(lines for room, lines in rooms.items() if is_public(room)) <= MOST_PUBLIC_CODE
    wrong = []
    for name, row in table.items():
        limits = {"longest cell": LONGEST_CELL, "cells": MOST_CELLS, "words": MOST_WORDS}
        limits |= {"package names": min(MOST_NAMES[name[:2]], row["library names"] - 1)}
        wrong += [f"{name}: {row[what]} {what}, at most {most}" for what, most in limits.items() if row[what] > most]
    for path in notebooks():
        for cell in code_cells(path):
            lines = [line for line in cell.source.splitlines() if len(line) > LONGEST_LINE]
            wrong += [f"{path.stem}: {len(line)} characters: {line}" for line in lines]
    assert wrong == []


def test_counting():
    text = '"""Two\nlines."""\n\n# comment\ndef f():\n    """No."""\n    x = """a\n    b"""\n    return x\n'
    assert count_code(text) == 4
    cells = [
        "import numpy as np\nfrom PIL import Image\nfrom xrayhelpers.data import load_index as li\n%matplotlib inline",
        "from xrayhelpers import plots\nnp.random.default_rng(0).normal(np.pi)\nImage.open('x').show()",
        "plots.show(1)\nplots.show(2)\nimport os.path\nos.path.join('a')\nfrom math import pi\nli.attrs",
    ]
    package, others = names_used(cells)
    assert package == {"data.load_index", "plots.show"}
    assert others == {"numpy.random.default_rng", "numpy.pi", "PIL.Image.open", "os.path.join", "math.pi"}


# ---------------------------------------------------------------------------------------------------- the package
def modules():
    return [ROOT / "xrayhelpers" / f"{room}.py" for room in ROOMS]


@cache
def tree_of(path):
    return ast.parse(path.read_text("utf-8"))


def imported_rooms(tree):
    """Rooms that a room imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module == "xrayhelpers" or (node.level and not node.module)):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("xrayhelpers.")):
            names.add(node.module.removeprefix("xrayhelpers.").split(".")[0])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("xrayhelpers.")}
    return names & {*ROOMS, "tools"}


def test_imports_run_one_way():
    for place, path in enumerate(modules()):
        assert imported_rooms(tree_of(path)) <= set(ROOMS[:place]), f"{path.stem} imports a room that stands after it"


def public_definitions(tree):
    return [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]


def test_rooms_say_what_they_are_for():
    for path in modules():
        tree = tree_of(path)
        assert ast.get_docstring(tree), path.stem
        for node in public_definitions(tree):
            assert ast.get_docstring(node), f"{path.stem}.{node.name} has no docstring"
            is_click = any("command" in ast.unparse(d) or "group" in ast.unparse(d) for d in node.decorator_list)
            if isinstance(node, ast.FunctionDef) and not is_click:
                assert node.returns is not None, f"{path.stem}.{node.name} has no type hints"


def test_import_is_light_and_quiet():
    heavy = ("tensorflow", "keras", "numpy", "pandas", "matplotlib")
    code = "import random, sys; before = random.getstate(); import xrayhelpers; assert random.getstate() == before\n"
    code += f"print(*(name for name in {heavy} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (result.stdout.strip(), result.stderr) == ("", "")


def test_rooms_without_networks_do_not_load_tensorflow():
    """Their readers would wait for it; which rooms need it follows from who imports `_keras`."""
    loads = {"_keras"}
    for path in modules():
        top = ast.Module([node for node in tree_of(path).body if isinstance(node, ast.ImportFrom | ast.Import)], [])
        if imported_rooms(top) & loads:
            loads.add(path.stem)
    light = [room for room in ROOMS if room not in loads]
    assert {"data", "evaluate", "results", "plots", "exercises", "__main__"} <= set(light)
    code = f"import importlib, sys\nfor name in {light}:\n    importlib.import_module('xrayhelpers.' + name)\n"
    code += "    assert 'tensorflow' not in sys.modules, name"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# ------------------------------------------------------------------------------- names and parameters that are used
def users():
    """Syntax trees of everything the package is for: lessons, solutions, tools, benchmarks, the command line."""
    trees = [ast.Module([n for c in code_cells(path) for n in parse(c.source).body], []) for path in notebooks()]
    files = [*ROOT.glob("tools/*.py"), *ROOT.glob("benchmarks/*.py"), ROOT / "docs" / "conf.py"]
    return trees + [tree_of(path) for path in [*files, ROOT / "xrayhelpers" / "__main__.py"]]


def identifiers(tree):
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return names | {alias.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for alias in n.names}


def test_every_public_name_is_used():
    """By a lesson, a solution, a tool, a benchmark or a command; what only rooms use is machinery (`_name`)."""
    outside, unused = set().union(*map(identifiers, users())), []
    for path in modules()[:-1]:
        inside = set().union(*(identifiers(tree_of(other)) for other in modules()))
        for node in public_definitions(tree_of(path)):
            # A class need not be named by who gets its instances, and an error is caught by its base.
            function = isinstance(node, ast.FunctionDef) and is_public(path.stem)
            if node.name not in (outside if function else outside | inside):
                unused.append(f"{path.stem}.{node.name}")
        exported = [node for node in tree_of(path).body if ast.unparse(node).startswith("__all__ =")]
        names = {name for node in exported for name in ast.literal_eval(node.value)}  # constants, too
        others = set().union(*(identifiers(tree_of(other)) for other in modules() if other != path))
        unused += [f"{path.stem}.{name}" for name in names - (outside | others) if f"{path.stem}.{name}" not in unused]
    assert not set(unused) ^ set(UNUSED_NAMES), ", ".join(sorted(set(unused) ^ set(UNUSED_NAMES)))


def passed_to(trees):
    """For each function name: how many positional arguments it gets at most, and which keywords."""
    most, keywords = defaultdict(int), defaultdict(set)
    for tree in trees:
        words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        words |= {k.arg for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords if k.arg}
        for call in [n for n in ast.walk(tree) if isinstance(n, ast.Call)]:
            function, arguments = call.func, call.args
            if ast.unparse(function).endswith("partial") and arguments:
                function, arguments = arguments[0], arguments[1:]
            name = getattr(function, "id", getattr(function, "attr", ""))
            starred = any(isinstance(argument, ast.Starred) for argument in arguments)
            most[name] = max(most[name], 99 if starred else len(arguments))
            keywords[name] |= {keyword.arg for keyword in call.keywords}
            if None in keywords[name]:  # `**settings`: any word of this file may be among them
                keywords[name] |= words
    return most, keywords


def test_every_parameter_is_passed_somewhere():
    """A default that nobody changes is a constant."""
    most, keywords = passed_to([*users(), *map(tree_of, modules())])
    unpassed = []
    for path in modules()[:-1]:
        for node in public_definitions(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                (node, *_) = [n for n in node.body if getattr(n, "name", "") == "__init__"] or [None]
            if node is None or not is_public(path.stem):
                continue
            name = (
                node.name
                if node.name != "__init__"
                else next(n.name for n in tree_of(path).body if isinstance(n, ast.ClassDef) and node in n.body)
            )
            positional = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg != "self"]
            missing = set(positional[most[name] :]) | {a.arg for a in node.args.kwonlyargs}
            unpassed += [f"{path.stem}.{name}({parameter})" for parameter in missing - keywords[name]]
    assert not set(unpassed) ^ set(UNPASSED), ", ".join(sorted(set(unpassed) ^ set(UNPASSED)))


# ------------------------------------------------------------------------------------------------------ notebooks
def parameters_of(path):
    from tools.lessons import read_lesson

    return read_lesson(path)


def test_lessons_are_numbered():
    numbers = [path.stem[:2] for path in lessons()]
    assert numbers == [f"{n:02d}" for n in range(1, len(numbers) + 1)]
    assert [path.name for path in lessons()] == [p.name for p in notebooks() if p.parent.name == "solutions"]


def test_parameters_are_literals_and_mean_the_same_everywhere():
    kinds = {}
    for path in lessons():
        tags = [tag for cell in code_cells(path) for tag in cell.metadata.get("tags", [])]
        assert tags.count("parameters") == 1, path.stem
        assert "injected-parameters" not in tags, path.stem
        lesson = parameters_of(path)
        assert lesson.parameters["data"] == "auto", path.stem
        assert "seed" in lesson.parameters, path.stem
        for name, value in lesson.parameters.items():
            assert kinds.setdefault(name, type(value)) is type(value), f"{name} in {path.stem}"
        earlier = {other.stem for other in lessons() if other.stem < path.stem}
        assert {*lesson.needs, *lesson.reads} <= earlier, path.stem
        code = "\n".join(cell.source for cell in code_cells(path))
        if "read_results" in code or "load_model" in code:  # the models that it names come from these lessons
            named = {made for model, made in results.LESSONS.items() if re.search(rf"""["']{model}["'-]""", code)}
            assert named & earlier <= {*lesson.reads}, path.stem


def test_expected_sections_are_there():
    """From lesson 02 on, "Without this package" in one cell of at most fifteen lines, before the common mistakes."""
    for path in lessons():
        text = "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
        titles = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
        asked = ["Without this package"] if path.stem >= "02" else []
        asked += ["Common mistakes", "Recap", "Exercises", "Quiz", "References"]
        assert [title for title in titles if title in asked] == asked, path.stem
        tagged = [cell for cell in code_cells(path) if "without-package" in cell.metadata.get("tags", [])]
        assert len(tagged) == ("Without this package" in asked), path.stem


def test_headings_form_an_outline():
    for path in notebooks():
        text = "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
        text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
        levels = [len(marks) for marks in re.findall(r"^(#{1,6}) ", text, flags=re.MULTILINE)]
        assert levels[0] == 1, path.stem
        assert levels.count(1) == 1, path.stem
        assert [pair for pair in pairwise(levels) if pair[1] > pair[0] + 1] == [], path.stem


def test_pictures_say_what_they_show_and_are_small():
    for path in notebooks():
        for cell, output in outputs(path):
            for kind in [kind for kind in output.get("data", {}) if kind.startswith("image/")]:
                where = f"{path.stem}: {cell.source.splitlines()[0]}"
                alt = output.metadata.get(kind, {}).get("alt", "")
                assert len(alt.split()) >= 4, f"{where}: the alt text is {alt!r}; use plots.show(figure, alt=...)"
                picture = output.data[kind]
                size = len(picture) if kind == "image/svg+xml" else len(base64.b64decode(picture))
                assert size < LARGEST_PICTURE, f"{where}: {size} bytes"
        for cell in read(path).cells:
            if cell.cell_type == "markdown":
                assert not re.search(r"!\[\s*\]\(", cell.source), path.stem
                assert not re.search(r"<img(?![^>]*\balt=)", cell.source), path.stem


def test_what_is_stored_is_clean():
    """No error, warning, path of a machine or time of execution; every code cell of a lesson was run, in order."""
    for path in notebooks():
        document = read(path)
        for cell, output in outputs(path):
            where = f"{path.stem}: {cell.source[:60]!r}"
            assert output.output_type != "error", where
            assert output.get("name") != "stderr", where
            found = re.search(r"Warning:|Traceback", output_text(output)) or MACHINE.search(output_text(output))
            assert not found, (where, found)
            # Its counts of iterations differ from processor to processor.
            assert "sk-top-container" not in output_text(output), f"{where} shows a fitted model of scikit-learn"
        for cell in document.cells:
            assert not MACHINE.search(cell.source), (path.stem, MACHINE.search(cell.source))
            assert "execution" not in cell.metadata, f"{path.stem}: times are stored; make refresh"
        assert set(document.metadata) <= {"kernelspec", "language_info", "xrays"}, path.stem
        assert set(document.metadata.get("language_info", {})) <= {"name"}, path.stem
        assert "not for diagnosis" in "\n".join(cell.source for cell in document.cells[:3]).lower(), path.stem
    for path in lessons():
        counts = [cell.execution_count for cell in code_cells(path) if cell.source.strip()]
        assert counts == list(range(1, len(counts) + 1)), f"{path.stem} is not stored as it ran: make refresh"


# -------------------------------------------------------------------------------------------------------- English
THING = "image|film|picture|patient|batch|epoch|child|model|row|class|cell|lesson|trial|seed|step|process|core|part"
PER = re.compile(
    rf"\b(one|two|three|four|\d+|a) (?:[\w-]+ )?[\w-]+ an? ({THING})\b|\b(once|twice) an? ({THING})\b", re.I
)
TWO_OBJECTS = re.compile(
    r"\b(gives?|giving|gave|shows?|showing|feeds?|hands?|teach(?:es)?|calls?|makes?|lets?|trains?)\b", re.I
)
BETWEEN = re.compile(  # "one part of a class", "a network is a model"
    r"\b(of|for|to|in|from|with|than|as|is|was|on|by|or|and|into|when|whether|if|that|about|like|per|has|needs?|sees?)\b",
    re.I,
)
PATTERNS = {
    "differs significantly from": re.compile(r"\btold(?: [\w-]+)? apart\b", re.I),
    "name the noun": re.compile(r"\b(?:the|beyond|against) own\b(?!er|ing)", re.I),
    "predicted/observed, validation/test": re.compile(r"\b(?:promised|promises|paid)\b", re.I),
    "again": re.compile(r"\banew\b", re.I),
    "more certain": re.compile(r"\bsurer\b", re.I),
    "will, must": re.compile(r"\bshall\b", re.I),
    "split": re.compile(
        r"\bcuts? (?:by|into|from|along) (?!the (?:edge|border))"
        r"|\b(?:a|the|this|each|every|other|same|which|patient|report|fair|93/531) cut\b(?!-)"
        r"|\bcuts? (?:the |of )?(?:data|train|test|validation|patients|parts)\b",
        re.I,
    ),
    "subject before verb": re.compile(
        r"(?:^|[.!?:] )(?:Chosen|Shown|Measured|Kept|Counted|Drawn|Stored|Asked|Compared|Trained|Missing|Planted)"
        r" (?:is|are)\b"
    ),
}


def bad_english(text):
    """What a native speaker would not say, as far as patterns know; code between backticks does not count."""
    text = re.sub(r"```.*?```|`[^`]*`", "`", text, flags=re.DOTALL)
    text = re.sub(r"\s+", " ", text)
    found = [(advice, match.group()) for advice, pattern in PATTERNS.items() for match in pattern.finditer(text)]
    for match in PER.finditer(text):
        inside, before = match.group().split()[1:-2], text[: match.start()].split()[-3:]
        if not (BETWEEN.search(" ".join(inside)) or TWO_OBJECTS.search(" ".join(before + inside))):
            found.append(("per", match.group()))
    return found


def docstrings_and_messages(tree):
    """All texts of at least four words in Python code; the pieces of an f-string are joined."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "`" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def texts():
    """Yield (place, text) of everything that a reader meets."""
    for path in notebooks():
        for cell in read(path).cells:
            said = [cell.source] if cell.cell_type == "markdown" else docstrings_and_messages(parse(cell.source))
            yield from ((path.stem, text) for text in said)
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        yield path.name, path.read_text("utf-8")
    for path in [*ROOT.glob("docs/*.toml"), *ROOT.glob("docs/quizzes/*.toml")]:
        yield path.name, path.read_text("utf-8")
    for path in [*modules(), *ROOT.glob("tools/*.py"), *ROOT.glob("benchmarks/*.py")]:
        yield from ((f"{path.parent.name}/{path.name}", text) for text in docstrings_and_messages(tree_of(path)))


def test_english_is_idiomatic():
    found = [(place, *what) for place, text in texts() for what in bad_english(text)]
    assert found == [], "\n".join(map(str, found))


def test_patterns_of_english():
    for bad in [
        "The index holds one row an image.",
        "It is built as one warp a batch in tf.data.",
        "The frozen layers run once an epoch.",
        "We keep a score an image.",
        "two models cannot be told apart here",
        "Only what the other does beyond the own speaks of it.",
        "The threshold promised 95 % and paid 90 %.",
        "Everything is drawn anew.",
        "That makes us surer.",
        "You shall see.",
        "We cut by patient.",
        "The patient cut is fair.",
        "cut validation images from train",
        "It works. Chosen is the larger area.",
    ]:
        assert bad_english(bad), bad
    for good in [
        "The index holds one row per image.",
        "We show the network a batch and give a model an image.",
        "One part of a class is left out.",
        "a network is a model",
        "The score of one film in a batch.",
        "It has its own folder, and the owner can read it.",
        "The film is cut off at the edge, a shortcut.",
        "The lung is cut in half by the border.",
        "`cut by patient` is code",
        "We chose the larger area.",
        "Pay attention to a promise.",
        "Twice as long as a row.",
    ]:
        assert bad_english(good) == [], good


# ------------------------------------------------------------------------------------------- files that must agree
def requirement_lines(name):
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return [line for line in lines if line]


def test_environment_of_conda_is_the_requirements():
    yaml = pytest.importorskip("yaml")
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (by_pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert by_pip == ["-c constraints.txt", *requirement_lines("requirements.txt"), "-e ."]
    python = next(item for item in environment["dependencies"] if str(item).startswith("python"))
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert python == f"python{wanted}"


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


def test_every_import_is_required_and_every_requirement_is_used():
    from importlib.metadata import packages_distributions

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    required = {canonicalize_name(Requirement(line).name) for line in requirement_lines("requirements.txt")}
    homes = packages_distributions() | {"cv2": ["opencv-python", "opencv-python-headless"]}
    optional = {"distributed"}
    # What the collection is asked to stand on, used by an import or as a command.
    fixed = {"jupyterlab", "tensorflow", "scikit-learn", "opencv-python", "imutils", "mlxtend", "matplotlib", "seaborn"}
    fixed |= {"kaggle", "papermill", "nbval"}
    runs = ("run", "runner", "lessons", "pages", "sweep")
    files = {path: tree_of(path) for path in [*modules(), *(ROOT / "tools" / f"{name}.py" for name in runs)]}
    files |= {p: ast.Module([n for c in code_cells(p) for n in parse(c.source).body], []) for p in notebooks()}
    used = set()
    for path, tree in files.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            ours = sys.stdlib_module_names | {"xrayhelpers", "tools"} | optional
            for top in {name.split(".")[0] for name in names} - ours:
                home = {canonicalize_name(name) for name in homes[top]} & required
                assert home, f"{path.name} imports {top}"
                used |= home
    assert required - used - fixed == set()


def test_ci_runs_make_test_and_on_schedule_the_processors():
    yaml = pytest.importorskip("yaml")
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = {name: [s["run"] for s in job["steps"] if "run" in s] for name, job in workflow["jobs"].items()}
    assert steps["test"] == ["make test"]
    assert steps["processors"] == ["make test-processors"]
    assert "schedule" in workflow[True], "YAML reads `on` as true"


def test_no_credential_is_stored():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: git does not say what is stored")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for path in [ROOT / line for line in listing.stdout.splitlines()]:
        if path.is_file() and path.suffix != ".png" and path != Path(__file__):
            assert not CREDENTIAL.search(path.read_text("utf-8")), path.relative_to(ROOT)


def test_patterns_find_what_they_must():
    assert CREDENTIAL.search('{"username":"x","key":"' + "0a" * 16 + '"}')
    assert MACHINE.search("saved to /home/anna/x")
    assert MACHINE.search(r"C:\Users\anna")
    assert not MACHINE.search("https://example.org/home/anna")
    assert not MACHINE.search("chest_xray/train/NORMAL")


def main(root=ROOT):
    """Print the table of counts."""
    rooms, table = count(root)
    for room, lines in sorted(rooms.items(), key=lambda item: (item[0].startswith("_"), item[0])):
        print(f"{lines:6d}  {room}")
    public = sum(lines for room, lines in rooms.items() if is_public(room))
    print(f"{public:6d}  public rooms\n{sum(rooms.values()):6d}  all {len(rooms)} rooms\n")
    titles = list(next(iter(table.values())))
    print(f"{'lesson':18s}", *titles, sep="  ")
    for name, row in table.items():
        print(f"{name:18s}", *(f"{row[title]:{len(title)}d}" for title in titles), sep="  ")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)

"""What tools/author.py writes into the lessons, and whether the checks of the exercises tell right from wrong."""

import ast
import builtins
import importlib.util
import re
import tomllib
from html.parser import HTMLParser

import nbformat
import pytest
from nbclient import NotebookClient

from xrayhelpers import checks, lessons
from xrayhelpers.lessons import KERNEL_ARGUMENTS, ROOT, kernel_environment

LESSONS = sorted(ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))
SOLUTIONS = sorted(ROOT.glob("notebooks/solutions/*.ipynb"))
QUIZZES = tomllib.loads((ROOT / "docs" / "quizzes.toml").read_text("utf-8"))
SETTINGS = tomllib.loads((ROOT / "docs" / "lessons.toml").read_text("utf-8"))
TINY = "phantom:train=40,test=20,val=4"
NONSENSE = ["None", "float('nan')", "float('inf')", "'text'", "[]", "{}", "object()", "lambda *a: 1 / 0"]
LEAST_EXERCISES, QUESTIONS, WORDS = 4, 5, 40


def load_author():
    spec = importlib.util.spec_from_file_location("author", ROOT / "tools" / "author.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


author = load_author()


def read(path):
    return nbformat.read(path, as_version=4)


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def made_of(document, kind):
    return [cell for cell in document.cells if re.fullmatch(rf"\d\d-(e\d+-)?{kind}", cell.id)]


# ------------------------------------------------------------------------------------------- the lessons
@each([*LESSONS, *SOLUTIONS])
def test_notebook_is_what_the_tool_would_write(path):
    assert read(path) == author.generate(path), "run `make author`, then `make refresh`"


def test_readme_is_what_the_tool_would_write():
    assert (ROOT / "README.md").read_text("utf-8") == author.readme(author.load("lessons.toml"))


def test_every_lesson_has_its_exercises_and_a_quiz():
    names = [path.stem for path in LESSONS]
    assert [path.stem for path in SOLUTIONS] == names
    assert [lesson["name"] for lesson in SETTINGS["lesson"]] == names
    assert list(QUIZZES) == names
    for path in LESSONS:
        document = read(path)
        assert len(made_of(document, "task")) >= LEAST_EXERCISES
        assert "(open)" in made_of(document, "task")[-1].source
        text = "\n".join(cell.source for cell in document.cells if cell.cell_type == "markdown")
        parts = re.findall(r"^## (Recap|Exercises|Quiz|References)$", text, flags=re.MULTILINE)
        assert parts == ["Recap", "Exercises", "Quiz", "References"]


def test_tool_takes_out_exercises_that_were_typed_and_keeps_the_rest(tmp_path, monkeypatch):
    """A lesson whose body somebody else wrote, with the sections of its end in one cell."""
    (tmp_path / "solutions").mkdir()
    name = LESSONS[0].name
    (tmp_path / "solutions" / name).write_text(SOLUTIONS[0].read_text("utf-8"), "utf-8")
    new, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    end = "## Recap\n\nR.\n\n## Exercises\n\n1. Typed.\n\n## References\n\n- Book."
    cells = [new("# Old"), code("x = 1", id="kept"), new(end), code("last = 1")]
    path = tmp_path / name
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    sources = []
    for _ in range(2):
        document = author.generate(path)
        nbformat.write(document, path)
        sources.append([cell.source for cell in document.cells])
    text = "\n\n".join(sources[0])
    assert sources[0] == sources[1]
    assert [text.count(line) for line in ("# Old", "1. Typed.", "x = 1", "## Recap", "- Book.", "last = 1")] == [
        0,
        0,
        1,
        1,
        1,
        1,
    ]
    assert text.index("R.") < text.index("## Exercises") < text.index("## Quiz") < text.index("- Book.")


@pytest.mark.parametrize("source", ["x = 1", "### BEGIN SOLUTION\nx = 1\n### END SOLUTION"])
def test_answer_cell_without_a_marked_answer_is_refused(source):
    with pytest.raises(ValueError, match="### BEGIN SOLUTION"):
        author.untouched(source)


@each(LESSONS)
def test_no_solution_is_left_in_a_lesson(path):
    document = read(path)
    assert not any("SOLUTION" in cell.source for cell in document.cells)
    for n, cell in enumerate(made_of(document, "answer"), start=1):
        assert cell.source.endswith(f"answer_{n} = None  # your answer")


@each(LESSONS)
def test_addresses_come_from_one_setting(path):
    repository = SETTINGS["project"]["repository"]
    text = "\n".join(cell.source for cell in read(path).cells)
    links = re.findall(r"(?:github\.com|/github|/v2/gh)/([\w.-]+/[\w.-]+?)(?=[/@)])", text)
    assert links.count(repository) >= 3, "Colab, Binder and the cell that installs"


# ------------------------------------------------------------------------------- names of exercises exist
def names_of(sources):
    """Names that code cells set at their top level, and all names that they read."""
    stored, loaded = set(), set()
    for source in sources:
        tree = ast.parse(re.sub(r"^( *)[%!].*$", r"\1pass", source, flags=re.MULTILINE))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                (loaded if isinstance(node.ctx, ast.Load) else stored).add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                stored.add(node.name)
            elif isinstance(node, ast.alias):
                stored.add((node.asname or node.name).split(".")[0])
            elif isinstance(node, ast.arg):
                stored.add(node.arg)
    return stored, loaded


@each(LESSONS)
def test_exercises_use_only_what_the_lesson_defines(path):
    """Also in the solution's answers, which a reader of the lesson may copy into it."""
    solved = [cell.source for cell in read(ROOT / "notebooks" / "solutions" / path.name).cells if "-answer" in cell.id]
    sources = [cell.source for cell in read(path).cells if cell.cell_type == "code"]
    stored, loaded = names_of([*sources, *solved])
    assert loaded - stored - {*dir(builtins), "display"} == set()


# --------------------------------------------------------------------------------- right and wrong answers
def trials(check):
    """A code cell for each answer to try: the wrong ones of the solution notebook, and what is nonsense anywhere."""
    (name,) = set(re.findall(r"^    (answer_\d+),$", check.source, flags=re.MULTILINE))
    for answer in [*check.metadata["xrays"]["wrong"], *NONSENSE]:
        source = f"kept = {name}\n{name} = {answer}\n{check.source}\n{name} = kept"
        yield nbformat.v4.new_code_cell(source, metadata={"answer": answer})


def run(document, folder, data):
    with kernel_environment(folder, XRAYS_DATA=data):
        NotebookClient(
            document,
            timeout=600,
            kernel_name="python3",
            resources={"metadata": {"path": str(ROOT / "notebooks")}},
            extra_arguments=KERNEL_ARGUMENTS,
        ).execute()


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout")


@pytest.mark.slow
@each(SOLUTIONS)
def test_check_accepts_the_solution_and_rejects_wrong_answers(path, tmp_path):
    document = read(path)
    assert all(len(cell.metadata["xrays"]["wrong"]) >= 2 for cell in made_of(document, r"\d+-check"))
    document.cells = [
        cell for old in document.cells for cell in (old, *(trials(old) if old.id.endswith("-check") else ()))
    ]
    run(document, tmp_path, "phantom")
    accepted = [printed(cell) for cell in document.cells if cell.id.endswith("-check")]
    assert all(text.startswith("well done: ") for text in accepted), accepted
    for cell in document.cells:
        if "answer" in cell.metadata:
            text = printed(cell)
            assert re.fullmatch(r"not yet: .*\n", text), (cell.metadata["answer"], text)
            assert (checks.UNTOUCHED in text) == (cell.metadata["answer"] == "None")


@each(SOLUTIONS)
def test_stored_solutions_are_accepted(path):
    stored = [printed(cell) for cell in read(path).cells if cell.id.endswith("-check")]
    assert stored
    assert all(text.startswith("well done: ") for text in stored)


@each(LESSONS)
def test_untouched_exercises_say_so(path):
    stored = [printed(cell) for cell in made_of(read(path), "check")]
    assert stored == [f"not yet: {checks.UNTOUCHED}\n"] * len(stored)


@pytest.mark.slow
@each(LESSONS)
def test_solutions_fit_into_their_lesson(path, tmp_path):
    """The whole lesson, with the answers of its solution notebook in their places, on a tiny data set."""
    document = read(path)
    solved = [cell.source for cell in read(ROOT / "notebooks" / "solutions" / path.name).cells if "-answer" in cell.id]
    for cell, source in zip(made_of(document, "answer"), solved, strict=True):
        cell.source = source
    small = {"epochs": "1", "optimizers": '"adam"', "units": '"8"', "views": "1", "image_size": "33"}
    for name in set(small) & set(lessons.read_lesson(path).parameters):
        (cell,) = (cell for cell in document.cells if "parameters" in cell.metadata.get("tags", []))
        cell.source += f"\n{name} = {small[name]}"
    run(document, tmp_path, TINY)
    texts = [printed(cell) for cell in made_of(document, "check")]
    assert all(text.startswith("well done: ") for text in texts), texts


# ------------------------------------------------------------------------------------------------- review
class Broken(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__

    def __gt__(self, other):
        raise self


def broken_words(answer):
    raise KeyError("words")


def test_review_never_raises_and_names_the_first_step_missed(capsys):
    steps = {"More than 1 is expected.": lambda a: a > 1, "Less than 9 is expected.": lambda a: a < 9}
    for answer, expected in [
        (0, "not yet: More than 1 is expected. Found 0 (int).\n"),
        (10.5, "not yet: Less than 9 is expected. Found 10.5 (float).\n"),
        (
            Broken(),
            "not yet: More than 1 is expected. Found something that cannot be printed (Broken). Trying it ",
        ),
        ("x" * 1000, "not yet: More than 1 is expected. Found 'xxx"),
        (None, f"not yet: {checks.UNTOUCHED}\n"),
        (5, "well done: between.\n"),
    ]:
        checks.review(answer, steps, done="between.")
        text = capsys.readouterr().out
        assert text.startswith(expected)
        assert len(text) < 300


def test_review_describes_what_was_found(capsys):
    checks.review(2, {}, done=lambda a: f"twice is {2 * a}.")
    checks.review(2, {}, done=broken_words)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "well done: twice is 4."
    assert second.startswith("well done: ")
    assert "KeyError" in second


# -------------------------------------------------------------------------------------- quizzes, glossary
class Outline(HTMLParser):
    """Collects the tags of a page, and complains about one that is not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.seen.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", QUIZZES)
def test_quiz_explains_every_option(name):
    assert len(QUIZZES[name]) == QUESTIONS
    for question in QUIZZES[name]:
        texts = [text for option in question["options"] for text in option]
        assert len(question["options"]) >= 3
        assert 1 <= question["right"] <= len(question["options"])
        assert len(set(texts)) == len(texts)
        assert all(len(why.split()) >= 5 for _, why in question["options"])
    assert len({question["right"] for question in QUIZZES[name]}) > 1, "the right option is always in the same place"


@each(LESSONS)
def test_quiz_works_without_script_and_kernel(path):
    """Elements that browsers open by mouse and by keyboard; whether an option is right stands there in words."""
    (cell,) = made_of(read(path), "quiz")
    outline = Outline()
    outline.feed(cell.source)
    assert outline.open == []
    assert outline.attributes == [], "colours, sizes and scripts stay with the page"
    options = sum(len(question["options"]) for question in QUIZZES[path.stem])
    assert outline.seen.count("details") == outline.seen.count("summary") == options
    assert set(outline.seen) <= {"details", "summary", "p", "strong", "code"}
    assert cell.source.count("<strong>Right.</strong>") == QUESTIONS
    assert cell.source.count("<strong>Not quite.</strong>") == options - QUESTIONS


def test_quiz_escapes_what_html_would_swallow():
    text = author.quiz([{"ask": "?", "right": 1, "options": [["a < b & `c`", "d > e"]]}])
    assert "<summary>a &lt; b &amp; <code>c</code></summary>" in text


def test_glossary_is_in_order_and_short():
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    (body,) = re.findall(r"^```\{glossary\}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    entries = [entry.split("\n", 1) for entry in body.strip().split("\n\n")]
    words = [word for word, _ in entries]
    assert len(words) >= WORDS
    assert words == sorted(set(words), key=str.casefold)
    for word, meaning in entries:
        assert all(line.startswith("  ") for line in meaning.splitlines()), word
        assert 1 <= len(re.findall(r"[.:](?=\s|$)", meaning)) <= 4, word

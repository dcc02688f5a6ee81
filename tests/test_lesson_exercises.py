"""What tools/author.py writes into the lessons, and whether the checks of the exercises tell right from wrong."""

import ast
import builtins
import re
from html.parser import HTMLParser

import nbformat
import pytest
from nbclient import NotebookClient

from tools import author
from tools.lessons import KERNEL_ARGUMENTS, ROOT, kernel_environment, read_lesson
from xrayhelpers.exercises import UNTOUCHED

LESSONS = sorted(ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))
SOLUTIONS = [path.parent / "solutions" / path.name for path in LESSONS]
SETTINGS = author.load("lessons.toml")
QUIZZES = {path.stem: author.load(f"quizzes/{path.stem}.toml")["question"] for path in LESSONS}
TINY = "phantom:train=40,test=20,val=4"
SMALL = {"epochs": 1, "longest": 2, "seeds": 1, "trials": 2, "optimizers": "adam", "units": "8"}
NONSENSE = ["None", "float('nan')", "float('inf')", "'text'", "[]", "{}", "object()", "lambda *a: 1 / 0"]
LEAST_EXERCISES, QUESTIONS, WORDS = 5, 5, 40


def read(path):
    return nbformat.read(path, as_version=4)


def made_of(document, kind):
    return [cell for cell in document.cells if re.fullmatch(rf"\d\d-(e\d+-)?{kind}", cell.id)]


def answers(path):
    """Sources of the answer cells of a solution notebook."""
    return [cell.source for cell in read(path).cells if "### BEGIN SOLUTION" in cell.source]


def checks(path):
    """The cells of a solution notebook that check an answer."""
    return [cell for cell in read(path).cells if re.search(r"^review\(", cell.source, flags=re.MULTILINE)]


# ------------------------------------------------------------------------------------------- the lessons
def test_notebooks_are_what_the_tool_would_write():
    stale = [path.stem for path in (*SOLUTIONS, *LESSONS) if read(path) != author.generate(path, SETTINGS)]
    assert stale == [], "run `make author`, then `make refresh`"


def test_readme_is_what_the_tool_would_write():
    assert (ROOT / "README.md").read_text("utf-8") == author.readme(SETTINGS)


def test_every_lesson_has_its_exercises_and_a_quiz():
    assert [lesson["name"] for lesson in SETTINGS["lesson"]] == [path.stem for path in LESSONS]
    for path in LESSONS:
        document = read(path)
        assert len(made_of(document, "task")) >= LEAST_EXERCISES, path.stem
        text = "\n".join(cell.source for cell in document.cells if cell.cell_type == "markdown")
        parts = re.findall(r"^## (Recap|Exercises|Quiz|References)$", text, flags=re.MULTILINE)
        assert parts == ["Recap", "Exercises", "Quiz", "References"], path.stem
        assert not any("SOLUTION" in cell.source for cell in document.cells), path.stem
        for n, cell in enumerate(made_of(document, "answer"), start=1):
            assert cell.source.endswith(f"answer_{n} = None  # your answer"), path.stem


def test_tool_takes_out_exercises_that_were_typed_and_keeps_the_rest(tmp_path):
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
        document = author.generate(path, SETTINGS)
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


def test_answer_cell_without_a_marked_answer_is_refused():
    for source in ("x = 1", "### BEGIN SOLUTION\nx = 1\n### END SOLUTION"):
        with pytest.raises(ValueError, match="### BEGIN SOLUTION"):
            author.untouched(source)


def test_links_and_an_installing_cell_appear_only_with_a_repository():
    """Nobody may be sent to an account that anybody may register."""
    elsewhere = re.compile(r"colab\.research|mybinder|pip install|github\.com/[^)]*/issues")
    nowhere = {**SETTINGS, "project": {"repository": "", "branch": "main"}}
    for path in (*SOLUTIONS, *LESSONS):
        document = author.generate(path, nowhere)
        assert not [cell.id for cell in document.cells if elsewhere.search(cell.source)], path.stem
    assert not re.search(r"colab\.research|mybinder|git clone|github\.com/[\w-]+/[\w-]+", author.readme(nowhere))
    address = re.compile(r"(?:github\.com|/github|/v2/gh)/([\w.-]+/[\w.-]+?)(?=[/@)\s])")
    for binder in (True, False):  # a lesson that fits into Binder's memory, and one that does not
        lessons = [{**lesson, "binder": binder} for lesson in SETTINGS["lesson"]]
        settings = {"lesson": lessons, "project": {"repository": "name/repo", "branch": "main"}}
        document = author.generate(LESSONS[1], settings)
        text = "\n".join(cell.source for cell in document.cells)
        assert address.findall(text) == ["name/repo"] * (3 + binder), "Colab, (Binder,) the installing cell, feedback"
        assert address.findall(author.readme(settings)) == ["name/repo"] * (len(LESSONS) * (1 + binder) + 2)
    assert document.cells[1].id == "02-install"
    assert max(map(len, document.cells[1].source.splitlines())) <= 84, "`make lint` would write it otherwise"
    assert author.generate(SOLUTIONS[1], settings).cells[1].id == "02-install"


def test_repository_is_noted_where_every_later_run_finds_it(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "lessons.toml").write_text((ROOT / "docs" / "lessons.toml").read_text("utf-8"), "utf-8")
    monkeypatch.setattr(author, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="expected name/repo"):
        author.note_repository("https://github.com/name/repo")
    author.note_repository("name/repo")
    noted = author.load("lessons.toml")
    assert noted["project"] == {**SETTINGS["project"], "repository": "name/repo"}
    assert noted["lesson"] == SETTINGS["lesson"]


def test_every_lesson_ends_with_a_line_for_feedback():
    for path in LESSONS:
        assert author.generate(path, SETTINGS).cells[-1].id == f"{path.stem[:2]}-feedback"


def test_times_are_said_in_words():
    said = [author.duration(minutes) for minutes in (0.02, 0.1, 0.5, 0.94, 1.44, 9.4, 22.8, None)]
    assert said[:4] == ["5 seconds", "5 seconds", "30 seconds", "55 seconds"]
    assert said[4:] == ["1.4 minutes", "9.4 minutes", "23 minutes", "not measured"]
    assert "**Runs in** 1.4 minutes on the drawn images, in 8.5 minutes on the real ones" in author.runtime(
        {"minutes": 1.4, "real_minutes": 8.5}
    )


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


def test_exercises_use_only_what_the_lesson_defines():
    """Also in the solution's answers, which a reader of the lesson may copy into it."""
    for path, solution in zip(LESSONS, SOLUTIONS, strict=True):
        sources = [cell.source for cell in read(path).cells if cell.cell_type == "code"]
        stored, loaded = names_of([*sources, *answers(solution)])
        assert loaded - stored - {*dir(builtins), "display", "In"} == set(), path.stem


# --------------------------------------------------------------------------------- right and wrong answers
def trials(check):
    """A code cell for each answer to try: what is nonsense anywhere, and the wrong ones that the solution names."""
    (name,) = re.findall(r"^review\(\s*(answer_\d+)\b", check.source, flags=re.MULTILINE)
    for answer in [*check.metadata.get("xrays", {}).get("wrong", []), *NONSENSE]:
        source = f"before_trial = {name}\n{name} = {answer}\n{check.source}\n{name} = before_trial"
        yield nbformat.v4.new_code_cell(source, metadata={"answer": answer})


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout")


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lesson_accepts_its_solutions_and_rejects_nonsense(path, tmp_path):
    """The whole lesson, with the answers of its solution notebook in their places, on a tiny data set."""
    document, solution = read(path), path.parent / "solutions" / path.name
    for cell, source in zip(made_of(document, "answer"), answers(solution), strict=True):
        cell.source = source
    for cell, check in zip(made_of(document, "check"), checks(solution), strict=True):
        cell.metadata["xrays"] = check.metadata.get("xrays", {})
    (cell,) = (cell for cell in document.cells if "parameters" in cell.metadata.get("tags", []))
    for name in set(SMALL) & set(read_lesson(path).parameters):
        cell.source += f"\n{name} = {SMALL[name]!r}"
    checked = made_of(document, "check")
    document.cells = [cell for old in document.cells for cell in (old, *(trials(old) if old in checked else ()))]
    with kernel_environment(tmp_path, XRAYS_DATA=TINY):
        NotebookClient(
            document,
            timeout=900,
            kernel_name="python3",
            resources={"metadata": {"path": str(ROOT / "notebooks")}},
            extra_arguments=KERNEL_ARGUMENTS,
        ).execute()
    texts = [printed(cell) for cell in made_of(document, "check")]
    assert all(text.startswith("well done: ") for text in texts), texts
    for cell in document.cells:
        if "answer" in cell.metadata:
            text = printed(cell)
            assert re.fullmatch(r"not yet: .*\n", text), (cell.source, text)
            assert (UNTOUCHED in text) == (cell.metadata["answer"] == "None")


def test_stored_checks_say_what_they_should():
    for path, solution in zip(LESSONS, SOLUTIONS, strict=True):
        stored = [printed(cell) for cell in checks(solution)]
        assert stored, path.stem
        assert all(text.startswith("well done: ") for text in stored), (path.stem, stored)
        untouched = [printed(cell) for cell in made_of(read(path), "check")]
        assert untouched == [f"not yet: {UNTOUCHED}\n"] * len(stored), path.stem


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


def test_quizzes_explain_every_option():
    for name, questions in QUIZZES.items():
        assert len(questions) == QUESTIONS, name
        for question in questions:
            texts = [text for option in question["options"] for text in option]
            assert len(question["options"]) >= 3, question["ask"]
            assert 1 <= question["right"] <= len(question["options"]), question["ask"]
            assert len(set(texts)) == len(texts), question["ask"]
            assert all(len(why.split()) >= 5 for _, why in question["options"]), question["ask"]
        assert len({question["right"] for question in questions}) > 1, f"{name}: always in the same place"


def test_quizzes_work_without_script_and_kernel():
    """Elements that browsers open by mouse and by keyboard; whether an option is right is written there in words."""
    for path in LESSONS:
        (cell,) = made_of(read(path), "quiz")
        outline = Outline()
        outline.feed(cell.source)
        assert outline.open == []
        assert outline.attributes == [], "colors, sizes and scripts stay with the page"
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
    entries = re.findall(r"^### (.+)\n\n((?:(?!#).+\n?)+)", text, flags=re.MULTILINE)
    words = [word for word, _ in entries]
    assert len(words) == text.count("\n### ") >= WORDS
    assert words == sorted(set(words), key=str.casefold)
    for word, meaning in entries:
        assert 1 <= len(re.findall(r"[.:](?=\s|$)", meaning)) <= 4, word

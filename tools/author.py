"""Write into the lessons what nobody types: openings, exercises, quizzes and the line that asks for feedback.

`make author` after a change of docs/lessons.toml, docs/quizzes or notebooks/solutions, then `make refresh`. The bodies
of the lessons stay as they are, and a second run changes nothing. The README's table of lessons and its lines about
where to get the collection and where to ask are written, too. `python tools/author.py 01 02` writes these lessons only.

`make author REPOSITORY=name/repo` notes the repository in docs/lessons.toml. From then on there are links to Colab,
Binder and the issues, a command that clones, and a cell that installs the package from there. While none is noted,
there is nothing of the kind: nobody is sent to an account that anybody could register.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
import tomllib
from pathlib import Path
from urllib.parse import quote

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from xrayhelpers._machine import write_atomic  # a checkout of the repository, installed or not

MADE = re.compile(r"\d\d-(opening|install|exercises|shared|e\d+-(task|answer|check)|quiz|feedback)")
SOLUTION = re.compile(r"^### BEGIN SOLUTION\n(.*?)^### END SOLUTION", re.MULTILINE | re.DOTALL)
ANSWER = re.compile(r"^(?:def )?(answer_\d+)\b", re.MULTILINE)


def load(name: str) -> dict:
    return tomllib.loads((ROOT / "docs" / name).read_text("utf-8"))


def duration(minutes: float | None) -> str:
    """Minutes in words: "5 seconds", "1.4 minutes", "23 minutes"; None was not measured."""
    if minutes is None:
        return "not measured"
    if minutes < 0.95:
        return f"{max(5, 5 * round(12 * minutes))} seconds"
    return f"{minutes:.1f} minutes" if minutes < 9.5 else f"{minutes:.0f} minutes"


# ---------------------------------------------------------------------------------------------- opening
def link(settings: dict, number: int, label: str) -> str:
    """A link to lesson `number` (from 1), or nothing where there is no such lesson."""
    if not 1 <= number <= len(settings["lesson"]):
        return ""
    lesson = settings["lesson"][number - 1]
    return f"**{label}:** [{number}. {lesson['title']}]({lesson['name']}.ipynb)"


def launch(settings: dict, number: int) -> str:
    """Links that open lesson `number` elsewhere; words, because pictures would need a network.

    Binder lends 2 GB of memory: only the lessons that fit are linked (`binder = true` in docs/lessons.toml).
    """
    repository, branch = settings["project"]["repository"], settings["project"]["branch"]
    if not repository:
        return ""
    lesson = settings["lesson"][number - 1]
    path = f"notebooks/{lesson['name']}.ipynb"
    links = [f"[Colab](https://colab.research.google.com/github/{repository}/blob/{branch}/{path})"]
    if lesson.get("binder"):
        links.append(f"[Binder](https://mybinder.org/v2/gh/{repository}/{branch}?labpath={quote(path, safe='')})")
    return " · ".join(links)


def feedback(settings: dict, number: int) -> str:
    """The last line of a lesson."""
    repository, title = settings["project"]["repository"], quote(f"Lesson {number}: ")
    if not repository:
        return (
            "*Was something unclear or wrong? Note the lesson and the cell, and tell your teacher or whoever gave you "
            "these lessons.*"
        )
    address = f"https://github.com/{repository}/issues/new?title={title}"
    return f"*Was something unclear or wrong? [Tell us]({address}), and name the cell.*"


def opening(settings: dict, number: int) -> str:
    lesson = settings["lesson"][number - 1]
    goals = ";\n".join(f"- {goal}" for goal in lesson["goals"])
    elsewhere = launch(settings, number)
    around = " · ".join(filter(None, [link(settings, number - 1, "Before"), link(settings, number + 1, "Next")]))
    parts = [
        f"# {number}. {lesson['title']}",
        f"**Question:** {lesson['question']}",
        f"**You will**\n{goals}.",
        f"**You need:** {lesson['needs']}. **Words:** [glossary](../docs/glossary.md).",
        around,
        runtime(lesson),
        f"**Open in** {elsewhere}" if elsewhere else "",
        "*For learning, not for diagnosis.*",
    ]
    return "\n\n".join(filter(None, parts))


def runtime(lesson: dict) -> str:
    drawn, real = duration(lesson["minutes"]), duration(lesson.get("real_minutes"))
    real = f", in {real} on the real ones" if "real_minutes" in lesson else ""
    return f"**Runs in** {drawn} on the drawn images{real} (2 processor cores)."


def opening_of_solutions(settings: dict, number: int) -> str:
    lesson = settings["lesson"][number - 1]
    return (
        f"# Solutions {number}. {lesson['title']}\n\nThe exercises of [lesson {number}](../{lesson['name']}.ipynb), "
        "solved. Try them there first: this page helps most after an attempt.\n\n*For learning, not for diagnosis.*"
    )


def install(settings: dict, number: str) -> list[NotebookNode]:
    """The cell that fetches the package where it is missing (Colab); none while no repository is set."""
    repository, branch = settings["project"]["repository"], settings["project"]["branch"]
    if not repository:
        return []
    source = (
        "import importlib.util\n\n"
        f'address = "git+https://github.com/{repository}@{branch}"\n'
        'if importlib.util.find_spec("xrayhelpers") is None:  # fetch what Colab lacks\n'
        "    !pip list --format=freeze > have.txt\n"
        "    %pip install -q -c have.txt {address}\n\n"
        "# On Colab, each lesson has a computer of its own. Lessons 7 to 9 find the results\n"
        "# of the others if all keep them in your Google Drive: uncomment these lines.\n"
        '# from google.colab import drive; drive.mount("/content/drive")\n'
        "# %env XRAYS_RUN=/content/drive/MyDrive/xrays"
    )
    return [new_code_cell(source, id=f"{number}-install")]


# -------------------------------------------------------------------------------------------- exercises
def untouched(source: str) -> str:
    """Replace the marked solution in an answer cell by `answer_1 = None`; what stands around it stays.

    Raises
    ------
    ValueError
        No solution is marked, or it does not assign `answer_<number>`.
    """
    found = SOLUTION.search(source)
    if found is None or not ANSWER.search(found[1]):
        raise ValueError(
            f"Found the answer cell {source[:60]!r}; expected a line that sets answer_1 (2, 3 ...) between the lines "
            "### BEGIN SOLUTION and ### END SOLUTION. Type these around it."
        )
    return SOLUTION.sub(f"{ANSWER.search(found[1])[1]} = None  # your answer", source)


def exercises(path: Path) -> list[NotebookNode]:
    """The cells of a lesson's section "Exercises", made from its solution notebook.

    After the cells tagged `standalone` (what the lesson's body would have defined) and one that may be tagged `shared`,
    the notebook holds three cells per exercise: the task, the answer and the check.
    """
    number = path.stem[:2]
    cells = [c for c in nbformat.read(path, as_version=4).cells[1:] if c.id != f"{number}-install"]
    cells = [c for c in cells if "standalone" not in c.metadata.get("tags", [])]
    text = (
        "## Exercises\n\nReplace `None` with your answer and run the cell, then the check below it. The check "
        f"says what is missing. [Solutions](solutions/{path.name}) are there for later."
    )
    made = [new_markdown_cell(text, id=f"{number}-exercises")]
    if "shared" in cells[0].metadata.get("tags", []):
        made.append(new_code_cell(cells.pop(0).source, id=f"{number}-shared"))
    kinds = [cell.cell_type for cell in cells]
    if kinds != ["markdown", "code", "code"] * (len(cells) // 3):
        raise ValueError(f"{path.name} has the cells {kinds}; expected task, answer and check per exercise.")
    for n, (task, answer, check) in enumerate(zip(*[iter(cells)] * 3, strict=True), start=1):
        hidden = {"tags": ["hide-input"], "jupyter": {"source_hidden": True}}  # the check would tell the answer
        made.append(new_markdown_cell(f"#{task.source}", id=f"{number}-e{n}-task"))
        made.append(new_code_cell(untouched(answer.source), id=f"{number}-e{n}-answer"))
        made.append(new_code_cell(check.source, id=f"{number}-e{n}-check", metadata=hidden))
    return made


# ----------------------------------------------------------------------------------------------- quizzes
def inline(text: str) -> str:
    """HTML of a line of text, with `code` in backticks."""
    return re.sub(r"`(.+?)`", r"<code>\1</code>", html.escape(text, quote=False))


def quiz(questions: list[dict]) -> str:
    """Questions whose options open: plain HTML, which needs neither script nor kernel, and works by keyboard."""
    text = "## Quiz\n\nChoose an option by opening it (mouse, or Tab and Enter): it says whether it is right, and why."
    for n, question in enumerate(questions, start=1):
        text += f"\n\n### {n}. {question['ask']}\n"
        for place, (option, why) in enumerate(question["options"], start=1):
            verdict = "Right." if place == question["right"] else "Not quite."
            answer = f"<p><strong>{verdict}</strong> {inline(why)}</p>"
            text += f"\n<details><summary>{inline(option)}</summary>{answer}</details>"
    return text


# ------------------------------------------------------------------------------------------------- write
def generate(path: Path, settings: dict) -> NotebookNode:
    """The lesson, or solution notebook, as the tool would write it; outputs of unchanged cells are kept."""
    names = [lesson["name"] for lesson in settings["lesson"]]
    place = names.index(path.stem) + 1
    notebook, number = nbformat.read(path, as_version=4), path.stem[:2]
    before = {cell.id: cell for cell in notebook.cells}
    body = [cell for cell in notebook.cells[1:] if not MADE.fullmatch(cell.id)]
    first = install(settings, number)
    if path.parent.name == "solutions":
        first.insert(0, new_markdown_cell(opening_of_solutions(settings, place), id=f"{number}-opening"))
        made = [*first, *body]
    else:
        first.insert(0, new_markdown_cell(opening(settings, place), id=f"{number}-opening"))
        body, references = take_references(body, number)
        asked = new_markdown_cell(quiz(load(f"quizzes/{path.stem}.toml")["question"]), id=f"{number}-quiz")
        last = new_markdown_cell(feedback(settings, place), id=f"{number}-feedback")
        made = [*first, *body, *exercises(path.parent / "solutions" / path.name), asked, *references, last]
    for cell in made:
        old = before.get(cell.id)
        if old is not None and cell.cell_type == old.cell_type == "code" and cell.source == old.source:
            cell.outputs, cell.execution_count = old.outputs, old.execution_count
    notebook.cells = made
    return notebook


def take_references(cells: list[NotebookNode], number: str) -> tuple[list[NotebookNode], list[NotebookNode]]:
    """Take exercises typed by hand out of a lesson's body, and split it in two before its references."""
    body, references = [], []
    for cell in cells:
        if references or cell.cell_type == "code":
            (references or body).append(cell)
            continue
        text = re.sub(r"^## Exercises\n.*?(?=^## |\Z)", "", cell.source, flags=re.MULTILINE | re.DOTALL)
        text, *rest = re.split(r"^(?=## References$)", text, flags=re.MULTILINE)
        if text.strip():
            cell.source = text.strip()
            body.append(cell)
        if rest:
            references.append(new_markdown_cell(rest[0].strip(), id=f"{number}-references"))
    return body, references


def table(settings: dict) -> str:
    """The README's table of lessons."""
    columns = ["lesson", "question", "drawn images", "real images"]
    columns += ["open in"] if settings["project"]["repository"] else []
    rows = [columns, ["---"] * len(columns)]
    for n, lesson in enumerate(settings["lesson"], start=1):
        name = f"[{n}. {lesson['title']}](notebooks/{lesson['name']}.ipynb)"
        times = [duration(lesson["minutes"]), duration(lesson.get("real_minutes"))]
        rows.append([name, lesson["short"], *times, launch(settings, n)][: len(columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def readme(settings: dict) -> str:
    """The README with its generated parts, which stand between `<!-- made: name -->` and `<!-- end -->`."""
    repository = settings["project"]["repository"]
    home = f"https://github.com/{repository}"
    made = {"lessons": table(settings)}
    made["get"] = "Open a terminal in the folder of this collection, and choose one of these ways."
    made["ask"] = "Ask your teacher or whoever gave you this collection"
    if repository:
        made["get"] = (
            f"```sh\ngit clone {home}\ncd {repository.partition('/')[2]}\n```\n\nThen choose one of these ways."
        )
        made["ask"] = f"[Open an issue]({home}/issues)"
    made["ask"] += ", and add what `python tools/doctor.py` prints."
    text = (ROOT / "README.md").read_text("utf-8")
    for name, new in made.items():
        block = re.compile(rf"(<!-- made: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, found = block.subn(lambda at, new=new: f"{at[1]}\n{new}\n\n{at[2]}", text)
        if found != 1:
            raise ValueError(f"README.md holds {found} blocks <!-- made: {name} --> ... <!-- end -->; expected one.")
    return text


def note_repository(repository: str) -> None:
    """Write a repository into docs/lessons.toml, where every later run finds it.

    Raises
    ------
    ValueError
        If it does not look like name/repo.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"The repository is {repository!r}; expected name/repo as on GitHub.")
    path = ROOT / "docs" / "lessons.toml"
    text = re.sub(r'^repository = "[^"]*"', f'repository = "{repository}"', path.read_text("utf-8"), flags=re.MULTILINE)
    write_atomic(path, text)


def notebooks() -> list[Path]:
    """Solutions first: the lessons are made from them."""
    return [*sorted(ROOT.glob("notebooks/solutions/*.ipynb")), *sorted(ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))]


def main(only: list[str], repository: str | None = None) -> None:
    if repository:
        note_repository(repository)
    settings = load("lessons.toml")
    for path in notebooks():
        if only and path.stem[:2] not in only:
            continue
        text = nbformat.writes(generate(path, settings)) + "\n"
        if text != path.read_text("utf-8"):
            write_atomic(path, text)
            print(f"written: {path.relative_to(ROOT)}")
    if readme(settings) != (ROOT / "README.md").read_text("utf-8"):
        write_atomic(ROOT / "README.md", readme(settings))
        print("written: README.md")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lessons", nargs="*", help="numbers of lessons, for example 01 02; all if there are none")
    parser.add_argument("--repository", help="name/repo on GitHub, noted in docs/lessons.toml")
    given = parser.parse_args()
    main(given.lessons, given.repository)

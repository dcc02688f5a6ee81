"""Links inside the repository lead somewhere: from texts and lessons to files, and to headings in them."""

import re
from urllib.parse import unquote

import nbformat

from tools.lessons import ROOT

TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/**/*.ipynb")])
TEXTS = [path for path in TEXTS if ".ipynb_checkpoints" not in path.parts]
CODE = re.compile(r"^ *(```|~~~).*?^ *\1|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(<?([^)\s>]+)|<(?:a|img)\b[^>]*\b(?:href|src)=[\"']([^\"']+)|^\[[^\]]+\]: +(\S+)", re.MULTILINE)


def text_of(path):
    """Text of a file without its code; of a notebook, its Markdown cells."""
    if path.suffix != ".ipynb":
        return CODE.sub("", path.read_text("utf-8"))
    cells = nbformat.read(path, as_version=4).cells
    return CODE.sub("", "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown"))


def anchors(path):
    """Addresses of the headings of a file, as GitHub, Sphinx and (for notebooks) Jupyter make them."""
    titles = re.findall(r"^#+ +(.+?) *$", text_of(path), flags=re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return slugs | {title.replace(" ", "-") for title in titles if path.suffix == ".ipynb"}


def broken_links(path, text):
    """Links of a text that lead out of the repository's files."""
    broken = []
    for link in ("".join(groups) for groups in LINK.findall(text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / unquote(name)).resolve() if name else path
        inside = target.is_relative_to(ROOT) and target.exists()
        if not inside or (anchor and unquote(anchor) not in anchors(target)):
            broken.append(link)
    return broken


def test_links_lead_somewhere():
    broken = {path.name: found for path in TEXTS if (found := broken_links(path, text_of(path)))}
    assert broken == {}


def test_broken_links_are_noticed():
    path = ROOT / "docs" / "design.md"
    text = "[a](results.md) [b](nowhere.md) [c](results.md#minutes) [d](#a-house) [e](https://x.y) <img src='no.png'>"
    assert broken_links(path, text) == ["nowhere.md", "#a-house", "no.png"]
    assert broken_links(path, "[to]: missing.md\n[up](../../outside.md)") == ["missing.md", "../../outside.md"]


def test_lessons_are_linked_in_order():
    """Each lesson links the one before and the one after it."""
    lessons = sorted(ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))
    for path, before, after in zip(lessons[1:-1], lessons, lessons[2:], strict=False):
        links = {"".join(groups) for groups in LINK.findall(text_of(path))}
        assert {before.name, after.name} <= links

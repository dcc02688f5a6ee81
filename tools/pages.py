"""The pages of a run: one for each lesson, its solutions and what it links to, the cards, and ``index.html``.

Every page holds all that it needs and asks no other address. Whatever data wrote into an output, a name or a card is
shown, never run. A link of a lesson leads to the page of its target in the same folder: ``notebooks/04_cnn.ipynb``
becomes ``04_cnn.html``, ``docs/glossary.md`` becomes ``docs/glossary.html``; other files stay where they are.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import nbformat
from nbconvert import HTMLExporter
from nbconvert.preprocessors.sanitize import SanitizeHTML

from tools.lessons import WIDGET_VIEW, read_catalog
from xrayhelpers._machine import write_atomic

#: What may be in an output: the tags of tables, cards and exercises; no script, no event, no address that runs code.
SAFE = SanitizeHTML()
SAFE.tags = [*SAFE.tags, "br", "details", "div", "hr", "p", "pre", "span", "summary", *(f"h{n}" for n in range(1, 7))]
SAFE.tags += ["caption", "table", "tbody", "td", "tfoot", "th", "thead", "tr"]
SAFE.attributes = {**SAFE.attributes, "*": ["border", "class", "colspan", "open", "rowspan", "style", "tabindex"]}

STYLE = Path(__file__).with_name("run.css")
PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body>{back}<main>
{body}
</main></body></html>
"""
FACTS = ("data", "started", "device", "versions")
RUNNING = "While a lesson runs, this page is written every minute: reload it. If it is older, the run was killed."
NOT_YET = "This lesson has no page in this run yet. The page of the run says why, and how far it has got."
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "roc_auc": "ROC AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}


class Pages:
    """Write the pages of one run.

    Parameters
    ----------
    folder : Path
        The run's folder.
    root : Path
        The repository with the lessons.
    """

    def __init__(self, folder: Path, root: Path):
        self.folder, self.root = Path(folder), Path(root)
        self.catalog, self.written = read_catalog(self.root), set()

    def write_lesson(self, executed: Path) -> None:
        """Write the page of an executed notebook beside it, and the pages that it links to.

        The notebook itself loses the paths of this machine that papermill noted.
        """
        notebook = nbformat.read(executed, as_version=4)
        for key in {"input_path", "output_path"} & set(notebook.metadata.get("papermill", {})):
            notebook.metadata.papermill[key] = executed.name
        write_atomic(executed, nbformat.writes(notebook) + "\n")
        self._write(executed.with_suffix(".html"), _body(notebook), self.root / "notebooks" / executed.name)

    def write_index(self, about: Mapping[str, str], outcomes: Mapping[str, Any]) -> None:
        """Write ``index.html``: what ran where and when, the lessons with their state, the results, the cards.

        Parameters
        ----------
        about : mapping
            What ``status.json`` says of the run: state, data, device and so on.
        outcomes : mapping
            Lesson name -> `runner.Outcome`.
        """
        for card in self.folder.glob("cards/*.md"):
            page = card.with_suffix(".html")
            if not page.exists() or page.stat().st_mtime < card.stat().st_mtime:
                self._write(page, SAFE.sanitize_html_tags(_body(_text(card.read_text("utf-8")))), card)
        running = about["state"] == "running"
        facts = {name: _escape(about.get(name, "")) for name in ("state", "written", *FACTS)}
        facts["state"] = f'<span class="state {facts["state"]}">{facts["state"]}</span>'
        facts["written"] += f'<br><span class="quiet">{RUNNING}</span>' if running else ""
        facts["minutes"] = f"{sum(outcome.seconds for outcome in outcomes.values()) / 60:.1f}"
        facts["cards"] = self._cards()
        facts = "".join(f"<dt>{name}</dt><dd>{fact}</dd>" for name, fact in facts.items() if fact)
        lessons = "".join(self._lesson(name, outcomes.get(name)) for name in sorted({*self.catalog, *outcomes}))
        heads = '<tr><th>Lesson</th><th>State</th><th class="number">Minutes</th><th class="number">Memory</th></tr>'
        body = f"""<h1>Chest X-ray lessons: {_escape(self.folder.name)}</h1>
<p><strong>For learning, not for diagnosis.</strong></p><dl class="about">{facts}</dl>
<h2>Lessons</h2><div class="scroll" tabindex="0"><table>{heads}{lessons}</table></div>
<h2>Results</h2>{self._results()}"""
        self._write(self.folder / "index.html", body)

    def _lesson(self, name: str, outcome: Any) -> str:
        """Return a lesson's row of the index."""
        entry = self.catalog.get(name, {})
        title = _escape(f"{int(name[:2])}. {entry['title']}" if entry else name)
        page = outcome is not None and (self.folder / f"{name}.html").exists()
        title = f'<a href="{name}.html">{title}</a>' if page else title
        short = f'<br><span class="quiet">{_escape(entry["short"])}</span>' if entry else ""
        state = outcome.state if outcome else "not run"
        note = f'<br><span class="quiet">{_escape(outcome.message)}</span>' if outcome and outcome.message else ""
        minutes = f"{outcome.seconds / 60:.1f}" if outcome and outcome.seconds else ""
        memory = f"{outcome.memory:.1f} GB" if outcome and outcome.memory else ""
        row = f'<td>{title}{short}</td><td><span class="state {state}">{state}</span>{note}</td>'
        return f'<tr id="{name}">{row}<td class="number">{minutes}</td><td class="number">{memory}</td></tr>\n'

    def _cards(self) -> str:
        """Return links to the cards, the data card first."""
        names = sorted((path.stem for path in self.folder.glob("cards/*.md")), key=lambda name: (name != "data", name))
        return ", ".join(f'<a href="cards/{quote(name)}.html">{_escape(name)}</a>' for name in names)

    def _results(self) -> str:
        """Return the table of all models: per model one row, what it ran with folded."""
        table = collect_results(self.folder)
        if table is None:
            return "<p>No lesson has left a result yet.</p>"
        heads = ["Model", "Images", "Threshold", *METRICS.values()]
        rows = ["".join(f'<th class="{"number" if place else ""}">{head}</th>' for place, head in enumerate(heads))]
        for row in table.to_dict("records"):
            name, note = f"{row['model']}-{row['protocol']}", f" ({row['note']})" if row["note"] else ""
            card = f"cards/{quote(name)}.html"
            title = f'<a href="{card}">{_escape(name)}</a>' if (self.folder / card).exists() else _escape(name)
            about = f"<details><summary>Lesson {_escape(row['lesson'] or 'unknown')}{_escape(note)}</summary>"
            cells = [f'<td>{title}<div class="quiet">{about}{_escape(row["parameters"])}</details></div></td>']
            cells += [f'<td class="number">{_escape(row[key])}</td>' for key in ("images", "threshold")]
            for metric in METRICS:
                value, _, interval = str(row[metric]).partition(" ")
                shown = f'{_escape(value)}<br><span class="quiet">{_escape(interval)}</span>'
                cells.append(f'<td class="number">{shown}</td>')
            rows.append("".join(cells))
        head, *rest = (f"<tr>{row}</tr>" for row in rows)
        said = "On the test images of each model; in brackets the 95 % interval over patients."
        return f'<p>{said}</p><div class="scroll" tabindex="0"><table>{head}{"".join(rest)}</table></div>'

    def _write(self, page: Path, body: str, source: Path | None = None) -> None:
        """Write one page, and before it those that it links to and that are not there yet."""
        self.written.add(page)
        # In Markdown, a link may run code; ours are addresses, or names without a colon.
        body = re.sub(r'(<a\b[^>]*? href=")(?!https?:|mailto:|[^":&]*")[^"]*"', r'\1#"', body)
        if source is not None:
            body = re.sub(
                r'(<(?:a|img)\b[^>]*? (?:href|src)=")(?!https?:|mailto:|data:|#)([^"#]+)',
                lambda found: found[1] + self._link(found[2], page, source),
                body,
            )
        title = re.sub("<[^>]*>", "", (re.findall(r"(?s)<h1[^>]*>(.*?)</h1>", body) or [page.stem])[0]).strip()
        home = Path(os.path.relpath(self.folder / "index.html", page.parent)).as_posix()
        back = "" if home == page.name else f'<nav><a href="{home}">All lessons of this run</a></nav>'
        write_atomic(page, PAGE.format(title=title, style=STYLE.read_text("utf-8"), back=back, body=body))

    def _link(self, address: str, page: Path, source: Path) -> str:
        """Return where a relative link of a text leads from its page in this run."""
        target = Path(os.path.normpath(source.parent / unquote(address)))
        if target.suffix in (".ipynb", ".md") and target.is_file() and target.is_relative_to(self.root):
            target = self._page(target)
        return quote(Path(os.path.relpath(target, page.parent)).as_posix())

    def _page(self, source: Path) -> Path:
        """Return the page of a lesson, a solution or a text of the repository; write it if this run has none."""
        inside = source.relative_to(self.root)
        page = self.folder / Path(*(part for part in inside.parts if part != "notebooks")).with_suffix(".html")
        if source.parent == self.root / "notebooks":
            if not page.exists():
                title = self.catalog.get(source.stem, {}).get("title", source.stem)
                self._write(page, f"<h1>{_escape(title)}</h1><p>{NOT_YET}</p>")
        elif page not in self.written:
            text = source.read_text("utf-8")
            self._write(page, _body(nbformat.reads(text, 4) if source.suffix == ".ipynb" else _text(text)), source)
        return page


def collect_results(folder: Path) -> Any:
    """Return the table of `results.results_table` over a run, or None where no lesson left a result."""
    if not any((folder / "results").glob("*.json")):
        return None
    from xrayhelpers.results import read_results, results_table

    try:
        return results_table(read_results(folder / "results"))
    except FileNotFoundError:  # none of the files is a result
        return None


def _escape(text: Any) -> str:
    return html.escape(str(text))


def _text(markdown: str) -> nbformat.NotebookNode:
    """Return a text as a notebook of one cell, so that it is shown as the lessons are."""
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(markdown)])


def _body(notebook: nbformat.NotebookNode) -> str:
    """Return the cells of a notebook as HTML, with nothing in the outputs that could run."""
    for cell in notebook.cells:
        if "outputs" in cell:  # without a kernel a widget shows nothing: its static figure is kept
            cell.outputs = [output for output in cell.outputs if WIDGET_VIEW not in output.get("data", {})]
            for output in cell.outputs:  # pandas brings a style sheet with each table; the page has its own
                if {"image/png", "image/jpeg"} & {*output.get("data", {})}:
                    output.data.pop("text/html", None)  # the same picture once more, for JupyterLab
                if "text/html" in output.get("data", {}):
                    output.data["text/html"] = re.sub(r"(?s)<style.*?</style>", "", output.data["text/html"])
            cell.outputs = SAFE.sanitize_code_outputs(cell.outputs)
            for output in cell.outputs:  # a picture, with the description that was stored with it
                for kind in {"image/png", "image/jpeg"} & set(output.get("data", {})):
                    alt = output.metadata.get(kind, {}).get("alt", "")
                    source = f"data:{kind};base64,{output.data[kind]}"
                    output.data = {"text/html": f'<img alt="{_escape(alt)}" src="{_escape(source)}">'}
    notebook.metadata.pop("widgets", None)
    exporter = HTMLExporter(template_name="basic")
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(notebook)
    # What scrolls by itself is reached by keyboard, too.
    body = re.sub(r"(?s)<table>.*?</table>", r'<div class="scroll" tabindex="0">\g<0></div>', body)
    scrolls = r'<(div(?= class="(?:[^"]*output_subarea| ?highlight))|pre(?=><code))'
    body = re.sub(scrolls, r'<\1 tabindex="0"', body)
    # GitHub's names of headings, which the links of the texts use, and no paragraph sign behind them.
    body = re.sub(r'<a class="anchor-link"[^>]*>.*?</a>', "", body)
    return re.sub(r'(<h[1-6] id=")([^"]*)', lambda found: found[1] + re.sub(r"[^\w-]", "", found[2].lower()), body)

"""The site is built as `make docs` does and read in Chromium, in light and in dark, at a desk and on a phone."""

import functools
import http.server
import importlib
import inspect
import json
import re
import subprocess
import sys
import threading

import nbformat
import pytest
from axe_playwright_python.base import AXE_SCRIPT

from tools.lessons import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SCREENS = {
    "desk": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True},
}
# In the dark, one page of each kind: other colors, the same elements.
DARK = ["README.html", "docs/results.html", "docs/glossary.html", "docs/cards/cnn-patient.html", "search.html"]
DARK += ["docs/api/xrayhelpers.data.html", "notebooks/04_cnn.html", "notebooks/solutions/04_cnn.html"]

# What does not fit on a page: the page itself, code that is cut or scrolls unseen, numbers that are not aligned.
LAYOUT = r"""phone => {
  const found = [], wide = element => element.scrollWidth > element.clientWidth + 1;
  if (document.scrollingElement.scrollWidth > window.screen.width) found.push("wider than the screen");
  for (const box of document.querySelectorAll("main :is(pre, .text_html, .pst-scrollable-table-container)")) {
    const style = getComputedStyle(box);
    const bar = box.offsetHeight - box.clientHeight - parseFloat(style.borderTopWidth) * 2;
    if (wide(box) && box.matches("pre") && !phone) found.push("does not fit: " + box.textContent);
    if (wide(box) && bar < 5) found.push("scrolls without a bar: " + box.textContent);
  }
  for (const table of document.querySelectorAll("main :is(table.table, table.dataframe)")) {
    const rows = [...table.tBodies].flatMap(body => [...body.rows]);
    for (let column = 0; column < rows[0].cells.length; column++) {
      const cells = rows.map(row => row.cells[column]).filter(cell => cell?.matches("td") && cell.innerText.trim());
      if (!cells.length || !cells.every(cell => /^-?[\d.,]+$/.test(cell.innerText.trim()))) continue;
      const styles = cells.map(cell => getComputedStyle(cell));
      if (styles.some(style => !["right", "end"].includes(style.textAlign))) found.push("left: " + cells[0].innerText);
      if (styles.some(style => parseFloat(style.paddingLeft) < 4)) found.push("tight: " + cells[0].innerText);
    }
  }
  return found;
}"""


@pytest.fixture(scope="module")
def site(browser, tmp_path_factory):
    """Address of the site, and the names of its pages; without a browser nothing is built."""
    folder = tmp_path_factory.mktemp("site")
    command = re.search(r"-m (sphinx .*-c docs) -d", (ROOT / "Makefile").read_text()).group(1).split()
    build = [sys.executable, "-m", *command, "-d", str(folder / "doctrees"), ".", str(folder / "site")]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert (built.returncode, built.stderr) == (0, "")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=folder / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        paths = sorted(path.relative_to(folder / "site").as_posix() for path in folder.glob("site/**/*.html"))
        pages = [path for path in paths if "_static" not in path and path != "index.html"]
        yield f"http://127.0.0.1:{server.server_port}/", pages
        server.shutdown()


@pytest.fixture
def scheme(request):
    return getattr(request, "param", "light")


@pytest.fixture
def screen(request):
    return getattr(request, "param", "desk")


@pytest.fixture
def page(browser, site, scheme, screen):
    """An empty page of which everything foreign is kept away; `page.trouble` lists what went wrong."""
    address, _ = site
    context = browser.new_context(color_scheme=scheme, base_url=address, **SCREENS[screen])
    page = context.new_page()
    page.trouble = []

    def only_local(route):
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            page.trouble.append(f"{page.url} asks for {route.request.url}")
            route.abort()

    context.route("**/*", only_local)
    page.on("pageerror", lambda error: page.trouble.append(f"{page.url}: {error}"))
    page.on("response", lambda r: r.status >= 400 and page.trouble.append(f"{page.url}: {r.status} {r.url}"))
    yield page
    context.close()


def test_pages_are_there(site):
    """Every lesson and every text has a page."""
    _, pages = site
    sources = [path.relative_to(ROOT) for glob in ("notebooks/**/*.ipynb", "docs/**/*.md") for path in ROOT.glob(glob)]
    wanted = {path.with_suffix(".html").as_posix() for path in sources if ".ipynb_checkpoints" not in path.parts}
    assert len(wanted) >= 11
    assert wanted | {"README.html", "docs/api.html"} <= set(pages)


def test_the_address_alone_leads_to_the_start_page(page):
    page.goto("index.html")
    page.wait_for_url("**/README.html")
    assert page.locator("main img").first.get_attribute("alt")
    assert page.locator("main").get_by_text("make lab").count()


def test_sidebar_folds_solutions_and_cards(page):
    page.goto("README.html")
    links = page.locator("#pst-primary-sidebar").locator("a[href*='/solutions/'], a[href*='/cards/']")
    assert links.count() >= 18
    assert not any(link.is_visible() for link in links.all())
    assert page.locator("#pst-primary-sidebar a[href='docs/solutions.html']").is_visible()


def test_results_begin_with_a_figure_and_words_are_explained(page):
    page.goto("docs/results.html")
    assert page.locator("main article :is(img, table)").first.evaluate("first => first.matches('img')")
    page.goto("notebooks/04_cnn.html")
    page.locator("main a[href$='glossary.html']").first.click()
    page.wait_for_url("**/docs/glossary.html")
    assert page.locator("main h3").count() >= 60


def test_texts_are_plain_markdown():
    """What only Sphinx understands would be a block of code in JupyterLab and on GitHub."""
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/**/*.ipynb")]
    assert [path.name for path in texts if re.search(r"```\s*\{|^:::", path.read_text("utf-8"), re.MULTILINE)] == []


@pytest.mark.parametrize("scheme", ["light", "dark"], indirect=True)
def test_every_page_is_accessible_and_asks_nobody(page, site, scheme):
    found = {}
    for name in site[1] if scheme == "light" else DARK:
        page.goto(name, wait_until="load")
        assert page.locator("html").get_attribute("data-theme") in (scheme, None)
        page.evaluate(AXE_SCRIPT)
        options = json.dumps({"preload": False, "resultTypes": ["violations"]})
        for violation in page.evaluate(f"axe.run({options})")["violations"]:
            where = [node["html"][:200] for node in violation["nodes"]]
            found.setdefault(f"{violation['id']}: {violation['help']}", []).append((name, len(where), where[:3]))
    assert not found, json.dumps(found, indent=1)
    assert page.trouble == []


@pytest.mark.parametrize("screen", SCREENS, indirect=True)
def test_pages_fit_the_screen(page, site, screen):
    """Code fits at a desk and scrolls visibly on a phone; numbers stand below each other."""
    found = {}
    for name in site[1]:
        page.goto(name, wait_until="load")
        found[name] = page.evaluate(LAYOUT, screen == "phone")
    assert {name: what for name, what in found.items() if what} == {}


def test_api_pages_show_signatures_and_parameters(page, site):
    """Those of every function that a room shows; a docstring of one line describes them itself."""
    seen, missing = 0, []
    for name in filter(re.compile(r"docs/api/xrayhelpers\.").match, site[1]):
        room = importlib.import_module(name.removeprefix("docs/api/").removesuffix(".html"))
        page.goto(name)
        for function, what in inspect.getmembers(room, inspect.isfunction):
            if function.startswith("_") or function not in getattr(room, "__all__", [function]):
                continue
            if what.__module__ != room.__name__:
                continue
            entry = page.locator(f'dl:has(> dt[id="{room.__name__}.{function}"])')
            signature = " ".join(entry.locator("> dt").all_inner_texts())
            told = " ".join(entry.locator(".field-list strong").all_inner_texts())
            places = [signature, told] if "    Parameters\n" in what.__doc__ else [signature]
            for parameter in inspect.signature(what).parameters:
                seen += 1
                if not all(parameter in re.findall(r"\w+", place) for place in places):
                    missing.append(f"{room.__name__}.{function}({parameter})")
    assert seen > 100
    assert missing == []


def test_search_finds_calibration(page):
    page.goto("README.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("calibration")
    page.keyboard.press("Enter")
    page.locator("#search-results li a").first.wait_for(timeout=30_000)
    page.locator("#search-results li a").first.click()
    page.wait_for_load_state("load")
    assert "search.html" not in page.url
    assert "calibration" in page.locator("main").inner_text().lower()
    assert page.trouble == []


def test_figures_have_the_words_that_were_stored_with_them(page):
    for path in sorted(ROOT.glob("notebooks/[0-9]*.ipynb")):
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        metadata = [output.get("metadata", {}) for cell in cells for output in cell.outputs]
        stored = [item["alt"] for kinds in metadata for kind, item in kinds.items() if kind.startswith("image/")]
        page.goto(f"notebooks/{path.stem}.html")
        pictures = page.locator(".cell_output img")
        assert pictures.evaluate_all("images => images.map(image => image.alt)") == stored
        assert pictures.evaluate_all("images => images.every(image => image.decode().then(() => image.width > 50))")

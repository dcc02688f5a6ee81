"""The site is built as `make docs` does and read in Chromium, in light and in dark, at a desk and on a phone."""

import functools
import http.server
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

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


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
def page(browser, site, scheme):
    """An empty page of which everything foreign is kept away; `page.trouble` lists what went wrong."""
    address, _ = site
    context = browser.new_context(color_scheme=scheme, viewport=DESK, base_url=address)
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


@pytest.mark.parametrize("scheme", ["light", "dark"], indirect=True)
def test_every_page_is_accessible_and_asks_nobody(page, site, scheme):
    found = {}
    # In the dark, the last page of each folder: other colors, the same elements.
    names = site[1] if scheme == "light" else {name.rpartition("/")[0]: name for name in site[1]}.values()
    for name in names:
        page.goto(name, wait_until="load")
        assert page.locator("html").get_attribute("data-theme") in (scheme, None)
        page.evaluate(AXE_SCRIPT)
        options = json.dumps({"runOnly": WCAG, "preload": False, "resultTypes": ["violations"]})
        for violation in page.evaluate(f"axe.run({options})")["violations"]:
            where = [node["html"][:200] for node in violation["nodes"]]
            found.setdefault(f"{violation['id']}: {violation['help']}", []).append((name, len(where), where[:3]))
    assert not found, json.dumps(found, indent=1)
    assert page.trouble == []


def test_no_page_is_wider_than_a_phone(page, site):
    page.set_viewport_size(PHONE)
    wide = {}
    for name in site[1]:
        page.goto(name, wait_until="load")
        width = page.evaluate("document.scrollingElement.scrollWidth")
        if width > PHONE["width"]:
            wide[name] = width
    assert wide == {}


def test_api_pages_show_signatures(page, site):
    for room, function in (("data", "load_index(folder"), ("evaluate", "measure(labels")):
        page.goto(f"docs/api/xrayhelpers.{room}.html")
        assert function in page.locator("main").inner_text()


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
        metadata = [output.get("metadata", {}).get("image/png") for cell in cells for output in cell.outputs]
        stored = [item["alt"] for item in metadata if item]
        page.goto(f"notebooks/{path.stem}.html")
        pictures = page.locator(".cell_output img")
        assert pictures.evaluate_all("images => images.map(image => image.alt)") == stored
        assert pictures.evaluate_all("images => images.every(image => image.decode().then(() => image.width > 50))")

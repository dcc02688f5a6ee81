"""The pages of a run are read in Chromium, in light and in dark, at a desk and on a phone."""

import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.base import AXE_SCRIPT

from tools.lessons import ROOT
from tools.pages import Pages
from tools.runner import Outcome, describe_machine
from xrayhelpers.data import open_data
from xrayhelpers.results import write_result

pytestmark = [pytest.mark.browser, pytest.mark.slow]

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
SIZES = ({"width": 1280, "height": 900}, {"width": 390, "height": 844})


def test_pages_of_a_run_are_accessible_and_fit(browser, tmp_path, cache, monkeypatch):
    """Also the whole table of results on a desk; on a phone it scrolls by itself."""
    monkeypatch.setenv("XRAYS_RUN", str(tmp_path))
    shutil.copytree(ROOT / "docs" / "cards", tmp_path / "cards")
    labels = np.arange(40) % 2
    index = pd.DataFrame({"name": [f"{n}.jpeg" for n in range(40)], "label": labels, "patient": range(40)})
    index["path"], index["cause"], index["part"], index["bytes"] = index["name"], "", "test", 1
    about = {"source": open_data("phantom:train=4,test=4,val=2"), "parameters": {"image_size": 64, "batch_size": 16}}
    for model in ("knn", "vgg16"):
        write_result(model, "patient", index, labels * 0.4 + 0.01 * np.arange(40), **about)
    pages, names = Pages(tmp_path, ROOT), ("index", "04_cnn", "solutions/04_cnn", "docs/glossary", "cards/data")
    shutil.copy(ROOT / "notebooks" / "04_cnn.ipynb", tmp_path)
    pages.write_lesson(tmp_path / "04_cnn.ipynb")
    outcomes = {"04_cnn": Outcome("done", 70.0, ""), "05_vgg16": Outcome("running", 8.0, "", "code cell 2 of 39")}
    outcomes["06_tuning"] = Outcome("failed", 8.0, "", "code cell 2 of 39 `x`: ValueError")
    pages.write_index({"state": "running", "written": "today", **describe_machine()}, outcomes)
    found, options = {}, json.dumps({"runOnly": WCAG, "preload": False, "resultTypes": ["violations"]})
    for scheme, size in itertools.product(("light", "dark"), SIZES):
        page = browser.new_context(color_scheme=scheme, viewport=size).new_page()
        for name in names:
            page.goto((tmp_path / f"{name}.html").as_uri())
            width = page.evaluate("document.scrollingElement.scrollWidth")
            page.evaluate(AXE_SCRIPT)
            broken = [
                [v["id"], v["nodes"][0]["html"][:200]] for v in page.evaluate(f"axe.run({options})")["violations"]
            ]
            if broken or width > size["width"]:
                found[f"{name}, {scheme}, {size['width']}"] = [width, *broken]
            if name == "index" and size["width"] == 1280:
                hidden = "tables => tables.map(table => table.scrollWidth - table.clientWidth)"
                assert page.locator(".scroll").evaluate_all(hidden) == [0, 0]
        page.context.close()
    assert not found, json.dumps(found, indent=1)

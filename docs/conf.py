"""The site: `make docs` builds it from the lessons as they are stored, docs/*.md and the package's docstrings.

The repository itself is the source folder, so that a link that works in the repository works in the site. Pages
load nothing from other addresses: the theme brings its fonts, formulas become MathML, dead widgets are left out.
"""

from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from myst_nb.core.render import NbElementRenderer
from sphinx.util.matching import patfilter

import xrayhelpers

project = "Chest X-ray lessons"
version = release = xrayhelpers.__version__
author = "the authors of the chest X-ray lessons"
copyright = "the authors of the chest X-ray lessons. Code: MIT, text: CC BY 4.0. For learning, not for diagnosis"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["*.md", "docs/**", "notebooks/**"]
exclude_patterns = ["docs/templates", "**/.*"]
templates_path = [str(Path(__file__).with_name("templates"))]  # autosummary would look beside the README
suppress_warnings = ["misc.highlighting_failure"]  # `!command` in a Python block is what a reader types in a notebook

# What the sidebar lists, below which page: beside the start page, or folded. A new page finds its place by itself.
PAGES = [
    (root_doc, "Lessons", "notebooks/[0-9]*"),
    (root_doc, "Around the lessons", "docs/*"),
    (root_doc, "Project", "[A-Z]*"),
    ("docs/solutions", "Solutions", "notebooks/solutions/*"),
    ("docs/results", "Cards", "docs/cards/*"),
]

# ------------------------------------------------------------------------------------------------ lessons
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("*", "application/vnd.jupyter.widget-view+json", None)]
# A figure is stored twice (see plots.show): as a plain picture it becomes a file of its own, with its description.
nb_mime_priority_overrides += [("html", "image/png", 10), ("html", "image/jpeg", 10)]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# ---------------------------------------------------------------------------------------------------- API
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it, with shapes and ranges
autosummary_generate = True
default_role = "code"  # `name`, as the docstrings write it
napoleon_google_docstring = False
napoleon_use_ivar = True  # fields of a record in one list
add_module_names = False
toc_object_entries_show_parents = "hide"

# -------------------------------------------------------------------------------------------------- pages
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_additional_pages = {"index": "redirect.html"}
html_copy_source = False
html_use_index = html_domain_indices = False  # each room's page lists its names
html_math_renderer = "mathml"
html_theme_options = {
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "navbar_persistent": [],  # the search stands in the sidebar already
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}


def render_image_with_alt(renderer, data, render_image=NbElementRenderer.render_image):
    """Give a stored figure the description that `plots.show` stored with it."""
    images = render_image(renderer, data)
    for image in images:
        image["alt"] = data.output_metadata.get(data.mime_type, {}).get("alt", "")
    return images


def write_formula(writer, node):
    """Write a formula as MathML, which browsers draw themselves."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    writer.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def add_pages(app, docname, source):
    """Let a page list those below it."""
    for page, name, glob in PAGES:
        if page == docname and patfilter(app.env.found_docs - {root_doc}, glob):
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {name}\n\n/{glob}\n```"


def setup(app):
    """Register what is above."""
    app.connect("source-read", add_pages)
    NbElementRenderer.render_image = render_image_with_alt
    app.add_html_math_renderer("mathml", inline_renderers=(write_formula, None), block_renderers=(write_formula, None))

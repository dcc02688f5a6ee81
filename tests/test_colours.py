"""Color-blind readers can tell the colors of the figures apart, as Machado et al. (2009) simulate it.

And a class has the same color in every figure of every lesson.
"""

import ast
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
from colorspacious import cspace_convert, deltaE

from xrayhelpers import plots
from xrayhelpers.data import CLASSES

LEAST = 15  # CIE 1976 distance in Lab; about 2 is just noticeable side by side
KINDS = ("none", "protanomaly", "deuteranomaly", "tritanomaly")


def least_distance(colors, kind):
    """Distance in CIE Lab of the two colors that look most alike to someone without one kind of cone."""
    seen = np.array([mpl.colors.to_rgb(color) for color in colors])
    if kind != "none":
        seen = np.clip(cspace_convert(seen, {"name": "sRGB1+CVD", "cvd_type": kind, "severity": 100}, "sRGB1"), 0, 1)
    return min(deltaE(*pair, input_space="sRGB1", uniform_space="CIELab") for pair in combinations(seen, 2))


def test_colors_stay_apart():
    for kind in KINDS:
        assert least_distance(list(plots.COLORS.values()), kind) >= LEAST


def test_each_class_has_a_color():
    assert list(plots.COLORS)[:2] == list(CLASSES)


def test_red_and_green_would_be_noticed():
    assert least_distance(["#ff0000", "#00a000"], "deuteranomaly") < LEAST < least_distance(["red", "green"], "none")
    assert least_distance(mpl.color_sequences["tab10"], "protanomaly") < LEAST


STYLE = "seaborn-v0_8-colorblind"
NO_CLASS = ("part",)  # columns that say something else than a class


def wrong_colors(cells):
    """What in the code of a notebook gives a class another color than `plots.COLORS`, or leaves it to a library."""
    with mpl.style.context(STYLE):
        ours = {name: mpl.colors.to_hex(color) for name, color in plots.COLORS.items()}
        nodes = [node for source in cells for node in ast.walk(ast.parse(source))]
        said = {}  # what a call or a dictionary says of hue and palette
        for node in nodes:
            if isinstance(node, ast.Call):
                said[node] = {keyword.arg: keyword.value for keyword in node.keywords}
            elif isinstance(node, ast.Dict):
                said[node] = {literal(key): one for key, one in zip(node.keys, node.values, strict=True)}
        chosen = {"plots.COLORS", "COLORS"}  # names of the classes' colors
        for node in nodes:
            values = said[node.value] if isinstance(getattr(node, "value", None), ast.Dict) else {}
            if values.keys() == ours.keys() and all(mpl.colors.is_color_like(literal(one)) for one in values.values()):
                if {name: mpl.colors.to_hex(literal(one)) for name, one in values.items()} != ours:
                    yield f"other colors: {ast.unparse(node)}"
                chosen.add(ast.unparse(node.targets[0]))
        for node, words in said.items():
            hue = words.get("hue")
            palette = ast.unparse(words["palette"]) if "palette" in words else "a library's"
            if hue is not None and literal(hue) not in NO_CLASS and palette not in chosen:
                yield f"hue without the classes' palette: {ast.unparse(node)}"
        for node in nodes:  # the color of the cycle that bears a label's number
            if isinstance(node, ast.JoinedStr) and literal(node.values[0]) == "C":
                yield f"a color by its number: {ast.unparse(node)}"


def literal(node):
    return getattr(node, "value", None) if isinstance(node, ast.Constant) else None


def test_a_class_has_one_color_and_a_lesson_one_style():
    paths = sorted(Path(__file__).parents[1].glob("notebooks/**/[0-9]*.ipynb"))
    assert len(paths) >= 18
    for path in paths:
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert list(wrong_colors(cells)) == [], path.name
        styles = [line for source in cells for line in source.splitlines() if "plt.style.use" in line]
        assert styles == [f'plt.style.use("{STYLE}")'] * len(styles), path.name
        assert path.parent.name == "solutions" or len(styles) == 1, path.name


@pytest.mark.parametrize(
    "wrong",
    [
        "sns.scatterplot(x=x, y=y, hue=kinds)",
        'sns.boxplot(table, x="label", y="bytes", hue="label", palette="viridis")',
        'look = {"hue": kinds, "style": kinds}',
        'colors = {"NORMAL": "C0", "PNEUMONIA": "C1"}',
        'box.patch.set(ec=f"C{label}")',
    ],
)
def test_another_color_would_be_noticed(wrong):
    assert list(wrong_colors([wrong]))
    assert not list(wrong_colors(['colors = {"NORMAL": "C0", "PNEUMONIA": "C2"}', "plot(hue=kinds, palette=colors)"]))

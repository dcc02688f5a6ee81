"""Color-blind readers can tell the colors of the figures apart, as Machado et al. (2009) simulate it."""

from itertools import combinations

import matplotlib as mpl
import numpy as np
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

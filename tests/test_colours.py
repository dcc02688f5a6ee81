"""The categorical colours of the figures stay apart for the colour-blind, as Machado et al. (2009) simulate them."""

from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from colorspacious import cspace_convert, deltaE

from xrayhelpers import plots

LEAST = 15  # CIE 1976 distance in Lab; about 2 is just noticeable side by side
KINDS = ("none", "protanomaly", "deuteranomaly", "tritanomaly")


def least_distance(colours, kind):
    """Distance in CIE Lab of the two colours that look most alike to someone without one kind of cone."""
    seen = np.array([mpl.colors.to_rgb(colour) for colour in colours])
    if kind != "none":
        seen = np.clip(cspace_convert(seen, {"name": "sRGB1+CVD", "cvd_type": kind, "severity": 100}, "sRGB1"), 0, 1)
    return min(deltaE(*pair, input_space="sRGB1", uniform_space="CIELab") for pair in combinations(seen, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_colours_can_be_told_apart(kind):
    assert least_distance(plots.OKABE_ITO, kind) >= LEAST


def test_red_and_green_would_be_noticed():
    assert least_distance(["#ff0000", "#00a000"], "deuteranomaly") < LEAST < least_distance(["red", "green"], "none")
    assert least_distance(mpl.color_sequences["tab10"], "protanomaly") < LEAST

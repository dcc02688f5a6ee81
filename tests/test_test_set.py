"""A look at the test set leaves exactly one row, and no lesson can take one."""

import re

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import test_set as looks
from tools.lessons import ROOT


def by_width(train, seed):
    """A candidate: pneumonia files are narrow; the seed adds a little noise."""
    assert set(train["split"]) == {"train"}, "a candidate learns from train alone"
    middle, rng = train["width"].median(), np.random.default_rng(seed)
    return 0.5, lambda rows: 1 / (1 + np.exp((rows["width"] - middle) / 50 + rng.normal(0, 0.1, len(rows))))


@pytest.fixture
def look(phantom_root, tmp_path, monkeypatch):
    """Take a look at the phantom's test set; the log is a copy without its looks, and holds at most three."""
    monkeypatch.setattr(looks, "CANDIDATES", dict.fromkeys(("one", "two", "three", "four"), by_width))
    monkeypatch.setattr(looks, "MOST_LOOKS", 3)
    log = tmp_path / "log.md"
    opening, _, table = looks.LOG.read_text("utf-8").partition("## Looks\n")
    log.write_text(opening + "## Looks\n" + "".join(re.findall(r"\n\| date.*\n\|-.*\n", table)), "utf-8")

    def run(name, *more):
        words = ["--candidate", name, "--why", "a | test\nof it", "--data", str(phantom_root), "--log", str(log)]
        return CliRunner().invoke(looks.main, [*words, *more])

    run.log = log
    return run


def test_a_look_appends_exactly_one_row(look):
    before = look.log.read_text("utf-8")
    done = look("one")
    assert done.exit_code == 0, done.output
    after = look.log.read_text("utf-8")
    assert after.startswith(before)
    assert after[len(before) :].count("\n") == 1
    (row,) = looks.rows_of(look.log)
    assert len(row) == len(looks.TITLES)
    assert row[1:3] == ["one", "a / test of it"]
    assert row[3].startswith("30 (")
    for cell in row[5:]:
        mean, low, high, *each = [float(x) for x in re.findall(r"\d\.\d{3}", cell)]
        assert len(each) == 5, "every seed stands in the row"
        assert (low, high) == (min(each), max(each))
        assert mean == pytest.approx(sum(each) / 5, abs=0.0011)


def test_a_candidate_has_one_look_and_the_log_three(look):
    assert look("one").exit_code == look("two").exit_code == 0
    again = look("one")
    assert again.exit_code == 1
    assert "looked at once" in again.output
    assert look("three").exit_code == 0
    fourth = look("four")
    assert fourth.exit_code == 1
    assert "at most 3" in fourth.output
    assert [row[1] for row in looks.rows_of(look.log)] == ["one", "two", "three"]


def test_a_lesson_run_cannot_look(look, monkeypatch, tmp_path):
    before = look.log.read_text("utf-8")
    monkeypatch.setenv("XRAYS_RUN", str(tmp_path / "run"))
    refused = look("one")
    assert refused.exit_code == 1
    assert "a lesson's run" in refused.output
    assert look.log.read_text("utf-8") == before


def test_neither_a_lesson_nor_the_package_knows_the_command():
    files = [*ROOT.glob("notebooks/**/*.ipynb"), *ROOT.glob("xrayhelpers/*.py")]
    assert len(files) > 20
    assert not [path.name for path in files if re.search(r"benchmarks(\.| import )test_set", path.read_text("utf-8"))]


def test_the_log_opens_with_the_looks_before_it_and_has_the_titles():
    text = looks.LOG.read_text("utf-8")
    assert text.index("## Looks before this log") < text.index("## The rule") < text.index("## Looks\n")
    assert f"| {' | '.join(looks.TITLES)} |\n" in text
    assert all(len(row) == len(looks.TITLES) for row in looks.rows_of(looks.LOG))


def test_a_look_needs_a_known_candidate_and_a_reason(look):
    for words in (["--candidate", "one"], ["--candidate", "nobody", "--why", "x", "--data", "phantom"]):
        assert CliRunner().invoke(looks.main, words).exit_code == 2

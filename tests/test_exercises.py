"""`review` names the first step that an answer misses, and never raises."""

from xrayhelpers.exercises import UNTOUCHED, review


class Broken(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__

    def __gt__(self, other):
        raise self


def broken_words(answer):
    raise KeyError("words")


def test_review_never_raises_and_names_the_first_step_missed(capsys):
    steps = {"More than 1 is expected.": lambda a: a > 1, "Less than 9 is expected.": lambda a: a < 9}
    for answer, expected in [
        (0, "not yet: More than 1 is expected. Found 0 (int).\n"),
        (10.5, "not yet: Less than 9 is expected. Found 10.5 (float).\n"),
        (Broken(), "not yet: More than 1 is expected. Found something that cannot be printed (Broken). Trying it "),
        ("x" * 1000, "not yet: More than 1 is expected. Found 'xxx"),
        (None, f"not yet: {UNTOUCHED}\n"),
        (5, "well done: between.\n"),
    ]:
        review(answer, steps, done="between.")
        text = capsys.readouterr().out
        assert text.startswith(expected)
        assert len(text) < 300


def test_review_describes_what_was_found(capsys):
    review(2, {}, done=lambda a: f"twice is {2 * a}.")
    review(2, {}, done=broken_words)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "well done: twice is 4."
    assert second.startswith("well done: ")
    assert "KeyError" in second

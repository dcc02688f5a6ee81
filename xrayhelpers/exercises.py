"""Tell a learner in words whether the answer to an exercise is right, and what is missing."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Callable, Mapping
from numbers import Number
from typing import Any

UNTOUCHED = "replace None with your answer in the cell above, run it, then run this cell again."


def review(answer: Any, steps: Mapping[str, Callable[[Any], Any]], done: str | Callable[[Any], str]) -> None:
    """Print "not yet: ..." with the first step that the answer misses, or "well done: ...".

    It never raises. A step counts as missed when it fails on the answer, whether because of the answer's type or
    because a function that the learner wrote raises an error.

    Parameters
    ----------
    answer : any object
        None means that nobody has answered yet.
    steps : dict of str -> function
        In order: what is expected, in words, and a function of the answer that is true if the answer meets it.
    done : str or function
        What the answer shows; a function takes the answer and returns the text.

    Examples
    --------
    >>> steps = {"a share from 0 to 1.": lambda share: 0 <= share <= 1}
    >>> review(0.8, steps, done="that is a share.")
    well done: that is a share.
    """
    if answer is None:
        print(f"not yet: {UNTOUCHED}")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a wrong answer makes numpy warn
        for expected, holds in steps.items():
            try:
                met, trouble = bool(holds(answer)), ""
            except Exception as error:
                met, trouble = False, f" Trying it gave {type(error).__name__}: {_short(error)}."
            if not met:
                print(f"not yet: {expected} Found {_short(answer)} ({type(answer).__name__}).{trouble}")
                return
        try:
            text = done if isinstance(done, str) else done(answer)
        except Exception as error:
            text = f"every step is met, but describing the answer gave {type(error).__name__}."
    print(f"well done: {text}")


def _short(thing: object) -> str:
    """Describe anything in one line of at most 80 characters."""
    try:
        text = str(thing) if isinstance(thing, Exception | Number) else reprlib.repr(thing)
    except Exception:  # a learner's class may have a broken __repr__
        text = "something that cannot be printed"
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."

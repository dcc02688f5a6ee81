"""Say in words how far the answer to an exercise is."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Callable, Mapping
from numbers import Number
from typing import Any

UNTOUCHED = "replace None by your answer in the cell above, run it, then run this cell again."


def review(answer: Any, steps: Mapping[str, Callable[[Any], Any]], done: str | Callable[[Any], str]) -> None:
    """Print "not yet: ..." with the first step that the answer misses, or "well done: ...".

    It never raises: a step that fails on the answer, because of its type or of an error in a function of the
    learner, is a step missed.

    Parameters
    ----------
    answer : any object
        None means that nobody has answered yet.
    steps : dict of str -> function
        In order: what is expected, in words, and a function of the answer that is true where it is met.
    done : str or function
        What the answer shows; a function gets the answer and returns the text.
    """
    if answer is None:
        print(f"not yet: {UNTOUCHED}")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, about what a wrong answer makes it calculate
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
            text = f"every step is met, though describing it gave {type(error).__name__}."
    print(f"well done: {text}")


def _short(thing: object) -> str:
    """One line of at most about 80 characters, whatever the thing is."""
    try:
        text = str(thing) if isinstance(thing, Exception | Number) else reprlib.repr(thing)
    except Exception:  # a learner's class may have a broken __repr__
        text = "something that cannot be printed"
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."

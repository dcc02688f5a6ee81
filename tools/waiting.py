"""Say where a running lesson is: every second on a terminal, every minute in a log."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tools.lessons import Lesson

#: For papermill: what its kernels run first.
NOTE_TRAINING = [f"--IPKernelApp.exec_files={Path(__file__).with_name('note_training.py')}"]
MINUTE = 60.0


def in_words(seconds: float) -> str:
    """Return a time as a reader says it: "1 second", "40 seconds", "3 minutes"."""
    if seconds >= 90:
        return f"{seconds / 60:.0f} minutes"
    number = round(seconds, -1 if seconds > 20 else None)
    return f"{number:.0f} second{'s' * (number != 1)}"


def memory_of_kernels() -> float:
    """Return the GB that the processes started from this one have for themselves: on Linux without mapped files."""
    held = 0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, OSError):  # it has ended
            status = Path(f"/proc/{child.pid}/status")
            found = re.search(r"RssAnon:\s*(\d+)", status.read_text()) if status.exists() else None
            held += 1024 * int(found[1]) if found else child.memory_info().rss
    return held / 1e9


class Watch:
    """While the block runs, a thread shows which cell of a lesson is at work, and how far a training is.

    The line on the terminal goes to stderr, unless ``XRAYS_PROGRESS=off``. In a log, which is a stdout that is no
    terminal, whole lines appear. `memory` is the most that the kernel has had, in GB.

    Parameters
    ----------
    lesson : Lesson
    folder : Path
        The run's folder, where the kernel notes how far a training is.
    each_minute : callable
        Called with the words of that moment.
    """

    def __init__(self, lesson: Lesson, folder: Path, each_minute: Callable[[str], None] = lambda words: None):
        self.lesson, self.note, self.each_minute = lesson, folder / ".training.json", each_minute
        self.cell, self.first_line, self.cell_began, self.ended = 0, "", time.time(), threading.Event()
        self.memory = 0.0
        self.terminal = sys.stderr.isatty() and os.environ.get("XRAYS_PROGRESS") != "off"
        self.log = not sys.stdout.isatty()

    def on_cell(self, cell: Any, **_: Any) -> None:
        """Note that a cell begins, for nbclient's `on_cell_execute`; the cell that papermill adds does not count."""
        if "injected-parameters" not in cell.metadata.get("tags", []):
            self.cell, self.cell_began = self.cell + 1, time.time()
            self.first_line = cell.source.strip().splitlines()[0]

    @property
    def place(self) -> str:
        """The cell that a lesson has come to, with its first line."""
        return f"{self.count} `{self.first_line}`" if self.cell else self.count

    @property
    def count(self) -> str:
        """The cell that a lesson has come to: "code cell 3 of 20"."""
        return f"code cell {self.cell} of {self.lesson.code_cells}" if self.cell else "before its first cell"

    def training(self) -> str:
        """Return network, epoch and time left, or "" where no network trains."""
        with suppress(OSError, ValueError, TypeError, KeyError):  # none, or half a line
            now = json.loads(self.note.read_text("utf-8"))
            if now and now["time"] >= self.cell_began:
                which = f"training {now['fits']}, " if now["fits"] > 1 else ""
                words = f"{which}{now['network']}: epoch {now['epoch']} of {now['epochs']}"
                left = None if now["left"] is None else max(0.0, now["left"] - (time.time() - now["time"]))
                about = "at most" if now["early"] else "about"
                return words if left is None else f"{words}, {about} {in_words(left)} left"
        return ""

    def words(self) -> str:
        """Return all of it in one line."""
        return "; ".join(filter(None, (self.count, self.training())))

    def __enter__(self) -> Watch:
        self.began = time.monotonic()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        self._show("")
        with suppress(OSError):
            self.note.unlink()

    def _run(self) -> None:
        said = 0
        while not self.ended.wait(1.0):
            self.memory = max(self.memory, memory_of_kernels())
            passed = time.monotonic() - self.began
            line = f"{self.lesson.name} {int(passed) // 60}:{int(passed) % 60:02}  {self.words()}"
            self._show(line)
            if passed // MINUTE > said:
                said = passed // MINUTE
                if self.log:
                    self._show("")
                    print(line, flush=True)
                self.each_minute(self.words())

    def _show(self, line: str) -> None:
        """Write over the line on the terminal."""
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r{line[:width]:<{width}}" + ("" if line else "\r"))
            sys.stderr.flush()

"""Open the lessons in JupyterLab, in `my-lessons/`: a copy without outputs that git does not see.

`make lab`, or `python tools/lab.py`. Copies that nobody has changed follow the lessons; what you changed is never
overwritten. `make lab FRESH=1` (`python tools/lab.py --fresh`) starts again with a new copy and keeps the old one in a
folder with today's date. `python3 tools/lab.py --check` says whether this Python can run the lessons.

The copy lies beside `notebooks/`, so links to the glossary and the solutions work in it as well. This file needs only
the standard library, and any Python 3 can read it: it is asked before anything is installed.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPY = "my-lessons"
RECORD = ".copied.json"  # what was written: path -> SHA-256; a file that differs is the reader's own
OLDEST, NEWEST = (3, 11), (3, 13)
REMEDY = """
  - another Python on this computer:  make lab PYTHON=python3.12      (Windows: py -3.12 instead of py)
  - uv, which brings one along:       uv venv --python 3.12 .venv     (README, "With uv")
  - conda, which does so too:         conda create -n chest-xray python=3.12      (README, "With conda")
  - no installation:                  Google Colab                    (docs/elsewhere.md)"""


# ------------------------------------------------------------------------------------------------- this Python
def find_fault(version: tuple, bits: int, system: str, machine: str) -> str:
    """Say why a Python cannot run the lessons and what to do; nothing if it can.

    Parameters
    ----------
    version : tuple of int
        For example (3, 12).
    bits : int
        32 or 64: of this Python, not of the computer.
    system, machine : str
        As `platform.system()` and `platform.machine()` name them: "Darwin", "x86_64".
    """
    found = "This is Python {}.{}, {} bit, for {} on {}.".format(*version[:2], bits, system, machine)
    lessons = "The lessons need Python {}.{} to {}.{}, 64 bit".format(*OLDEST, *NEWEST)
    if bits != 64:
        return f"{found} {lessons}: TensorFlow has no package for 32 bit. Install a 64-bit Python, or use{REMEDY}"
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        return f"{found} {lessons}: TensorFlow has no package for other versions. What helps:{REMEDY}"
    if (system, machine.lower()) == ("Darwin", "x86_64"):
        why = "TensorFlow has no package for Macs with an Intel processor any more"
        apple = "If yours has an Apple processor, this Python was made for Intel: install one for Apple silicon."
        return f"{found} {why}. {apple} Otherwise use Google Colab (docs/elsewhere.md) or another computer."
    if (system, machine.lower()) == ("Windows", "arm64"):
        why = "TensorFlow has no package for Windows on ARM"
        return f'{found} {why}. Install the Python for "Windows x86-64", or use Google Colab (docs/elsewhere.md).'
    return ""


def check_python() -> None:
    """End with a message if this Python cannot run the lessons."""
    bits = 64 if sys.maxsize > 2**32 else 32
    fault = find_fault(sys.version_info, bits, platform.system(), platform.machine())
    if fault:
        sys.exit(fault)


# ---------------------------------------------------------------------------------------------------- the copy
def strip_outputs(text: str) -> str:
    """Return a notebook's text without outputs and numbers of execution."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def find_notebooks(root: Path) -> list:
    """Return the lessons in their order, then the solutions."""
    home = root / "notebooks"
    return sorted(home.glob("[0-9][0-9]_*.ipynb")) + sorted(home.glob("solutions/*.ipynb"))


def copy_lessons(root: Path = ROOT, fresh: bool = False) -> list:
    """Copy the lessons and their solutions to `my-lessons/`; return what there is to say about it.

    Parameters
    ----------
    root : Path
        The repository.
    fresh : bool
        Rename an older copy first, so that all lessons are new.
    """
    target, said = root / COPY, []
    if fresh and target.exists():
        aside = f"{COPY}-{datetime.date.today().isoformat()}"
        names = [aside] + [f"{aside}-{n}" for n in range(2, 1000)]
        kept = next(root / name for name in names if not (root / name).exists())
        target.rename(kept)
        said.append(f"Your lessons so far are kept in {kept.name}/.")
    try:
        written = json.loads((target / RECORD).read_text("utf-8"))
    except (OSError, ValueError):  # none, or damaged: then every copy counts as changed by its reader
        written = {}
    newer = []
    for path in find_notebooks(root):
        name = path.relative_to(root / "notebooks").as_posix()
        new, own = strip_outputs(path.read_text("utf-8")).encode(), target / name
        digest = hashlib.sha256(new).hexdigest()
        found = hashlib.sha256(own.read_bytes()).hexdigest() if own.exists() else None
        if found not in (None, digest, written.get(name)):
            newer += [name] if written.get(name) != digest else []
            continue
        if found != digest:
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_bytes(new)
        written[name] = digest
    (target / RECORD).write_text(json.dumps(written, indent=1), "utf-8")
    said.append(f"Your copy of the lessons is in {COPY}/: change what you like, git does not see it.")
    if newer:
        said.append("Newer than the copies that you have changed: {}.".format(", ".join(newer)))
        said.append("To get them: make lab FRESH=1 (or python tools/lab.py --fresh), which keeps what you have.")
    return said


# -------------------------------------------------------------------------------------------------- JupyterLab
def lab_command(root: Path = ROOT) -> list:
    """Return the command that opens the first lesson; its root is the repository, so that all links work."""
    first = root / COPY / find_notebooks(root)[0].name
    return [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}", str(first)]


def open_lab(options: list) -> int:
    """Become JupyterLab, so that Ctrl-C and a kill reach it; on Windows, which cannot, wait until it ends."""
    command = lab_command() + options
    os.chdir(str(ROOT))
    if os.name != "nt":
        os.execv(command[0], command)
    process = subprocess.Popen(command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for JupyterLab, which asks whether to stop
    return process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only check this Python; nothing is copied or opened")
    parser.add_argument("--copy", action="store_true", help="only copy the lessons; for VS Code and Codespaces")
    parser.add_argument("--fresh", action="store_true", help="start with a new copy; the old one is kept beside it")
    given, options = parser.parse_known_args()  # what is unknown here is JupyterLab's: --no-browser, --port=9000
    check_python()
    if given.check:
        return
    print("\n".join(copy_lessons(fresh=given.fresh)), flush=True)
    if not given.copy:
        print("JupyterLab opens in your browser. There: Run > Run All Cells. To end it, press Ctrl-C here.", flush=True)
        sys.exit(open_lab(options))


if __name__ == "__main__":
    main()

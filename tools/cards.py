"""Copy the model and data cards of a run on the phantom into `docs/cards`, where the site shows them.

`make refresh` does so when it stores lesson 09, which writes the cards, and so does `python tools/cards.py` after
`make run`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from xrayhelpers._machine import write_atomic

ROOT = Path(__file__).resolve().parents[1]


def copy_cards(run: Path, target: Path) -> list[str]:
    """Replace the cards in `target` by those of a run; return their names.

    Raises
    ------
    ValueError
        The run has no cards, or is not on the phantom: nothing of real data is stored in the repository.
    """
    found = {path.name: path.read_text("utf-8") for path in sorted(run.glob("cards/*.md"))}
    if "- phantom data:" not in found.get("data.md", ""):
        raise ValueError(
            f"runs/{run.name} holds {len(found)} cards and no data card of the phantom. Type `make run ONLY=09` first."
        )
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.md"):
        old.unlink()
    for name, text in found.items():
        write_atomic(target / name, text)
    return list(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=ROOT / "runs" / "latest", help="folder of a run")
    print("docs/cards:", ", ".join(copy_cards(parser.parse_args().run.resolve(), ROOT / "docs" / "cards")))

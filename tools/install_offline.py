"""Install the chest X-ray lessons from this folder, without any network: `python3 install.py [FOLDER]`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIP = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]


def check() -> None:
    """Refuse another Python than the wheels are for, and files that a bad stick has changed."""
    made_for = (HERE / "made-for.txt").read_text("utf-8").strip()
    this = f"Python {sys.version_info.major}.{sys.version_info.minor}, {sysconfig.get_platform()}"
    if this != made_for:
        sys.exit(f"Found {this}; the wheels in this folder are for {made_for}. Run install.py with that Python.")
    for line in (HERE / "SHA256SUMS").read_text("utf-8").splitlines():
        digest, name = line.split("  ", 1)
        path = HERE / name
        if not path.is_file():
            sys.exit(f"{name} is missing. Copy the whole folder once more.")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                sys.exit(f"{name} was damaged on its way. Copy the folder once more.")


def install(folder: Path) -> None:
    """Copy the repository, install the wheels into its `.venv`, and fill the cache."""
    print("Checking the files", flush=True)
    check()
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty. Type another folder: python3 install.py FOLDER")
    print(f"Installing into {folder}: some minutes", flush=True)
    shutil.copytree(HERE / "xray-lessons", folder, dirs_exist_ok=True)
    venv.create(folder / ".venv", with_pip=True)
    python = folder / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    # A pip that is set up for a network, by a file or the environment, must not look for it.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(HERE / "wheels")}
    for words in (["-r", "requirements.txt", "-c", "constraints.txt"], ["--no-deps", "-e", "."]):
        subprocess.run([python, *PIP, *words], cwd=folder, env=environment, check=True)
    command = "from xrayhelpers._machine import cache_folder; print(cache_folder())"
    said = subprocess.run([python, "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    shutil.copytree(HERE / "cache", said.stdout.strip(), dirs_exist_ok=True)
    print(f"Done. Now type:\n  cd {folder}\n  {python.relative_to(folder)} {Path('tools/lab.py')}")


if __name__ == "__main__":
    install(Path(sys.argv[1] if len(sys.argv) > 1 else Path.home() / "xray-lessons").absolute())

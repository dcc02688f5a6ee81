"""`python -m benchmarks`: run each way in a process of its own, take turns, and write down median and spread."""

import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import click
import pandas as pd

from tools.runner import describe_machine
from xrayhelpers._machine import cache_folder, progress, write_atomic
from xrayhelpers.data import open_data

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
COUNTS = (5_000, 20_000, 100_000)
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # what decides how fast a processor multiplies
FIRST_IMAGE = "from xrayhelpers import data; i = data.load_index({folder!r}); data.load_images(i.head(1), 64)"


def sections(folder: str, all_images: str) -> dict[str, tuple[dict, list]]:
    """Name -> ways (name -> function and its arguments) and the pairs whose ratio is of interest (slow, fast)."""
    epochs, pairs = {}, []
    for size in (64, 128):
        for name, function in (("report", "report_epoch"), ("ours", "our_epoch"), ("ready arrays", "ready_epoch")):
            epochs[f"{name}, {size} px"] = (function, {"folder": folder, "size": size})
        pairs += [(f"{slow}, {size} px", f"ours, {size} px") for slow in ("report", "ready arrays")]
    how = {"folder": folder, "size": 64}
    vgg16 = {"all layers": ("vgg16", {**how, "keep": False}), "kept features": ("vgg16", {**how, "keep": True})}
    codes = {"python": "", "import": "import xrayhelpers", "first image": FIRST_IMAGE.format(folder=folder)}
    codes |= {
        "tensorflow": "import xrayhelpers._keras",
        "doctor": "from tools import doctor; list(doctor.check_all())",
    }
    many = {f"{count:,} images": ("many_images", {"folder": folder, "images": count}) for count in COUNTS}
    start = {name: ("start_up", {"code": code}) for name, code in codes.items()}
    whole = {name: ("whole_report", {"folder": folder, "ours": name == "ours"}) for name in ("report", "ours")}
    whole["ours, pruned search"] = ("whole_report", {"folder": folder, "ours": True, "search": True})
    neighbors = {name: ("neighbors", {"folder": all_images, "ours": name == "ours"}) for name in ("report", "ours")}
    better = {
        name: ("better_epoch", {"folder": folder, "ready": name != "crops"}) for name in ("crops", "ready arrays")
    }
    halves, both = {}, []
    for network in ("cnn", "vgg16", "tuned"):
        for policy in ("float32", "mixed_bfloat16"):
            how = {"folder": folder, "network": network, "policy": policy, "seed": 0}
            halves[f"{network}, {policy}"] = ("precision", how)
        both.append((f"{network}, float32", f"{network}, mixed_bfloat16"))
    return {
        "epoch": (epochs, pairs),
        "vgg16": (vgg16, [("all layers", "kept features")]),
        "report": (whole, [("report", "ours"), ("report", "ours, pruned search")]),
        "neighbors": (neighbors, [("report", "ours")]),
        "better": (better, [("ready arrays", "crops")]),
        "precision": (halves, both),
        "many": (many, []),
        "start-up": (start, []),
    }


def take(source: Path, target: Path, images: int) -> Path:
    """Link evenly spread training images of a folder, and all its test images, into another one.

    Where there are no test images (the few originals), eight of each class become them, and the others get as many
    names as images are wanted.
    """
    train, test = (
        sorted(path for path in source.glob(f"{split}/*/*") if path.is_file()) for split in ("train", "test")
    )
    if test:
        step = max(1, len(train) / images)
        chosen = [*test, *(train[int(n * step)] for n in range(int(len(train) / step)))]
        links = {path.relative_to(source): path for path in chosen}
    else:
        test = [path for label in sorted(source.glob("train/*")) for path in sorted(label.glob("*"))[:8]]
        train = [path for path in train if path not in test]
        links = {Path("test", path.parent.name, path.name): path for path in test}
        many = enumerate(itertools.islice(itertools.cycle(train), images))
        links |= {Path("train", path.parent.name, f"person{n}_{n}_{path.name}"): path for n, path in many}
    for name, path in links.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).symlink_to(path.resolve())
    return target


def run_way(function: str, arguments: dict) -> dict[str, float]:
    """Run a way in a new process with an empty cache (VGG16's weights excepted) and return its figures."""
    (cache_folder() / "vgg16").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="xrays-bench-") as folder:
        Path(folder, "vgg16").symlink_to((cache_folder() / "vgg16").resolve())
        environment = os.environ | {"XRAYS_CACHE": folder, "XRAYS_PROGRESS": "off", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "benchmarks.ways", function, json.dumps(arguments)]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{function} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def take_turns(ways: dict[str, tuple], repeats: int) -> pd.DataFrame:
    """Run all ways in turn, so that a busy minute of the machine affects each of them alike; one row per figure.

    A way with a seed gets the number of the turn.
    """
    turns = [
        (name, function, how | ({"seed": turn} if "seed" in how else {}))
        for turn in range(repeats)
        for name, (function, how) in ways.items()
    ]
    rows = [
        {"way": name, "figure": figure, "value": value}
        for name, function, arguments in progress(turns, desc="ways", unit="process")
        for figure, value in run_way(function, arguments).items()
    ]
    groups = pd.DataFrame(rows).groupby(["way", "figure"], sort=False)["value"]
    return groups.agg(["median", "min", "max"]).round(3).reset_index()


def ratios(table: pd.DataFrame, pairs: list[tuple[str, str]]) -> pd.DataFrame:
    """Divide the medians of the figures that both ways of a pair have."""
    medians = table.set_index(["way", "figure"])["median"]
    return pd.DataFrame(
        {"ratio": f"{slow} / {fast}", "figure": figure, "value": round(medians[slow][figure] / value, 2)}
        for slow, fast in pairs
        for figure, value in medians[fast].items()
        if figure in medians[slow] and figure.endswith("_seconds")
    )


def machine() -> str:
    """Say when this is, and describe the machine without naming it."""
    found, now = Path("/proc/cpuinfo"), describe_machine()
    flags = set(found.read_text().split()).intersection(FLAGS) if found.is_file() else ()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{now['started'].split()[0]}, {now['device']} ({', '.join(sorted(flags))}){load}, "
        f"Python {platform.python_version()}, TensorFlow {version('tensorflow')}"
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--data", default="phantom", help='"phantom" or the path of a chest_xray folder.')
@click.option("--label", default="phantom", help="Name of the data in the results.")
@click.option("--images", default=750, help="Training images that are used, at most.")
@click.option("--repeats", default=3, help="How often each way is run.")
@click.option("--only", default="epoch,vgg16,report,neighbors,better,precision,many,start-up", help="Sections.")
def main(data, label, images, repeats, only) -> None:
    """Compare the package with the report's way of working."""
    with tempfile.TemporaryDirectory(prefix="xrays-bench-data-") as scratch:
        source = Path(open_data(data).folder)
        folder = take(source, Path(scratch, "chest_xray"), images)
        for name, (ways, pairs) in sections(str(folder), str(source)).items():
            if name not in only.split(","):
                continue
            count = len(list((source if name == "neighbors" else folder).glob("train/*/*")))
            about = machine()
            table = take_turns(ways, repeats)
            text = f"### {name}\n\n{label}: {count} training images, {repeats} repetitions. {about}.\n\n"
            text += f"{table.to_markdown(index=False)}\n"
            text += f"\n{ratios(table, pairs).to_markdown(index=False)}\n" if pairs else ""
            write_atomic(RESULTS / f"{name}-{label}.md", text)
            click.echo(text)


if __name__ == "__main__":
    main()

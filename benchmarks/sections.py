"""The seven sections: which ways are compared, on how many images, and which ratios must be reached."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.folders import TRAIN_IMAGES, take
from benchmarks.measure import Ratio, Way, compare, take_turns

# Of the grid's training, what the pruned search takes: section 6 measures that it does, and what it finds.
SEARCH_SHARE = 0.22


@dataclass(frozen=True)
class Plan:
    """What is measured: the source tree, a scratch folder, training images of a full section, repetitions, sizes."""

    source: Path
    scratch: Path
    images: int
    repeats: int = 3
    epochs: int = 5
    small: int = 64
    large: int = 128
    sizes: tuple[int, ...] = (5_000, 20_000, 100_000)
    originals: bool = False

    def folder(self, share: float = 1.0, whole_test: bool = False) -> Path:
        """A tree with `share` of the images, made once; its test images in proportion, or all of them."""
        folder = self.scratch / f"images-{share:g}-{whole_test}"
        test = None if whole_test else max(20, round(self.images * share / 8))
        return folder if folder.exists() else take(self.source, folder, max(8, round(self.images * share)), test)


Section = Callable[[Plan], tuple[pd.DataFrame, pd.DataFrame, str, Path]]


def epoch(plan: Plan) -> tuple:
    """1: one epoch of the report's pipeline against ours."""
    folder = plan.folder()
    ways, ratios = [], []
    for size, needed in ((plan.small, 8 if plan.originals else 3.5), (plan.large, 2.2)):
        how = {"folder": str(folder), "size": size}
        report, ours = f"report, {size} px", f"ours, {size} px"
        ways += [Way(report, "report_epoch", how), Way(ours, "our_epoch", how)]
        ratios.append(Ratio(report, ours, "epoch_seconds", needed))
        ratios += [Ratio(report, ours, figure) for figure in ("epoch_cpu_seconds", "input_seconds", "peak_mb")]
    table = take_turns(ways, plan.repeats)
    n = table.loc[table["figure"] == "images", "median"].iloc[0]
    note = f"Seconds for {n:.0f} images, unscaled; times {TRAIN_IMAGES / n:.2f} for the report's {TRAIN_IMAGES}."
    return table, compare(table, ratios), note, folder


def limit(plan: Plan) -> tuple:
    """2: our epoch against `model.fit` on ready arrays."""
    folder = plan.folder()
    ways, ratios = [], []
    for size in (plan.small, plan.large):
        for name, function in (("ours", "our_epoch"), ("ready arrays", "ready_epoch")):
            ways.append(Way(f"{name}, {size} px", function, {"folder": str(folder), "size": size}))
        pair = (f"ours, {size} px", f"ready arrays, {size} px")
        ratios += [Ratio(*pair, "epoch_seconds", 1.1, at_most=True), Ratio(*pair, "epoch_cpu_seconds")]
    table = take_turns(ways, plan.repeats)
    return (
        table,
        compare(table, ratios),
        "Ours decodes before and augments during the epoch; the limit does neither.",
        folder,
    )


def vgg16(plan: Plan) -> tuple:
    """3: VGG16, plain against kept features."""
    folder = plan.folder(0.5, whole_test=True)
    how = {"folder": str(folder), "size": plan.small, "epochs": plan.epochs}
    ways = [Way("report", "report_vgg16", how)]
    views = {"plain": 0, "kept, 1 view": 1, "kept, 2 views": 2}
    ways += [Way(name, "our_vgg16", {**how, "views": n}) for name, n in views.items()]
    table = take_turns(ways, plan.repeats)
    fast = ("kept, 1 view", "kept, 2 views")
    ratios = [Ratio(slow, kept, "training_seconds", 2.5) for slow in ("plain", "report") for kept in fast]
    ratios += [Ratio("plain", kept, "training_cpu_seconds") for kept in fast]
    note = f"{plan.epochs} epochs. Plain runs all layers in every epoch, on our arrays; report on ImageDataGenerator's."
    return table, compare(table, ratios), note, folder


def whole(plan: Plan) -> tuple:
    """4: the whole report, both ways."""
    folder = plan.folder(0.2)
    n = len(list(folder.glob("train/*/*")))
    how = {"folder": str(folder), "scale": TRAIN_IMAGES / n, "small": plan.small, "large": plan.large}
    names = {"report": "whole_report", "ours": "whole_ours"}
    table = take_turns([Way(name, function, how) for name, function in names.items()], plan.repeats)
    stages = ["knn", "cnn", "vgg16", "tuning"]
    ratios = [Ratio("report", "ours", "all_seconds", 3 if plan.originals else 2)]
    ratios += [Ratio("report", "ours", f"{stage}_seconds") for stage in stages]
    compared = compare(table, ratios)
    middle = table.set_index(["way", "figure"])["median"]
    pruned = middle["ours", "all_seconds"] - (1 - SEARCH_SHARE) * middle["ours", "tuning_seconds"]
    value = round(middle["report", "all_seconds"] / pruned, 2)
    row = {
        "ratio": f"report / ours, pruned search ({SEARCH_SHARE:.0%} of the grid's training)",
        "figure": "all_seconds",
    }
    row |= {"value": value, "min": "", "max": "", "needed": "at least 5", "reached": "yes" if value >= 5 else "no"}
    compared = pd.concat([compared, pd.DataFrame([row])], ignore_index=True)
    note = (
        f"Measured on {n} images and 1 of 5 epochs of each tuning trial, scaled to {TRAIN_IMAGES} images and 5 epochs; "
        "building and tracing the ten networks is added unscaled. Ours keeps 2 views of VGG16's features."
    )
    return table, compared, note, folder


def sizes(plan: Plan) -> tuple:
    """5: cost against size, images repeated by hard link."""
    ways = []
    for n in plan.sizes:
        folder = plan.scratch / f"size-{n}"
        take(plan.source, folder, n, 4)
        ways.append(Way(f"{n} images", "size_cost", {"folder": str(folder)}))
    table = take_turns(ways, plan.repeats)
    first, last = ways[0].name, ways[-1].name
    figures = [f"{stage}_ms_an_image" for stage in ("index", "decode", "input", "epoch")] + ["peak_mb"]
    ratios = compare(table, [Ratio(last, first, figure) for figure in figures])
    return table, ratios, "32 px, area; 1 means that the cost is flat.", plan.scratch / f"size-{plan.sizes[0]}"


def search(plan: Plan) -> tuple:
    """6: grid against pruned search; one worker against two."""
    folder = plan.folder()
    how = {"folder": str(folder), "size": plan.large, "epochs": plan.epochs}
    grid = take_turns([Way("grid", "search", how), Way("grid, 2 workers", "two_workers", how)], plan.repeats)
    seconds = grid.set_index(["way", "figure"])["median"]["grid", "training_seconds"]
    # The last trial may start just before the budget is used up: this leaves room for it.
    how |= {"kind": "pruned", "seconds": 0.85 * SEARCH_SHARE * seconds}
    drawn = [Way(f"pruned, seed {seed}", "search", {**how, "seed": seed}) for seed in range(3)]
    table = pd.concat([grid, take_turns(drawn, plan.repeats)], ignore_index=True)
    ratios = [Ratio("grid", "grid, 2 workers", "wall_seconds")]
    for way in drawn:
        ratios += [Ratio(way.name, "grid", "training_seconds", 0.4, at_most=True)]
        ratios += [Ratio(way.name, "grid", "best_val_auc", 1.0)]
    note = (
        f"Validation by patient. The grid has films of {plan.large} px, the pruned search of {plan.large // 4} and "
        f"{plan.large // 2} and twice the epochs, as in lesson 6. Both workers share the same cores."
    )
    return table, compare(table, ratios), note, folder


def start_up(plan: Plan) -> tuple:
    """7: start-up."""
    folder = plan.folder()
    what = ("python", "import", "first image", "tensorflow", "doctor")
    table = take_turns([Way(name, "start_up", {"what": name, "folder": str(folder)}) for name in what], plan.repeats)
    return table, pd.DataFrame(), "Whole processes; `python` is an empty one.", folder


SECTIONS: dict[str, Section] = {
    "1-epoch": epoch,
    "2-limit": limit,
    "3-vgg16": vgg16,
    "4-whole-report": whole,
    "5-size": sizes,
    "6-search": search,
    "7-start-up": start_up,
}

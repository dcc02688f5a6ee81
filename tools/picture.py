"""Draw the pictures of the README and of docs/results.md.

python tools/picture.py readme runs/<phantom> runs/<real>   an image, its heat map, and how far apart the models are
python tools/picture.py results runs/<real>      all models on real images, beside the report's numbers
"""

import io
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `benchmarks` is not installed

from benchmarks.test_set import LOG, rows_of
from xrayhelpers._images import read_image
from xrayhelpers._machine import write_atomic
from xrayhelpers.data import load_images, load_index, open_data
from xrayhelpers.evaluate import compare_auc
from xrayhelpers.explain import grad_cam
from xrayhelpers.results import read_results, same_images
from xrayhelpers.training import load_model

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
# The report's accuracy on 531 (nearest neighbors: 624) test images.
REPORT = {"knn": 0.745, "cnn": 0.853, "vgg16": 0.853, "tuned": 0.896}
BLACK, BLUE, GRAY, GREEN = "#222222", "#0072B2", "#777777", "#009E73"


def save(figure, name):
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    write_atomic(PICTURES / name, content.getvalue())


def readme(run, real):
    """A drawn ill child, where the network looks, and each model's AUC on real images minus that of VGG16."""
    found = {one.name: one for one in read_results(real / "results") if one.model not in ("constant", "crops")}
    images = same_images(list(found.values()))
    index = load_index(open_data("phantom").folder).query("split == 'test' and label == 1").set_index("name")
    name = index.index[0]
    network, _ = load_model(run / "models" / "cnn-patient.keras")
    pixels = load_images(index.loc[[name]].reset_index(), network.input_shape[1])
    film, heat = read_image(index.loc[name, "path"], channels=1)[..., 0], grad_cam(network, pixels)[0]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), width_ratios=(1, 1, 1.5), layout="constrained")
    for ax, title in zip(
        axes,
        ("an X-ray image (drawn)", "where a network looks", "is the famous model best? (real images)"),
        strict=True,
    ):
        ax.set_title(title)
    for ax in axes[:2]:
        ax.imshow(film, cmap="gray", vmin=0, vmax=255)
        ax.axis("off")
    extent = (-0.5, film.shape[1] - 0.5, film.shape[0] - 0.5, -0.5)
    axes[1].imshow(heat, cmap="inferno", alpha=0.5, extent=extent, interpolation="bilinear")
    rivals = [one for one in found if one != "vgg16-report"]
    for y, one in enumerate(rivals):
        change = compare_auc(images["label"], images[one], images["vgg16-report"], images["patient"])
        axes[2].plot([change["low"], change["high"]], [y, y], color=BLACK, lw=2)
        axes[2].plot(change["difference"], y, "o", color=BLACK)
    axes[2].axvline(0, color=GRAY, ls="--")
    axes[2].set_yticks(range(len(rivals)), [one.replace("-", ", ") for one in rivals])
    axes[2].set_xlabel("ROC AUC minus that of the report's VGG16, 95 % interval")
    axes[2].invert_yaxis()
    save(figure, "readme.png")


def results(run):
    """Accuracy and AUC of every model of a run with their intervals, the report's, and the looks of 2026-11-25."""
    found = read_results(run / "results")
    looks = [row for row in rows_of(LOG) if row[0] >= "2026-11-25"]
    rows = len(found) + len(looks)
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.42 * rows + 1.2), sharey=True, layout="constrained")
    for ax, metric, label in zip(axes, ("accuracy", "roc_auc"), ("accuracy", "ROC AUC"), strict=True):
        for y, one in enumerate(found):
            value, low, high = one.metrics.loc[metric, ["value", "low", "high"]]
            color = BLUE if one.protocol == "patient" else BLACK
            ax.plot([low, high], [y, y], color=color, lw=2)
            ax.plot(value, y, "o" if one.protocol == "patient" else "s", color=color)
            if metric == "accuracy" and one.protocol == "report" and one.model in REPORT:
                ax.plot(REPORT[one.model], y, "x", color="#D55E00", ms=9, mew=2)
        for y, look in enumerate(looks, start=len(found)):
            cell = look[{"roc_auc": 5, "accuracy": 6}[metric]]
            for value, low, high in re.findall(r"(0\.\d{3}) \[(\d\.\d+), (\d\.\d+)\]", cell):
                ax.plot([float(low), float(high)], [y, y], color=GREEN, lw=2, alpha=0.4)
                ax.plot(float(value), y, "D", color=GREEN, ms=6)
        ax.set_xlabel(f"{label} on test, with 95 % interval")
        ax.grid(axis="x", color="#DDDDDD")
    names = [f"{one.model}, {one.protocol}" for one in found] + [f"{look[1]}, 5 seeds" for look in looks]
    axes[0].set_yticks(np.arange(rows), names)
    axes[0].invert_yaxis()
    axes[0].plot([], [], "x", color="#D55E00", ms=9, mew=2, label="the report of 2019")
    axes[0].legend(loc="lower left")
    save(figure, "results.png")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["readme", run, real]:
            readme(Path(run), Path(real))
        case ["results", run]:
            results(Path(run))
        case _:
            sys.exit(__doc__)

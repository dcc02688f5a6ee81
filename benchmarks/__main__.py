"""`python -m benchmarks`: measure the sections and write benchmarks/results/."""

import tempfile
import time
from pathlib import Path

import click

from benchmarks import folders, measure, sections
from xrayhelpers import sources

DEFAULT_IMAGES = 750  # training images of a full section, so that all seven take less than 25 minutes on two cores


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--data", default="phantom", help='"phantom" (enlarged to the size of originals) or a chest_xray folder.')
@click.option("--label", default=None, help="Name of the data in the results.  [default: phantom, or folder]")
@click.option("--fraction", type=float, help="Of the training images; above 1 repeats them.  [default: 750 images]")
@click.option("--repeats", default=3, help="How often each way is run.")
@click.option("--only", default="1,2,3,4,5,6,7", help="Sections.")
@click.option("--sizes", default="5000,20000,100000", help="Numbers of images of section 5.")
@click.option(
    "--originals", is_flag=True, help="The folder holds files of the published size: other ratios must be reached."
)
@click.option(
    "--output",
    default=measure.RESULTS,
    type=click.Path(path_type=Path),
    help="Folder of the results.",
    show_default=False,
)
def main(data, label, fraction, repeats, only, sizes, originals, output) -> None:
    """Measure the package against the report's way of working."""
    wanted = [name for name in sections.SECTIONS if name[0] in only.replace(",", " ").split()]
    with tempfile.TemporaryDirectory(prefix="xrays-bench-data-") as scratch:
        is_phantom = data == "phantom"
        source = folders.large_phantom(Path(scratch, "phantom")) if is_phantom else sources.find_tree(data)
        label = label or ("phantom" if is_phantom else "folder")
        whole = len(list(source.glob("train/*/*")))
        images = round(whole * fraction) if fraction else DEFAULT_IMAGES
        counts = tuple(int(n) for n in sizes.split(","))
        plan = sections.Plan(source, Path(scratch), images, repeats, sizes=counts, originals=originals or is_phantom)
        for name in wanted:
            started = time.perf_counter()
            machine = measure.machine()
            table, ratios, note, folder = sections.SECTIONS[name](plan)
            about = {"data": folders.describe(folder, label, whole), "note": note, "repeats": repeats}
            about |= {"machine": machine, "minutes": round((time.perf_counter() - started) / 60, 1)}
            title = sections.SECTIONS[name].__doc__.rstrip(".")
            path = measure.write_section(f"{name}-{label}", title, about, table, ratios, output)
            click.echo(path.with_suffix(".md").read_text(encoding="utf-8"))
    click.echo(measure.write_summary(output).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

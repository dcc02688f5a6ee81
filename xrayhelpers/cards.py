"""A model card and a data card in Markdown, made from results and index alone: no number in them is typed.

The outline follows Mitchell et al. (2019, doi:10.1145/3287560.3287596) for models and Gebru et al. (2021,
doi:10.1145/3458723) for data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xrayhelpers import dataset, evaluate
from xrayhelpers.results import Result
from xrayhelpers.sources import DataSource

NOT_FOR = "For learning, not for diagnosis. Do not use it on patients."


def model_card(result: Result, prevalences: Sequence[float] = (0.1,), notes: Sequence[str] = ()) -> str:
    """Describe a model by what its lesson stored.

    Parameters
    ----------
    result : Result
        As `results.read_results` returns.
    prevalences : sequence of float in [0, 1]
        Shares of pneumonia for which predictive values are given, besides the share in the test images.
    notes : sequence of str
        What an audit found, a sentence each; with none the card says that nothing was audited.

    Returns
    -------
    str
        Markdown with one heading of level 1.
    """
    scores, metrics = result.scores, result.metrics
    share, called = scores["label"].mean(), scores["score"] >= result.threshold
    groups = scores.assign(called=called).groupby("cause")
    by_cause = groups.agg(images=("name", "size"), patients=("patient", "nunique"), called=("called", "mean"))
    values = evaluate.predictive_values(*metrics.loc[["sensitivity", "specificity"], "value"], [share, *prevalences])
    history = f", {len(result.history)} epochs" if len(result.history) else ""
    interval = [f"[{row.low:.3f}, {row.high:.3f}]" for row in metrics.itertuples()]
    return "\n".join(
        [
            f"# Model card: {result.name}",
            f"\n{NOT_FOR}\n",
            "## The model\n",
            f"- Trained in lesson {result.lesson}{history}, seed {result.seed}, protocol `{result.protocol}`",
            *(f"- {key}: {value}" for key, value in result.parameters.items()),
            f"- An image is called pneumonia at a score of {result.threshold:.3f} or more",
            f"- Made with {', '.join(f'{name} {number}' for name, number in result.versions.items())}",
            "\n## The data\n",
            f"- {result.data}",
            f"- Fingerprint {result.fingerprint or 'not recorded'}",
            f"- Tested on {len(scores)} images of {scores['patient'].nunique()} patients, {share:.1%} pneumonia\n",
            "## How good it is\n",
            _table(metrics.assign(interval=interval)[["value", "interval"]], "metric"),
            "\n95 % intervals, for other patients from the same place; they say nothing of another place.\n",
            "## For whom it fails\n",
            _table(by_cause.rename(columns={"called": "called pneumonia"}), "cause"),
            "\n## What a call means\n",
            "ppv: of those called pneumonia, the share that has it; npv: of those called normal, the share that is.\n",
            _table(values.set_index(values.pop("prevalence").map("{:.1%}".format)), "prevalence"),
            "\n## What the audit found\n",
            *([f"- {note}" for note in notes] or ["- Nothing was audited."]),
            "",
        ]
    )


def data_card(index: pd.DataFrame, source: DataSource | None = None) -> str:
    """Describe a data set by its index.

    Parameters
    ----------
    index : DataFrame
        As `dataset.load_index` returns; the files are read only to find exact copies.
    source : DataSource, optional
        As `sources.open_data` returns; gives origin, licence and citation.

    Returns
    -------
    str
        Markdown with one heading of level 1.
    """
    record = source.record if source else None
    patients, copies = dataset.count_patients(index), dataset.find_duplicates(index)
    density = 8 * index["bytes"] / (index["width"] * index["height"])
    groups = index.assign(density=density).groupby("cause")
    by_cause = groups.agg(
        images=("name", "size"),
        patients=("patient", "nunique"),
        width=("width", "median"),
        height=("height", "median"),
        bits=("density", "median"),
    )
    unreadable = index.attrs.get("unreadable", {})
    lines = [
        "# Data card",
        f"\n{NOT_FOR}\n",
        "## Origin\n",
        f"- {source or 'not recorded'}",
        f"- Fingerprint {dataset.fingerprint(index)}",
    ]
    if record:
        lines += [f"- Compared with: {record.name}, version {record.version}, {record.address}"]
        lines += [f"- Licence: {record.licence}", f"- Cite: {record.citation}"]
    modes = ", ".join(f"{count} {mode}" for mode, count in index["mode"].value_counts().items())
    lines += [
        "\n## Images\n",
        _table(dataset.class_counts(index), "split"),
        f"\n- Colour modes: {modes}",
        f"- Left out as unreadable: {len(unreadable)}",
        f"- Exact copies of another file: {len(copies)} files in {copies['sha256'].nunique()} groups, "
        f"{int(copies['across'].sum())} of the files in groups that cross splits",
        "\n## By cause\n",
        _table(by_cause.rename(columns={"bits": "bits a pixel"}), "cause"),
        "\nWidth, height and bits a pixel are medians. Where they differ, the way a file is stored tells its label.\n",
        "## Patients\n",
        _table(patients, "reading of the file names"),
        "\n`shared`: patients with images in train and in test. Which reading is right is not known.",
        "\n## What is not known\n",
        "- Age, sex, device, exposure and clinical findings of each child: the files do not carry them.",
        "- How each label was decided: only the folder and the file name tell it.",
        "",
    ]
    return "\n".join(lines)


def _table(table: pd.DataFrame, corner: str) -> str:
    """Write a table in Markdown: whole numbers as such, others with three digits."""

    def text(value: object) -> str:
        if isinstance(value, float | np.floating):
            return "" if np.isnan(value) else f"{value:.0f}" if value == round(value) and value > 1 else f"{value:.3f}"
        return str(value)

    rows = [[corner, *table.columns], ["---"] * (table.shape[1] + 1)]
    columns = [table[name].tolist() for name in table.columns]
    rows += [[name, *values] for name, *values in zip(table.index, *columns, strict=True)]
    return "\n".join("| " + " | ".join(text(value) for value in row) + " |" for row in rows)

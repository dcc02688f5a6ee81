"""The phantom is worth learning on: over five seeds majority < nearest neighbours < the report's network.

The same figures for more seeds: python tests/test_ladder.py 10
"""

import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from xrayhelpers import dataset, pixels, sources


def climb(seed):
    """Balanced accuracy on test of both models, trained as the report did, on the phantom of this seed."""
    from xrayhelpers import models, training

    index = dataset.load_index(sources.open_data(f"phantom:seed={seed}").folder)
    train, test = (index[index["split"] == split] for split in ("train", "test"))

    def rows(part):
        return pixels.load_pixels(part, 32, interpolation="bilinear").reshape(len(part), -1).astype("float32")

    knn = KNeighborsClassifier(n_neighbors=3).fit(rows(train), train["label"]).predict(rows(test))
    model = models.report_cnn(seed=seed)
    training.train(model, pixels.load_pixels(train, 64), train["label"].to_numpy(), seed=seed)
    scores = training.predict(model, pixels.load_pixels(test, 64))
    return {
        "seed": seed,
        "knn": balanced_accuracy_score(test["label"], knn),
        "cnn": balanced_accuracy_score(test["label"], scores >= 0.5),
        "cnn_auc": roc_auc_score(test["label"], scores),
    }


@pytest.mark.slow
def test_majority_below_neighbours_below_network(cache):
    table = pd.DataFrame([climb(seed) for seed in range(5)])
    print(table.round(3).to_string(index=False))
    lead = table["cnn"] - table["knn"]
    assert table["knn"].mean() - 0.5 > table["knn"].std()
    assert lead.mean() > lead.std()
    assert np.median(table["cnn_auc"]) > 0.9


if __name__ == "__main__":
    table = pd.DataFrame([climb(seed) for seed in range(int(sys.argv[1]))])
    print(table.round(3).to_string(index=False))
    print(table.drop(columns="seed").agg(["mean", "std"]).round(3).to_string())

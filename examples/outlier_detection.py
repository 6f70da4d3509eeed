"""Outlier alarms with p-values and reasons, on the wines that ship with scikit-learn.

python examples/outlier_detection.py [--out outlier-output]

Two of three cultivars are ordinary; bottles of the third, which the detector never saw, are to be
found among new bottles of the first two.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

import mogul
from mogul import AEGMM, MixtureOutlierDetector, plot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("outlier-output"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wine = load_wine(as_frame=True)
    table, cultivar = wine.data, wine.target.to_numpy()
    rng = np.random.default_rng(0)
    usual = rng.permutation(np.flatnonzero(cultivar < 2))
    train, fresh = table.iloc[usual[:90]], table.iloc[usual[90:]]
    strange = table[cultivar == 2]

    detector = MixtureOutlierDetector(random_state=0).fit(train)
    form = detector.form_
    print(f"{len(train)} ordinary bottles of {len(usual)}; a mixture of {form.n_components} "
          f"{form.covariance_type} components, best of {len(detector.held_out_)}.\n")  # fmt: skip
    new = np.r_[np.zeros(len(fresh)), np.ones(len(strange))].astype(int)
    both = table.loc[[*fresh.index, *strange.index]]
    scores = detector.score_samples(both)
    scaler = StandardScaler().fit(train)
    neighbours = NearestNeighbors(n_neighbors=5).fit(scaler.transform(train))
    far = neighbours.kneighbors(scaler.transform(both))[0][:, -1]
    print(f"area under the ROC curve  {roc_auc_score(new, -scores):.3f}; five neighbours "
          f"{roc_auc_score(new, far):.3f}")  # fmt: skip
    for alpha in (0.02, 0.05, 0.1):
        flagged = detector.predict(both, alpha=alpha) == -1
        print(f"p-value at most {alpha:<9g} {flagged[new == 1].mean():.0%} of the strange bottles, "
              f"{flagged[new == 0].mean():.0%} of the ordinary ones")  # fmt: skip
    listed = detector.detect(both, fdr=0.1)
    print(f"false discoveries of 10 % {listed.sum()} bottles listed, "
          f"{int((listed & (new == 0)).sum())} of them ordinary\n")  # fmt: skip

    told = detector.explain(both)
    worst = np.argsort(scores)[:3]
    for i in worst:
        reasons = ", ".join(f"{name} {nats:+.1f}" for name, nats in told.top(3)[i])
        print(f"bottle {both.index[i]}: {reasons} nats")

    networks = AEGMM(max_epochs=300, random_state=0).fit(train)
    answer = networks.predict(both, return_instance_score=True)["data"]
    area = roc_auc_score(new, answer["instance_score"])
    badly = answer["feature_score"][new == 1].mean(0).argmax()
    print(f"\nAEGMM: area {area:.3f}; of the strange bottles it reconstructs "
          f"{table.columns[badly]} worst.")  # fmt: skip

    pictures = {
        "scores": plot.outlier_scores(scores, detector.offset_, new),
        "roc": plot.roc(scores, new),
        "precision_recall": plot.precision_recall(scores, new),
        "reasons": plot.contributions(told, int(worst[0])),
        "latent": plot.latent(networks.latent(both), networks.mixtures_[0], new),
    }
    for name, ax in pictures.items():
        ax.figure.savefig(options.out / f"{name}.png", dpi=120)
        plt.close(ax.figure)
    mogul.save(detector, options.out / "alarm.safetensors")
    print(f"\nPictures and the model are in {options.out}/")


if __name__ == "__main__":
    main()

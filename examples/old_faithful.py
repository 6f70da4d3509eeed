"""Old Faithful from start to finish: choose a mixture, read it, save it, score the rows, draw it.

python examples/old_faithful.py [--out demo-output]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import mogul
from mogul.data import write_table


def describe(model: mogul.GaussianMixture, names: tuple[str, ...]) -> str:
    """Weights, means and covariances, with units."""
    mixture = model.mixture_
    short = [name.rsplit("_", 1)[0] for name in names]
    lines = [f"{'component':>10}{'weight':>9}" + "".join(f"{n + ' (min)':>18}" for n in short)]
    for k in np.argsort(model.means_[:, 0]):
        means = "".join(f"{value:>18.2f}" for value in model.means_[k])
        lines.append(f"{k:>10}{model.weights_[k]:>9.3f}{means}")
    shared = model.covariance_type == "tied"
    lines.append("covariance, shared by all components (min²)" if shared else "covariances (min²)")
    matrices = mixture.covariance.dense().numpy()
    for k, matrix in enumerate(matrices[:1] if shared else matrices):
        for name, row in zip(short, matrix, strict=True):
            which = name if shared else f"{k} {name}"
            lines.append(f"{which:>19}" + "".join(f"{value:>18.4f}" for value in row))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo-output"))
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)

    data = mogul.datasets.old_faithful()
    names = data.feature_names
    print(f"Old Faithful: {len(data.values)} eruptions, {', '.join(names)}.\n")

    found = mogul.select(data, n_components=range(1, 7), random_state=0)
    print(found, "\n")

    model = found.best
    print(f"Chosen: {model.covariance_type}, {model.n_components} components;", end=" ")
    print(f"log-likelihood {model.lower_bound_:.4f} nats a row.")
    print(describe(model, names), "\n")

    model_file = folder / "model.safetensors"
    mogul.save(model, model_file)
    scores = {
        "log_density": model.score_samples(data),
        "component": model.predict(data),
    }
    write_table(folder / "scores.csv", scores)
    axes = mogul.plot.joint(model.mixture_, data.values)
    axes.figure.savefig(folder / "old_faithful.png", dpi=150)

    print(f"Model folder: {folder}/ (mogul.load({str(model_file)!r}) brings it back)")
    print(f"Scores:       {folder / 'scores.csv'}")
    print(f"Picture:      {folder / 'old_faithful.png'}")


if __name__ == "__main__":
    main()

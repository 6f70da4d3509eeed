"""Ten thousand small mixtures: ``mogul.fit_many`` beside a loop over scikit-learn.

    python benchmarks/many_fits.py [--sets 10000] [--repeats 3] [--out FILE]

Data sets of 200 rows in two columns, three components each. Of scikit-learn's loop 300 fits are
timed, between those of mogul, and multiplied up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="write the figures here as JSON")
    options = parser.parse_args()
    from sklearn.mixture import GaussianMixture

    from mogul import fit_many

    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(options.sets, 3, 2))
    labels = rng.integers(3, size=(options.sets, 200))
    x = centres[np.arange(options.sets)[:, None], labels] + rng.normal(size=(options.sets, 200, 2))
    fit_many(x[:2], 3, random_state=0)  # compiled once on a machine
    ours, theirs, values = [], [], []
    n = min(300, options.sets) // options.repeats
    for i in range(options.repeats):
        began = time.perf_counter()
        fits = fit_many(x, 3, random_state=0)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        models = [GaussianMixture(3, random_state=m).fit(x[m]) for m in range(i * n, (i + 1) * n)]
        theirs.append((time.perf_counter() - began) / n * options.sets)
        values += [m.score(x[i * n + j]) for j, m in enumerate(models)]
    record = {
        "sets": options.sets,
        "fit_many_seconds": round(statistics.median(ours), 3),
        "scikit_learn_loop_seconds": round(statistics.median(theirs), 1),
        "ratio": round(statistics.median(theirs) / statistics.median(ours), 1),
        "mean_log_likelihood_a_row": {
            "fit_many": round(float(fits.log_likelihood[: len(values)].mean()), 5),
            "scikit-learn": round(float(np.mean(values)), 5),
        },
        "converged": float(fits.converged.mean()),
    }
    print(json.dumps(record, indent=1))
    if options.out:
        with open(options.out, "w") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()

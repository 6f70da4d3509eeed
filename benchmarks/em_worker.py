"""One library in a process of its own, for em_speed.py: lines of JSON in, lines of JSON out.

Each line that comes in is ``{"case", "iterations", "dtype", "memory"}``; the answer says how long a
fit of so many iterations took, how many there were, the log-likelihood per row that they came to
where the library tells, and the most memory that the process took beyond what it had.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

import numpy as np
from em_cases import simulate


class Mogul:
    def fit(self, x, kind, k, start, n_iter):
        from mogul import GaussianMixture

        model = GaussianMixture(
            k, covariance_type=kind, max_iter=n_iter, tol=0.0, acceleration="none", **start
        ).fit(x)
        return model.n_iter_, model.lower_bounds_[-1]


class ScikitLearn:
    def fit(self, x, kind, k, start, n_iter):
        from sklearn.mixture import GaussianMixture

        # It makes a start of its own whatever it is given: the cheapest, and always the same.
        own = {"init_params": "random_from_data", "random_state": 0}
        model = GaussianMixture(
            k, covariance_type=kind, max_iter=n_iter, tol=0.0, **start, **own
        ).fit(x)
        return model.n_iter_, model.lower_bound_


class OneDAL:
    """It stops when its own criterion says so, and tells after how many iterations."""

    def fit(self, x, kind, k, start, n_iter):
        import daal4py

        daal4py.daalinit(2)
        d = x.shape[1]
        covariances = [np.eye(d) if kind == "full" else np.ones((1, d)) for _ in range(k)]
        storage = {} if kind == "full" else {"covarianceStorage": "diagonal"}
        algorithm = daal4py.em_gmm(
            nComponents=k, maxIterations=n_iter, accuracyThreshold=0.0, **storage
        )
        weights = start["weights_init"][None, :]
        found = algorithm.compute(x, weights, start["means_init"], covariances)
        return int(found.nIterations[0, 0]), float(found.goalFunction[0, 0]) / len(x)


class Pomegranate:
    def fit(self, x, kind, k, start, n_iter):
        import torch
        from pomegranate.distributions import Normal
        from pomegranate.gmm import GeneralMixtureModel

        if kind not in ("full", "diag"):
            raise NotImplementedError(kind)
        d = x.shape[1]
        eye = torch.eye(d) if kind == "full" else torch.ones(d)
        parts = [
            Normal(torch.from_numpy(mean), eye.to(torch.float64), covariance_type=kind)
            for mean in start["means_init"]
        ]
        model = GeneralMixtureModel(parts, max_iter=n_iter, tol=-np.inf)
        model.fit(torch.from_numpy(x))
        return n_iter, None


RIVALS = {
    "mogul": Mogul,
    "scikit-learn": ScikitLearn,
    "oneDAL": OneDAL,
    "pomegranate": Pomegranate,
}


def megabytes(field: str) -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def gemm_rate() -> float:
    """The highest rate of float64 matrix products that NumPy or torch reaches, in GFLOP/s."""
    import torch

    size, best = 2048, 0.0
    a, b = np.random.default_rng(0).normal(size=(2, size, size))
    out, tensors = np.empty_like(a), [torch.from_numpy(m) for m in (a, b)]
    for _ in range(2):
        for product in (lambda: np.matmul(a, b, out=out), lambda: torch.mm(*tensors)):
            began = time.perf_counter()
            product()
            best = max(best, 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return best


def main() -> None:
    library = RIVALS[sys.argv[1]]()
    cases: dict = {}
    warnings.simplefilter("ignore")  # fits are not meant to converge
    for line in sys.stdin:
        order = json.loads(line)
        if order == "gemm":
            print(json.dumps(gemm_rate()), flush=True)
            continue
        case = tuple(order["case"])
        if case not in cases:
            cases.clear()  # one at a time
            cases[case] = simulate(*case)
        x, start = cases[case]
        if order["dtype"] == "float32":
            x = x.astype(np.float32)
        if order["memory"]:
            with open("/proc/self/clear_refs", "w") as refs:
                refs.write("5")  # the peak starts anew
        before = megabytes("VmRSS")
        began = time.perf_counter()
        try:
            n_iter, value = library.fit(x, case[0], case[3], start, order["iterations"])
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"[:200]}), flush=True)
            continue
        seconds = time.perf_counter() - began
        answer = {"seconds": seconds, "n_iter": n_iter, "value": value}
        if order["memory"]:
            answer["megabytes"] = megabytes("VmHWM") - before
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

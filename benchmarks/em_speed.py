"""One EM iteration: mogul beside scikit-learn, oneDAL and pomegranate.

    python benchmarks/em_speed.py [--cases headline|grid] [--repeats 7]
                                  [--rivals scikit-learn,oneDAL,pomegranate] [--out FILE]

Every library works in a process of its own, on the same simulated rows from the same parameters,
and they take turns. The time of an iteration is that of a fit of several iterations less that of a
fit of one, divided by the iterations that the library says it made in between, so that what it does
once is not counted; of small shapes, where a library ends a fit by itself after a few, a turn has
several fits. Medians are reported, with the middle half of all repeats. Each library may use
as many threads as this process. Settings of the BLAS that are meant for old builds are not passed
on (OPENBLAS_CORETYPE, OPENBLAS_L2_SIZE).

Memory is the peak of a fresh process of the library while it fits, beyond what it held before, rows
included. GFLOP/s count two products of rows by features by components (see ``em_cases``); the last
column divides them by the rate of large float64 matrix products, which take their turn among the
libraries: the median of the same repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from em_cases import GRID, HEADLINE, n_operations

HERE = Path(__file__).resolve().parent
RIVALS = ("scikit-learn", "oneDAL", "pomegranate")
ONLY = {"oneDAL": ("full", "diag"), "pomegranate": ("full", "diag")}
"""The structures that a library has; all four where it is not named."""
MOST_WORK = {"pomegranate": 2.5e9, "scikit-learn": 2e11}
"""Operations of an iteration beyond which a library is not asked: it takes minutes."""
SHORT_WORK, SHORT_ROWS, LONG = 3e8, 20_000, 101
"""Operations and rows up to which fits take a hundred iterations: a dozen would end too soon for
clocks and other programs not to matter."""
_MOST_PAIRS = 25
"""Fits, at most, that a turn of these has, of a library that ends them by itself after a few."""


class Worker:
    """A library in a process of its own."""

    def __init__(self, name: str):
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
        }
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "em_worker.py"), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {self.name} ended")
        return json.loads(answer)

    def fit(self, case, iterations: int, *, dtype: str = "float64", memory: bool = False):
        order = {"case": case, "iterations": iterations, "dtype": dtype, "memory": memory}
        return self.ask(order)


def quartiles(values: list[float]) -> list[float]:
    if len(values) < 2:
        return values * 2
    low, _, high = statistics.quantiles(values, n=4)
    return [round(low, 3), round(high, 3)]


def compare(workers: dict[str, Worker], case, repeats: int) -> dict:
    """All libraries on one case, in turns."""
    work = n_operations(*case)
    long = LONG if work < SHORT_WORK and case[1] <= SHORT_ROWS else 13 if work < 5e9 else 7
    runs = {name: name for name in workers if _takes_part(name, case, work)}
    runs["mogul float32"] = "mogul"
    found: dict[str, list[float]] = {run: [] for run in runs}
    ends, memory, errors = {}, {}, {}
    for run, name in runs.items():  # data, imports and caches first
        dtype = "float32" if run.endswith("float32") else "float64"
        answer = workers[name].fit(case, 2, dtype=dtype)
        if "error" in answer:
            errors[run] = answer["error"]
            continue
        fresh = Worker(name)
        small = (case[0], max(2_000, 20 * case[3]), *case[2:])
        fresh.fit(small, 2, dtype=dtype)  # what is loaded once does not count
        memory[run] = fresh.fit(case, 3, dtype=dtype, memory=True)["megabytes"]
        fresh.process.kill()
    products, apart = [], Worker("mogul")  # whose threads are not those of the next fit
    for _ in range(repeats):
        products.append(apart.ask("gemm"))
        workers["mogul"].fit(case, 2)  # after which the cores are as before any other
        for run, name in runs.items():
            if run in errors:
                continue
            dtype = "float32" if run.endswith("float32") else "float64"
            made, spent = 0, 0.0
            for _ in range(_MOST_PAIRS if long == LONG else 1):
                one = workers[name].fit(case, 1, dtype=dtype)
                more = workers[name].fit(case, long, dtype=dtype)
                made += max(1, more["n_iter"] - one["n_iter"])
                spent += more["seconds"] - one["seconds"]
                if made > long / 2:
                    break
            found[run].append(1e3 * spent / made)
            ends[run] = (more["n_iter"], more["value"])
    names = ("covariance_type", "n_rows", "n_features", "n_components", "standard_deviations_apart")
    row: dict = dict(zip(names, (*case, 2.0)[:5], strict=True))
    ours = statistics.median(found["mogul"])
    for run, times in found.items():
        if run in errors:
            row[run] = {"error": errors[run]}
            continue
        middle = statistics.median(times)
        row[run] = {
            "ms": round(middle, 3),
            "quartiles_ms": quartiles(times),
            "ratio": round(middle / ours, 2),
            "megabytes": round(memory[run], 1),
            "iterations": ends[run][0],
            "log_likelihood_per_row": ends[run][1],
        }
    apart.process.kill()
    rate = work / ours / 1e6
    row["gflops"] = round(rate, 1)
    row["gemm_gflops"] = round(statistics.median(products), 1)
    row["share_of_gemm"] = round(rate / row["gemm_gflops"], 3)
    return row


def _takes_part(name: str, case, work: float) -> bool:
    return case[0] in ONLY.get(name, (case[0],)) and work <= MOST_WORK.get(name, float("inf"))


def cpu() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", choices=("headline", "grid"), default="headline")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rivals", help="comma-separated; all that are installed by default")
    parser.add_argument("--out", help="write the figures here as JSON")
    options = parser.parse_args()
    wanted = options.rivals.split(",") if options.rivals else list(RIVALS)
    workers = {name: Worker(name) for name in ("mogul", *wanted)}
    cases = HEADLINE if options.cases == "headline" else GRID
    print(f"{cpu()}, {os.cpu_count()} cores")
    print("ratios: how many times as long as mogul; quartiles in brackets")
    rows = []
    for case in cases:
        row = compare(workers, case, options.repeats)
        rows.append(row)
        apart = f", {case[4]} apart" if len(case) > 4 else ""
        print("{} N={} D={} K={}".format(*case[:4]) + apart, flush=True)
        for run in ("mogul", "mogul float32", *wanted):
            if run not in row:
                continue
            one = row[run]
            if "error" in one:
                print(f"    {run:14} {one['error']}")
                continue
            value = one["log_likelihood_per_row"]
            print(
                f"    {run:14} x {one['ratio']:<7} {one['ms']:>9.2f} ms {one['quartiles_ms']} "
                f"{one['megabytes']:>8.1f} MB   {one['iterations']} iterations"
                + ("" if value is None else f" to {value:.6f}")
            )
        print(
            f"    {row['gflops']} GFLOP/s, {100 * row['share_of_gemm']:.0f} % of matrix products "
            f"({row['gemm_gflops']} GFLOP/s)",
            flush=True,
        )
        if options.out:
            record = {
                "machine": {
                    "cpu": cpu(),
                    "cores": os.cpu_count(),
                    "architecture": platform.machine(),
                },
                "repeats": options.repeats,
                "figures": rows,
            }
            with open(options.out, "w") as file:
                json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()

"""Spark's GaussianMixture beside mogul over the same DataFrame, and by torchrun over its files.

    python benchmarks/spark_speed.py [--out FILE]

Needs PySpark and a Java runtime. One iteration of EM: N = 200,000, D = 16, K = 16, full matrices,
``local[2]``: the time of a fit of many iterations less that of one of few, in turn. MLlib stops by
the change of the whole log-likelihood, which is set to zero. Of the job in which tasks run side by
side it is also told how long it takes to start: rows are sent to Python, processes find each other.
Then two clusters of unit variance ten standard deviations apart, and the share of rows that each
labels right.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.ml.clustering import GaussianMixture as SparkMixture
from pyspark.ml.functions import array_to_vector
from pyspark.sql import SparkSession
from pyspark.sql.functions import array, col

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from spark_em import fit_together
from spark_em import statistics as spark_statistics

from mogul import GaussianMixture
from mogul.mapreduce import m_step

SHORT, LONG, VERY_LONG = 2, 12, 102


def rows(n: int, d: int, k: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(k, d))
    return centres[rng.integers(0, k, n)] + rng.normal(size=(n, d))


def frames(spark: SparkSession, x: np.ndarray):
    """The same rows as columns for Arrow, and as vectors for MLlib, both kept in memory."""
    names = [f"x{j}" for j in range(x.shape[1])]
    table = pa.table(dict(zip(names, x.T, strict=True)))
    columns = spark.createDataFrame(table).repartition(2).cache()
    vectors = columns.select(array_to_vector(array(*map(col, names))).alias("features")).cache()
    assert columns.count() == vectors.count() == len(x)
    return columns, vectors


def spark_fit(vectors, k: int, n: int):
    began = time.perf_counter()
    model = SparkMixture(k=k, maxIter=n, tol=0.0, seed=1).fit(vectors)
    return time.perf_counter() - began, model


def mogul_fit(columns, start, n: int):
    began = time.perf_counter()
    mixture = start
    for _ in range(n):
        stats = spark_statistics(columns, mixture)
        mixture = m_step(stats, mixture)
    return time.perf_counter() - began, float(stats.mean_log_likelihood())


def together_fit(columns, start, n: int):
    """One job: tasks that run side by side keep their rows."""
    model = GaussianMixture(
        start.n_components, algorithm="em", acceleration="none", tol=0.0, max_iter=n,
        weights_init=start.weights.numpy(), means_init=start.means.numpy(),
        precisions_init=start.covariance.precisions().numpy(),
    )  # fmt: skip
    began = time.perf_counter()
    found = fit_together(columns, model)
    return time.perf_counter() - began, found.lower_bound_


def torchrun_ms(folder: Path, k: int) -> tuple[float, float]:
    """Milliseconds of an iteration, and the log-likelihood per row, as the command prints them."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    fit = ["-m", "mogul", "fit", str(folder), "-k", str(k), "--tol", "0", "--max-iter", "30"]
    ran = subprocess.run(program + fit, capture_output=True, text=True, check=True)
    facts = dict(line.split("  ", 1) for line in ran.stdout.splitlines() if "  " in line)
    rate = float(facts["rows read"].split()[0]) * 1e6
    return 1e3 * 200_000 / rate, float(facts["log-likelihood"].split()[0])


def accuracy(labels: np.ndarray, truth: np.ndarray) -> float:
    right = float((labels == truth).mean())
    return max(right, 1 - right)


def far_apart(spark: SparkSession, d: int) -> tuple[float, float]:
    """Shares of rows that MLlib and mogul label right."""
    rng = np.random.default_rng(d)
    truth = rng.integers(0, 2, 4000)
    x = rng.normal(size=(4000, d))
    x[:, 0] += 10.0 * truth
    columns, vectors = frames(spark, x)
    with_row = spark.createDataFrame(
        pa.table({**{f"x{j}": x[:, j] for j in range(d)}, "row": np.arange(4000)})
    )
    names = [f"x{j}" for j in range(d)]
    vector = array_to_vector(array(*map(col, names))).alias("features")
    model = SparkMixture(k=2, maxIter=50, seed=1).fit(vectors)
    answer = model.transform(with_row.select("row", vector)).select("row", "prediction")
    found = answer.toPandas().sort_values("row")["prediction"].to_numpy()
    mixture = GaussianMixture(2, random_state=0).fit(x[:2000]).mixture_
    for _ in range(20):
        mixture = m_step(spark_statistics(columns, mixture), mixture)
    import torch

    own = mixture.predict(torch.from_numpy(x)).numpy()
    columns.unpersist()
    vectors.unpersist()
    return accuracy(found, truth), accuracy(own, truth)


def main() -> None:
    parser = argparse.ArgumentParser(description="Spark MLlib's GaussianMixture beside mogul.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "100000")
        .config("spark.driver.memory", "4g")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    n, d, k = 200_000, 16, 16
    x = rows(n, d, k)
    columns, vectors = frames(spark, x)
    start = GaussianMixture(k, random_state=0, max_iter=5, algorithm="em").fit(x[:20_000]).mixture_
    spark_fit(vectors, k, 1)
    mogul_fit(columns, start, 2)
    together_fit(columns, start, 2)
    one_job, many_jobs = "mogul, mapInArrow, one job", "mogul, mapInArrow, job by job"
    times: dict[str, list[float]] = {"MLlib": [], one_job: [], many_jobs: []}
    whole: list[float] = []
    likelihood: dict[str, float] = {}
    for _ in range(options.repeats):
        short, long = spark_fit(vectors, k, SHORT), spark_fit(vectors, k, LONG)
        times["MLlib"].append(1e3 * (long[0] - short[0]) / (LONG - SHORT))
        likelihood["MLlib"] = long[1].summary.logLikelihood / n
        few, many = mogul_fit(columns, start, SHORT), mogul_fit(columns, start, LONG)
        each = 1e3 * (many[0] - few[0]) / (LONG - SHORT)
        times[many_jobs].append(each)
        likelihood[many_jobs] = many[1]
        few, many = together_fit(columns, start, SHORT), together_fit(columns, start, VERY_LONG)
        times[one_job].append(1e3 * (many[0] - few[0]) / (VERY_LONG - SHORT))
        whole.append(few[0])
        likelihood[one_job] = together_fit(columns, start, LONG)[1]
    with tempfile.TemporaryDirectory() as folder:
        table = pa.table({f"x{j}": x[:, j] for j in range(d)})
        pq.write_table(table, Path(folder) / "rows.parquet", row_group_size=n // 8)
        ran = [torchrun_ms(Path(folder), k) for _ in range(options.repeats)]
    times["mogul by torchrun"] = [one[0] for one in ran]
    likelihood["mogul by torchrun"] = ran[0][1]
    slowest = statistics.median(times["MLlib"])
    found = []
    for name, each in times.items():
        middle = statistics.median(each)
        print(f"{name:30} {middle:8.0f} ms an iteration ({min(each):.0f} to {max(each):.0f}), "
              f"{slowest / middle:5.1f} times MLlib's speed, "
              f"log-likelihood {likelihood[name]:.4f} a row", flush=True)  # fmt: skip
        found.append(
            {"name": name, "ms": middle, "range": [min(each), max(each)],
             "times_mllib": slowest / middle, "log_likelihood": likelihood[name]}
        )  # fmt: skip
    print(f"of the one job {statistics.median(whole):.2f} s pass before and in {SHORT} iterations")
    labels = []
    for dim in (8, 20, 32, 64, 256):
        theirs, ours = far_apart(spark, dim)
        print(f"D = {dim:3}: labelled right by MLlib {theirs:.3f}, by mogul {ours:.3f}", flush=True)
        labels.append({"D": dim, "MLlib": theirs, "mogul": ours})
    if options.out:
        answer = {"iterations": found, "seconds_of_short_job": whole, "labels": labels}
        options.out.write_text(json.dumps(answer, indent=1) + "\n")
    spark.stop()


if __name__ == "__main__":
    main()

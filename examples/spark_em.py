"""EM over a Spark DataFrame: the rows stay where they are, statistics of some kilobytes come back.

Run it with ``pip install pyspark`` and a Java runtime:

    python examples/spark_em.py

Executors need mogul installed. Each iteration is one job; how fast, beside MLlib's:
``benchmarks/spark_speed.py``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from mogul import GaussianMixture, Mixture
from mogul.mapreduce import m_step, partial_stats, stats_from_arrow, stats_to_arrow
from mogul.stats import Stats


def em(frame: DataFrame, mixture: Mixture, max_iter: int = 100, tol: float = 1e-4) -> Mixture:
    """Iterate from ``mixture`` until the log-likelihood per row gains less than ``tol``."""
    before = -np.inf
    for i in range(max_iter):
        stats = statistics(frame, mixture)
        value = float(stats.mean_log_likelihood())
        print(f"iteration {i + 1}: log-likelihood {value:.6f} nats a row")
        mixture = m_step(stats, mixture)
        if value - before < tol:
            break
        before = value
    return mixture


def statistics(frame: DataFrame, mixture: Mixture) -> Stats:
    """Of all rows, by one job."""

    def on_executor(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield stats_to_arrow(partial_stats(batches, mixture))

    parts = frame.mapInArrow(on_executor, "statistics binary").toArrow()
    return stats_from_arrow(parts, mixture)


def main() -> None:
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # where mogul is installed
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "100000")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(3, 2))
    x = centres[rng.integers(0, 3, 30_000)] + rng.normal(size=(30_000, 2))
    frame = spark.createDataFrame(pa.table({"a": x[:, 0], "b": x[:, 1]})).repartition(2).cache()
    sample = frame.sample(0.1, seed=0).toPandas()  # a start is found on a few rows
    start = GaussianMixture(3, random_state=0).fit(sample).mixture_
    mixture = em(frame, start)
    print(mixture.weights.numpy().round(3), mixture.means.numpy().round(2), sep="\n")
    spark.stop()


if __name__ == "__main__":
    main()

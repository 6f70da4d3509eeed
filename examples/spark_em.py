"""A mixture fitted to a Spark DataFrame, whose rows stay where they are.

Run it with ``pip install 'mogul[spark]'``, which is Spark 4, and Java 17 or newer:

    python examples/spark_em.py

Executors need mogul installed. There are two ways, both by ``mapInArrow``:

* ``fit_together``: one job. The tasks run side by side (Spark's barrier mode), each keeps its rows
  and all fit together, talking to each other. There must be as many free cores as partitions.
* ``em``: a job for each iteration, which needs nothing but ``mapInArrow``. Executors may come and
  go between iterations.

How fast, beside MLlib's: ``benchmarks/spark_speed.py``.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark import BarrierTaskContext
from pyspark.sql import DataFrame, SparkSession

from mogul import GaussianMixture, Mixture
from mogul.mapreduce import (
    m_step,
    model_from_arrow,
    model_to_arrow,
    partial_stats,
    rows_of,
    stats_from_arrow,
    stats_to_arrow,
)
from mogul.stats import Stats

# --- one job for a fit ----------------------------------------------------------------------------


def fit_together(frame: DataFrame, model: GaussianMixture) -> GaussianMixture:
    """The model, fitted to all rows by tasks that run side by side."""
    columns = frame.columns

    def on_executor(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import torch.distributed as dist

        context = BarrierTaskContext.get()
        rank, tasks = context.partitionId(), context.getTaskInfos()
        with socket.socket() as free:  # where the tasks meet: a port of the host of the first one
            free.bind(("", 0))
            port = free.getsockname()[1]
        place = f"{tasks[0].address.split(':')[0]}:{port}"
        address = context.allGather(place)[0]
        dist.init_process_group("gloo", f"tcp://{address}", rank=rank, world_size=len(tasks))
        try:
            model.fit(rows_of(batches, columns))
        finally:
            dist.destroy_process_group()
        if rank == 0:
            yield model_to_arrow(model)

    return model_from_arrow(frame.mapInArrow(on_executor, "model binary", barrier=True).toArrow())


# --- a job for each iteration ---------------------------------------------------------------------


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
    model = fit_together(frame, GaussianMixture(3, random_state=0))
    print(f"one job: {model.n_iter_} iterations, {model.lower_bound_:.6f} nats a row")
    sample = rows_of([frame.sample(0.1, seed=0).toArrow()], frame.columns)
    start = GaussianMixture(3, random_state=0).fit(sample).mixture_  # found on a few rows
    mixture = em(frame, start)
    print(mixture.weights.numpy().round(3), mixture.means.numpy().round(2), sep="\n")
    spark.stop()


if __name__ == "__main__":
    main()

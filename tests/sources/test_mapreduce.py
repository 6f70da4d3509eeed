"""EM by statistics of batches that somebody else adds up, and by Spark for real."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from laws.cases import CASES, draw_one
from mogul import GaussianMixture, Mixture
from mogul.errors import DegenerateFitError, InputError, RepairWarning, UnknownNameError
from mogul.mapreduce import (
    m_step,
    model_from_arrow,
    model_to_arrow,
    partial_stats,
    rows_of,
    stats_from_arrow,
    stats_to_arrow,
)
from sources.cases import clusters, write_parts

PARTS = ("count", "first", "second", "row_weight", "log_likelihood")


def named(mixture, names):
    return Mixture(mixture.log_weights, mixture.means, mixture.covariance, names)


def assert_equal(found, expected):
    for part in PARTS:
        got, want = getattr(found, part), getattr(expected, part)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * float(want.abs().max()))


@pytest.mark.parametrize("name", list(CASES))
def test_statistics_through_arrow_are_those_of_all_rows(name):
    mixture, truth = draw_one(name, 3, 3, 2)
    x = truth.draw(np.random.default_rng(0), 400)
    whole = partial_stats(x, mixture)
    parts = [stats_to_arrow(partial_stats(part, mixture)) for part in np.array_split(x, 7)]
    assert_equal(stats_from_arrow(pa.Table.from_batches(parts), mixture), whole)
    assert_equal(partial_stats(iter(np.array_split(x, 7)), mixture), whole)
    assert float(partial_stats([], mixture).row_weight) == 0
    none = stats_to_arrow(whole)[:0]
    assert float(stats_from_arrow(none, mixture).row_weight) == 0


def test_batches_of_every_kind_by_name():
    mixture, truth = draw_one("full", 3, 3, 2)
    x = truth.draw(np.random.default_rng(0), 50)
    weight = np.random.default_rng(1).uniform(0, 2, 50)
    columns = {"w": weight, "b": x[:, 1], "text": ["t"] * 50, "a": x[:, 0]}
    own = named(mixture, ["a", "b"])
    expected = partial_stats(x, mixture)
    table = pa.table(columns)
    batches = [table, table.to_batches()[0], pd.DataFrame(columns), pl.DataFrame(columns)]
    for batch in batches:
        assert_equal(partial_stats(batch, own), expected)
    from mogul.kernels import e_step

    weighted = e_step(torch.from_numpy(x), mixture, torch.from_numpy(weight))
    for batch in batches:
        assert_equal(partial_stats(batch, own, weight_column="w"), weighted)
    assert_equal(partial_stats(table.select(["a", "b"]), mixture), expected)


def test_iterations_are_those_of_the_estimator():
    x, _ = clusters(2000)
    settings = {"random_state": 0, "max_iter": 8, "tol": 0, "acceleration": "none"}
    start = GaussianMixture(3, **{**settings, "max_iter": 0}).fit(x).mixture_
    with pytest.warns(UserWarning, match="did not converge"):
        expected = GaussianMixture(3, **settings).fit(x)
    mixture = start
    for _ in range(8):
        mixture = m_step(partial_stats(x, mixture), mixture)
    np.testing.assert_allclose(mixture.means, expected.means_, rtol=1e-9)
    np.testing.assert_allclose(
        mixture.covariance.covariances(), expected.covariances_, rtol=1e-9, atol=1e-9
    )


def test_names_are_kept_and_a_component_that_collapsed_is_repaired():
    mixture, _ = draw_one("full", 3, 3, 2)
    far = mixture.means.clone()
    far[2] = 1e4
    lost = named(Mixture(mixture.log_weights, far, mixture.covariance), ["a", "b"])
    x = np.random.default_rng(0).normal(size=(100, 2))
    with pytest.warns(RepairWarning, match="Component 2 collapsed and was repaired"):
        found = m_step(partial_stats(x, lost), lost)
    assert list(found.feature_names) == ["a", "b"]
    assert bool(torch.isfinite(found.means).all())
    with pytest.raises(DegenerateFitError):
        m_step(partial_stats(x[:0], lost), lost)


def test_what_is_refused():
    mixture, _ = draw_one("full", 3, 3, 2)
    own = named(mixture, ["a", "b"])
    with pytest.raises(UnknownNameError, match="no column 'b'; it has a"):
        partial_stats(pa.table({"a": [1.0]}), own)
    with pytest.raises(InputError, match="expected 2 columns"):
        partial_stats(np.ones((3, 5)), mixture)
    with pytest.raises(InputError, match=r"Row 1 .* missing value"):
        partial_stats(pa.table({"a": [1.0, None], "b": [1.0, 2.0]}), own)
    with pytest.raises(InputError, match="does not hold numbers"):
        partial_stats(pa.table({"a": ["x"], "b": [2.0]}), own)
    with pytest.raises(InputError, match="A weight is negative"):
        partial_stats(pa.table({"a": [1.0], "b": [2.0], "w": [-1.0]}), own, weight_column="w")
    with pytest.raises(InputError, match="an array has no names"):
        partial_stats(np.ones((3, 2)), mixture, weight_column="w")
    other, _ = draw_one("full", 3, 4, 2)
    with pytest.raises(InputError, match="under the same mixture"):
        stats_from_arrow(stats_to_arrow(partial_stats(np.ones((3, 2)), other)), mixture)


def test_rows_and_models_in_arrow():
    x, weight = clusters(900)
    table = pa.table({"c": x[:, 2], "w": weight, "a": x[:, 0], "b": x[:, 1]})
    source = rows_of(table.to_batches(max_chunksize=100), ["a", "b", "c"], "w")
    np.testing.assert_array_equal(source.values, x)
    np.testing.assert_array_equal(source.sample_weight, weight)
    assert rows_of(iter([]), ["a", "b"]).values.shape == (0, 2)
    assert rows_of([], ["a"], "w").sample_weight.shape == (0,)
    with pytest.raises(UnknownNameError, match="no column 'd'"):
        rows_of([table], ["a", "d"])
    model = GaussianMixture(3, random_state=0).fit(source)
    again = model_from_arrow(model_to_arrow(model))
    np.testing.assert_array_equal(again.score_samples(source), model.score_samples(source))
    with pytest.raises(InputError, match="holds no model"):
        model_from_arrow(model_to_arrow(model)[:0])


# --- Spark ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spark():
    if importlib.util.find_spec("pyspark") is None or shutil.which("java") is None:
        pytest.skip("PySpark or a Java runtime is not installed")
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    )
    yield session
    session.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_em_over_a_spark_frame_is_em_over_its_rows(spark, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "examples"))
    from spark_em import em, statistics

    x, _ = clusters(4000)
    frame = spark.createDataFrame(pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2]}))
    frame = frame.repartition(3)
    start = named(
        GaussianMixture(3, random_state=0, max_iter=1).fit(x[:500]).mixture_, ["a", "b", "c"]
    )
    assert_equal(statistics(frame, start), partial_stats(x, start))
    found = em(frame, start, max_iter=5, tol=0.0)
    mixture = start
    for _ in range(5):
        mixture = m_step(partial_stats(x, mixture), mixture)
    np.testing.assert_allclose(found.means, mixture.means, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("d", [8, 20, 32, 64])
def test_clusters_far_apart_are_told_apart_in_many_columns(spark, d, monkeypatch):
    """Where Spark's own, whose densities are not logarithms, labels them by chance from 20 on."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    from spark_speed import far_apart

    theirs, ours = far_apart(spark, d)
    assert ours == 1.0
    assert (theirs > 0.99) == (d == 8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tasks_side_by_side_fit_what_one_process_does(spark, monkeypatch):
    """One of the two partitions has no rows."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "examples"))
    from spark_em import fit_together

    x, _ = clusters(3000)
    frame = spark.createDataFrame(pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2]}))
    settings = {"random_state": 0, "tol": 1e-7, "max_iter": 300}
    expected = GaussianMixture(3, **settings).fit(x)
    for parts in (frame.repartition(2), frame.coalesce(1).repartition(2, "a").where("a > -100")):
        found = fit_together(parts, GaussianMixture(3, **settings))
        assert found.converged_
        assert found.lower_bound_ == pytest.approx(expected.lower_bound_, abs=1e-6)
        assert list(found.feature_names_in_) == ["a", "b", "c"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_torch_distributor_of_spark_starts_a_group(spark, tmp_path):
    from pyspark.ml.torch.distributor import TorchDistributor

    x, _ = clusters(3000)
    folder = str(write_parts(tmp_path / "x", x))

    def train(folder):
        import torch.distributed as dist

        from mogul import GaussianMixture
        from mogul.data import ParquetSource

        dist.init_process_group("gloo")
        model = GaussianMixture(3, random_state=0, tol=1e-7, max_iter=300)
        bound = model.fit(ParquetSource(folder)).lower_bound_
        n_read = model.passes_.n_rows // model.passes_.n_passes
        dist.destroy_process_group()
        return float(bound), n_read

    bound, n_read = TorchDistributor(2, local_mode=False, use_gpu=False).run(train, folder)
    expected = GaussianMixture(3, random_state=0, tol=1e-7, max_iter=300).fit(x)
    assert bound == pytest.approx(expected.lower_bound_, abs=1e-9)
    assert 0 < n_read < 3000

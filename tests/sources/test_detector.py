"""Alarms learnt from rows that are read in batches."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import kstest

from mogul import MixtureOutlierDetector, load, save
from mogul.cli import main
from mogul.data import ArraySource, LoaderSource, ParquetSource
from mogul.data.views import View, chosen, lots
from mogul.errors import InputError
from mogul.infer.held_out import Form
from sources.cases import answers_together, clusters, write_parts


def detector(**settings):
    settings = {"n_components": 3, "covariance_type": "full", "random_state": 0, **settings}
    return MixtureOutlierDetector(**settings)


def test_few_rows_are_fitted_as_in_memory(tmp_path):
    x, weight = clusters(3000)
    source = ParquetSource(write_parts(tmp_path / "x", x, weight), weight_column="weight")
    found = detector(trim=0.02).fit(source)
    expected = detector(trim=0.02).fit(x, sample_weight=weight)
    np.testing.assert_allclose(found.score_samples(source), expected.score_samples(x), rtol=1e-14)
    np.testing.assert_array_equal(found.p_values(source), expected.p_values(x))
    assert found.offset_ == expected.offset_
    assert list(found.feature_names_in_) == ["x0", "x1", "x2"]
    some = ArraySource(x[:5], names=["x0", "x1", "x2"])
    np.testing.assert_allclose(
        found.explain(some).contributions, expected.explain(x[:5]).contributions, rtol=1e-9
    )


def test_many_rows_are_fitted_batch_by_batch(tmp_path):
    """Mixtures near those in memory, p-values that are uniform, far rows listed."""
    every, _ = clusters(85_000)
    x, fresh = every[:80_000], every[80_000:]
    source = ArraySource(x, batch_rows=9000)
    found, expected = detector().fit(source), detector().fit(x)
    gap = found.score_samples(fresh) - expected.score_samples(fresh)
    assert np.abs(gap).mean() < 0.01
    assert found.n_calibration_ == 80_000
    assert kstest(found.p_values(fresh), "uniform").pvalue > 1e-3
    assert found.offset_ == pytest.approx(expected.offset_, abs=0.05)
    assert found.predict([[40.0, 0, 0], x[0]]).tolist() == [-1, 1]
    save(found, tmp_path / "alarm.mogul")
    again = load(tmp_path / "alarm.mogul")
    np.testing.assert_allclose(again.score_samples(source), found.score_samples(x), rtol=1e-13)
    again.partial_fit(x[:100])


def test_each_mixture_is_of_all_rows_but_those_that_it_calibrates():
    """Of one component the mean is that of the rows it was fitted to, to the last digits."""
    x, weight = clusters(70_000)
    found = detector(n_components=1, n_folds=3).fit(ArraySource(x, weight))
    assert found.n_calibration_ == 70_000
    by_fold, kept = found._fold_scores(x), found.calibration_scores_
    left_out = [np.isin(own, mine) for own, mine in zip(by_fold, kept, strict=True)]
    np.testing.assert_array_equal(np.sum(left_out, axis=0), 1)
    for mixture, own in zip(found._mixtures, left_out, strict=True):
        mean = mixture.means[0].numpy() * found.scale_ + found.loc_
        np.testing.assert_allclose(mean, np.average(x[~own], 0, weight[~own]), rtol=1e-9)


def test_of_very_many_rows_some_calibrate(monkeypatch):
    import mogul.estimators.mixture_outlier_detector as module

    monkeypatch.setattr(module, "_CALIBRATION_ROWS", 4000)
    x, _ = clusters(70_000)
    found = detector(n_components=1, n_folds=3).fit(ArraySource(x))
    assert abs(found.n_calibration_ - 4000) < 5 * np.sqrt(4000)
    by_fold, kept = found._fold_scores(x), found.calibration_scores_
    for own, mine in zip(by_fold, kept, strict=True):
        assert np.isin(own, mine).sum() == len(mine)


def test_trimming_leaves_far_rows_out_of_the_fit():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(70_000, 2)), rng.normal(12, 3, size=(2000, 2))])
    x = rng.permutation(x)
    plain, trimmed = (
        detector(n_components=1, trim=trim).fit(ArraySource(x)) for trim in (0.0, 0.05)
    )
    assert plain.mixture_.means.abs().max() > 0.25
    assert trimmed.mixture_.means.abs().max() < 0.05


def test_forms_are_chosen_on_the_sample():
    x, _ = clusters(70_000)
    found = MixtureOutlierDetector(covariance_type="spherical", n_folds=2, random_state=0).fit(
        ArraySource(x)
    )
    assert found.form_.n_components >= 3
    assert isinstance(found.form_, Form)
    assert len(found.held_out_) > 2


def test_the_lot_of_a_row_is_its_own(tmp_path):
    x, _ = clusters(2000)
    folder = write_parts(tmp_path / "x", x)
    drawn = []
    for source in (ParquetSource(folder), ParquetSource(folder, batch_rows=17)):
        drawn.append(np.concatenate([lots(block, 3) for block in source.blocks()]))
    np.testing.assert_array_equal(*drawn)
    assert kstest(drawn[0], "uniform").pvalue > 1e-3
    kept = View(source, lambda block: chosen(block, lots(block, 3) < 0.5))
    found = np.concatenate([block.values for block in kept.checked_blocks()])
    np.testing.assert_array_equal(found, x[drawn[0] < 0.5])
    mixed = np.concatenate([b.values for b in kept.scattered(np.random.default_rng(0))])
    assert sorted(mixed[:, 0]) == sorted(found[:, 0])
    halves = [kept.shard(i, 2) for i in range(2)]
    both = np.concatenate([b.values for half in halves for b in half.blocks()])
    assert sorted(both[:, 0]) == sorted(found[:, 0])


def test_alarms_of_many_files_from_the_shell(tmp_path, capsys):
    x, _ = clusters(3000)
    folder = write_parts(tmp_path / "x", x)
    far = write_parts(tmp_path / "far", np.concatenate([x[:90], [[40.0, 0, 0]]]))
    alarm, out = tmp_path / "alarm.mogul.safetensors", tmp_path / "alarms.parquet"
    fit = ["detect", "fit", str(folder), "-k", "3", "-c", "full", "--out", str(alarm)]
    assert main([*fit, "--memory", "1GB"]) == 0
    said = capsys.readouterr().out
    assert "3000 rows in" in said
    assert "mixture" in said
    expected = detector().fit(x)
    for options in (["--fdr", "0.05"], ["--alpha", "0.001"], []):
        for data in (far, far / "*.parquet"):
            score = ["detect", "score", str(alarm), str(data), *options]
            assert main([*score, "--out", str(out)]) == 0
            assert "91 rows written" in capsys.readouterr().out
            table = pq.read_table(out).to_pydict()
            every = np.concatenate([x[:90], [[40.0, 0, 0]]])
            np.testing.assert_allclose(table["p_value"], expected.p_values(every), rtol=1e-9)
            assert table["outlier"][-1] == 1
            assert table["reason_1"][-1].startswith("x0 +")
            flags = expected.predict(every) == -1
            if options[:1] == ["--fdr"]:
                flags = expected.detect(every, 0.05)
            if options[:1] == ["--alpha"]:
                flags = expected.predict(every, 0.001) == -1
            np.testing.assert_array_equal(np.array(table["outlier"]) == 1, flags)
    assert main(["detect", "score", str(alarm), str(far)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 92
    assert main(["detect", "fit", str(folder), "--label", "x0"]) != 0
    assert "no --label" in capsys.readouterr().err
    assert main(["detect", "fit", str(folder), "--method", "aegmm"]) != 0


FIT = """
import json, sys
import torch.distributed as dist
from mogul import MixtureOutlierDetector
from mogul.data import ParquetSource

folder, out = sys.argv[1:]
dist.init_process_group("gloo")
found = MixtureOutlierDetector(
    3, covariance_type="diag", n_folds=2, random_state=0).fit(ParquetSource(folder))
said = {"offset": found.offset_, "means": found.mixture_.means.tolist(),
        "n": found.n_calibration_, "p": found.p_values([[4.0, 4.0, 4.0]]).tolist()}
with open(f"{out}-{dist.get_rank()}.json", "w") as file:
    json.dump(said, file)
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("n", [3000, 70_000])
def test_processes_learn_the_same_alarms(tmp_path, n):
    x, _ = clusters(n)
    folder = write_parts(tmp_path / "parts", x, groups=(20_000, 1, 3000))
    out = tmp_path / "found"
    found = answers_together(FIT, 2, out, folder, out)
    assert found[0] == found[1]
    own = MixtureOutlierDetector(3, covariance_type="diag", n_folds=2, random_state=0)
    own.fit(ParquetSource(folder))
    assert found[0]["n"] == own.n_calibration_
    assert found[0]["offset"] == pytest.approx(own.offset_, rel=1e-9)
    np.testing.assert_allclose(found[0]["means"], own.mixture_.means, rtol=1e-8, atol=1e-8)


def test_what_is_refused():
    x, weight = clusters(300)
    with pytest.raises(InputError, match="carry their own weights"):
        detector().fit(ArraySource(x), sample_weight=weight)
    with pytest.raises(InputError, match="can be read once only, and cross-fitting needs"):
        detector().fit(LoaderSource(batch for batch in [x]))
    with pytest.raises(InputError, match=r"Row 3 .* missing value"):
        detector().fit(ArraySource(np.where(x == x[3, 1], np.nan, x)))
    fitted = detector().fit(ArraySource(x))
    with pytest.raises(InputError, match="The source has columns"):
        fitted.p_values(ArraySource(x[:, :2]))

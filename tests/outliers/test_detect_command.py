"""``mogul detect``: from a table of ordinary rows to flags, p-values and reasons."""

import numpy as np
import pandas as pd
import pytest

import mogul
from mogul.cli import main
from mogul.data import read_table
from mogul.estimators import _energy_detector

QUICK = ["--components", "1", "--covariance", "full"]


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    heat = rng.normal(60, 5, 400)
    frame = pd.DataFrame(
        {
            "heat": heat,
            "noise": 0.5 * heat + rng.normal(size=400),
            "load": rng.gamma(3, 2, 400),
            "site": ["a", "b"] * 200,
            "broken": np.r_[np.ones(8), np.zeros(392)].astype(int),
            "count": rng.integers(1, 4, 400),
        }
    )
    frame.loc[:7, "noise"] += 15
    file = tmp_path / "machines.csv"
    frame.to_csv(file, index=False)
    return file, frame, tmp_path


def run(capsys, *arguments):
    code = main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def saved(table, capsys):
    file, _, folder = table
    code, _, _ = run(capsys, "detect", "fit", file, "--label", "broken", "--columns",
                     "heat,noise,load", "--out", folder / "alarm.safetensors", *QUICK)  # fmt: skip
    assert code == 0
    return folder / "alarm.safetensors"


def test_ordinary_rows_are_learnt_as_in_python(table, capsys):
    file, frame, folder = table
    out = folder / "alarm.safetensors"
    code, said, err = run(capsys, "detect", "fit", file, "--label", "broken", "--weight-column",
                          "count", "--out", out, *QUICK)  # fmt: skip
    assert code == 0
    assert "392 rows, 3 columns, weighted" in said
    assert "1 components, full covariances" in said
    assert "8 rows marked by broken left out" in err
    assert "'site'" in err
    names = ["heat", "noise", "load"]
    given = mogul.MixtureOutlierDetector(1, covariance_type="full", random_state=0)
    ordinary = frame[frame.broken == 0]
    given.fit(ordinary[names].astype(float), sample_weight=ordinary["count"])
    x = frame[names].astype(float)
    np.testing.assert_allclose(mogul.load(out).score_samples(x), given.score_samples(x))


def test_rows_are_flagged_with_reasons(table, saved, capsys):
    file, frame, folder = table
    written = folder / "flags.parquet"
    code, said, _ = run(capsys, "detect", "score", saved, file, "--alpha", "0.01", "--out", written)
    assert code == 0
    found = pd.read_parquet(written)
    assert list(found) == ["score", "p_value", "outlier", "reason_1", "reason_2", "reason_3"]
    assert found.outlier[:8].all()
    assert found.outlier.sum() < 20
    assert f"400 rows written to {written}, {found.outlier.sum()} outliers" in said
    assert found.reason_1[:8].str.startswith("noise +").all()
    assert (found.reason_1[found.outlier == 0] == "").all()
    model = mogul.load(saved)
    x = frame[["heat", "noise", "load"]].astype(float)
    np.testing.assert_allclose(found.score, model.score_samples(x))
    np.testing.assert_array_equal(found.p_value, model.p_values(x))


def test_the_default_flag_is_the_models_threshold(table, saved, capsys):
    file, frame, _ = table
    code, printed, _ = run(capsys, "detect", "score", saved, file)
    assert code == 0
    flags = [int(line.split(",")[2]) for line in printed.splitlines()[1:]]
    x = frame[["heat", "noise", "load"]].astype(float)
    np.testing.assert_array_equal(flags, mogul.load(saved).predict(x) == -1)


def test_lists_by_false_discovery_rate(table, saved, capsys):
    file, frame, folder = table
    few = folder / "few.csv"
    frame.iloc[:40].to_csv(few, index=False)
    code, printed, err = run(capsys, "detect", "score", saved, few, "--fdr", "0.1")
    assert code == 0
    assert not err
    flags = [line.split(",")[2] for line in printed.splitlines()[1:]]
    assert flags[:8] == ["1"] * 8
    assert flags.count("1") <= 10
    code, _, err = run(capsys, "detect", "score", saved, file, "--fdr", "0.01")
    assert code == 0
    assert "has at least 102 or none" in err


def test_other_commands_know_the_file(table, saved, capsys):
    file, _, folder = table
    assert "MixtureOutlierDetector" in run(capsys, "show", saved)[1]
    assert run(capsys, "sample", saved, "-n", "3", "--out", folder / "drawn.csv")[0] == 0
    assert len(read_table(folder / "drawn.csv")) == 3
    assert run(capsys, "score", saved, file, "--summary")[0] == 0


def test_without_arguments_help_is_printed(capsys):
    for group in ("detect", "regress"):
        code, out, err = run(capsys, group)
        assert code == 0
        assert f"mogul {group} fit" in out
        assert not err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--label", "all"), "Every row of"),
        (("--label", "heat", "--columns", "heat,noise"), "cannot be a feature too"),
        (("--label", "no"), "no"),
        (("--covariance", "round"), "covariance_type"),
        (("--trim", "0.7"), "trim"),
        (("--columns", "heat,site"), "site"),
    ],
)
def test_bad_fits_are_one_sentence_and_write_nothing(table, capsys, arguments, said):
    file, frame, folder = table
    frame.assign(all=1).to_csv(file, index=False)
    out = folder / "alarm.safetensors"
    code, _, err = run(capsys, "detect", "fit", file, "--out", out, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("mogul:")]
    assert code == 2
    assert len(lines) == 1
    assert said in lines[0]
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--alpha", "0.1", "--fdr", "0.1"), "not both"),
        (("--alpha", "1"), "alpha must lie strictly"),
        (("--alpha", "0.0001"), "needs at least 9999 calibration rows"),
        (("--fdr", "0"), "fdr must lie strictly"),
        (("--out", "flags.txt"), "no ending"),
    ],
)
def test_bad_scores_are_one_sentence(table, saved, capsys, arguments, said):
    code, _, err = run(capsys, "detect", "score", saved, table[0], *arguments)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_file_of_another_kind_is_refused(table, capsys):
    file, frame, folder = table
    other = folder / "mixture.safetensors"
    mogul.save(mogul.GaussianMixture(1).fit(frame[["heat", "load"]]), other)
    code, _, err = run(capsys, "detect", "score", other, file)
    assert code == 2
    assert "takes a model of mogul detect fit" in err


# --- autoencoders -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["aegmm", "vaegmm"])
def test_energies_from_the_shell_are_those_of_python(table, capsys, method, monkeypatch):
    monkeypatch.setattr(_energy_detector, "_STEPS", 200)
    file, frame, folder = table
    names, out = ["heat", "noise", "load"], folder / "energy.safetensors"
    code, said, _ = run(capsys, "detect", "fit", file, "--label", "broken", "--columns",
                        ",".join(names), "--method", method, "--out", out)  # fmt: skip
    assert code == 0
    assert "5, each of 2 latent numbers" in said
    assert "78 rows, for the calibration" in said
    kind = {"aegmm": mogul.AEGMM, "vaegmm": mogul.VAEGMM}[method]
    given = kind(random_state=0).fit(frame.loc[8:, names])
    alarms = folder / "alarms.csv"
    assert run(capsys, "detect", "score", out, file, "--alpha", "0.02", "--out", alarms)[0] == 0
    found = pd.read_csv(alarms)
    assert np.allclose(found["score"], given.score_samples(frame[names]), rtol=1e-12)
    assert np.allclose(found["p_value"], given.p_values(frame[names]), rtol=1e-12)
    flags = found["outlier"] == 1
    assert np.array_equal(flags, found["p_value"] <= 0.02)
    assert found["score"][:8].median() < found["score"][8:].quantile(0.2)
    top = given.explain(frame.loc[flags, names]).top(1)
    assert found.loc[flags, "reason_1"].tolist() == [f"{n} {v:+.1f}" for ((n, v),) in top]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "dagmm"], "'dagmm' is unknown; choose one of mixture, aegmm, vaegmm"),
        (["--method", "aegmm", "--trim", "0.1"], "are for --method mixture"),
        (["--method", "vaegmm", "--covariance", "full"], "are for --method mixture"),
    ],
)
def test_methods_and_their_options(table, capsys, options, said):
    code, out, err = run(capsys, "detect", "fit", table[0], "--columns", "heat,load", *options)
    assert code == 2
    assert out == ""
    assert said in err
    assert len(err.strip().splitlines()) == 1

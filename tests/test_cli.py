import csv
import io
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mogul
from mogul import Mixture
from mogul._files import PARTIAL_PREFIX
from mogul.cli import main
from mogul.cli._messages import note_warnings, sentence
from mogul.data import read_table, write_table
from mogul.errors import InputError, RepairWarning, SpikeWarning

COMMANDS = ["fit", "show", "score", "sample", "plot"]


@pytest.fixture
def run(capfd):
    """Run a command line in this process; its exit code, standard output and standard error."""

    def run(*arguments):
        code = main([str(a) for a in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def succeed(run):
    """Run a command line that must succeed without a word on standard error; its output."""

    def succeed(*arguments):
        code, out, err = run(*arguments)
        assert (code, err) == (0, "")
        return out

    return succeed


@pytest.fixture
def refuse(run, tmp_path):
    """Run a command line that must fail with one sentence and touch no file; the sentence."""

    def refuse(*arguments):
        before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")}
        code, out, err = run(*arguments)
        assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")} == before
        assert (code, out) == (2, "")
        assert err.startswith("mogul: ")
        assert err.count("\n") == 1
        assert err.endswith(".\n")
        assert "Traceback" not in err
        return err

    return refuse


@pytest.fixture
def geyser(tmp_path):
    data = mogul.datasets.old_faithful()
    named = dict(zip(data.feature_names, data.values.T, strict=True))
    return write_table(tmp_path / "geyser.csv", named)


@pytest.fixture
def model(tmp_path):
    mixture = Mixture.from_parameters(
        [0.25, 0.75],
        [[2.0, 55.0], [4.0, 80.0]],
        [[[0.1, 0.5], [0.5, 30.0]], [[0.2, 0.9], [0.9, 36.0]]],
        feature_names=["eruption_minutes", "waiting_minutes"],
    )
    return mogul.save(mixture, tmp_path / "model.safetensors")


@pytest.fixture
def nameless(tmp_path):
    mixture = Mixture.from_parameters([1.0], [[0.0, 0.0, 0.0]], [1.0], "spherical")
    return mogul.save(mixture, tmp_path / "nameless.safetensors")


# --- fit ----------------------------------------------------------------------------------------


def test_fit_of_one_model_reports_and_saves_it(succeed, geyser, tmp_path):
    out = succeed("fit", geyser, "-k", 2, "-c", "full", "--out", tmp_path / "m.safetensors")
    assert "272 rows, 2 columns" in out
    bic = float(re.search(r"BIC +(\S+)", out).group(1))
    assert bic == pytest.approx(2322.2, abs=0.1)  # as mclust and scikit-learn find
    assert "eruption_minutes" in out
    assert f"Saved to {tmp_path / 'm.safetensors'}" in out
    saved = mogul.load(tmp_path / "m.safetensors")
    assert saved.mixture_.feature_names == ("eruption_minutes", "waiting_minutes")
    data = mogul.datasets.old_faithful().values
    expected = mogul.GaussianMixture(2, random_state=0).fit(data)
    assert np.array_equal(saved.means_, expected.means_)


def test_fit_of_several_prints_the_table_and_keeps_the_best(succeed, geyser, tmp_path):
    out = succeed(
        "fit", geyser, "-k", "1-3", "--covariance", "full,tied", "--out", f"{tmp_path}/m/"
    )
    assert "2314.3 *" in out  # tied with three components, the honest answer on these data
    assert "2322.2" in out
    best = mogul.load(tmp_path / "m")
    assert (best.covariance_type, best.n_components) == ("tied", 3)


def test_fit_passes_on_what_it_is_given(succeed, geyser, tmp_path, monkeypatch):
    seen = {}
    fit = mogul.GaussianMixture.fit

    def spy(self, X, y=None, sample_weight=None):
        seen.update(self.get_params(), weight=sample_weight, names=X.names)
        return fit(self, X, y, sample_weight)

    monkeypatch.setattr(mogul.GaussianMixture, "fit", spy)
    options = "--columns waiting_minutes --weight-column eruption_minutes -k 2 -c diag --seed 7"
    limits = "--n-init 3 --tol 0.01 --max-iter 50 --reg-covar 0.001 --acceleration none"
    out = succeed("fit", geyser, *options.split(), *limits.split())
    assert "1 columns, weighted" in out
    assert seen["names"] == ("waiting_minutes",)
    assert np.array_equal(seen["weight"], mogul.datasets.old_faithful().values[:, 0])
    expected = {
        "n_components": 2,
        "covariance_type": "diag",
        "random_state": 7,
        "n_init": 3,
        "tol": 0.01,
        "max_iter": 50,
        "reg_covar": 0.001,
        "acceleration": "none",
    }
    assert {name: seen[name] for name in expected} == expected


def test_select_gets_weights_criterion_and_seed(run, geyser, monkeypatch):
    seen = {}

    def spy(X, n_components, covariance_type, **rest):
        seen.update(rest, sizes=list(n_components), kinds=list(covariance_type))
        raise InputError("Enough seen.")

    monkeypatch.setattr(mogul, "select", spy, raising=False)
    options = "-k 2-4 -c all --criterion icl --n-init 5 --seed 3 --weight-column waiting_minutes"
    assert run("fit", geyser, *options.split())[0] == 2
    assert seen.pop("sample_weight").shape == (272,)
    assert seen == {
        "sizes": [2, 3, 4],
        "kinds": ["full", "tied", "diag", "spherical"],
        "criterion": "icl",
        "n_init": 5,
        "random_state": 3,
    }


@pytest.mark.parametrize("kind", ["tied", "diag", "spherical"])
def test_every_structure_is_printed(succeed, geyser, kind):
    out = succeed("fit", geyser, "-k", 1, "-c", kind)
    assert f"covariance type  {kind}" in out
    assert "Not saved" in out


def test_the_same_seed_saves_the_same_bytes(succeed, geyser, tmp_path):
    for name in "ab":
        succeed("fit", geyser, "-k", 3, "--seed", 5, "--out", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_fit_leaves_out_or_doubts_is_one_line_each(run, tmp_path):
    (tmp_path / "t.csv").write_text("a,maker\n" + "".join(f"{i * i % 7},x\n" for i in range(40)))
    code, out, err = run("fit", tmp_path / "t.csv", "-k", 3, "--max-iter", 1, "--tol", 0)
    assert code == 0
    assert "not converged" in out
    lines = err.splitlines()
    assert all(line.startswith("note: ") for line in lines)
    assert "'maker'" in lines[0]
    assert any("did not converge" in line for line in lines)


# --- fit --bayes ----------------------------------------------------------------------------------


def test_a_posterior_is_fitted_told_and_saved(succeed, geyser, tmp_path):
    out = succeed("fit", geyser, "--bayes", "-k", "1-6", "--out", tmp_path / "m")
    assert re.search(r"components +2 hold 99 % of the weight, of at most 6", out)
    assert "corrected by linear response" in out
    model = mogul.load(tmp_path / "m")
    assert isinstance(model, mogul.BayesianGaussianMixture)
    assert model.n_components == 6
    low, high = model.posterior_.interval("weights", 0.95, "linear_response")[0].tolist()
    first = next(line.split() for line in out.splitlines() if line.split()[:1] == ["0"])
    np.testing.assert_allclose([float(v) for v in first[2:4]], [low, high], rtol=1e-5)
    shown = succeed("show", tmp_path / "m")
    assert "Weights, with intervals of 95 % (corrected by linear response)" in shown
    as_json = json.loads(succeed("show", tmp_path / "m", "--json"))
    np.testing.assert_allclose(as_json["weights_interval"][0], [low, high], rtol=1e-12)
    assert as_json["interval_correction"] == "linear_response"


def test_scores_and_draws_of_a_posterior_are_predictive(succeed, geyser, tmp_path):
    succeed("fit", geyser, "--bayes", "-k", 3, "-c", "diag", "--out", tmp_path / "m")
    model, data = mogul.load(tmp_path / "m"), mogul.datasets.old_faithful()
    succeed("score", tmp_path / "m", geyser, "--out", tmp_path / "s.csv")
    table = read_table(tmp_path / "s.csv", ["log_density", "responsibility_1"])
    np.testing.assert_allclose(table.values[:, 0], model.score_samples(data), rtol=1e-9)
    np.testing.assert_allclose(table.values[:, 1], model.predict_proba(data)[:, 1], atol=1e-9)
    summary = float(succeed("score", tmp_path / "m", geyser, "--summary"))
    assert summary == pytest.approx(model.score(data), rel=1e-5)
    assert len(succeed("sample", tmp_path / "m", "-n", 5).splitlines()) == 6


def test_of_several_structures_the_highest_bound_is_kept(succeed, geyser):
    out = succeed("fit", geyser, "--bayes", "-k", 3, "-c", "full,spherical")
    bounds = {line.split()[0]: float(line.split()[1]) for line in out.splitlines()
              if line.split()[:1] in (["full"], ["spherical"])}  # fmt: skip
    best = max(bounds, key=bounds.get)
    assert f"Higher is better; * best ({best})." in out
    assert re.search(rf"covariance type +{best}", out)


@pytest.mark.parametrize("method", ["svi", "vi-adam", "gibbs"])
def test_every_inference_can_be_asked_for(run, geyser, method):
    code, out, err = run("fit", geyser, "--bayes", "-k", 2, "--inference", method)
    assert code == 0
    # Linear response needs the optimum, which two batches come near enough and Adam does not.
    told = {
        "svi": ("svi, converged after 10 passes", "corrected by linear response"),
        "vi-adam": ("vi-adam, converged after 100 passes", "mean field; components are apart"),
        "gibbs": (r"gibbs, 4 chains of 1000 draws agree \(R̂ 1\.0", "of draws"),
    }
    verdict, how = told[method]
    assert re.search(rf"inference +{verdict}", out)
    assert f"({how})" in out
    assert not err


@pytest.mark.parametrize(
    ("method", "verdict"),
    [
        ("svi", "svi, converged after 1 pass"),
        ("vi-adam", "vi-adam, not converged after 1 pass"),
        ("gibbs", "gibbs, 4 chains of 1 draws"),
    ],
)
def test_iterations_are_those_of_the_inference(run, geyser, method, verdict):
    options = ("--bayes", "-k", 2, "--inference", method, "--max-iter", 1)
    code, out, err = run("fit", geyser, *options)
    assert code == 0
    assert verdict in out
    assert "inference=" not in err
    assert ("by a larger --max-iter, or --inference cavi" in err) == (method == "vi-adam")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bayes", "--criterion", "aic"], "the evidence lower bound does"),
        (["--inference", "gibbs"], "add --bayes"),
        (["--bayes", "-c", "all", "--inference", "gibbs"], "no bound to choose"),
        (["--bayes", "-k", "0"], "they start at 1"),
        (["--bayes", "--inference", "svi", "--tol", "1"], "--tol is of cavi"),
        (["--bayes", "--inference", "gibbs", "--acceleration", "none"], "--acceleration is of"),
        (["--bayes", "--inference", "magic"], "magic"),
    ],
)
def test_what_does_not_go_with_a_posterior_is_refused(refuse, geyser, options, said):
    assert said in refuse("fit", geyser, *options)


# --- show ---------------------------------------------------------------------------------------


def test_show_prints_the_parameters(succeed, model):
    out = succeed("show", model)
    for word in ("full", "eruption_minutes", "0.750000", "80.0000", "0.900000"):
        assert word in out
    assert not any(ord(c) > 127 or c == "\x1b" for c in out)  # plain when piped


def test_show_json_holds_every_digit(succeed, model):
    told = json.loads(succeed("show", model, "--json"))
    parts = mogul.load(model).numpy()
    for name in ("weights", "means", "covariances"):
        assert np.array_equal(told[name], parts[name])
    assert told["covariance_type"] == "full"
    assert told["feature_names"] == ["eruption_minutes", "waiting_minutes"]


def test_show_tells_how_a_fit_ended_and_takes_a_folder(succeed, geyser, tmp_path):
    succeed("fit", geyser, "-k", 2, "--out", f"{tmp_path}/folder/")
    told = json.loads(succeed("show", tmp_path / "folder", "--json"))
    assert (told["kind"], told["converged"]) == ("GaussianMixture", True)
    assert told["log_likelihood"] == pytest.approx(-4.155, abs=1e-3)
    assert "log-likelihood" in succeed("show", tmp_path / "folder")


def test_show_of_many_features_fits_a_screen(succeed, tmp_path):
    wide = Mixture.from_parameters([1.0], [list(range(40))], [1.0], "spherical")
    out = succeed("show", mogul.save(wide, tmp_path / "wide"))
    assert "--json" in out


def test_a_batch_of_mixtures_is_refused(refuse, tmp_path):
    batch = Mixture.from_parameters([1.0], [[0.0]], [1.0], "spherical").expand((3,))
    path = mogul.save(batch, tmp_path / "batch")
    assert "by indexing" in refuse("show", path)


# --- score --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s.parquet", "s.csv"])
def test_scores_are_those_of_the_library(succeed, geyser, model, tmp_path, name):
    succeed("score", model, geyser, "--out", tmp_path / name)
    found = read_table(tmp_path / name)
    assert found.names == ("log_density", "component", "responsibility_0", "responsibility_1")
    mixture, rows = mogul.load(model), mogul.datasets.old_faithful().values
    assert np.allclose(found.values[:, 0], mixture.log_prob(rows), rtol=1e-12)
    assert np.array_equal(found.values[:, 1], mixture.predict(rows))
    assert np.allclose(found.values[:, 2:], mixture.responsibilities(rows), atol=1e-12)


def test_scores_are_csv_on_standard_output(succeed, geyser, model):
    rows = list(csv.DictReader(io.StringIO(succeed("score", model, geyser))))
    assert len(rows) == 272
    assert rows[0]["component"] in {"0", "1"}


def test_summary_is_one_number(succeed, geyser, model):
    out = succeed("score", model, geyser, "--summary")
    expected = mogul.load(model).log_prob(mogul.datasets.old_faithful().values).mean()
    assert float(out) == pytest.approx(float(expected), rel=1e-5)


def test_columns_are_found_by_name_in_any_order(succeed, model, tmp_path):
    write_table(tmp_path / "a.csv", {"eruption_minutes": np.ones(1), "waiting_minutes": [60.0]})
    words = {"note": ["x"], "waiting_minutes": [60.0], "other": [9.0], "eruption_minutes": [1.0]}
    write_table(tmp_path / "b.csv", words)
    write_table(tmp_path / "c.csv", {"w": [60.0], "e": [1.0]})
    one, other = (succeed("score", model, tmp_path / f"{name}.csv") for name in "ab")
    renamed = succeed("score", model, tmp_path / "c.csv", "--columns", "e,w")
    assert one == other == renamed


def test_quoted_names_may_hold_commas(succeed, nameless, tmp_path):
    write_table(tmp_path / "t.csv", {"a, b": [1.0], "c": [2.0], "d": [3.0], "e": [4.0]})
    out = succeed("score", nameless, tmp_path / "t.csv", "--columns", 'c,"a, b",e')
    assert len(out.splitlines()) == 2


# --- sample -------------------------------------------------------------------------------------


def test_sample_draws_named_columns_that_repeat_with_the_seed(succeed, model, tmp_path):
    for name, seed in (("a.csv", 1), ("b.csv", 1), ("c.csv", 2)):
        succeed("sample", model, "-n", 2000, "--seed", seed, "--out", tmp_path / name)
    one, other, third = ((tmp_path / name).read_bytes() for name in ("a.csv", "b.csv", "c.csv"))
    assert one == other != third
    table = read_table(tmp_path / "a.csv")
    assert table.names == ("eruption_minutes", "waiting_minutes")
    assert np.allclose(table.values.mean(0), [3.5, 73.75], atol=[0.1, 1.2])


def test_sample_prints_csv_and_names_the_nameless(succeed, nameless):
    lines = succeed("sample", nameless, "-n", 3).splitlines()
    assert lines[0] == "x0,x1,x2"
    assert len(lines) == 4


# --- plot ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "start"), [("p.png", b"\x89PNG"), ("p.pdf", b"%PDF"), ("p.SVG", b"<?xml")]
)
def test_plot_writes_the_format_of_the_ending(succeed, model, geyser, tmp_path, name, start):
    succeed("plot", model, geyser, "--out", tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_plot_draws_one_feature_or_many_with_data_or_without(succeed, model, nameless, tmp_path):
    out = tmp_path / "p.png"
    for arguments in (
        [model, "--features", "waiting_minutes"],
        [nameless],
        [nameless, "--features", "2,0"],
    ):
        succeed("plot", *arguments, "--out", out)
        assert out.stat().st_size > 1000
        out.unlink()


# --- what cannot be done ------------------------------------------------------------------------


def data_file(folder, name, content):
    file = folder / name
    file.write_text(content)
    return file


ROWS = "".join(f"{i},{i * i % 11}\n" for i in range(30))
BAD_DATA = {
    "missing file": ("absent.csv", None, "no file"),
    "unknown format": ("data.xlsx", "a,b\n1,2\n", "no ending"),
    "no numeric column": ("data.csv", "name\nx\ny\n", "no numeric column"),
    "missing value": ("data.csv", f"a,b\n1,2\n3,\n{ROWS}", "row 2, column 'b'"),
    "infinity": ("data.csv", f"a,b\n1,2\n3,4\n-inf,2\n{ROWS}", "infinity in row 3, column 'a'"),
    "no row": ("data.csv", "a,b\n", "no row of data"),
    "a single row": ("data.csv", "a,b\n1,2\n", "a single row"),
    "fewer rows than components": ("data.csv", "a,b\n1,2\n2,5\n", "2 rows|n_samples = 2"),
    "constant column": ("data.csv", "a,b\n" + "".join(f"{i},5\n" for i in range(30)), "'b'"),
    "all rows the same": ("data.csv", "a,b\n" + "3,5\n" * 30, "the same"),
    "ragged": ("data.csv", "a,b\n1,2\n1,2,3\n", "Expected 2 columns, got 3"),
    "not parquet": ("data.parquet", "a,b\n1,2\n", "cannot be read"),
}


@pytest.mark.parametrize("case", BAD_DATA)
@pytest.mark.parametrize("sizes", ["3", "1-3"])
def test_fit_refuses_bad_data(refuse, tmp_path, case, sizes):
    name, content, said = BAD_DATA[case]
    file = tmp_path / name if content is None else data_file(tmp_path, name, content)
    error = refuse("fit", file, "-k", sizes, "--out", tmp_path / "m.safetensors")
    assert any(part in error for part in said.split("|"))


def test_fit_refuses_bad_columns_and_weights(refuse, tmp_path):
    file = data_file(tmp_path, "w.csv", "a,b,w,z,word\n1,2,-1,0,x\n2,5,1,0,y\n4,1,2,0,z\n")
    out = ["-k", "1", "--out", tmp_path / "m"]
    assert "has no column 'q'" in refuse("fit", file, "--columns", "a,q", *out)
    assert "'word'" in refuse("fit", file, "--columns", "a,word", *out)
    assert "row 1, column 'w'" in refuse("fit", file, "--weight-column", "w", *out)
    assert "zero" in refuse("fit", file, "--weight-column", "z", *out)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-k x", "not understood"),
        ("-k 0", "start at 1"),
        ("-k 6-1", "start at 1"),
        ("-k 1-", "not understood"),
        ("-c round", "'round' is unknown"),
        ("--criterion xic", "'xic'"),
        ("-k 1-2 --tol 0.1", "--tol is for fitting one model"),
        ("-k 2 --tol -1", "'tol'"),
        ("-k 2 --max-iter 0", "--max-iter"),
        ("-k 2 --reg-covar -1", "'reg_covar'"),
        ("-k 2 --acceleration warp", "'warp'"),
        ("-k 2 --seed -1", "--seed"),
        ("-k 2 --out absent/model", "there is no folder"),
        ("-k 2 --out /dev/null", "a device"),
        ("--bogus", "No such option"),
    ],
)
def test_fit_refuses_bad_options(refuse, geyser, options, said):
    assert said in refuse("fit", geyser, *options.split())


def broken_models(model):
    content = model.read_bytes()
    damaged = bytearray(content)
    damaged[-1] ^= 1
    buffer = io.BytesIO()
    torch.save({"means": torch.ones(2)}, buffer)
    return {
        "truncated": content[:-40],
        "damaged": bytes(damaged),
        "format version": content.replace(b'format_version\\":1', b'format_version\\":9'),
        "would run code": pickle.dumps({"means": [1.0]}),
        "pickle": buffer.getvalue(),
        "is empty": b"",
    }


def test_every_command_refuses_a_broken_model(refuse, model, geyser, tmp_path):
    for said, content in broken_models(model).items():
        bad = tmp_path / "bad.safetensors"
        bad.write_bytes(content)
        assert said in refuse("show", bad)
        assert said in refuse("score", bad, geyser, "--out", tmp_path / "s.csv")
        assert said in refuse("sample", bad, "-n", 2, "--out", tmp_path / "s.csv")
        assert said in refuse("plot", bad, geyser, "--out", tmp_path / "p.png")


def test_commands_refuse_what_does_not_fit_the_model(refuse, model, nameless, geyser, tmp_path):
    other = data_file(tmp_path, "other.csv", "a,waiting_minutes\n1,2\n")
    out = ["--out", tmp_path / "out.csv"]
    picture = ["--out", tmp_path / "p.png"]
    assert "no column 'eruption_minutes'" in refuse("score", model, other, *out)
    assert "3 features" in refuse("score", nameless, other, *out)
    assert "no ending" in refuse("score", model, geyser, "--out", tmp_path / "s.xls")
    assert "no folder" in refuse("score", model, geyser, "--out", tmp_path / "no" / "s.csv")
    assert "no file" in refuse("show", tmp_path / "absent")
    assert "-n" in refuse("sample", model, "-n", 0)
    assert "picture" in refuse("plot", model, "--out", tmp_path / "p.gif")
    assert "no feature 'q'" in refuse("plot", model, "--features", "q", *picture)
    assert "no names" in refuse("plot", nameless, "--features", "q", *picture)
    assert "Missing argument" in refuse("score", model)
    assert "No such command" in refuse("nonsense")


def test_a_write_that_fails_leaves_the_old_file(run, model, geyser, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    picture = tmp_path / "p.png"
    picture.write_bytes(b"old")

    def half(self, file, **_):
        Path(file).write_bytes(b"ha")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    code, _, err = run("plot", model, geyser, "--out", picture)
    assert (code, err.count("\n")) == (2, 1)
    assert "No space left" in err
    assert picture.read_bytes() == b"old"
    assert not list(tmp_path.glob(f"{PARTIAL_PREFIX}*"))


def test_ctrl_c_is_130_and_one_sentence(run, geyser, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(mogul.GaussianMixture, "fit", interrupt)
    code, out, err = run("fit", geyser, "-k", 2, "--out", tmp_path / "m")
    assert (code, out, err.count("\n")) == (130, "", 1)
    assert not (tmp_path / "m").exists()


def test_a_defect_of_mogul_keeps_its_traceback(geyser, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(mogul.GaussianMixture, "fit", broken)
    with pytest.raises(ZeroDivisionError):
        main(["fit", str(geyser), "-k", "2"])


def test_errors_in_one_sentence():
    assert sentence(InputError("two\n  lines.")) == "two lines."
    assert (
        sentence(PermissionError(13, "Permission denied", "a.csv")) == "a.csv: Permission denied."
    )
    assert sentence(ValueError("no.")) == "no."
    assert sentence(TypeError("a defect")) is None


def test_warnings_are_notes_said_once(capfd):
    import warnings

    with note_warnings():
        for _ in range(2):
            warnings.warn("a spike\nsits here.", SpikeWarning, stacklevel=1)
        warnings.warn("mended.", RepairWarning, stacklevel=1)
        warnings.warn("not for users", DeprecationWarning, stacklevel=1)
    assert capfd.readouterr().err == "note: a spike sits here.\nnote: mended.\n"


# --- help, and as a program -----------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_with_an_example(succeed, command):
    out = succeed(command, "--help")
    assert f"  mogul {command} cars" in out
    assert all(len(line) < 100 for line in out.splitlines())


def test_the_bare_command_helps(succeed):
    out = succeed()
    assert out == succeed("--help")
    assert all(f"  {command} " in out for command in COMMANDS)
    assert succeed("--version") == f"mogul {mogul.__version__}\n"


def test_the_command_line_brings_in_nothing_heavy():
    program = """
import sys
import mogul
before = set(sys.modules)
import mogul.cli
heavy = {"torch", "sklearn", "pyarrow", "matplotlib", "scipy", "rich", "safetensors"}
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(heavy & new))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_as_a_program_with_a_reader_that_leaves(model):
    command = [sys.executable, "-m", "mogul", "sample", str(model), "-n", "200000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"eruption_minutes,waiting_minutes\n"
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode != 0


def test_as_a_program_bad_input_is_2(tmp_path):
    command = [sys.executable, "-m", "mogul", "show", str(tmp_path / "absent")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"mogul: The model was not found: there is no file {command[-1]}.\n"


def test_tables_are_drawn_on_a_terminal(model, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["show", str(model)]) == 0
    assert "│" in screen.getvalue()
    assert "eruption_minutes" in screen.getvalue()


# --- many files -----------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path):
    """The geyser's rows in three files of a folder."""
    rows = mogul.datasets.old_faithful()
    folder = tmp_path / "parts"
    folder.mkdir()
    for i, part in enumerate(np.array_split(np.asarray(rows), 3)):
        table = dict(zip(rows.names, part.T, strict=True))
        write_table(folder / f"{i}.parquet", table)
    return folder


@pytest.mark.parametrize("data", ["", "*.parquet"])
def test_fit_and_score_take_folders_and_patterns(succeed, parts, geyser, tmp_path, data):
    out = tmp_path / "m.safetensors"
    said = succeed("fit", parts / data, "-k", "2", "--out", out)
    assert "272 rows in 3 row groups, 2 columns" in said
    assert "million a second" in said
    one = tmp_path / "one.safetensors"
    succeed("fit", geyser, "-k", "2", "--out", one)
    np.testing.assert_allclose(mogul.load(out).means_, mogul.load(one).means_, rtol=1e-10)
    for name in ("s.parquet", "s.csv", "s.arrow", "s.tsv", "s.csv.gz"):
        succeed("score", out, parts / data, "--out", tmp_path / name)
        found = read_table(tmp_path / name)
        expected = mogul.load(out).score_samples(mogul.datasets.old_faithful())
        np.testing.assert_allclose(found["log_density",].values[:, 0], expected, rtol=1e-9)
    printed = succeed("score", out, parts).splitlines()
    assert printed[0].startswith("log_density,component,")
    assert len(printed) == 273
    mean = float(succeed("score", out, parts, "--summary"))
    assert mean == pytest.approx(mogul.load(out).lower_bound_, abs=1e-5)


def test_a_checkpoint_and_a_memory_limit(succeed, parts, tmp_path):
    state = tmp_path / "state"
    first = succeed("fit", parts, "-k", "2", "--memory", "1.5 GB", "--checkpoint", state)
    again = succeed("fit", parts, "-k", "2", "--checkpoint", state, "--resume")
    assert state.exists()
    assert "1 passes" in again
    table = first.index("Weights")
    assert first[table:] == again[again.index("Weights") :]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-k", "1-3"], "take one model at a time"),
        (["-k", "2", "-c", "all"], "take one model at a time"),
        (["-k", "2", "--inference", "svi"], "add --bayes"),
        (["-k", "2", "--criterion", "bic"], "without --criterion"),
        (["-k", "2", "--bayes", "--inference", "gibbs"], "needs the rows in memory"),
        (["-k", "2", "--bayes", "--checkpoint", "state"], "leave out --bayes"),
        (["-k", "2", "--memory", "1MB"], "--memory 1MB is too little"),
        (["-k", "2", "--memory", "much"], "--memory 'much' is not understood"),
        (["-k", "2", "--resume"], "say which with --checkpoint"),
        (["-k", "2", "--columns", "depth"], "has no column 'depth'"),
    ],
)
def test_what_does_not_go_with_many_files_is_refused(refuse, parts, options, said):
    assert said in refuse("fit", parts, *options)


def test_what_is_for_parquet_files_or_one_process(refuse, parts, geyser, monkeypatch):
    said = refuse("fit", geyser, "-k", "2", "--memory", "1GB")
    assert "are for Parquet files" in said
    assert "sample of" in refuse("fit", parts, "-k", "100", "--memory", "600.01MB")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for command in (["score"], ["detect", "score"], ["regress", "predict"]):
        assert "by one process" in refuse(*command, "model.safetensors", parts)


def test_a_posterior_of_many_files(succeed, parts, geyser, tmp_path):
    out, one = tmp_path / "m.safetensors", tmp_path / "one.safetensors"
    said = succeed("fit", parts, "--bayes", "-k", "4", "--out", out)
    alone = succeed("fit", geyser, "--bayes", "-k", "4", "--out", one)
    table = alone[alone.index("covariance type") : alone.index("Saved")]
    assert table in said
    np.testing.assert_allclose(mogul.load(out).means_, mogul.load(one).means_, rtol=1e-8)
    mean = float(succeed("score", out, parts, "--summary", "--memory", "1GB"))
    expected = mogul.load(one).score(mogul.datasets.old_faithful())
    assert mean == pytest.approx(expected, abs=1e-5)


def test_bad_files_among_many_are_one_sentence(refuse, parts, tmp_path):
    assert "No file matches" in refuse("fit", tmp_path / "*.parquet", "-k", "2")
    last = parts / "2.parquet"
    last.write_bytes(last.read_bytes()[:-5])
    out = tmp_path / "m.safetensors"
    assert "2.parquet cannot be read as Parquet" in refuse("fit", parts, "-k", "2", "--out", out)
    assert not out.exists()


def test_scores_that_meet_a_bad_row_leave_nothing(succeed, refuse, parts, tmp_path):
    out = tmp_path / "m.safetensors"
    succeed("fit", parts, "-k", "2", "--out", out)
    names = mogul.datasets.old_faithful().names
    write_table(parts / "9.parquet", {name: np.array([1.0, np.nan]) for name in names})
    said = refuse("score", out, parts, "--out", tmp_path / "s.parquet")
    assert "Row 1 (counted from 0) of row group 0 of" in said
    assert not (tmp_path / "s.parquet").exists()

"""``mogul regress``: from a table to the distribution of a column, and back to a table."""

import json

import numpy as np
import pandas as pd
import pytest

import mogul
from mogul.cli import main
from mogul.data import read_table

QUICK = ["--members", "2", "--noise", "0.1", "--max-epochs", "20"]


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    area = rng.uniform(20, 200, 150)
    frame = pd.DataFrame(
        {
            "area": area,
            "rooms": rng.integers(1, 6, 150),
            "price": 3000 * area + 20_000 * rng.normal(size=150),
            "rent": 9 * area + 50 * rng.normal(size=150),
            "town": ["a", "b", "c"] * 50,
            "count": rng.integers(1, 4, 150),
        }
    )
    file = tmp_path / "houses.csv"
    frame.to_csv(file, index=False)
    return file, frame, tmp_path


def run(capsys, *arguments):
    code = main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return code, out, err


def test_a_column_is_learnt_and_predicted(table, capsys):
    file, frame, folder = table
    saved = folder / "price.safetensors"
    code, out, err = run(capsys, "regress", "fit", file, "-t", "price", "--columns", "area,rooms",
                         "--weight-column", "count", "--out", saved, *QUICK)  # fmt: skip
    assert code == 0
    assert "2 of 10 components" in out
    assert "held-out loss" in out
    assert not err
    model = mogul.load(saved)
    assert list(model.feature_names_in_) == ["area", "rooms"]
    assert model.target_names_ == ("price",)
    given = mogul.MixtureDensityRegressor(random_state=0, n_ensemble=2, noise=0.1, max_epochs=20)
    x = frame[["area", "rooms"]].astype(float)
    given.fit(x, frame[["price"]], frame["count"])
    np.testing.assert_allclose(model.predict(x), given.predict(x))
    written = folder / "predicted.parquet"
    code, out, _ = run(capsys, "regress", "predict", saved, file, "--out", written,
                       "--quantiles", "0.1,0.9", "--interval", "0.8")  # fmt: skip
    assert code == 0
    assert "150 rows written" in out
    found = read_table(written)
    assert found.names == ("mean", "std", "q0.1", "q0.9", "low", "high")
    values = np.asarray(found)
    np.testing.assert_allclose(values[:, 0], model.predict(x)[:, 0])
    np.testing.assert_allclose(values[:, 2:4], model.predict_quantiles(x, [0.1, 0.9])[:, 0])
    np.testing.assert_allclose(values[:, 2:4], values[:, 4:6])
    code, out, _ = run(capsys, "regress", "predict", saved, file)
    assert out.splitlines()[0] == "mean,std,q0.05,q0.5,q0.95"
    assert len(out.splitlines()) == 151
    code, out, _ = run(capsys, "regress", "predict", saved, file, "--summary")
    assert f"{model.score(x, frame[['price']]):#.6g}" in out
    assert "in intervals of 90 %" in out


def test_several_targets_have_their_names_before_the_columns(table, capsys):
    file, _, folder = table
    saved = folder / "two.safetensors"
    code, _, err = run(capsys, "regress", "fit", file, "--target", "price,rent", "-c", "full",
                       "--out", saved, *QUICK)  # fmt: skip
    assert code == 0
    assert "Not used" in err
    assert "town" in err
    code, out, _ = run(capsys, "regress", "predict", saved, file, "--quantiles", "0.5")
    assert out.splitlines()[0] == "price_mean,price_std,price_q0.5,rent_mean,rent_std,rent_q0.5"


def test_a_regressor_is_shown_and_not_taken_for_a_mixture(table, capsys):
    file, _, folder = table
    saved = folder / "price.safetensors"
    run(capsys, "regress", "fit", file, "-t", "price", "--columns", "area", "--out", saved, *QUICK)
    code, out, _ = run(capsys, "show", saved)
    assert code == 0
    assert "MixtureDensityRegressor" in out
    code, out, _ = run(capsys, "show", saved, "--json")
    assert json.loads(out)["target_names"] == ["price"]
    for command in (["score", saved, file], ["sample", saved, "3"], ["plot", saved, file]):
        code, _, err = run(capsys, *command)
        assert code == 2
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit", "{file}", "-t", "size"], "no column 'size'"),
        (["fit", "{file}", "-t", "price", "--columns", "price,area"], "price is a target"),
        (["fit", "{file}", "-t", "price", "--noise", "loud"], "--noise must be auto or a number"),
        (["fit", "{file}", "-t", "price", "-c", "round", *QUICK], "covariance_type"),
        (["fit", "{file}", "-t", "price", "--members", "0"], "members"),
        (["fit", "{file}"], "--target"),
        (["fit", "{file}", "-t", "town"], "town"),
        (["predict", "{file}", "{file}"], "not a model"),
    ],
)
def test_bad_input_gets_one_sentence(table, capsys, arguments, says):
    file, _, folder = table
    code, out, err = run(capsys, "regress", *(a.format(file=file) for a in arguments))
    assert code == 2
    assert says in err
    assert len([line for line in err.splitlines() if not line.startswith("note:")]) == 1
    assert not out
    assert not list(folder.glob("*.safetensors"))


def test_quantiles_that_are_none_are_refused(table, capsys):
    file, _, folder = table
    saved = folder / "price.safetensors"
    run(capsys, "regress", "fit", file, "-t", "price", "--columns", "area", "--out", saved, *QUICK)
    for wrong, says in (("0.5,1.5", "strictly between 0 and 1"), ("half", "must be numbers")):
        code, _, err = run(capsys, "regress", "predict", saved, file, "--quantiles", wrong)
        assert code == 2
        assert says in err


def test_targets_may_be_missing(table, capsys):
    _, frame, folder = table
    frame.loc[:4, "price"] = np.nan
    frame.loc[3:9, "rent"] = np.nan
    gaps, saved = folder / "gaps.csv", folder / "model.safetensors"
    frame.to_csv(gaps, index=False)
    code, out, err = run(capsys, "regress", "fit", gaps, "-t", "price,rent", "--out", saved, *QUICK)
    assert code == 0
    assert "2 rows have no target and are left out" in err
    kept = frame.drop(index=[3, 4])
    given = mogul.MixtureDensityRegressor(random_state=0, n_ensemble=2, noise=0.1, max_epochs=20)
    x = kept[["area", "rooms", "count"]].astype(float)
    given.fit(x, kept[["price", "rent"]])
    np.testing.assert_allclose(mogul.load(saved).predict(x), given.predict(x))
    code, out, err = run(capsys, "regress", "predict", saved, gaps, "--summary")
    assert code == 0
    assert "148" in out
    assert "left out" in err
    # A feature may not be, and a target that never is known is refused.
    code, _, err = run(capsys, "regress", "fit", gaps, "-t", "area", "--columns", "rent", *QUICK)
    assert code != 0
    assert "missing value (NaN) in row 4, column 'rent'" in err
    frame["price"] = np.nan
    frame.to_csv(gaps, index=False)
    code, _, err = run(capsys, "regress", "fit", gaps, "-t", "price", "--columns", "area", *QUICK)
    assert code != 0
    assert "price" in err

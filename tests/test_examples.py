"""The examples, run as programs on reduced sizes."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("name", "arguments", "says", "pictures"),
    [
        ("trainable_mixture", ["--rows", "200"], "-63.5075", ["trainable_mixture"]),
        ("mixture_energy", ["--steps", "30"], "area under the ROC", ["mixture_energy"]),
        (
            "bayesian_mixture",
            ["--draws", "200"],
            "Dirichlet counts: 1003.9, 1002.3, 999.77",
            ["density", "standard_deviations", "joint_mean", "prior", "overlap"],
        ),
        pytest.param(
            "mixture_density_network",
            ["--rows", "300", "--epochs", "15"],
            "lie on the means of components",
            ["samples", "density", "at", "pit", "coverage", "loss"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "slogan",
            ["--rows", "300", "--steps", "100"],
            "SLOGAN",
            ["samples", "critic", "losses"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "outlier_detection",
            [],
            "bottles listed",
            ["scores", "roc", "precision_recall", "reasons"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "how_many_components",
            ["--rows", "800"],
            "highest at 4",
            ["how_many_components"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_example_prints_numbers_and_draws(name, arguments, says, pictures, tmp_path):
    command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", "--out", tmp_path]
    answer = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert says in answer.stdout
    for picture in pictures:
        assert (tmp_path / f"{picture}.png").stat().st_size > 10_000

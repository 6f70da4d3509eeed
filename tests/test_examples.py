"""The examples, run as programs on reduced sizes."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("trainable_mixture", ["--rows", "200"], "-63.5075"),
        ("mixture_energy", ["--steps", "30"], "area under the ROC"),
    ],
)
def test_an_example_prints_numbers_and_draws(name, arguments, says, tmp_path):
    command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", "--out", tmp_path]
    answer = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert says in answer.stdout
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000

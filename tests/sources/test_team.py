"""Several processes that divide the rows find what one finds; where one fails, all stop."""

import os
import subprocess
import sys

import numpy as np
import pytest

from mogul import GaussianMixture, load
from mogul.data import ArraySource, ParquetSource
from sources.cases import answers_together, clusters, run_together, write_parts

FIT = """
import json, sys
import torch.distributed as dist
from mogul import GaussianMixture
from mogul.data import ArraySource, ParquetSource
from mogul.errors import MogulError

folder, out, name, column = sys.argv[1:]
dist.init_process_group("gloo")
try:
    source = ParquetSource(folder, weight_column=column or None)
    model = GaussianMixture(3, covariance_type=name, random_state=0, tol=1e-7, max_iter=300)
    model.fit(source)
    found = {"n_iter": model.n_iter_, "means": model.means_.tolist(),
             "covariances": model.covariances_.tolist(), "weights": model.weights_.tolist(),
             "n_rows": model.passes_.n_rows, "lower_bound": model.lower_bound_}
    with open(f"{out}-{dist.get_rank()}.json", "w") as file:
        json.dump(found, file)
except MogulError as error:
    print(error)
    sys.exit(2)
finally:
    dist.destroy_process_group()
"""


def fitted(folder, out, n, name="full", column=""):
    return answers_together(FIT, n, out, folder, out, name, column)


def assert_like(found, expected):
    assert found["n_iter"] == expected.n_iter_
    for name in ("means", "covariances", "weights"):
        want = getattr(expected, f"{name}_")
        np.testing.assert_allclose(found[name], want, rtol=1e-10, atol=1e-10 * np.abs(want).max())


def one(x, name="full", weight=None):
    model = GaussianMixture(3, covariance_type=name, random_state=0, tol=1e-7, max_iter=300)
    return model.fit(x, sample_weight=weight)


@pytest.mark.parametrize(
    ("n", "name", "weighted"),
    [
        (2, "full", True),
        pytest.param(2, "diag", False, marks=pytest.mark.slow),
        pytest.param(4, "tied", False, marks=pytest.mark.slow),
        pytest.param(4, "spherical", True, marks=pytest.mark.slow),
    ],
)
def test_processes_find_what_one_finds(tmp_path, n, name, weighted):
    x, weight = clusters()
    own = weight if weighted else None
    folder = write_parts(tmp_path / "parts", x, own)
    found = fitted(folder, tmp_path / "found", n, name, "weight" if weighted else "")
    expected = one(x, name, own)
    for mine in found:
        assert mine == {**found[0], "n_rows": mine["n_rows"]}  # bit for bit
        assert_like(mine, expected)
    assert all(mine["n_rows"] > 0 for mine in found)


@pytest.mark.slow
def test_uneven_shards_and_a_process_without_rows(tmp_path):
    """Two row groups, of 5990 and of 10 rows, among four processes."""
    x, _ = clusters()
    folder = write_parts(tmp_path / "parts", x, groups=(5990,))
    assert [g.n_rows for g in ParquetSource(folder).groups if g.n_rows] == [5990, 10]
    found = fitted(folder, tmp_path / "found", 4)
    assert sorted(mine["n_rows"] > 0 for mine in found) == [False, False, True, True]
    for mine in found:
        assert_like(mine, one(x))


@pytest.mark.parametrize(
    "trouble", ["missing value", pytest.param("damaged", marks=pytest.mark.slow)]
)
def test_where_one_meets_a_bad_file_all_stop_with_its_sentence(tmp_path, trouble):
    x, _ = clusters(2000)
    if trouble == "missing value":
        x[1500, 1] = np.nan
    folder = write_parts(tmp_path / "parts", x, groups=(500,))
    if trouble == "damaged":
        file = sorted(folder.iterdir())[-1]
        content = bytearray(file.read_bytes())
        content[4:3000] = b"x" * 2996
        file.write_bytes(content)
    for code, said, _ in run_together(FIT, 2, folder, tmp_path / "found", "full", ""):
        assert code == 2
        assert "of 2 stopped: " in said
        assert "row group" in said.lower()
        assert len(said.strip().splitlines()) == 1
    assert not list(tmp_path.glob("found*"))


LATER = """
import sys
import torch, torch.distributed as dist
from mogul import GaussianMixture
from mogul.data import ArraySource, Source
from mogul.errors import MogulError, TeamError

dist.init_process_group("gloo")
rank = dist.get_rank()


class Fails(ArraySource):
    n_passes = 0

    def blocks(self):
        self.n_passes += 1
        if rank == int(sys.argv[1]) and self.n_passes == 3:
            raise OSError("the disk is gone")
        yield from super().blocks()


x = torch.randn(500, 2, generator=torch.Generator().manual_seed(rank)).numpy()
try:
    GaussianMixture(2, tol=0, max_iter=20, random_state=0).fit(Fails(x))
except TeamError as error:
    print(error)
    sys.exit(2)
finally:
    dist.destroy_process_group()  # or torch aborts now and then
"""


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_failure_in_the_middle_of_a_fit_stops_all(rank):
    for code, said, error in run_together(LATER, 2, rank):
        assert code == 2, error
        assert said.strip() == f"Process {rank} of 2 stopped: OSError: the disk is gone"


OWN = """
import sys
import numpy as np, torch.distributed as dist
from mogul import GaussianMixture
from mogul.data import ArraySource

dist.init_process_group("gloo")
x = np.load(sys.argv[1])[dist.get_rank() :: 2]
model = GaussianMixture(3, random_state=0, tol=1e-7, max_iter=300).fit(ArraySource(x))
print(repr(float(model.lower_bound_)), model.score(ArraySource(x)))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_arrays_are_each_process_s_own_rows(tmp_path):
    x, _ = clusters(2000)
    np.save(tmp_path / "x.npy", x)
    said = [out.split() for _, out, _ in run_together(OWN, 2, tmp_path / "x.npy")]
    assert said[0][0] == said[1][0]
    assert float(said[0][0]) == pytest.approx(one(x).lower_bound_, abs=1e-7)
    mean = (float(said[0][1]) + float(said[1][1])) / 2
    assert mean == pytest.approx(float(said[0][0]), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["fit", "-k", "3", "--bayes"],
        ["detect", "fit", "-k", "3", "-c", "diag"],
        ["regress", "fit", "-t", "x2", "-k", "1", "--members", "2", "--noise", "0"],
    ],
    ids=["fit --bayes", "detect", "regress"],
)
def test_every_command_that_fits_files_runs_under_torchrun(tmp_path, command):
    """One process prints and saves; few rows are fitted as one process alone fits them."""
    x, _ = clusters(3000)
    folder = write_parts(tmp_path / "x", x)
    at = command.index("fit") + 1
    saved = []
    for n in (1, 2):
        out = tmp_path / f"{n}.safetensors"
        start = ["torch.distributed.run", "--standalone", f"--nproc-per-node={n}", "-m"]
        run = [*(start if n > 1 else []), "mogul", *command[:at], folder, *command[at:]]
        ran = subprocess.run(
            [sys.executable, "-m", *map(str, run), "--out", str(out)],
            capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.count("3000 rows in") == 1
        assert ran.stdout.count("Saved") == 1
        saved.append(load(out))
    if command[0] == "regress":
        answers = [model.predict(ArraySource(x[:, :2], names=["x0", "x1"])) for model in saved]
    else:
        answers = [model.score_samples(ParquetSource(folder)) for model in saved]
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-7)

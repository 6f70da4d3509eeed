"""Training by gradient on rows that are read in batches, by one process or several."""

import numpy as np
import pytest
import torch

from mogul import GaussianMixture
from mogul.data import ArraySource, ParquetSource
from mogul.errors import InputError
from mogul.infer.gradient import fit
from mogul.nn import TrainableMixture
from sources.cases import answers_together, clusters, write_parts


def start(x):
    begun = GaussianMixture(3, random_state=0, max_iter=2, acceleration="none", tol=0)
    with pytest.warns(UserWarning, match="did not converge"):
        begun.fit(x)
    return TrainableMixture.from_mixture(begun.mixture_)


@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical"])
def test_l_bfgs_on_a_source_is_that_in_memory(name, tmp_path):
    x, weight = clusters(3000)
    source = ParquetSource(write_parts(tmp_path / "x", x, weight), weight_column="weight")
    settings = {"covariance_type": name, "algorithm": "gradient", "random_state": 0, "tol": 1e-6}
    found = GaussianMixture(3, **settings).fit(source)
    expected = GaussianMixture(3, **settings).fit(x, sample_weight=weight)
    assert found.converged_
    assert found.lower_bound_ == pytest.approx(expected.lower_bound_, abs=1e-9)
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-6)


def test_a_module_trained_on_a_source():
    x, weight = clusters(3000)
    source = ArraySource(x, weight, batch_rows=700)
    found = fit(start(x), source, "lbfgs")
    expected = fit(start(x), x, "lbfgs", sample_weight=weight)
    assert found.loss == pytest.approx(expected.loss, abs=1e-9)
    small = fit(start(x), source, batch_size=500, max_epochs=60, seed=1)
    assert small.loss == pytest.approx(expected.loss, abs=2e-3)  # the noise of batches of 500
    again = fit(start(x), source, batch_size=500, max_epochs=60, seed=1)
    assert torch.equal(small.module.means, again.module.means)
    held = fit(start(x), source, "lbfgs", validation=x[:100])
    density = held.module().log_prob(torch.from_numpy(x[:100])).detach()
    assert held.loss == pytest.approx(-float(density.mean()), abs=1e-9)


FIT = """
import json, sys
import torch, torch.distributed as dist
from mogul import GaussianMixture
from mogul.data import ParquetSource
from mogul.infer.gradient import fit
from mogul.nn import TrainableMixture

folder, out = sys.argv[1:]
dist.init_process_group("gloo")
source = ParquetSource(folder)
torch.manual_seed(0)
module = TrainableMixture.from_components(
    [{"x0": (m, 1.0), "x1": (1.0, 1.0), "x2": (1.0, 1.0)} for m in (0.0, 2.0, 4.0)])
found = fit(module, source, "lbfgs", tol=1e-9)
model = GaussianMixture(3, random_state=0, algorithm="gradient", tol=1e-7).fit(source)
said = {"loss": found.loss, "means": module.means.tolist(), "bound": model.lower_bound_,
        "epochs": len(found.history)}
with open(f"{out}-{dist.get_rank()}.json", "w") as file:
    json.dump(said, file)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_train_the_same_module(tmp_path):
    x, _ = clusters()
    folder = write_parts(tmp_path / "parts", x)
    out = tmp_path / "found"
    found = answers_together(FIT, 2, out, folder, out)
    assert found[0] == found[1]
    module = TrainableMixture.from_components(
        [{"x0": (m, 1.0), "x1": (1.0, 1.0), "x2": (1.0, 1.0)} for m in (0.0, 2.0, 4.0)]
    )
    expected = fit(module, x, "lbfgs", tol=1e-9)
    assert found[0]["loss"] == pytest.approx(expected.loss, abs=1e-9)
    np.testing.assert_allclose(found[0]["means"], module.means.detach(), atol=1e-3)
    model = GaussianMixture(3, random_state=0, algorithm="gradient", tol=1e-7).fit(x)
    assert found[0]["bound"] == pytest.approx(model.lower_bound_, abs=1e-7)


def test_what_cannot_be_trained_on_a_source():
    x, weight = clusters(300)
    module, source = start(x), ArraySource(x)
    for options, said in [
        ({"sample_weight": weight}, "carry their own weights"),
        ({"loss": lambda m, rows: rows.sum(1)}, "a loss needs the rows in memory"),
        ({"validation": 0.1}, "as an array, not as a share"),
    ]:
        with pytest.raises(InputError, match=said):
            fit(module, source, **options)
    with pytest.raises(InputError, match="looks at a batch more than once"):
        fit(module, source, lambda p: torch.optim.LBFGS(p, max_iter=3), batch_size=100)
    named = GaussianMixture(2, random_state=0).fit(ArraySource(x, names=["a", "b", "c"]))
    labelled = TrainableMixture.from_mixture(named.mixture_)
    with pytest.raises(InputError, match="read them in that order"):
        fit(labelled, ArraySource(x, names=["b", "a", "c"]))
    with pytest.raises(InputError, match="The source has 2 columns; expected 3"):
        fit(module, ArraySource(x[:, :2]))
    with pytest.raises(InputError, match="checkpoint keeps the state of EM"):
        GaussianMixture(2, algorithm="gradient", checkpoint="state").fit(source)

"""Mixture density networks as an ONNX graph, for places without Python or torch."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from mogul._files import atomic_path, check_target
from mogul.errors import MogulError
from mogul.nn.mixture_density_network import MixtureDensityNetwork

__all__ = ["export"]


class _Graph(nn.Module):
    """From x to the parameters of the merged mixture, in the units of y."""

    def __init__(self, networks: Sequence[MixtureDensityNetwork]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights, means, scales = [], [], []
        for one in self.networks:
            assert isinstance(one, MixtureDensityNetwork)
            mixture = one.head.standard(one.outputs(one.standardised(x)))
            loc, scale = one.head.loc, one.head.scale
            weights.append(mixture.weights / len(self.networks))
            means.append(loc + scale * mixture.means)
            if one.head.kind.has_matrices():
                scales.append(scale.unsqueeze(-1) * mixture.covariance.scale_tril())
            else:
                each = mixture.covariance.factor
                each = each if each.ndim == mixture.means.ndim else each.unsqueeze(-1)
                scales.append((scale * each).expand(mixture.means.shape))
        return torch.cat(weights, 1).double(), torch.cat(means, 1), torch.cat(scales, 1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's word on packages that it could have used."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def export(networks: Sequence[MixtureDensityNetwork], path: str | os.PathLike[str]) -> Path:
    """Write an ensemble to an ONNX file, whole or not at all; needs the extra ``onnx``.

    The graph takes ``x`` (N, d), float64, and gives, in float64 and in the units of y,

    * ``weights`` (N, M K),
    * ``means`` (N, M K, D),
    * ``scales`` (N, M K, D), standard deviations; for "full" and "tied" Cholesky factors
      (N, M K, D, D).

    Parameters
    ----------
    networks : sequence of M MixtureDensityNetwork
    path : path

    Returns
    -------
    Path

    Raises
    ------
    MogulError
        When the extra is not installed.
    FileError
        When the file cannot be written.
    """
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError:
        raise MogulError(
            "ONNX is not installed; install it with: pip install 'mogul[onnx]'."
        ) from None
    file = Path(path)
    check_target(file)
    graph = _Graph([deepcopy(one).to("cpu").eval() for one in networks])
    d = networks[0].in_features
    example = torch.zeros(2, d, dtype=torch.float64)
    with warnings.catch_warnings(), _quiet(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own making
        program = torch.onnx.export(
            graph,
            (example,),
            input_names=["x"],
            output_names=["weights", "means", "scales"],
            dynamic_shapes={"x": {0: torch.export.Dim("rows")}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # it is for a path that torch would write itself
    with atomic_path(file) as temporary:
        program.save(temporary, external_data=False)
    return file

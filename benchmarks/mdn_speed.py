"""Training steps of a mixture density network: mogul beside zuko and a network written by hand.

python benchmarks/mdn_speed.py [--steps 300] [--repeats 7]

The same backbone, batch, optimiser and number of components; interleaved repeats in one process.
zuko is left out when it is not installed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from mogul.nn import MixtureDensityNetwork

RESULTS = Path(__file__).parent / "results" / "mdn_speed.json"
NAMES = ("mogul", "by hand", "zuko", "shortest")
CELLS = (
    (1, (32,), 1, 20, "diag", 32),  # the tutorial's own
    (8, (64, 64), 1, 5, "diag", 64),
    (8, (64, 64), 1, 20, "diag", 256),
    (8, (64, 64), 1, 20, "diag", 2048),
    (8, (64, 64), 4, 8, "diag", 256),
    (8, (64, 64), 4, 8, "full", 256),
)
"""Inputs, widths, outputs, components, structure and rows of a batch."""


def backbone(n_in: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(n_in, width), nn.Tanh()]
        n_in = width
    return nn.Sequential(*layers)


class ByHand(nn.Module):
    """One output, by the operations of the tutorial that many networks began from: biases and a
    least scale that are zero, weights by a softmax whose logarithm is then taken, log-sum-exp by
    hand; no standardisation and no missing values."""

    def __init__(self, n_in: int, widths: tuple[int, ...], k: int):
        super().__init__()
        self.backbone, self.k = backbone(n_in, widths), k
        self.last = nn.Linear(widths[-1], 3 * k)
        self.least = 0.0

    def loss(
        self, x: Tensor, y: Tensor, weight_bias: float = 0.0, scale_bias: float = 0.0
    ) -> Tensor:
        raw, k = self.last(self.backbone(x)), self.k
        weights = torch.softmax(raw[:, :k] * (1 + weight_bias), -1)
        mean = raw[:, k : 2 * k]
        scale = (raw[:, 2 * k :] - scale_bias).exp() + self.least
        normal = -0.5 * ((y - mean) / scale) ** 2 - 0.5 * math.log(2 * math.pi) - scale.log()
        each = normal + weights.log()
        top, _ = each.max(1)
        return -((each - top.unsqueeze(1)).exp().sum(1).log() + top).mean()


class Shortest(nn.Module):
    """The same density with torch's own log_softmax and logsumexp: what a specialist would write
    for this one case, hardly any operation of which could be spared."""

    def __init__(self, n_in: int, widths: tuple[int, ...], k: int):
        super().__init__()
        self.backbone, self.k = backbone(n_in, widths), k
        self.last = nn.Linear(widths[-1], 3 * k)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        logits, mean, log_scale = self.last(self.backbone(x)).split(self.k, -1)
        z = (y - mean) * torch.exp(-log_scale)
        each = torch.log_softmax(logits, -1) - 0.5 * z.square() - log_scale
        return (0.5 * math.log(2 * math.pi) - torch.logsumexp(each, -1)).mean()


class WithZuko(nn.Module):
    def __init__(self, n_in: int, widths: tuple[int, ...], k: int, d: int, kind: str):
        from zuko.mixtures import GMM

        super().__init__()
        self.backbone = backbone(n_in, widths)
        self.last = GMM(
            d, context=widths[-1], components=k, covariance_type=kind, hidden_features=()
        )

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return -self.last(self.backbone(x)).log_prob(y).mean()


def has_zuko() -> bool:
    try:
        import zuko  # noqa: F401
    except ImportError:
        return False
    return True


def lapse(
    module: nn.Module, loss: Callable[..., Tensor], x: Tensor, y: Tensor, steps: int
) -> float:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    began = perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()
    return (perf_counter() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    figures = []
    print(f"{'':<48}" + "".join(f"{name:>10}" for name in NAMES) + "   us a step")
    for n_in, widths, d, k, kind, batch in CELLS:
        x = torch.randn(batch, n_in, generator=generator)
        y = x[:, :d] + 0.1 * torch.randn(batch, d, generator=generator)
        torch.manual_seed(0)
        ours = MixtureDensityNetwork(n_in, d, k, kind, backbone=backbone(n_in, widths))
        rivals: dict[str, nn.Module] = {"mogul": ours}
        if d == 1:
            rivals |= {"by hand": ByHand(n_in, widths, k), "shortest": Shortest(n_in, widths, k)}
        if has_zuko():
            name = "diagonal" if kind == "diag" else kind
            rivals["zuko"] = WithZuko(n_in, widths, k, d, name)
        times: dict[str, list[float]] = {name: [] for name in rivals}
        for _ in range(options.repeats):
            for name, module in rivals.items():
                times[name].append(lapse(module, module.loss, x, y, options.steps))
        found = {name: 1e6 * median(every) for name, every in times.items()}
        what = f"{n_in} to {widths}, D={d}, K={k}, {kind}, batch {batch}"
        shown = "".join(f"{found.get(n, math.nan):>10.0f}" for n in NAMES)
        print(f"{what:<48}{shown}", flush=True)
        figures.append({"n_inputs": n_in, "hidden": widths, "n_outputs": d, "n_components": k,
                        "covariance_type": kind, "batch": batch, "us_a_step": found})  # fmt: skip
    RESULTS.write_text(json.dumps({"figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()

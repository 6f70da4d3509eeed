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
IN, WIDTH = 8, 64
NAMES = ("mogul", "by hand", "zuko", "shortest")


def backbone() -> nn.Sequential:
    return nn.Sequential(nn.Linear(IN, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())


class ByHand(nn.Module):
    """One output, as a tutorial that many networks began from writes it: no floor of the scales, no
    standardisation, weights by a softmax whose logarithm is then taken."""

    def __init__(self, k: int):
        super().__init__()
        self.backbone, self.k = backbone(), k
        self.last = nn.Linear(WIDTH, 3 * k)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        logits, mean, log_scale = self.last(self.backbone(x)).split(self.k, -1)
        weights, scale = torch.softmax(logits, -1), log_scale.exp()
        normal = -0.5 * ((y - mean) / scale) ** 2 - 0.5 * math.log(2 * math.pi) - scale.log()
        each = normal + weights.log()
        top = each.max(1, keepdim=True).values
        return -((each - top).exp().sum(1).log() + top.squeeze(1)).mean()


class Shortest(nn.Module):
    """The same with torch's own log_softmax and logsumexp: hardly any operation could be spared."""

    def __init__(self, k: int):
        super().__init__()
        self.backbone, self.k = backbone(), k
        self.last = nn.Linear(WIDTH, 3 * k)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        logits, mean, log_scale = self.last(self.backbone(x)).split(self.k, -1)
        z = (y - mean) * torch.exp(-log_scale)
        each = torch.log_softmax(logits, -1) - 0.5 * z.square() - log_scale
        return (0.5 * math.log(2 * math.pi) - torch.logsumexp(each, -1)).mean()


class WithZuko(nn.Module):
    def __init__(self, k: int, d: int, kind: str):
        from zuko.mixtures import GMM

        super().__init__()
        self.backbone = backbone()
        self.last = GMM(d, context=WIDTH, components=k, covariance_type=kind, hidden_features=())

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
    print(f"{'':<34}" + "".join(f"{name:>10}" for name in NAMES) + "   us a step")
    for d, k, kind, batch in ((1, 5, "diag", 64), (1, 20, "diag", 256), (1, 20, "diag", 2048),
                              (4, 8, "diag", 256), (4, 8, "full", 256)):  # fmt: skip
        x = torch.randn(batch, IN, generator=generator)
        y = x[:, :d] + 0.1 * torch.randn(batch, d, generator=generator)
        torch.manual_seed(0)
        ours = MixtureDensityNetwork(IN, d, k, kind, backbone=backbone())
        rivals: dict[str, nn.Module] = {"mogul": ours}
        if d == 1:
            rivals |= {"by hand": ByHand(k), "shortest": Shortest(k)}
        if has_zuko():
            rivals["zuko"] = WithZuko(k, d, "diagonal" if kind == "diag" else kind)
        times: dict[str, list[float]] = {name: [] for name in rivals}
        for _ in range(options.repeats):
            for name, module in rivals.items():
                times[name].append(lapse(module, module.loss, x, y, options.steps))
        found = {name: 1e6 * median(every) for name, every in times.items()}
        what = f"D={d}, K={k}, {kind}, batch {batch}"
        shown = "".join(f"{found.get(n, math.nan):>10.0f}" for n in NAMES)
        print(f"{what:<34}{shown}", flush=True)
        figures.append({"n_outputs": d, "n_components": k, "covariance_type": kind,
                        "batch": batch, "us_a_step": found})  # fmt: skip
    RESULTS.write_text(json.dumps({"figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()

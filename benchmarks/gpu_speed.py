"""EM on a GPU: one E-step and one whole iteration, beside what its matrix products could do.

    python benchmarks/gpu_speed.py --out benchmarks/results/gpu_speed.json

Rows are float32, N = 1,000,000, of a mixture with means N(0, 4) and standard deviations from 0.5 to
1.5 in each feature. Times are medians over interleaved rounds, by the GPU's own clock for E-steps
and by the host's for iterations. "GFLOP" counts two matrix products of rows × features × components
and nothing else, so that what a kernel does twice counts against it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mogul import Mixture
from mogul.data.rows import Rows
from mogul.infer.em import EMSettings, fit_em, stack
from mogul.kernels import e_step
from mogul.kernels.device import DeviceKernel
from mogul.kernels.reference import ReferenceKernel
from mogul.kernels.triton_diagonal import TritonKernel

CASES = [
    ("diag", 64, 32),
    ("diag", 32, 16),
    ("diag", 3, 2),
    ("diag", 128, 64),
    ("diag", 256, 16),
    ("diag", 1024, 128),
    ("spherical", 64, 32),
    ("spherical", 1024, 128),
    ("tied", 64, 32),
    ("full", 32, 16),
    ("full", 16, 64),
    ("full", 8, 64),
    ("full", 64, 64),
]
"""Structure, K, D."""
N_ROWS = 1_000_000


def problem(structure: str, k: int, d: int, seed: int) -> tuple[torch.Tensor, Mixture]:
    """Rows on the GPU, and the mixture that they are from on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(k, d, generator=generator, dtype=torch.float64)
    deviations = torch.rand(k, d, generator=generator, dtype=torch.float64) + 0.5
    if structure == "tied":
        deviations = deviations[:1].expand(k, d)
    if structure == "spherical":
        deviations = deviations[:, :1].expand(k, d)
    covariances = {
        "diag": deviations.square(),
        "spherical": deviations[:, 0].square(),
        "tied": torch.diag(deviations[0].square()),
        "full": torch.diag_embed(deviations.square()),
    }[structure]
    weights = torch.full((k,), 1 / k, dtype=torch.float64)
    mixture = Mixture.from_parameters(weights, means, covariances, structure)
    labels = torch.randint(k, (N_ROWS,), generator=generator)
    there = torch.Generator("cuda").manual_seed(seed)
    rows = torch.randn(N_ROWS, d, generator=there, device="cuda")
    rows = means.cuda()[labels.cuda()] + deviations.cuda()[labels.cuda()] * rows
    return rows.float(), mixture


def useful_operations(structure: str, k: int, d: int) -> float:
    """Multiplications and additions of the two products, by the cheaper way of computing them."""
    features = {"diag": 2 * d, "spherical": d + 1, "tied": d, "full": d * (d + 1) / 2 + d}
    own = 4.0 * d * d if structure == "tied" else 0.0  # whitening, and the common second moment
    return N_ROWS * (4.0 * k * features[structure] + own)


def device_ms(function: Callable[[], object]) -> float:
    """Milliseconds of one call, by the GPU's clock."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def product_rate(dtype: torch.dtype, rounds: int) -> float:
    """TFLOP/s of a square matrix product of order 8192, IEEE."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
    a @ b
    return 2 * 8192**3 / statistics.median(device_ms(lambda: a @ b) for _ in range(rounds)) / 1e9


def kernels_of(structure: str, d: int, mixture: Mixture) -> dict[str, object]:
    """Those that compute this case, the one that is chosen by default first."""
    device = torch.device("cuda")
    found = {
        "float64 products": DeviceKernel(mixture, device, torch.float64),
        "float32 products": DeviceKernel(mixture, device, torch.float32),
        "reference, float64": ReferenceKernel(mixture.to("cuda")),
    }
    if structure in ("diag", "spherical") and d <= 64:
        found = {"fused, float32": TritonKernel(mixture, device)} | found
    return found


def e_steps(structure: str, k: int, d: int, rounds: int, reference: bool) -> list[dict]:
    rows, mixture = problem(structure, k, d, seed=0)
    exact = e_step(rows.double(), mixture)
    kernels = kernels_of(structure, d, mixture)
    if not reference:
        del kernels["reference, float64"]
    times: dict[str, list[float]] = {name: [] for name in kernels}
    errors = {}
    for name, kernel in kernels.items():
        stats = mixture.covariance.recentre(kernel.collect(rows, None).to("cpu"), mixture.means)
        gap = (stats.second - exact.second).abs().max() / exact.second.abs().max()
        errors[name] = (
            float((stats.log_likelihood - exact.log_likelihood).abs()) / N_ROWS,
            float(gap),
        )
    for _ in range(rounds):
        for name, kernel in kernels.items():
            times[name].append(device_ms(lambda one=kernel: one.collect(rows, None)))
    operations = useful_operations(structure, k, d)
    return [
        {
            "structure": structure,
            "n_components": k,
            "n_features": d,
            "kernel": name,
            "ms": statistics.median(values),
            "ms_range": [min(values), max(values)],
            "tflops": operations / statistics.median(values) / 1e9,
            "log_likelihood_error_per_row": errors[name][0],
            "second_moment_error": errors[name][1],
        }
        for name, values in times.items()
    ]


def iteration_ms(structure: str, k: int, d: int, rounds: int) -> list[float]:
    """Milliseconds of an EM iteration, everything included, from fits of different lengths."""
    rows, mixture = problem(structure, k, d, seed=0)
    short, long = 2, 12
    found = []
    for _ in range(rounds + 1):
        spent = []
        for n in (short, long):
            begun = time.perf_counter()
            settings = EMSettings(0.0, n, 1e-6, "none")
            fit_em(Rows(rows), stack([mixture]), settings)
            torch.cuda.synchronize()
            spent.append(time.perf_counter() - begun)
        found.append(1e3 * (spent[1] - spent[0]) / (long - short))
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description="EM on a GPU: E-steps and iterations.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peak", type=float, help="float32 TFLOP/s that the maker states")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.cuda.get_device_name()
    rates = {
        "float32": product_rate(torch.float32, options.rounds),
        "float64": product_rate(torch.float64, options.rounds),
    }
    print(f"{device}, torch {torch.__version__}; matrix products of order 8192, TFLOP/s:")
    print(", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()))
    print(f"{'structure':10} {'K':>5} {'D':>4} {'kernel':20} {'ms':>9} {'TFLOP/s':>8} {'share':>6}"
          f" {'Δ log p/row':>12} {'Δ S2':>8}")  # fmt: skip
    results, iterations = [], []
    for structure, k, d in CASES:
        small = k * d * (d if structure == "full" else 1) <= 1 << 16
        for one in e_steps(structure, k, d, options.rounds, reference=small):
            against = options.peak or rates["float32"]
            one["share_of_float32"] = one["tflops"] / against
            results.append(one)
            print(f"{structure:10} {k:5} {d:4} {one['kernel']:20} {one['ms']:9.3f} "
                  f"{one['tflops']:8.1f} {one['share_of_float32']:6.0%} "
                  f"{one['log_likelihood_error_per_row']:12.1e} "
                  f"{one['second_moment_error']:8.1e}", flush=True)  # fmt: skip
        whole = iteration_ms(structure, k, d, 3)
        iterations.append(
            {
                "structure": structure, "n_components": k, "n_features": d,
                "ms": statistics.median(whole), "ms_range": [min(whole), max(whole)],
            }
        )  # fmt: skip
        print(f"{'':21} whole iteration      {statistics.median(whole):9.3f}", flush=True)
        torch.cuda.empty_cache()
    if options.out:
        document = {
            "device": device, "torch": torch.__version__, "n_rows": N_ROWS,
            "stated_float32_tflops": options.peak, "product_tflops": rates,
            "e_steps": results, "iterations": iterations,
        }  # fmt: skip
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

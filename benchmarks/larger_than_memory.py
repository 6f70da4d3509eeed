"""A fit to Parquet files of 50 million rows: memory, rows a second, and what reading costs.

    python benchmarks/larger_than_memory.py [--rows 50_000_000] [--folder DIR] [--out FILE]

Writes D = 8 columns of float32 (1.6 GB) where they are not there yet, and fits K = 16 diagonal
components by ``mogul fit --memory 1GB`` in a process of its own, whose resident memory is read as
it ends. A pass of its iterations is compared with the same pass over a tenth of the rows in memory,
measured in turn; with no cache at all, every pass reads and decodes the files.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import mogul
from mogul.data import ParquetSource
from mogul.kernels import e_step, e_steps

K, D, GROUP = 16, 8, 1_000_000


def write(folder: Path, n_rows: int) -> None:
    """Ten files of row groups of a million rows."""
    if len(list(folder.glob("*.parquet"))) == 10:
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    centres, deviations = 2.5 * rng.normal(size=(K, D)), rng.uniform(0.5, 1.5, (K, D))
    schema = pa.schema([(f"x{j}", pa.float32()) for j in range(D)])
    for i in range(10):
        path = folder / f"part-{i}.parquet"
        options = {"compression": "none", "use_dictionary": False}
        with pq.ParquetWriter(path, schema, **options) as writer:
            left = n_rows // 10
            while left:
                n = min(GROUP, left)
                labels = rng.integers(K, size=n)
                noise = rng.standard_normal((n, D), dtype=np.float32)
                x = (centres[labels] + deviations[labels] * noise).astype(np.float32)
                columns = {f"x{j}": x[:, j] for j in range(D)}
                writer.write_table(pa.table(columns, schema=schema), row_group_size=GROUP)
                left -= n


def command(folder: Path, out: Path) -> tuple[float, float]:
    """Seconds of the whole command, and its resident memory at most, in MB."""
    program = [sys.executable, "-m", "mogul", "fit", str(folder), "-k", str(K), "-c", "diag"]
    began = time.perf_counter()
    ran = subprocess.run(
        [*program, "--memory", "1GB", "--out", str(out)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    spent = time.perf_counter() - began
    print("\n".join(ran.stdout.splitlines()[:9]))
    return spent, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def passes(folder: Path, model: Path, repeats: int, n_rows: int) -> dict[str, list[float]]:
    """Seconds of passes over all rows; those in memory are over a tenth of them, scaled up."""
    mixture = mogul.load(model).mixture_
    tenth = ParquetSource(folder / "part-0.parquet", cache="none")
    x = torch.from_numpy(np.concatenate([block.values for block in tenth.blocks()]))
    scale = n_rows / len(x)
    kept = ParquetSource(folder, cache="disk")
    for _ in kept.blocks():
        pass
    read = ParquetSource(folder, cache="none")
    ways: dict[str, tuple[Callable[[], object], float]] = {
        "in memory": (lambda: e_step(x, mixture), scale),
        "temporary file": (lambda: e_steps(kept, mixture), 1.0),
        "Parquet each time": (lambda: e_steps(read, mixture), 1.0),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    ways["in memory"][0]()
    for _ in range(repeats):
        for name, (run, factor) in ways.items():
            began = time.perf_counter()
            run()
            times[name].append(factor * (time.perf_counter() - began))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="A fit to files that memory does not hold.")
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--folder", type=Path, help="where the files are kept; else a new one")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "rows"
        write(folder, options.rows)
        model = Path(temporary) / "model.safetensors"
        spent, memory = command(folder, model)
        print(f"the command took {spent:.1f} s and at most {memory:.0f} MB of resident memory")
        times = passes(folder, model, options.repeats, options.rows)
    base = statistics.median(times["in memory"])
    for name, values in times.items():
        middle = statistics.median(values)
        rate = options.rows / middle / 1e6
        print(f"a pass, {name:18} {middle:6.2f} s ({min(values):.2f} to {max(values):.2f}), "
              f"{middle / base:.2f} times, {rate:.1f} million rows a second")  # fmt: skip
    if options.out:
        found = {
            "n_rows": options.rows, "n_threads": torch.get_num_threads(), "cores": os.cpu_count(),
            "command_seconds": spent, "resident_mb": memory, "pass_seconds": times,
        }  # fmt: skip
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

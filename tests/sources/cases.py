"""Tables in Parquet files of odd row groups, and programs that several processes run."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]


def clusters(n=6000, d=3, seed=0):
    """Rows of three clusters that overlap a little, and their weights."""
    rng = np.random.default_rng(seed)
    centres = 4 * np.eye(3, d) + rng.normal(size=(3, d))
    x = centres[rng.integers(0, 3, n)] + rng.normal(size=(n, d)) * rng.uniform(0.7, 1.4, d)
    return x, rng.uniform(0.2, 2, n)


def write_parts(folder, x, weight=None, groups=(1, 700, 1, 2000, 33)):
    """Files of row groups of odd sizes, one without rows; the order of the rows is kept."""
    folder.mkdir(exist_ok=True)
    columns = {f"x{j}": x[:, j] for j in range(x.shape[1])}
    if weight is not None:
        columns["weight"] = weight
    table, start, i = pa.table(columns), 0, 0
    pq.write_table(table[:0], folder / "empty.parquet")
    while start < len(x):
        size = groups[i % len(groups)]
        part = table[start : start + 3 * size]
        pq.write_table(part, folder / f"part-{i:04}.parquet", row_group_size=size)
        start, i = start + 3 * size, i + 1
    return folder


def start_together(program, n, *arguments):
    """``n`` processes of a group that run a Python program; not waited for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(n):
        place = {
            "RANK": str(rank), "WORLD_SIZE": str(n), "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", program, *map(str, arguments)],
                env={**os.environ, **place},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return running


def answers_together(program, n, out, *arguments):
    """What each of ``n`` processes, all of which must succeed, writes as JSON to ``out``-rank."""
    for code, said, error in run_together(program, n, *arguments):
        assert code == 0, said + error
    return [json.loads(out.with_name(f"{out.name}-{rank}.json").read_text()) for rank in range(n)]


def run_together(program, n, *arguments):
    """The exit codes, outputs and errors of ``n`` processes of a group."""
    ended = [(*one.communicate(timeout=240), one) for one in start_together(program, n, *arguments)]
    return [(one.returncode, out, error) for out, error, one in ended]

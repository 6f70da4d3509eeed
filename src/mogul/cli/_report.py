"""Printing a mixture: tables that rich draws on a terminal, plain text when piped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mogul.cli._arguments import feature_names

if TYPE_CHECKING:
    from pathlib import Path

    from mogul import Mixture
    from mogul.data import Table

__all__ = [
    "number",
    "print_facts",
    "print_mixture",
    "print_saved",
    "print_table",
    "print_table_facts",
]

_MOST_FEATURES = 12
"""Above so many, covariances fill screens and nobody reads them."""


def number(value: float) -> str:
    """Six significant digits, with the zeros at the end, so that columns line up."""
    return f"{value:#.6g}".rstrip(".")


def print_table_facts(data: Path, table: Table) -> None:
    """What was read."""
    weighted = "" if table.sample_weight is None else ", weighted"
    print(f"{data}: {len(table)} rows, {len(table.names)} columns{weighted}")


def print_saved(saved: Path | None) -> None:
    """Where the model went."""
    print("\nNot saved; add --out model.safetensors." if saved is None else f"\nSaved to {saved}")


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one pair a line."""
    pairs = [(name, number(v) if isinstance(v, float) else v) for name, v in facts]
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"{name:<{width}}  {value}")


def print_mixture(mixture: Mixture) -> None:
    """Weights, means and covariances."""
    features, parts = feature_names(mixture), mixture.numpy()
    if mixture.n_features > _MOST_FEATURES:
        rows = [[str(k), number(w)] for k, w in enumerate(parts["weights"])]
        print_table("Weights", ["component", "weight"], rows)
        print(f"\nMeans and covariances of {mixture.n_features} features: mogul show MODEL --json")
        return
    rows = [
        [str(k), number(weight), *map(number, mean)]
        for k, (weight, mean) in enumerate(zip(parts["weights"], parts["means"], strict=True))
    ]
    print_table("Weights and means", ["component", "weight", *features], rows)
    title, headers, cells = _COVARIANCES[mixture.covariance_type]
    rows = list(cells(parts["covariances"], features))
    print_table(title, [*headers, *(features if headers[-1] != "variance" else [])], rows)


def _full(covariances: Any, features: Sequence[str]) -> Iterator[list[str]]:
    for k, matrix in enumerate(covariances):
        for name, row in zip(features, matrix, strict=True):
            yield [str(k), name, *map(number, row)]


def _tied(covariance: Any, features: Sequence[str]) -> Iterator[list[str]]:
    for name, row in zip(features, covariance, strict=True):
        yield [name, *map(number, row)]


def _diag(variances: Any, features: Sequence[str]) -> Iterator[list[str]]:
    for k, row in enumerate(variances):
        yield [str(k), *map(number, row)]


def _spherical(variances: Any, features: Sequence[str]) -> Iterator[list[str]]:
    for k, variance in enumerate(variances):
        yield [str(k), number(variance)]


_COVARIANCES = {
    "full": ("Covariances", ["component", "feature"], _full),
    "tied": ("Covariance, the same for every component", ["feature"], _tied),
    "diag": ("Variances", ["component"], _diag),
    "spherical": ("Variance, the same for every feature", ["component", "variance"], _spherical),
}
"""How each structure is told: a title, the first headers, and the rows of cells."""


def print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A titled table, numbers to the right."""
    print()
    if sys.stdout.isatty():
        _print_rich(title, headers, rows)
        return
    print(title)
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in (headers, *rows):
        print("  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)))


def _print_rich(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for header in headers:
        table.add_column(escape(header), justify="right")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)

"""Rows and their weights: in memory, in files, and in batches of more than memory holds."""

from __future__ import annotations

from mogul.data.parquet import ParquetSource
from mogul.data.rows import Rows
from mogul.data.sources import ArraySource, LoaderSource, Source
from mogul.data.tables import (
    Table,
    check_table_destination,
    read_table,
    write_csv,
    write_table,
    write_table_parts,
)

__all__ = [
    "ArraySource",
    "LoaderSource",
    "ParquetSource",
    "Rows",
    "Source",
    "Table",
    "check_table_destination",
    "read_table",
    "write_csv",
    "write_table",
    "write_table_parts",
]

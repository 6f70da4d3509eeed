"""Rows and their weights, in memory and in files."""

from __future__ import annotations

from mogul.data.rows import Rows
from mogul.data.tables import Table, check_table_destination, read_table, write_csv, write_table

__all__ = ["Rows", "Table", "check_table_destination", "read_table", "write_csv", "write_table"]

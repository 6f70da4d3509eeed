"""Parquet files as sources: what is read, in which parts, and what is refused in one sentence."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pq
import pytest

from mogul.data import ParquetSource
from mogul.errors import (
    FileError,
    FileFormatError,
    InputError,
    InputTypeError,
    MissingFileError,
    UnknownNameError,
)


def write(path, columns, group=100):
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three files, one of them without rows and one with a single row, in two folders."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(551, 2))
    (tmp_path / "deep").mkdir()
    cuts = {"a.parquet": (0, 350), "b.pq": (350, 350), "deep/c.parquet": (350, 351)}
    cuts["deep/d.parquet"] = (351, 551)
    for name, (start, stop) in cuts.items():
        part = x[start:stop]
        write(tmp_path / name, {"u": part[:, 0], "name": ["n"] * len(part), "v": part[:, 1]})
    (tmp_path / "_metadata").write_text("not data")
    return tmp_path, x


def read(source):
    return np.concatenate([block.values for block in source.blocks()])


@pytest.mark.parametrize("cache", ["auto", "ram", "disk", "none"])
def test_all_rows_are_read_in_order_as_often_as_asked(folder, cache):
    path, x = folder
    source = ParquetSource(path, cache=cache, batch_rows=70)
    assert source.names == ("u", "v")
    assert source.n_rows == 551
    for _ in range(3):
        np.testing.assert_array_equal(read(source), x)
        assert max(len(values) for values, _ in source) <= 70


def test_a_pass_that_is_not_finished_leaves_the_cache_empty(folder):
    path, x = folder
    for cache in ("ram", "disk"):
        source = ParquetSource(path, cache=cache, batch_rows=50)
        for _ in source.blocks():
            break
        np.testing.assert_array_equal(read(source), x)
        np.testing.assert_array_equal(read(source), x)


def test_ways_to_name_files(folder):
    path, x = folder
    files = sorted(str(p) for p in path.rglob("*.p*q*"))
    assert len(files) == 4
    dataset = pa_dataset.dataset(files, format="parquet")
    for data in (path, str(path / "**" / "*.p*q*"), files, dataset):
        assert sorted(read(ParquetSource(data))[:, 0]) == sorted(x[:, 0])
    assert len(read(ParquetSource(path / "a.parquet"))) == 350


def test_columns_weights_and_types(tmp_path):
    file = write(
        tmp_path / "t.parquet",
        {
            "i": pa.array([1, 2, 3], pa.int32()),
            "f": pa.array([0.5, 1.5, 2.5], pa.float32()),
            "w": [1.0, 0.0, 2.0],
            "b": [True, False, True],
            "__index_level_0__": [7, 8, 9],
        },
    )
    source = ParquetSource(file, weight_column="w")
    assert source.names == ("i", "f")
    (values, weight), = source  # fmt: skip
    np.testing.assert_array_equal(values, [[1, 0.5], [3, 2.5]])  # without the row of no weight
    np.testing.assert_array_equal(weight, [1, 2])
    (block,) = source.blocks()
    np.testing.assert_array_equal(block.values, [[1, 0.5], [2, 1.5], [3, 2.5]])
    np.testing.assert_array_equal(block.weight, [1, 0, 2])
    assert read(ParquetSource(file, ["f"])).dtype == np.float32
    assert read(ParquetSource(file, ["f", "i"])).tolist() == [[0.5, 1], [1.5, 2], [2.5, 3]]


def test_filters(folder):
    path, x = folder
    expected = x[x[:, 0] > 0.5]
    for filters in ([("u", ">", 0.5)], pc.field("u") > 0.5):
        np.testing.assert_array_equal(read(ParquetSource(path, filters=filters)), expected)
    only = read(ParquetSource(path, ["v"], filters=[("u", ">", 0.5)]))
    np.testing.assert_array_equal(only, expected[:, 1:])


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_shards_divide_the_row_groups(folder, size):
    path, x = folder
    source = ParquetSource(path)
    shards = [source.shard(rank, size) for rank in range(size)]
    numbers = [group.number for shard in shards for group in shard.groups]
    assert sorted(numbers) == [group.number for group in source.groups]
    parts = [read(shard) for shard in shards if shard.n_rows]
    together = np.concatenate(parts)
    assert sorted(together[:, 0]) == sorted(x[:, 0])
    loads = [shard.n_rows for shard in shards]
    assert max(loads) - min(loads) <= 100  # a row group


def test_missing_values(tmp_path):
    file = write(
        tmp_path / "t.parquet",
        {"a": [1.0, None, 3.0, 4.0], "b": [1.0, 2.0, np.nan, 4.0], "w": [1.0, 1.0, 1.0, None]},
        group=2,
    )
    dropped = ParquetSource(file, ["a", "b"], null="drop")
    assert [block.values.tolist() for block in dropped.checked_blocks()] == [[[1, 1]], [[4, 4]]]
    weighted = ParquetSource(file, ["a"], weight_column="w", null="drop")
    assert read(weighted).tolist() == [[1], [3]]
    with pytest.raises(InputError, match=r"Row 1 .* row group 0 of .*t.parquet .*NaN.* 'a'"):
        list(ParquetSource(file).checked_blocks())
    with pytest.raises(InputError, match=r"Row 0 .* row group 1 of .*'b'"):
        list(ParquetSource(file, ["b"]).checked_blocks())
    weights = {"a": [1.0, 2.0, 3.0, 4.0], "w": [1.0, 1.0, 1.0, None]}
    bad = write(tmp_path / "w.parquet", weights, group=2)
    with pytest.raises(InputError, match=r"weight of row 1 .* row group 1 .* nan"):
        list(ParquetSource(bad, weight_column="w").checked_blocks())


def test_infinity_is_found_wherever_it_is(tmp_path):
    for n in (1, 63, 64, 130):
        for at in {0, n - 1}:
            values = np.zeros(n)
            values[at] = np.inf
            file = write(tmp_path / "t.parquet", {"a": values, "b": np.ones(n)}, group=1000)
            with pytest.raises(InputError, match=rf"Row {at} .*infinity in column 'a'"):
                list(ParquetSource(file).checked_blocks())


# --- what is refused ------------------------------------------------------------------------------


def test_what_is_not_there(tmp_path):
    with pytest.raises(MissingFileError, match="There is no file"):
        ParquetSource(tmp_path / "none.parquet")
    with pytest.raises(MissingFileError, match="No file matches"):
        ParquetSource(str(tmp_path / "*.parquet"))
    with pytest.raises(MissingFileError, match=r"holds no file that ends in \.parquet"):
        ParquetSource(tmp_path)
    with pytest.raises(InputError, match="list of files is empty"):
        ParquetSource([])


@pytest.mark.parametrize("cut", [0, 3, 100, -1])
def test_a_truncated_file(folder, cut):
    path, _ = folder
    file = path / "deep" / "c.parquet"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(FileFormatError, match=r"c.parquet cannot be read as Parquet"):
        ParquetSource(path)


def test_a_file_damaged_in_the_middle_of_its_data(tmp_path):
    rng = np.random.default_rng(0)
    file = write(tmp_path / "t.parquet", {"a": rng.normal(size=5000)}, group=1000)
    content = bytearray(file.read_bytes())
    content[4:9000] = os.urandom(8996)
    file.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"[Rr]ow group 0 of .*t.parquet cannot be read"):
        read(ParquetSource(file))


def test_files_with_different_columns(folder):
    path, _ = folder
    write(path / "e.parquet", {"u": [1.0], "w": [2.0]})
    with pytest.raises(UnknownNameError, match=r"e.parquet has no column 'v'"):
        ParquetSource(path)
    write(path / "e.parquet", {"u": [1.0], "v": ["text"]})
    with pytest.raises(InputError, match=r"'v' of .*e.parquet is not numeric"):
        ParquetSource(path)


def test_columns_that_cannot_be_used(folder):
    path, _ = folder
    with pytest.raises(InputError, match=r"'name' of .* is not numeric, its type is string"):
        ParquetSource(path, ["name"])
    with pytest.raises(UnknownNameError, match="no column 'x'; it has u, name, v"):
        ParquetSource(path, ["x"])
    with pytest.raises(InputError, match="asked for twice"):
        ParquetSource(path, ["u", "u"])
    with pytest.raises(InputError, match="has no numeric column"):
        ParquetSource(write(path.parent / "x.pq", {"name": ["n"]}))
    with pytest.raises(InputError, match="null is 'ignore'"):
        ParquetSource(path, null="ignore")
    with pytest.raises(InputError, match="cache is 'tape'"):
        ParquetSource(path, cache="tape")
    with pytest.raises(InputError, match="filters cannot be understood"):
        ParquetSource(path, filters=[("u", "~", 1)])
    with pytest.raises(InputTypeError, match="holds no files"):
        ParquetSource(pa_dataset.dataset(pa.table({"a": [1.0]})))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is closed to this user")
def test_an_unreadable_folder(folder):
    path, _ = folder
    (path / "deep").chmod(0)
    try:
        with pytest.raises(FileError, match=r"The folder .*deep cannot be read"):
            ParquetSource(path)
    finally:
        (path / "deep").chmod(0o755)


def test_a_folder_that_the_system_refuses(folder, monkeypatch):
    """As the test above, for a user to whom nothing is closed."""
    path, _ = folder

    def walk(folder, onerror):
        onerror(PermissionError(13, "Permission denied", folder))

    monkeypatch.setattr("mogul.data.parquet.os.walk", walk)
    with pytest.raises(FileError, match=r"The folder .* cannot be read: Permission denied"):
        ParquetSource(path)


def test_no_room_for_the_cache(folder, monkeypatch):
    path, _ = folder

    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

        def __init__(self, **_):
            pass

        def close(self):
            pass

    monkeypatch.setattr("mogul.data.sources.tempfile.TemporaryFile", Full)
    with pytest.raises(FileError, match=r"No space left on device.*TMPDIR"):
        read(ParquetSource(path, cache="disk"))

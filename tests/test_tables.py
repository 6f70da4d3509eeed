import datetime
import decimal
import gzip

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv as pa_csv
from pyarrow import feather, parquet

import mogul
from mogul.data import Table, read_table, write_csv, write_table
from mogul.errors import (
    FileError,
    FileFormatError,
    InputError,
    MissingFileError,
    MogulError,
    UnknownNameError,
)

ENDINGS = [".csv", ".tsv", ".csv.gz", ".parquet", ".pq", ".arrow", ".feather", ".ipc"]
BINARY = [".parquet", ".arrow"]


@pytest.fixture
def write(tmp_path):
    """Write text or bytes under a name and return the path."""

    def write(content, name="data.csv"):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


def refuse(kind, path, said=None, **arguments):
    with pytest.raises(kind, match=said) as error:
        read_table(path, **arguments)
    text = str(error.value)
    assert isinstance(error.value, MogulError)
    assert text.endswith(".")
    assert "\n" not in text
    return text


# --- round trip ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read_back_bit_equal(tmp_path, ending):
    generator = np.random.default_rng(0)
    columns = {
        "plain": generator.normal(size=50) * 10.0 ** generator.integers(-300, 300, 50),
        'odd, "name"\té': generator.normal(size=50),
        "whole": np.arange(50),
    }
    assert write_table(tmp_path / f"t{ending}", columns) == tmp_path / f"t{ending}"
    back = read_table(tmp_path / f"t{ending}")
    assert back.names == tuple(columns)
    assert back.values.dtype == np.float64
    for value, column in zip(back.values.T, columns.values(), strict=True):
        assert np.array_equal(value, column)
    assert [f.name for f in tmp_path.iterdir()] == [f"t{ending}"]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_csv_keeps_every_bit_of_a_double(tmp_path_factory, values):
    file = tmp_path_factory.mktemp("csv") / "t.csv"
    write_table(file, {"x": np.array(values)})
    assert np.array_equal(read_table(file).values[:, 0], values)


def test_csv_names_are_quoted_only_where_needed(tmp_path):
    with (tmp_path / "t.csv").open("wb") as sink:
        write_csv(sink, {"a": np.array([1.5]), "b,c": np.array([2])})
    assert (tmp_path / "t.csv").read_text() == 'a,"b,c"\n1.5,2\n'


def test_a_table_stands_for_its_values(write):
    table = read_table(write("a,b,c\n1,2,3\n4,5,6\n"))
    assert np.asarray(table).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert not np.shares_memory(np.array(table), table.values)
    assert (table.columns, table.shape, len(table)) == (["a", "b", "c"], (2, 3), 2)
    part = table[["c", "a"]]
    assert isinstance(part, Table)
    assert (part.names, part.values.tolist()) == (("c", "a"), [[3, 1], [6, 4]])
    with pytest.raises(UnknownNameError, match="no column 'd'"):
        table[["d"]]


def test_an_estimator_takes_a_table_with_its_names(tmp_path):
    generator = np.random.default_rng(0)
    write_table(tmp_path / "t.csv", {n: generator.normal(size=40) for n in ("height", "width")})
    model = mogul.GaussianMixture(1).fit(read_table(tmp_path / "t.csv"))
    assert list(model.feature_names_in_) == ["height", "width"]
    assert model.mixture_.feature_names == ("height", "width")


# --- which columns ------------------------------------------------------------------------------


def mixed_table():
    days = [datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)]
    return pa.table(
        {
            "whole": pa.array([1, 2], pa.int8()),
            "large": pa.array([2**60, 2**53 + 1], pa.uint64()),
            "single": pa.array([0.5, 0.25], pa.float32()),
            "price": pa.array([decimal.Decimal("1.25"), decimal.Decimal("2.50")]),
            "flag": pa.array([True, False]),
            "word": pa.array(["a", "b"]),
            "day": pa.array(days),
            "absent": pa.nulls(2),
            "__index_level_0__": pa.array([7, 8]),
        }
    )


@pytest.mark.parametrize("ending", BINARY)
def test_integers_floats_and_decimals_are_numeric(tmp_path, ending):
    file = tmp_path / f"t{ending}"
    writer = {".parquet": parquet.write_table, ".arrow": feather.write_feather}[ending]
    writer(mixed_table(), file)
    table = read_table(file)
    assert table.names == ("whole", "large", "single", "price")
    assert table.skipped == ("flag", "word", "day", "absent", "__index_level_0__")
    expected = [[1, 2.0**60, 0.5, 1.25], [2, 2.0**53, 0.25, 2.5]]
    assert table.values.tolist() == expected


def test_chosen_columns_come_in_the_order_asked_for(write):
    file = write("a,b,word,c\n1,2,x,3\n4,5,y,6\n")
    table = read_table(file, columns=["c", "a"])
    assert (table.names, table.skipped) == (("c", "a"), ())
    assert table.values.tolist() == [[3, 1], [6, 4]]


def test_the_weight_column_is_no_feature(write):
    table = read_table(write("a,w,b\n1,0,2\n3,2.5,4\n"), weight_column="w")
    assert table.names == ("a", "b")
    assert table.sample_weight.tolist() == [0, 2.5]


def test_row_numbers_that_pandas_wrote_are_no_feature(tmp_path):
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"a": [1.5, 2.5]}).to_csv(tmp_path / "t.csv")
    table = read_table(tmp_path / "t.csv")
    assert (table.names, table.skipped) == (("a",), ("",))


def test_float32_stays_float32_only_when_every_column_is(tmp_path):
    columns = {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32), "w": np.ones(2)}
    write_table(tmp_path / "t.parquet", columns)
    assert read_table(tmp_path / "t.parquet", weight_column="w").values.dtype == np.float32
    assert read_table(tmp_path / "t.parquet").values.dtype == np.float64


def test_a_number_with_a_point_far_down_a_csv_is_read(write):
    rows = ["1"] * 700_000 + ["2.5"]  # pyarrow guesses whole numbers from its first megabyte
    for name, content in (("t.csv", "x\n" + "\n".join(rows)), ("t.csv.gz", "x\n2\n")):
        packed = gzip.compress(content.encode()) if name.endswith("gz") else content
        table = read_table(write(packed, name))
        assert table.values[-1, 0] == (2.5 if name == "t.csv" else 2)


def test_windows_files_are_read(write):
    assert read_table(write(b"\xef\xbb\xbfa,b\r\n1,2\r\n")).names == ("a", "b")


def test_an_arrow_stream_is_read(tmp_path):
    table = pa.table({"a": [1.0, 2.0]})
    with pa.ipc.new_stream(str(tmp_path / "t.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert read_table(tmp_path / "t.arrow").values.tolist() == [[1], [2]]


def test_folders_named_like_partitions_add_no_column(tmp_path):
    (tmp_path / "year=2020").mkdir()
    file = write_table(tmp_path / "year=2020" / "t.parquet", {"a": np.ones(2)})
    assert read_table(file).names == ("a",)


# --- files that cannot be used ------------------------------------------------------------------


def test_missing_files_folders_and_unknown_endings(tmp_path, write):
    refuse(MissingFileError, tmp_path / "no.csv", "There is no file")
    refuse(FileError, tmp_path, "is a folder")
    said = refuse(FileFormatError, write("a\n1\n", "data.xlsx"), "no ending")
    assert ".parquet" in said
    with pytest.raises(FileFormatError, match="no ending"):
        write_table(tmp_path / "out.xlsx", {"a": np.ones(1)})
    with pytest.raises(FileError, match="there is no folder"):
        write_table(tmp_path / "absent" / "out.csv", {"a": np.ones(1)})


@pytest.mark.parametrize("ending", [".csv.gz", *BINARY, ".feather"])
def test_binary_files_of_another_format_or_cut_short(tmp_path, write, ending):
    refuse(FileFormatError, write("hello, this is text\n1\n", f"text{ending}"), "cannot be read")
    whole = write_table(tmp_path / f"whole{ending}", {"a": np.random.default_rng(0).random(5000)})
    half = write(whole.read_bytes()[: whole.stat().st_size // 2], f"half{ending}")
    refuse(FileFormatError, half, "cannot be read")


def test_ragged_and_binary_csv(write):
    refuse(FileFormatError, write("a,b\n1,2\n1,2,3\n"), "Expected 2 columns, got 3")
    long = write("a,b\n" + "1," * 5000 + "\n")
    assert len(refuse(FileFormatError, long)) < 500
    refuse(FileFormatError, write(b"\xff\xfe\x00,b\n1,2\n"), "cannot be read")
    refuse(InputError, write(b"a\n\xff\xfe\n"), "no numeric column")


def test_a_csv_without_a_header_is_refused_before_it_loses_a_row(write):
    refuse(FileFormatError, write("3.6,79\n1.8,54\n"), "first row of .* is numbers")
    assert read_table(write("2019,2020\n1,2\n")).names == ("2019", "2020")


@pytest.mark.parametrize("content", ["", "a,b\n"])
def test_empty_tables(write, content):
    refuse(InputError, write(content), "at least one")


def test_an_empty_parquet_table(tmp_path):
    refuse(InputError, write_table(tmp_path / "t.parquet", {"a": np.ones(0)}), "no row of data")


def test_no_numeric_column(write):
    assert "'name'" in refuse(InputError, write("name,on\nx,true\n"), "no numeric column")
    refuse(InputError, write("w\n1\n"), "no numeric column", weight_column="w")
    refuse(InputError, write("a\n1\n"), "no numeric column", columns=[])


def test_unknown_columns_are_answered_with_those_there_are(write):
    file = write("a,b\n1,2\n")
    said = refuse(UnknownNameError, file, "has no column 'c'", columns=["a", "c"])
    assert "'a', 'b'" in said
    refuse(UnknownNameError, file, "has no column 'w'", weight_column="w")


def test_columns_that_are_not_numeric_or_named_twice(write):
    file = write("a,word,flag\n1,x,true\n2,y,false\n")
    refuse(InputError, file, "'word' .* is not numeric, its type is string", columns=["word"])
    refuse(InputError, file, "'flag' .* is not numeric", columns=["a", "flag"])
    refuse(InputError, file, "'word' .* is not numeric", weight_column="word")
    refuse(InputError, file, "asked for twice", columns=["a", "a"])
    refuse(InputError, file, "asked for twice", columns=["a"], weight_column="a")
    refuse(InputError, write("a,a\n1,2\n"), "2 columns named 'a'")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", r"a missing value \(NaN\) in row 2, column 'b'"),
        ("NaN", r"a missing value \(NaN\) in row 2, column 'b'"),
        ("inf", "infinity in row 2, column 'b'"),
        ("-inf", "infinity in row 2, column 'b'"),
    ],
)
def test_values_that_are_not_finite_are_located(write, value, said):
    file = write(f"a,b\n1,2\n3,{value}\n4,{value}\n")
    refuse(InputError, file, said)
    refuse(InputError, file, "the first of 2 such rows")
    assert read_table(file, columns=["a"]).shape == (3, 1)


@pytest.mark.parametrize("ending", BINARY)
def test_nulls_and_nans_in_binary_files_are_located(tmp_path, ending):
    writer = {".parquet": parquet.write_table, ".arrow": feather.write_feather}[ending]
    for bad in (None, float("nan")):
        writer(pa.table({"a": [1, 2, 3], "b": [1.0, 2.0, bad]}), tmp_path / f"t{ending}")
        refuse(InputError, tmp_path / f"t{ending}", "in row 3, column 'b'")
    writer(pa.table({"a": [1, None]}), tmp_path / f"t{ending}")
    refuse(InputError, tmp_path / f"t{ending}", "in row 2, column 'a'")


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("1,-2,1", "weight in row 2, column 'w' .* is -2"),
        ("1,1,inf", "weight in row 3, column 'w' .* is inf"),
        (",1,1", "weight in row 1, column 'w' .* is missing"),
        ("0,0,0", "Every weight in column 'w' .* is zero"),
    ],
)
def test_weights_that_cannot_be_used_are_located(write, weights, said):
    lines = "\n".join(f"{i},{w}" for i, w in enumerate(weights.split(",")))
    refuse(InputError, write(f"a,w\n{lines}\n"), said, weight_column="w")


def test_columns_of_different_lengths_are_not_written(tmp_path):
    for columns in ({"a": np.ones(2), "b": np.ones(3)}, {"a": np.ones((2, 2))}):
        with pytest.raises(InputError, match="equally long"):
            write_table(tmp_path / "t.csv", columns)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_keeps_the_old_table(tmp_path, monkeypatch):
    file = write_table(tmp_path / "t.csv", {"a": np.ones(2)})
    before = file.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa_csv, "write_csv", fail)
    with pytest.raises(FileError, match="No space left on device"):
        write_table(file, {"a": np.zeros(9)})
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]

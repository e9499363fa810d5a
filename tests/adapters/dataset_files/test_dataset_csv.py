"""What a CSV file holds is told by its text alone, and told the same to the profile and to training."""

from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from adapters.dataset_files import DatasetTooLarge, Limits, UnreadableDataset, csv_records, profile, read_table
from schemas.dataset_profile import DatasetProfile


def profiled(folder: Path, data: str | bytes, name: str = "upload.csv", limits: Limits | None = None) -> DatasetProfile:
    path = folder / "file"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return profile(path, name, limits or Limits())


def read(folder: Path, data: str | bytes) -> pl.DataFrame:
    path = folder / "file"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_table(path, "csv")


class TestTypes:
    @pytest.mark.parametrize(
        ("cells", "type", "values"),
        [
            (["1", "-2", "+3"], "integer", [1, -2, 3]),
            (["1", "NA", "NaN", "null", "3"], "integer", [1, None, None, None, 3]),
            ([" 1", "2 "], "integer", [1, 2]),
            (["1", "2.5", "1e3", ".5"], "number", [1.0, 2.5, 1000.0, 0.5]),
            (["1.5", "nan", "inf", "-Infinity", "1e999"], "number", [1.5, None, None, None, None]),
            (["1", "inf"], "number", [1.0, None]),
            (["9223372036854775807", "-9223372036854775808"], "integer", [2**63 - 1, -(2**63)]),
            (["9223372036854775808"], "number", [2.0**63]),
            (["007", "010"], "text", ["007", "010"]),
            (["0", "-0", "0.5"], "number", [0.0, -0.0, 0.5]),
            (["true", "False", "TRUE", ""], "boolean", [True, False, True, None]),
            (["true", "1"], "text", ["true", "1"]),
            (["2024-02-29", "NA"], "datetime", [datetime(2024, 2, 29), None]),
            (["2024-02-29 10:30", "2024-02-29T10:30:05.25"], "datetime",
             [datetime(2024, 2, 29, 10, 30), datetime(2024, 2, 29, 10, 30, 5, 250_000)]),
            (["2024-01-01T00:00:00+03:30", "2024-01-01T00:00Z"], "datetime",
             [datetime(2023, 12, 31, 20, 30), datetime(2024, 1, 1)]),
            (["2024-02-30"], "text", ["2024-02-30"]),
            (["12:30"], "text", ["12:30"]),
            (["سیب", "", " انار "], "text", ["سیب", None, " انار "]),
            (["NA", "", "None"], "text", [None, None, None]),
            (["x", "inf", "1"], "text", ["x", "inf", "1"]),
            (["۱۲"], "text", ["۱۲"]),
        ],
    )  # fmt: skip
    def test_a_column_has_the_type_that_all_its_values_have(
        self, tmp_path: Path, cells: list[str], type: str, values: list[object]
    ) -> None:
        text = "id,v\n" + "".join(f"1,{cell}\n" for cell in cells)
        (_, column) = profiled(tmp_path, text).columns
        assert (column.type, column.missing) == (type, values.count(None))
        assert read(tmp_path, text)["v"].to_list() == values

    def test_a_later_block_may_change_the_type(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(csv_records, "BLOCK", 16)
        monkeypatch.setattr(csv_records, "_BLOCK_PER_COLUMN", 1)
        rows = [("1", "1", "1"), ("2", "2", "2"), ("3", "2.5", "3"), ("NA", "4", "چهار"), ("5", "true", "5")] * 3
        text = "a,b,c\n" + "".join(",".join(row) + "\n" for row in rows)
        types = [column.type for column in profiled(tmp_path, text).columns]
        assert types == ["integer", "text", "text"]
        assert read(tmp_path, text).rows()[:2] == [(1, "1", "1"), (2, "2", "2")]


class TestCounts:
    def test_a_profile_says_what_was_counted(self, tmp_path: Path) -> None:
        result = profiled(tmp_path, "نام,n\nب,1\nالف,2\nالف,\n,4\n")
        name, n = result.columns
        assert (result.format, result.rows, result.bytes) == ("csv", 4, len("نام,n\nب,1\nالف,2\nالف,\n,4\n".encode()))
        assert (name.name, name.type, name.missing, name.distinct, name.values) == ("نام", "text", 1, 2, ("الف", "ب"))
        assert (n.minimum, n.maximum, n.mean, n.distinct, n.missing) == (1.0, 4.0, 7 / 3, 3, 1)
        assert result.preview == (("ب", 1), ("الف", 2), ("الف", None), (None, 4))
        assert result.column("n") is n

    def test_times_count_in_seconds(self, tmp_path: Path) -> None:
        (column,) = profiled(tmp_path, "t\n1970-01-01\n1970-01-02\n").columns
        assert (column.minimum, column.maximum, column.values) == (
            0.0,
            86400.0,
            ("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z"),
        )

    def test_long_texts_are_cut_in_the_preview_and_are_no_labels(self, tmp_path: Path) -> None:
        result = profiled(tmp_path, f"a,b\n{'x' * 5000},short\n")
        assert result.preview == (("x" * 200 + "…", "short"),)
        assert [column.values for column in result.columns] == [(), ("short",)]

    def test_a_wide_table_has_a_short_preview(self, tmp_path: Path) -> None:
        header = ",".join(f"c{number}" for number in range(2000))
        result = profiled(tmp_path, header + "\n" + (",".join(["1"] * 2000) + "\n") * 20)
        assert (len(result.columns), result.rows, len(result.preview)) == (2000, 20, 10)


class TestText:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_encoding_delimiter_and_line_end_are_found(
        self, tmp_path: Path, encoding: str, delimiter: str, end: str
    ) -> None:
        text = end.join(["شهر,n", '"یزد, ""قدیم""",1', '"دو\nخط",2']).replace(",", delimiter) + end
        table = read(tmp_path, text.encode(encoding))
        assert table.columns == ["شهر", "n"]
        assert table.rows() == [(f'یزد{delimiter} "قدیم"', 1), ("دو\nخط", 2)]

    def test_gzip_is_unpacked(self, tmp_path: Path) -> None:
        result = profiled(tmp_path, gzip.compress(b"a,b\n1,2\n", mtime=0), "x.csv.gz")
        assert (result.format, result.rows) == ("csv", 1)

    @pytest.mark.parametrize("text", ["a\n1\n2\n", "a\n1\n\n2\n\n", "a\r\n1\r\n\r\n2", "\na\n1\n2", "a\n1\n2\n\r\n\n"])
    def test_one_column_and_blank_lines_are_fine(self, tmp_path: Path, text: str) -> None:
        assert read(tmp_path, text)["a"].to_list() == [1, 2]

    def test_an_empty_value_in_quotes_is_a_row(self, tmp_path: Path) -> None:
        assert read(tmp_path, 'a\n""\nx\n')["a"].to_list() == [None, "x"]

    def test_a_quote_inside_a_bare_field_is_a_character(self, tmp_path: Path) -> None:
        assert read(tmp_path, 'size,n\n5" pipe,1\n"a ""b""",2\n')["size"].to_list() == ['5" pipe', 'a "b"']

    def test_sentences_with_commas_are_one_column_when_the_header_is_one(self, tmp_path: Path) -> None:
        assert read(tmp_path, "text\nhello, world\nbye\n").rows() == [("hello, world",), ("bye",)]

    @pytest.mark.parametrize("block", [7, 16, 64])
    def test_blocks_end_between_rows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
        text = "a,b\n" + "".join(f'{number},"x\n{number}"\n' for number in range(50))
        monkeypatch.setattr(csv_records, "BLOCK", block)
        monkeypatch.setattr(csv_records, "_BLOCK_PER_COLUMN", 1)
        assert read(tmp_path, text).rows() == [(number, f"x\n{number}") for number in range(50)]


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "code", "row", "byte"),
        [
            (b"", "empty", None, None),
            (b"\n \n", "empty", None, None),
            (b"\xef\xbb\xbf", "empty", None, None),
            (b"a,b\n", "no_rows", None, None),
            (b"a,b", "no_rows", None, None),
            (b"a,b\n\n\n", "no_rows", None, None),
            (b"a,,c\n1,2,3\n", "empty_header", 1, None),
            (b"a, a\n1,2\n", "duplicate_header", 1, None),
            (b"a" * 300 + b"\n1\n", "bad_header", 1, None),
            (b"a,b\n1,2\n1\n", "ragged_row", 3, None),
            (b"a,b\n1,2\n1,2,3\n", "ragged_row", 3, None),
            (b'a,b\n"x\ny",2\n1,2\n1,2,3\n', "ragged_row", 4, None),
            (b"a,b\n1,2\n\n1,2,3\n", "ragged_row", 4, None),
            (b'a,b\n5" x,2\n1,2,3\n', "ragged_row", 3, None),
            (b"a,b\n1,\xff\n", "bad_encoding", None, 6),
            (b"a,b\n1,\xd8", "bad_encoding", None, 6),
            ("نام\nسلام\n".encode("cp1256"), "bad_encoding", None, 0),
            (b"\xff\xfea\0\n\0\x00\xd8", "bad_encoding", None, 6),
            (b"a,b\n1,\0\n", "nul_byte", None, 6),
            ("a\n\0\n".encode("utf-16"), "nul_byte", None, 2),
            (b'a,b\n1,"x\n2,3\n', "unclosed_quote", 2, None),
            (b'a,b\n1,2\n1,"x"y\n', "bad_quotes", 3, None),
            (b"a,b\n1," + b"x" * 101 + b"\n", "field_too_long", 2, None),
            (b'a,b\n1,5" ' + b"x" * 101 + b"\n", "field_too_long", 2, None),
            (b"a,b,c,d,e,f\n1,2,3,4,5,6\n", "too_many_columns", None, None),
            (b"\x1f\x8b\x08\0\0\0\0\0", "unreadable", None, None),
            (gzip.compress(b"a,b\n1,2\n", mtime=0)[:-6], "unreadable", None, None),
            (gzip.compress(b"a,b\n1,\0\n", mtime=0), "nul_byte", None, 6),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_said_with_its_place(
        self, tmp_path: Path, data: bytes, code: str, row: int | None, byte: int | None
    ) -> None:
        with pytest.raises(UnreadableDataset) as raised:
            profiled(tmp_path, data, limits=Limits(field_bytes=100, columns=5))
        assert (raised.value.code, raised.value.row, raised.value.byte) == (code, row, byte)

    @pytest.mark.parametrize("offset", [0, 1, 2, 3, 1000])
    def test_a_bad_byte_is_found_where_pieces_meet(self, tmp_path: Path, offset: int) -> None:
        good = b"a\n" + "ی".encode() * ((1024 * 1024 - 4) // 2) + b"x" * offset
        with pytest.raises(UnreadableDataset) as raised:
            profiled(tmp_path, good + b"\xd8" + b"\n")
        assert raised.value.byte == len(good)

    def test_a_file_beyond_the_limit_is_too_large(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetTooLarge):
            profiled(tmp_path, b"a\n1\n2\n", limits=Limits(file_bytes=5))

    @pytest.mark.parametrize("limits", [Limits(), Limits(unpacked_bytes=1000)])
    def test_a_gzip_bomb_is_too_large(self, tmp_path: Path, limits: Limits) -> None:
        with pytest.raises(DatasetTooLarge):
            profiled(tmp_path, gzip.compress(b"a\n" + b"0" * 3_000_000 + b"\n", mtime=0), limits=limits)

    def test_a_table_beyond_memory_is_too_large(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetTooLarge):
            profiled(tmp_path, "a\n" + "x\n" * 100, limits=Limits(table_bytes=1000))

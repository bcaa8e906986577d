import csv
import gzip
import io

import pytest

from n1n_prefect.batch import text_rows
from n1n_prefect.batch.items import BadRow
from n1n_prefect.batch.text_rows import RawRow, csv_rows, json_rows, read_json
from n1n_prefect.errors import InvalidRequestError


def table(text: "str | bytes", delimiter: str = ","):
    data = text.encode() if isinstance(text, str) else text
    names, rows = csv_rows(io.BytesIO(data), "m.csv", delimiter)
    return names, list(rows)


def lines(text: "str | bytes"):
    return list(json_rows(io.BytesIO(text.encode() if isinstance(text, str) else text), "m.jsonl"))


class TestCsv:
    def test_rows_with_their_lines(self):
        names, rows = table("id,prompt\na,A fox\nb,An owl\n")
        assert names == ("id", "prompt")
        assert rows == [RawRow(2, {"id": "a", "prompt": "A fox"}), RawRow(3, {"id": "b", "prompt": "An owl"})]

    def test_a_quoted_line_end_moves_the_lines_below(self):
        _, rows = table('id,prompt\na,"A fox\nin ""snow"", at night"\nb,An owl\n')
        assert [(row.line, row.values["prompt"]) for row in rows] == [
            (2, 'A fox\nin "snow", at night'),
            (4, "An owl"),
        ]

    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    @pytest.mark.parametrize("last", [True, False])
    def test_either_line_end_and_none_at_the_last(self, end, last):
        _, rows = table(end.join(["id,prompt", "a,A fox"]) + (end if last else ""))
        assert rows == [RawRow(2, {"id": "a", "prompt": "A fox"})]

    def test_blank_lines_are_no_rows_and_count(self):
        names, rows = table("\n\nid,prompt\n\na,A fox\n\n")
        assert names == ("id", "prompt")
        assert [row.line for row in rows] == [5]

    def test_a_byte_order_mark_is_no_part_of_a_name(self):
        assert table("\ufeffid,prompt\na,Füchse\n") == (("id", "prompt"), [RawRow(2, {"id": "a", "prompt": "Füchse"})])

    def test_spaces_around_names_are_none_of_them(self):
        assert table("id, prompt \n")[0] == ("id", "prompt")

    def test_tabs(self):
        names, rows = table("id\tprompt\na\tA fox, red\n", "\t")
        assert (names, rows[0].values) == (("id", "prompt"), {"id": "a", "prompt": "A fox, red"})

    def test_a_row_of_another_length_is_bad_and_the_others_are_not(self):
        _, rows = table("id,prompt\na,A fox, red\nb\nc,An owl\n")
        assert rows == [
            BadRow(2, "a", "Its cells are 3 for 2 columns; put a cell that holds a comma in quotes."),
            BadRow(3, "b", "Its cells are 1 for 2 columns; separate all, empty ones too."),
            RawRow(4, {"id": "c", "prompt": "An owl"}),
        ]

    def test_a_long_cell_is_taken_whatever_the_module_s_own_limit(self):
        csv.field_size_limit(131_072)
        assert len(table("prompt\n" + "x" * 900_000)[1][0].values["prompt"]) == 900_000

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "m.csv is empty"),
            ("\n\r\n\n", "m.csv is empty"),
            ("id;prompt\na;A fox\n", "separated by ';'"),
            ("id\tprompt\na\tA fox\n", r"separated by '\\t'"),
            ('id,prompt\na,A fox\nb,"An owl\n', r"line 3: a quote is opened and never closed"),
            ('id,prompt\nb,"An" owl\n', r"line 2: it cannot be taken apart .* write each quote inside twice"),
            ('id,prompt\nb,"' + "x\n" * 600_000, r"line 2: a cell has more than 1,000,000 characters; .* never closed"),
            ("id,prompt\ra,A fox\r", r"line 1: it holds a bare carriage return"),
            (b"id,prompt\na,F\xfcchse\n", r"line 2 is not UTF-8 \(byte 0xfc at place 4\); save it as UTF-8"),
            (b"id,prompt\na,A\0fox\n", "line 2 holds a NUL byte"),
            ("id,prompt\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
            (b"PK\x03\x04 and so on", "an Excel workbook"),
            (gzip.compress(b"id,prompt\n"), r"packed with gzip; add \.gz"),
            (b"PAR1 and so on", r"a Parquet file; call it \.parquet"),
        ],
    )
    def test_what_cannot_be_taken_apart_is_named_with_its_line(self, text, said):
        with pytest.raises(InvalidRequestError, match=said):
            table(text)

    def test_rows_before_a_fault_are_had(self):
        _, rows = csv_rows(io.BytesIO(b"id,prompt\na,A fox\nb,\xff\n"), "m.csv", ",")
        assert next(rows).line == 2
        with pytest.raises(InvalidRequestError, match="line 3 is not UTF-8"):
            next(rows)


class TestJsonLines:
    def test_objects_and_texts(self):
        assert lines('{"id": 5, "prompt": "A fox", "images": ["a.png"]}\n\n"An owl"\n') == [
            RawRow(1, {"id": 5, "prompt": "A fox", "images": ["a.png"]}),
            RawRow(3, {"prompt": "An owl"}),
        ]

    def test_a_byte_order_mark(self):
        assert lines('\ufeff"An owl"') == [RawRow(1, {"prompt": "An owl"})]

    def test_a_line_that_is_none_is_bad_and_the_next_is_read(self):
        bad, good = lines('{"prompt": "A fox"\n"An owl"\n')
        assert (bad.line, bad.id) == (1, "")
        assert bad.reason.startswith("It is no JSON: Expecting ',' delimiter at column")
        assert good == RawRow(2, {"prompt": "An owl"})

    @pytest.mark.parametrize("text", ["5", "[1]", "null", "true"])
    def test_neither_object_nor_text(self, text):
        assert lines(text)[0].reason == f"A line is an object or a text in quotes, not {text!r}."

    def test_no_line_is_no_row(self):
        assert lines("\n \n") == []

    def test_not_utf_8(self):
        with pytest.raises(InvalidRequestError, match=r"m\.jsonl, line 2 is not UTF-8"):
            lines(b'"a"\n"\xff"\n')


class TestReadJson:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('{"a": 1, "a": 2}', "'a' more than once"),
            ('{"b": {"a": 1, "a": 2}}', "'a' more than once"),
            ("[NaN]", "holds NaN"),
            ("[-Infinity]", "holds -Infinity"),
            (r'"\ud83d"', "half of a surrogate pair"),
            ("[" * 100_000, "nested too deeply"),
            ("1" * 5000, "no JSON that can be read"),
            ("{'a': 1}", "no JSON: .* at column 2"),
        ],
    )
    def test_what_others_would_not_read(self, text, said):
        with pytest.raises(InvalidRequestError, match=said):
            read_json(text)

    def test_a_whole_pair_is_a_character(self):
        assert read_json(r'"\ud83e\udd8a"') == "🦊"


class TestLimits:
    def test_a_line_without_an_end_is_refused_at_its_limit(self):
        class Endless(io.RawIOBase):
            given = 0

            def readable(self):
                return True

            def readinto(self, buffer):
                buffer[:] = b"x" * len(buffer)
                self.given += len(buffer)
                return len(buffer)

        endless = Endless()
        with pytest.raises(
            InvalidRequestError, match=r"m\.jsonl, line 1 has more than 8,388,608 bytes; write each row"
        ):
            list(json_rows(io.BufferedReader(endless), "m.jsonl"))
        assert endless.given < 9 * 1024**2

    def test_a_text_that_is_far_longer_unpacked_is_refused(self, monkeypatch):
        monkeypatch.setattr(text_rows, "MAX_TEXT_BYTES", 100)
        with pytest.raises(InvalidRequestError, match="more than 100 bytes unpacked; split it"):
            lines("\n" * 101)

    @pytest.mark.parametrize("cut", [-5, 30])
    def test_gzip_that_breaks_off(self, cut):
        packed = gzip.compress(b'"An owl"\n' * 1000)[:cut]
        with pytest.raises(InvalidRequestError, match="gzip that breaks off or is damaged"):
            list(json_rows(gzip.GzipFile(fileobj=io.BytesIO(packed)), "m.jsonl.gz"))

    def test_what_is_called_gzip_and_is_none(self):
        with pytest.raises(InvalidRequestError, match="gzip that breaks off or is damaged"):
            list(json_rows(gzip.GzipFile(fileobj=io.BytesIO(b'"An owl"\n')), "m.jsonl.gz"))

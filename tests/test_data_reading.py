"""Damaged and hostile files: each has its own reason, nothing is silently dropped."""

import gzip
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.core.errors import DataError, MissingInput
from repro.data.reading import find_file, read_bytes, read_csv, read_rows, unpack
from repro.data.schema import LONGEST_TEXT, Malformed, Pair, Reason, Unusable, clean_text, prompt_id


def written(folder, name, content):
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def lines(*rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_rows_carry_their_line_numbers(tmp_path):
    path = written(tmp_path, "a.jsonl", b'{"a": 1}\n\n{"a": 3}')
    malformed = Malformed()
    assert read_rows(path, malformed) == [(1, {"a": 1}), (3, {"a": 3})]
    assert malformed.records == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1', Reason.CUT_JSON),
        (b'{"a": "tex', Reason.CUT_JSON),
        (b'{"a": ', Reason.CUT_JSON),
        (b"{'a': 1}", Reason.BAD_JSON),
        (b'{"a": 1} {"a": 2}', Reason.BAD_JSON),
        (b'{"a": "\xff"}', Reason.NOT_UTF8),
        (b"[" * 100_000, Reason.BAD_JSON),
        (b"1" * 10_000, Reason.BAD_JSON),
    ],
)
def test_each_bad_line_has_its_reason_and_number(tmp_path, line, reason):
    path, malformed = written(tmp_path, "a.jsonl", b'{"a": 0}\n' + line + b'\n{"a": 2}\n'), Malformed()
    assert [number for number, _ in read_rows(path, malformed)] == [1, 3]
    assert [(each.row, each.reason) for each in malformed.records] == [(2, reason)]


def test_unicode_line_separators_do_not_split_a_row(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"a": "x\u2028y\x85z"}\n'.encode())
    assert read_rows(path, Malformed()) == [(1, {"a": "x\u2028y\x85z"})]


def test_a_byte_order_mark_is_ignored(tmp_path):
    path = written(tmp_path, "a.jsonl", b"\xef\xbb\xbf" + lines({"a": 1}))
    assert read_rows(path, Malformed()) == [(1, {"a": 1})]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_gz_keeps_the_whole_lines_and_says_where_it_ends(tmp_path, share):
    content = lines(*({"a": number, "text": f"{number * 7919 % 1013:x}" * 9} for number in range(4000)))
    packed = gzip.compress(content)
    path, malformed = tmp_path / "a.jsonl.gz", Malformed()
    path.write_bytes(packed[: int(len(packed) * share)])
    rows = read_rows(path, malformed)
    assert 0 < len(rows) < 4000
    assert rows == [(number + 1, json.loads(line)) for number, line in enumerate(content.split(b"\n")[: len(rows)])]
    assert [(each.row, each.reason) for each in malformed.records] == [(len(rows) + 1, Reason.CUT_GZIP)]


def test_a_cut_json_array_is_an_error(tmp_path):
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json.dumps([{"a": n} for n in range(9000)]).encode())[:-2000])
    with pytest.raises(DataError, match="a.json.gz.*cut short"):
        read_rows(path, Malformed())


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n \n", "is empty"),
        ("a.jsonl.gz", b"", "is empty"),
        ("a.jsonl", b"not json\n", "no line can be read"),
        ("a.json", b'{"a": 1}', "not a JSON array"),
        ("a.json", b"[]", "not a JSON array"),
        ("a.json", b'[{"a": 1}', "not JSON"),
        ("a.json", b'[{"a": "\xff"}]', "not JSON in UTF-8"),
        ("a.json", b"[" * 100_000, "not JSON"),
    ],
)
def test_a_useless_file_is_an_error_that_names_file_and_fix(tmp_path, name, content, what):
    path = written(tmp_path, name, content)
    with pytest.raises(DataError, match=what) as caught:
        read_rows(path, Malformed())
    assert str(path) in str(caught.value) and "repro data fetch" in str(caught.value)


def test_a_gz_that_is_none_or_is_damaged_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match="damaged gz"):
        read_rows(path, Malformed())
    packed = bytearray(gzip.compress(lines({"a": 1}, {"a": 2})))
    packed[-6] ^= 1  # the checksum
    path.write_bytes(packed)
    with pytest.raises(DataError, match="damaged gz"):
        read_rows(path, Malformed())


def test_a_missing_file_and_a_folder_in_its_place(tmp_path):
    with pytest.raises(MissingInput, match="not there"):
        read_bytes(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_bytes(tmp_path)


def test_a_gzip_bomb_stops_at_the_limit(tmp_path):
    bomb = written(tmp_path, "bomb.jsonl.gz", b" " * 20_000_000)
    assert bomb.stat().st_size < 20_000
    with pytest.raises(DataError, match="unpacks to more than 1000000 bytes"):
        read_rows(bomb, Malformed(), limit=1_000_000)
    with pytest.raises(DataError, match="is larger than 10 bytes"):
        read_rows(written(tmp_path, "a.jsonl", lines({"a": "long enough"})), Malformed(), limit=10)


def test_a_gzip_bomb_is_never_unpacked_in_memory():
    """100 MB of blanks against a limit of 1 MB: the peak stays near the limit, not near the content."""
    bomb = gzip.compress(b" " * 100_000_000)
    tracemalloc.start()
    with pytest.raises(ValueError, match="unpacks to more"):
        unpack(bomb, limit=1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_the_limit_itself_is_allowed_and_members_are_joined():
    assert unpack(gzip.compress(b"x" * 100), limit=100) == (b"x" * 100, True)
    with pytest.raises(ValueError, match="more than 99"):
        unpack(gzip.compress(b"x" * 100), limit=99)
    two = gzip.compress(b"one") + gzip.compress(b"two")
    assert unpack(two) == (b"onetwo", True)
    with pytest.raises(ValueError, match="more than 4"):
        unpack(two, limit=4)


def test_plain_and_gz_names_find_each_other(tmp_path):
    written(tmp_path, "a.json.gz", b"[1]")
    written(tmp_path, "b.json", b"[1]")
    assert find_file(tmp_path, "a.json") == tmp_path / "a.json.gz"
    assert find_file(tmp_path, "b.json.gz") == tmp_path / "b.json"
    assert find_file(tmp_path, "c.json") is None


@pytest.mark.parametrize(
    ("content", "what"), [(b"a,b\n1\n", "unequal"), (b"a,c\n1,2\n", "no column"), (b"a,b\n", "no rows")]
)
def test_a_bad_csv_is_an_error(tmp_path, content, what):
    with pytest.raises(DataError, match=what):
        read_csv(written(tmp_path, "a.csv", content), columns=("a", "b"))


def test_texts_hostile_to_pages_and_terminals_pass_unchanged():
    for text in ("<script>alert(1)</script>", "a\x00b", "\x1b[2J", "$$ \\input{x} `{{glue}}`", "😀"):
        assert clean_text(text, "text") == text


def test_texts_no_tokenizer_can_take_are_unusable():
    with pytest.raises(Unusable) as caught:
        clean_text("ok \udcff", "text")
    assert caught.value.reason is Reason.SURROGATE
    with pytest.raises(Unusable) as caught:
        clean_text("x" * (LONGEST_TEXT + 1), "text")
    assert caught.value.reason is Reason.TOO_LONG


def test_the_prompt_id_depends_on_roles_and_texts_only():
    """The first digits that sha256sum gives for the text [["user","hi"]]."""
    assert prompt_id((("user", "hi"),)) == "897be8e1f0370e7f"
    assert prompt_id((("user", "hi"),)) != prompt_id((("assistant", "hi"),))
    assert prompt_id((("user", "a\x00é"),)) != prompt_id((("user", "aé"),))
    one, other = (Pair((("user", "hi"),), text, "no", "a") for text in ("x", "y"))
    assert one.prompt_id == other.prompt_id and hash(one) != hash(other)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans(), st.integers(0, 40), st.sampled_from(["json", "jsonl"]))
def test_no_bytes_at_all_get_past_the_readers_errors(tmp_path_factory, content, pack, cut, kind):
    """Whatever a file holds, it gives rows and records, or a DataError: never another exception."""
    packed = gzip.compress(content)
    content = packed[: len(packed) - cut] if pack else content
    path, malformed = tmp_path_factory.getbasetemp() / f"fuzz.{kind}{'.gz' if pack else ''}", Malformed()
    path.write_bytes(content)
    try:
        rows = read_rows(path, malformed)
    except DataError:
        return
    assert rows and all(each.row >= 1 for each in malformed.records)

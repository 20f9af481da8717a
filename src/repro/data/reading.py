"""Bytes of a file to numbered rows: .json, .jsonl and .csv, plain or .gz.

What can be read is read; what cannot is set aside with its line number. A file of which nothing can be read
is a DataError, a file that is not there a MissingInput.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from pathlib import Path
from typing import Any

from repro.core.errors import DataError, MissingInput
from repro.core.paths import HOW_TO_GET_DATA
from repro.data.schema import Malformed, Reason

LARGEST_FILE = 512 * 2**20  # bytes after unpacking; the largest real file has 6 MB. More is a gzip bomb.
CHUNK = 2**20
GET_DATA = "delete it, then " + HOW_TO_GET_DATA

NumberedRows = list[tuple[int, Any]]


def find_file(folder: Path, name: str) -> Path | None:
    """`folder/name`, or the same file with or without .gz, or None."""
    other = name.removesuffix(".gz") if name.endswith(".gz") else name + ".gz"
    return next((folder / each for each in (name, other) if (folder / each).is_file()), None)


def unpack(packed: bytes, limit: int = LARGEST_FILE) -> tuple[bytes, bool]:
    """The content of gz bytes and whether it is whole: a file cut short gives what came before the cut.

    Raises ValueError when the bytes are no gz, are damaged (checksum), or unpack to more than `limit` bytes.
    """
    pieces, size = [], 0
    while packed:
        stream = zlib.decompressobj(wbits=31)
        while not stream.eof:
            try:
                piece = stream.decompress(packed, min(CHUNK, limit - size + 1))
            except zlib.error as problem:
                raise ValueError(f"damaged gz ({problem})") from problem
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise ValueError(f"unpacks to more than {limit} bytes")
            if not piece and not stream.eof:
                return b"".join(pieces), False
            packed = stream.unconsumed_tail
        packed = stream.unused_data.lstrip(b"\0")  # padding between or after members is allowed
    return b"".join(pieces), True


def read_bytes(path: Path, limit: int = LARGEST_FILE) -> tuple[bytes, bool]:
    """The unpacked content of a file, and whether it is whole.

    Raises MissingInput if there is no file; DataError if it is empty, unreadable, damaged or too large.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(limit + 1)
    except FileNotFoundError as problem:
        raise MissingInput("the file is not there", where=path, fix=HOW_TO_GET_DATA) from problem
    except OSError as problem:
        raise DataError(f"cannot be read ({problem.strerror})", where=path, fix="check its permissions") from problem
    if len(content) > limit:
        raise DataError(f"is larger than {limit} bytes", where=path, fix=GET_DATA)
    whole = True
    if path.name.endswith(".gz"):
        try:
            content, whole = unpack(content, limit)
        except ValueError as problem:
            raise DataError(str(problem), where=path, fix=GET_DATA) from problem
    if not content.strip():
        raise DataError("is empty" if whole else "is cut short before its first row", where=path, fix=GET_DATA)
    return content.removeprefix(b"\xef\xbb\xbf"), whole


def read_rows(path: Path, malformed: Malformed, *, where: str = "", limit: int = LARGEST_FILE) -> NumberedRows:
    """(row number from 1, parsed row) of a .json array or .jsonl file; bad lines go to `malformed`.

    Raises MissingInput, or DataError when no row at all can be read.
    """
    where = where or str(path)
    content, whole = read_bytes(path, limit)
    if path.name.removesuffix(".gz").endswith(".json"):
        if not whole:
            raise DataError("is cut short, and a JSON array is useless in part", where=path, fix=GET_DATA)
        return _array(content, path)
    rows = _lines(content, whole, where, malformed)
    if not rows:
        raise DataError("no line can be read as JSON", where=path, fix=GET_DATA)
    return rows


def _array(content: bytes, path: Path) -> NumberedRows:
    try:
        rows = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as problem:
        raise DataError(f"is not JSON in UTF-8 ({problem})", where=path, fix=GET_DATA) from problem
    if not isinstance(rows, list) or not rows:
        raise DataError("is not a JSON array of rows", where=path, fix=GET_DATA)
    return list(enumerate(rows, start=1))


def _lines(content: bytes, whole: bool, where: str, malformed: Malformed) -> NumberedRows:
    rows: NumberedRows = []
    lines = content.split(b"\n")  # not splitlines: U+2028 and \x0b are legal inside a JSON text
    if not whole:
        # A last line that happens to parse may still lack its end, so it is never used.
        lines.pop()
        malformed.add(where, len(lines) + 1, Reason.CUT_GZIP)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line.decode("utf-8"))))
        except UnicodeDecodeError as problem:
            malformed.add(where, number, Reason.NOT_UTF8, f"byte {problem.start}")
        except (ValueError, RecursionError) as problem:
            malformed.add(where, number, _why(line, problem), str(problem)[:200])
    return rows


def _why(line: bytes, problem: Exception) -> Reason:
    if isinstance(problem, json.JSONDecodeError):
        at_end = problem.pos >= len(line.decode("utf-8").rstrip())
        if at_end or problem.msg.startswith("Unterminated string"):
            return Reason.CUT_JSON
    return Reason.BAD_JSON


def read_csv(path: Path, columns: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """The rows of a csv file with a header, as text.

    Raises MissingInput, or DataError when the file is damaged or lacks one of `columns`.
    """
    content, whole = read_bytes(path)
    if not whole:
        raise DataError("is cut short", where=path, fix=GET_DATA)
    try:
        table = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
        rows = list(table)
    except (UnicodeDecodeError, csv.Error) as problem:
        raise DataError(f"is not csv in UTF-8 ({problem})", where=path, fix=GET_DATA) from problem
    lacking = [name for name in columns if name not in (table.fieldnames or ())]
    ragged = any(None in row or None in row.values() for row in rows)
    if lacking or ragged or not rows:
        what = f"has no column {lacking[0]!r}" if lacking else "has rows of unequal length" if rows else "has no rows"
        raise DataError(what, where=path, fix=GET_DATA)
    return rows

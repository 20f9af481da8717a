"""One file over HTTP, resumed where it was cut: standard library only.

Bytes go to a `.part` file that survives a kill. A later call asks for the rest (Range); If-Range with the first
answer's ETag keeps two versions of a file from being joined. Whether the whole is right is the caller's check.
"""

from __future__ import annotations

import errno
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from repro.core.errors import DataError, MissingInput

ATTEMPTS = 6  # in a row without a new byte
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
LONGEST_PAUSE = 60.0
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 2**16
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may pass


class Gone(MissingInput):
    """The server answers, but will not give this file; others may still be had."""


def download(
    url: str,
    part: Path,
    *,
    limit: int,
    advance: Callable[[int], object] = lambda gained: None,
    attempts: int = ATTEMPTS,
    pause: float = PAUSE,
    timeout: float = TIMEOUT,
) -> None:
    """Makes `part` the whole body of `url`, keeping what it already holds.

    limit: most bytes accepted. advance: called with the bytes gained, negative when it has to start over.
    Raises Gone for a final refusal (404…), MissingInput if the server cannot be reached or keeps failing,
    DataError without space or permission, or if the body is larger than `limit`.
    """
    failures = 0
    advance(size(part))
    while True:
        before, wait = size(part), min(pause * 2**failures, LONGEST_PAUSE)
        try:
            if _receive(url, part, limit, timeout, advance):
                etag_file(part).unlink(missing_ok=True)
                return
            problem: object = "the connection ended early"
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code} {error.reason}"
            wait = _handle_refusal(error, url, part, advance, wait)
            if wait is None:
                return
        except (OSError, http.client.HTTPException) as error:
            problem = getattr(error, "reason", None) or error or type(error).__name__
        failures = 1 if size(part) > before else failures + 1
        if failures >= attempts:
            fix = "check the network and run it again: it goes on where it stopped"
            raise MissingInput(f"cannot be fetched after {attempts} attempts ({problem})", where=url, fix=fix)
        time.sleep(wait)


def _handle_refusal(
    error: urllib.error.HTTPError, url: str, part: Path, advance: Callable, wait: float
) -> float | None:
    """Seconds to wait before the next attempt; None if the part is already whole; raises Gone if it is final."""
    if error.code == 416:  # nothing after what we have: the part is whole, or is not a part of this file
        if size(part) and error.headers.get("Content-Range", "") == f"bytes */{size(part)}":
            return None
        _start_over(part, advance)
        return wait
    if error.code not in PASSING:
        fix = "check the base address, or whether the source has moved"
        raise Gone(f"the source answers HTTP {error.code} {error.reason}", where=url, fix=fix) from error
    asked = error.headers.get("Retry-After", "")
    return min(float(asked), LONGEST_PAUSE) if asked.isdigit() else wait


def _receive(url: str, part: Path, limit: int, timeout: float, advance: Callable[[int], object]) -> bool:
    """One request for what is lacking; True if the body arrived to its announced end."""
    have = size(part)
    headers = {"User-Agent": "repro", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if etag_file(part).is_file():
            headers["If-Range"] = etag_file(part).read_text()
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as reply:
        if reply.status != 206 and have:
            _start_over(part, advance)  # the server ignores Range, or the file has changed
        elif reply.status == 206 and not reply.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            _start_over(part, advance)
            return False
        announced = reply.headers.get("Content-Length", "")
        total = size(part) + int(announced) if announced.isdigit() else None
        _append(reply, part, limit, total, advance)
    return total is None or size(part) == total


def _append(reply: http.client.HTTPResponse, part: Path, limit: int, total: int | None, advance: Callable) -> None:
    if total is not None and total > limit:
        raise DataError(f"has {total} bytes, at most {limit} are expected", where=reply.url, fix="check the source")
    with writing(part):
        if not etag_file(part).is_file() and reply.headers.get("ETag", "").startswith('"'):  # a weak one is no use
            etag_file(part).write_text(reply.headers["ETag"])
        part.touch()
    with open(part, "ab", buffering=0) as stream:
        while piece := reply.read1(CHUNK):  # what has come, so that a kill loses nothing
            with writing(part):
                rest = memoryview(piece)
                while rest:  # an unbuffered write may take less than all
                    rest = rest[stream.write(rest) :]
            advance(len(piece))
            if size(part) > limit:
                raise DataError(f"has more than the {limit} bytes expected", where=reply.url, fix="check the source")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the disk's refusals inside its block into a DataError that names the file and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space and run it again: it goes on where it stopped"
            raise DataError("no space is left", where=path, fix=fix) from error
        fix = "choose a folder that you may write to (REPRO_DATA)"
        raise DataError(f"cannot be written ({error.strerror or error})", where=path, fix=fix) from error


def size(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def etag_file(part: Path) -> Path:
    """Where the ETag of a part is kept."""
    return part.with_name(part.name + ".etag")


def _start_over(part: Path, advance: Callable[[int], object]) -> None:
    advance(-size(part))
    discard(part)


def discard(part: Path) -> None:
    """Removes a part and its ETag."""
    part.unlink(missing_ok=True)
    etag_file(part).unlink(missing_ok=True)

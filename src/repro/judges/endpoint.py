"""Chat completions of any OpenAI-compatible server: asked once, recorded, replayed, counted.

The key of an answer is the content of its request: neither the server's address nor the secret is part of it, and the
secret is read from the environment when it is sent. Timeouts, status 429 and 5xx, connections cut in mid-answer and
malformed answers are tried again with growing waits; a refused key, address, model or request is an error at once.
"""

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from repro.core.errors import DataError, MissingInput, ReproError, SettingsError
from repro.core.progress import progress
from repro.judges.record import Answer, Record, digest

LONGEST_ANSWER = 8 * 2**20  # bytes; a server that never ends its answer must not fill the memory
LONGEST_WAIT = 120.0  # seconds between two attempts; a server that asks for more is given up
SECRET = 8  # characters; a shorter key is the dummy of a local server, not worth hiding


@dataclass
class Usage:
    """What this process asked: requests sent, retries among them, answers replayed, tokens, answers without a count."""

    requests: int = 0
    retries: int = 0
    replayed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0


class _Again(Exception):
    """A failure that may pass; wait: seconds the server asked for."""

    def __init__(self, what: str, wait: float = 0.0):
        super().__init__(what)
        self.wait = wait


class _Job(NamedTuple):
    """One request to send; index: its place in the caller's list."""

    key: str
    request: dict[str, Any]
    repeat: int
    index: int


@dataclass
class Endpoint:
    """A model behind `base_url` (which usually ends in /v1), with the record of its answers in `folder`.

    key_name: the environment variable that holds the key, None for a server that wants none; prices: per million prompt
    and completion tokens; timeout: seconds for a whole answer; attempts: at most so many requests for one answer;
    concurrent: requests under way at once; most_requests, most_cost: budget of this process, checked before each
    request, so that `concurrent` answers at most can exceed the cost; offline: replay only; sleep: how to wait between
    attempts. Raises SettingsError for an address or a variable's name that cannot be one.
    """

    base_url: str
    model: str
    folder: Path
    key_name: str | None = None
    prices: tuple[float, float] = (0.0, 0.0)
    timeout: float = 120.0
    attempts: int = 6
    concurrent: int = 4
    most_requests: int | None = None
    most_cost: float | None = None
    offline: bool = False
    sleep: Callable[[float], None] | None = None
    usage: Usage = field(default_factory=Usage, init=False)

    def __post_init__(self) -> None:
        # Neither value is repeated in the message: a secret may have been put in the wrong place.
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", self.base_url):
            fix = "write http(s)://host/v1, without user, password or query; a secret goes into the key's variable"
            raise SettingsError("base_url is no plain address", where="judge endpoint", fix=fix)
        if self.key_name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_name):
            fix = "give the name of an environment variable in capitals, not the key itself"
            raise SettingsError("key_name names no variable", where="judge endpoint", fix=fix)
        self.url = self.base_url.rstrip("/") + "/chat/completions"
        self._record, self._counting = Record(self.folder, only_read=self.offline), threading.Lock()

    @property
    def cost(self) -> float:
        return (self.usage.prompt_tokens * self.prices[0] + self.usage.completion_tokens * self.prices[1]) / 1e6

    def ask(self, requests: Sequence[Mapping[str, Any]], *, repeat: int = 0) -> list[Answer]:
        """One answer a request: from the record if it is there, else asked and recorded. Equal requests share theirs.

        requests: messages and sampling parameters, the model is added; repeat: another number asks the same again.
        Raises MissingInput offline for what is not recorded, or if the server gives no answer; SettingsError for a
        refused key, a wrong address or model, a spent budget; DataError for a refused request; ArtifactError if an
        answer cannot be written. Whatever came before an error is recorded.
        """
        whole = [{"model": self.model, **request} for request in requests]
        keys = [digest({"request": request, "repeat": repeat}) for request in whole]
        self._record.refresh()
        missing = {key: index for index, key in enumerate(keys) if key not in self._record.answers}
        self.usage.replayed += len(set(keys)) - len(missing)
        if missing and self.offline:
            what = f"{len(missing)} of {len(set(keys))} requests are not recorded"
            raise MissingInput(
                what, where=self._record.file, fix="run once with offline=False and the server reachable"
            )
        if missing:
            self._ask_all([_Job(key, whole[index], repeat, index) for key, index in missing.items()])
        return [self._record.answers[key] for key in keys]

    def _ask_all(self, jobs: list[_Job]) -> None:
        """Ask with a few threads; at the first error no new request starts, and those under way are still recorded."""
        stop, limits = threading.Event(), httpx.Limits(max_connections=self.concurrent)
        client = httpx.Client(headers=self._headers(), timeout=self.timeout, limits=limits)
        with client, ThreadPoolExecutor(self.concurrent) as pool:
            asked = [pool.submit(self._work, client, stop, job) for job in jobs]
            try:
                for done in progress(as_completed(asked), len(asked), self.model):
                    done.result()
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _headers(self) -> dict[str, str]:
        if self.key_name is None:
            return {"Content-Type": "application/json"}
        key = os.environ.get(self.key_name, "").strip()
        if not re.fullmatch(r"[!-~]+", key):  # refused here, because httpx's own error would show it
            fix = f"export {self.key_name}=…, or set key_name to None for a server that wants no key"
            raise SettingsError(f"{self.key_name} is not set, or holds no key", where="environment", fix=fix)
        return {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}

    def _work(self, client: httpx.Client, stop: threading.Event, job: _Job) -> None:
        try:
            self._one(client, stop, job)
        except BaseException:
            stop.set()  # here, before this thread takes its next job
            raise

    def _one(self, client: httpx.Client, stop: threading.Event, job: _Job) -> None:
        """Ask until there is an answer, and record it."""
        for attempt in range(self.attempts):
            self._record.refresh()
            if stop.is_set() or job.key in self._record.answers:  # another process may have asked it meanwhile
                return
            self._spend(retry=attempt > 0)
            try:
                answer = self._post(client, job)
            except _Again as failure:
                if failure.wait > LONGEST_WAIT or attempt + 1 == self.attempts:
                    what = f"no answer in {attempt + 1} attempts; the last: {failure}"
                    fix = f"see that the server runs and base_url is right, then run again; {self._kept}"
                    raise MissingInput(what, where=self.url, fix=fix) from failure
                backoff = min(LONGEST_WAIT, 2.0**attempt) * random.uniform(0.5, 1.0)
                (self.sleep or stop.wait)(max(backoff, failure.wait))
                continue
            self._record.add(job.request, job.repeat, answer)
            with self._counting:
                self.usage.prompt_tokens += answer.prompt_tokens or 0
                self.usage.completion_tokens += answer.completion_tokens or 0
                self.usage.uncounted += None in (answer.prompt_tokens, answer.completion_tokens)
            return

    @property
    def _kept(self) -> str:
        return f"what came so far is kept in {self._record.file} and not asked again"

    def _spend(self, *, retry: bool) -> None:
        """Count a request before it is sent, if the budget has one left."""
        with self._counting:
            if self.most_requests is not None and self.usage.requests >= self.most_requests:
                spent = f"the budget of {self.most_requests} requests is spent"
            elif self.most_cost is not None and self.cost >= self.most_cost:
                spent = f"the budget is spent: cost {self.cost:.6g} of {self.most_cost:.6g}"
            elif self.most_cost is not None and self.usage.uncounted:
                spent = "the server counts no tokens, so most_cost cannot be kept"
            else:
                self.usage.requests += 1
                self.usage.retries += retry
                return
        raise SettingsError(spent, where=self.url, fix=f"change the budget and run again; {self._kept}")

    def _post(self, client: httpx.Client, job: _Job) -> Answer:
        """One request, one answer; raises _Again for what may pass."""
        body, until = bytearray(), time.monotonic() + self.timeout
        try:  # json.dumps keeps to ASCII, so NUL and every other character travels escaped
            with client.stream("POST", self.url, content=json.dumps(job.request)) as reply:
                for piece in reply.iter_bytes():
                    body += piece
                    if len(body) > LONGEST_ANSWER or time.monotonic() > until:
                        raise _Again(f"the answer did not end ({len(body)} bytes)")
        except httpx.RequestError as error:
            raise _Again(f"{type(error).__name__}: {error}") from error
        text = body.decode("utf-8", "replace")
        secret = client.headers.get("Authorization", "").removeprefix("Bearer ")
        text = text.replace(secret, "[key]") if len(secret) >= SECRET else text
        if reply.status_code in (408, 425, 429) or reply.status_code >= 500:
            wait = _retry_after(reply.headers.get("Retry-After", ""))
            raise _Again(f"status {reply.status_code}: {text[:300]}" + f", retry after {wait:g} s" * (wait > 0), wait)
        if reply.status_code != 200:
            raise self._refused(reply.status_code, text[:300], job.index)
        answer = _answer(text)
        if job.request.get("logprobs") and answer.top is None:
            fix = "use the judge's way text, or a server that returns logprobs"
            raise SettingsError("the server returns no log-probabilities", where=self.url, fix=fix)
        return answer

    def _refused(self, status: int, text: str, index: int) -> ReproError:
        what, where = f"refused with status {status}: {text}", f"{self.url}, request {index}"
        if status in (400, 413, 422):
            fix = "change the parameter that the message names, or shorten or drop this prompt or answer"
            return DataError(what, where=where, fix=fix)
        if status in (401, 403):
            return SettingsError(what, where=where, fix=f"put a valid key into the variable key_name ({self.key_name})")
        return SettingsError(what, where=where, fix=f"check base_url, and that it serves the model {self.model!r}")


def _answer(text: str) -> Answer:
    """The first choice of a chat completion; raises _Again if it is none."""
    try:
        reply = json.loads(text)
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        content = choice["message"]["content"] or ""  # null where the model refused or said nothing
        listed, top = (choice.get("logprobs") or {}).get("content"), None
        if listed is not None:  # -inf is written by some servers and is not JSON; e^-9999 is 0 as well
            first = listed[0]["top_logprobs"] if listed else []
            top = [[str(each["token"]), min(0.0, max(-9999.0, float(each["logprob"])))] for each in first]
        tokens = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
        if not isinstance(content, str) or any(not isinstance(count, int | None) for count in tokens):
            raise TypeError("the content is not text, or a count of tokens no whole number")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _Again(f"not a chat completion ({type(error).__name__}): {text[:300]}") from error
    return Answer(content, top, *tokens)


def _retry_after(value: str) -> float:
    """Seconds in a Retry-After header, a number or a date (RFC 9110, 10.2.3); 0 if it is neither."""
    try:
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
            return float(value)
        until = parsedate_to_datetime(value)
        return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0

"""The endpoint's client against a real server that fails as told, and the record on a real disk."""

import json
import logging
import os
import threading
import time
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from repro.core.errors import ArtifactError, DataError, MissingInput, SettingsError
from repro.judges.endpoint import Endpoint, _retry_after
from repro.judges.record import Answer, Record, digest
from tests.openai_server import Server, completion

SECRET = "sk-1234567890/abcdef"


@pytest.fixture(autouse=True)
def local(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", SECRET)


@pytest.fixture
def server():
    started = Server(lambda request: completion("reply to " + request["messages"][0]["content"], 100, 7))
    yield started
    started.close()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def connect(server, tmp_path, waits):
    def build(**options):
        options = {"folder": tmp_path / "record", "sleep": waits.append, "base_url": server.url} | options
        return Endpoint(model="tiny", **options)

    return build


def message(text="hello", **parameters):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0.0, **parameters}


PASSING = ["429", "429 0", "500", "503", "408", "malformed", "no choices", "empty choices", "null", "deep", "cut"]
PASSING += ["not utf-8", "endless", "429 soon", "429 -1", "529"]


@pytest.mark.parametrize("fault", PASSING)
def test_a_failure_that_passes_is_tried_again(server, connect, waits, fault):
    server.faults = [fault]
    endpoint = connect(prices=(3, 15))
    assert endpoint.ask([message()])[0].text == "reply to hello"
    assert (endpoint.usage.requests, endpoint.usage.retries, len(server.asked)) == (2, 1, 2)
    assert len(waits) == 1 and 0.5 <= waits[0] <= 1
    assert (endpoint.usage.prompt_tokens, endpoint.usage.completion_tokens) == (100, 7)
    assert endpoint.cost == pytest.approx(0.000405, rel=1e-12)  # 100 x 3 + 7 x 15 = 405 millionths


def test_a_server_that_keeps_silent_is_tried_again(server, connect):
    server.faults = ["timeout"]
    endpoint = connect(timeout=0.2, attempts=50)  # a slow machine may need more than one
    assert endpoint.ask([message()])[0].text == "reply to hello" and endpoint.usage.retries >= 1
    server.faults = ["timeout"] * 2
    with pytest.raises(MissingInput, match="2 attempts; the last: ReadTimeout"):
        connect(timeout=0.1, attempts=2).ask([message("other")])


def test_waits_double_and_are_bounded(server, connect, waits):
    server.faults = ["500"] * 10
    connect(attempts=11).ask([message()])
    for attempt, wait in enumerate(waits):
        assert min(120, 2**attempt) / 2 <= wait <= min(120, 2**attempt)
    assert len(waits) == 10


def test_retry_after_is_honoured_and_a_wait_without_end_is_not(server, connect, waits):
    server.faults = ["429 7"]
    connect().ask([message()])
    assert waits == [7.0]
    server.faults = ["503 3600"]
    with pytest.raises(MissingInput, match="no answer in 1 attempts; the last: status 503.*retry after 3600 s"):
        connect().ask([message("other")])
    assert len(waits) == 1


def test_retry_after_as_a_date():
    late = datetime.now(UTC) + timedelta(seconds=60)
    assert 50 < _retry_after(format_datetime(late, usegmt=True)) <= 60
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert [_retry_after(bad) for bad in ("", "soon", "-1", "nan", "1e9", "²")] == [0] * 6


def test_a_failure_that_stays_is_an_error_and_what_came_is_kept(server, connect, tmp_path):
    server.faults = [""] * 2 + ["500 overloaded"] * 3
    endpoint = connect(attempts=3, concurrent=1)
    with pytest.raises(MissingInput, match=f"{server.url}.*3 attempts; the last: status 500.*overloaded") as error:
        endpoint.ask([message(str(number)) for number in range(5)])
    assert "answers.jsonl" in error.value.fix and endpoint.usage.requests == 5
    again = connect()
    assert [answer.text for answer in again.ask([message(str(number)) for number in range(5)])][4] == "reply to 4"
    assert (again.usage.replayed, again.usage.requests) == (2, 3)


@pytest.mark.parametrize(
    ("status", "kind", "fix"),
    [(400, DataError, "shorten"), (401, SettingsError, "JUDGE_KEY"), (403, SettingsError, "JUDGE_KEY"),
     (404, SettingsError, "serves the model 'tiny'"), (422, DataError, "parameter"), (302, SettingsError, "base_url")],
)  # fmt: skip
def test_a_refusal_is_an_error_at_once(server, connect, waits, status, kind, fix):
    server.faults = [f"{status} the server's words"]
    with pytest.raises(kind, match=f"request 0: refused with status {status}.*the server's words") as error:
        connect(key_name="JUDGE_KEY").ask([message()])
    assert fix in error.value.fix and server.url in error.value.where
    assert len(server.asked) == 1 and waits == []


def test_an_endpoint_that_is_down_says_so(connect, server, waits):
    endpoint = connect(attempts=3)
    endpoint.ask([message("before")])
    server.close()
    with pytest.raises(MissingInput, match="3 attempts; the last: Connect") as error:
        endpoint.ask([message("before"), message("after")])
    assert server.url in str(error.value) and "server runs" in error.value.fix and len(waits) == 2
    assert connect(offline=True).ask([message("before")])[0].text == "reply to before"


def test_after_an_error_no_new_request_starts_and_those_under_way_are_recorded(server, connect):
    server.hold_after = 0  # until two are under way: the one is refused, the other answered
    server.faults = ["400 no"]
    endpoint = connect(concurrent=2)

    def let_go():
        while len(server.asked) < 2:
            time.sleep(0.01)
        server.release.set()

    threading.Thread(target=let_go, daemon=True).start()
    with pytest.raises(DataError):
        endpoint.ask([message(str(number)) for number in range(40)])
    done = len(server.asked) - 1
    assert 1 <= done < 39 and len((endpoint.folder / "answers.jsonl").read_text().splitlines()) == done


def test_no_more_requests_than_allowed_are_under_way(connect, server):
    within, most, lock = [0], [0], threading.Lock()
    ready = threading.Barrier(3)

    def reply(request):
        with lock:
            within[0] += 1
            most[0] = max(most[0], within[0])
        ready.wait(20)  # three are here at once, or this fails
        with lock:
            within[0] -= 1
        return completion("x")

    server.reply = reply
    connect(concurrent=3).ask([message(str(number)) for number in range(9)])
    assert most == [3]


@pytest.mark.parametrize(
    ("budget", "asked", "words"),
    [({"most_requests": 4}, 4, "budget of 4 requests"), ({"most_cost": 0.0008}, 2, "cost 0.00081 of 0.0008")],
)
def test_a_spent_budget_stops_and_loses_nothing(server, connect, budget, asked, words):
    """A request costs 405 millionths: after two, 0.00081 are spent."""
    requests = [message(str(number)) for number in range(6)]
    endpoint = connect(prices=(3, 15), concurrent=1, **budget)
    with pytest.raises(SettingsError, match=words) as error:
        endpoint.ask(requests)
    assert len(server.asked) == asked and "answers.jsonl" in error.value.fix
    rest = connect()
    assert [answer.text for answer in rest.ask(requests)] == [f"reply to {number}" for number in range(6)]
    assert rest.usage.requests == 6 - asked


def test_retries_count_against_the_budget(server, connect):
    server.faults = ["500"] * 9
    with pytest.raises(SettingsError, match="budget of 3 requests"):
        connect(most_requests=3).ask([message()])
    assert len(server.asked) == 3


def test_a_cost_cannot_be_kept_by_a_server_that_counts_nothing(server, connect):
    server.reply = lambda request: {"choices": [{"message": {"content": "x"}}]}
    endpoint = connect(concurrent=1)
    endpoint.ask([message("free")])
    assert endpoint.usage.uncounted == 1 and endpoint.usage.prompt_tokens == 0
    with pytest.raises(SettingsError, match="counts no tokens"):
        connect(most_cost=1.0, concurrent=1).ask([message("a"), message("b")])


def test_equal_requests_are_asked_once_and_the_address_is_no_part_of_the_key(server, connect):
    first, again = connect(), connect(base_url="http://other.invalid:1/v1", key_name="NEVER_SET")
    assert [answer.text for answer in first.ask([message()] * 3)] == ["reply to hello"] * 3
    assert len(server.asked) == 1
    assert again.ask([message()]) == first.ask([message()]) and again.usage.requests == 0
    assert again.usage.replayed == 1 and again.cost == 0


@pytest.mark.parametrize("change", [{"temperature": 1.0}, {"max_tokens": 5}, {"seed": 1}])
def test_every_parameter_and_the_model_are_part_of_the_key(server, connect, change):
    endpoint = connect()
    endpoint.ask([message(), message(**change)])
    endpoint.ask([message()], repeat=1)
    assert len(server.asked) == 3
    other = Endpoint(server.url, "larger", endpoint.folder)
    other.ask([message()])
    assert [request["model"] for request in server.asked] == ["tiny"] * 3 + ["larger"]
    assert all("repeat" not in request for request in server.asked)


def test_the_key_is_the_sha256_of_the_sorted_ascii_json():
    import hashlib

    assert digest({"b": 1, "a": "é"}) == hashlib.sha256(b'{"a":"\\u00e9","b":1}').hexdigest()


def test_offline_replays_and_counts_what_is_missing(server, connect, tmp_path):
    with pytest.raises(MissingInput, match="2 of 2 requests are not recorded"):
        connect(offline=True, folder=tmp_path / "none").ask([message("a"), message("b")])
    assert not (tmp_path / "none").exists()
    connect().ask([message("a")])
    replay = connect(offline=True)
    assert replay.ask([message("a")])[0].text == "reply to a"
    with pytest.raises(MissingInput, match="1 of 2 requests are not recorded"):
        replay.ask([message("a"), message("b"), message("b")])
    assert len(server.asked) == 1


def test_secrets_stay_out_of_record_messages_and_logs(server, connect, caplog):
    """Even where the server repeats the key, in an answer or in its refusal."""
    caplog.set_level(logging.DEBUG)
    server.reply = lambda request: completion(f"your key is {SECRET}")
    endpoint = connect(key_name="JUDGE_KEY")
    shown = [endpoint.ask([message()])[0].text, repr(endpoint)]
    assert server.keys == [f"Bearer {SECRET}"]
    for fault in (f"401 wrong key {SECRET}", f"500 {SECRET}"):
        server.faults = [fault] * 6
        with pytest.raises(DataError if fault[0] == "5" else SettingsError) as error:
            endpoint.ask([message("other")])
        shown += [str(error.value), "".join(traceback.format_exception(error.value))]
        assert "[key]" in shown[-2]
    shown += [file.read_text() for file in endpoint.folder.iterdir()] + [caplog.text]
    assert SECRET not in "".join(shown) and "[key]" in shown[0]


@pytest.mark.parametrize("value", ["", "  ", "two words-secret", "sécret-secret", "secret\nsecret"])
def test_a_key_that_cannot_be_one_is_refused_without_showing_it(server, connect, monkeypatch, value):
    monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(SettingsError, match="JUDGE_KEY is not set, or holds no key") as error:
        connect(key_name="JUDGE_KEY").ask([message()])
    assert "cret" not in str(error.value) and server.asked == []


@pytest.mark.parametrize(
    "wrong",
    [{"key_name": SECRET}, {"base_url": f"http://user:{SECRET}@host/v1"}, {"base_url": f"http://h/v1?key={SECRET}"},
     {"base_url": "host/v1"}, {"base_url": "ftp://host"}],
)  # fmt: skip
def test_a_secret_in_the_wrong_place_is_refused_without_showing_it(connect, wrong):
    with pytest.raises(SettingsError) as error:
        connect(**wrong)
    assert SECRET not in str(error.value)


def test_a_torn_or_damaged_line_is_never_trusted(server, connect, capsys):
    endpoint = connect(concurrent=1)
    endpoint.ask([message(str(number)) for number in range(4)])
    file = endpoint.folder / "answers.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1].replace(b"reply to 1", b"reply to 9") + b"\n" + lines[2] + lines[3][:-1])
    again = connect(concurrent=1)
    assert [answer.text[-1] for answer in again.ask([message(str(number)) for number in range(4)])] == list("0123")
    assert [request["messages"][0]["content"] for request in server.asked[4:]] == ["1", "3"]
    said = capsys.readouterr().out
    assert said.count("a damaged line is not used") == 2 and "the last line was cut short" in said
    assert lines[3][:-1] in file.with_suffix(".torn").read_bytes()
    assert connect(offline=True).ask([message("3")])[0].text == "reply to 3"


@pytest.mark.parametrize("cut", [1, 40, -2, -1])
def test_a_line_cut_anywhere_is_asked_again(server, connect, cut):
    connect().ask([message("a")])
    file = connect().folder / "answers.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:cut])
    assert connect().ask([message("a")])[0].text == "reply to a"
    assert file.read_bytes() == whole and len(server.asked) == 2


def test_many_writers_leave_whole_lines(tmp_path):
    """Four records of one folder, as four processes would have, each with its own look at the file and its lock."""
    answer = Answer("x" * 5000, [["A", -0.5]], 3, 4)
    records = [Record(tmp_path) for _ in range(4)]
    many = [
        threading.Thread(target=lambda at=at: [records[at].add({"at": at, "n": n}, 0, answer) for n in range(25)])
        for at in range(4)
    ]
    for thread in many:
        thread.start()
    for thread in many:
        thread.join()
    for record in (*records, Record(tmp_path)):
        record.refresh()
        assert len(record.answers) == 100 and set(map(repr, record.answers.values())) == {repr(answer)}
    assert not (tmp_path / "answers.torn").exists()


def test_a_disk_that_takes_nothing_is_an_error(tmp_path, monkeypatch):
    record = Record(tmp_path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ArtifactError, match="answers.jsonl: cannot be written.*No space left"):
            record.add({"n": 1}, 0, Answer("x"))
    record.add({"n": 2}, 0, Answer("y"))
    assert digest({"request": {"n": 2}, "repeat": 0}) in Record(tmp_path).answers


def test_a_folder_that_cannot_be_one_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="no folder for the record"):
        Record(tmp_path / "file" / "record")


def test_an_answer_is_on_the_disk_before_it_is_used(server, connect, monkeypatch):
    """If forcing it to the disk fails, `ask` does not return it."""
    endpoint = connect()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(ArtifactError, match="gone"):
        endpoint.ask([message()])
    line = json.loads((endpoint.folder / "answers.jsonl").read_text())
    assert line["request"]["messages"][0]["content"] == "hello" and set(line) == {
        "request",
        "repeat",
        "answer",
        "check",
    }

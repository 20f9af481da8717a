"""Labelling sessions: order, durability, resume, undo, several hands on one file; agreement by hand arithmetic."""

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from repro.core.errors import ArtifactError, DataError
from repro.judges.agreement import agreement, sides
from repro.judges.human import HumanLabels, Label, read_labels
from repro.judges.labeller import labeller
from repro.judges.labelling import Session, arranged, simulated
from repro.judges.labels_file import LabelsFile


@dataclass(frozen=True)
class Pair:
    prompt: tuple
    chosen: str
    rejected: str


def pair(number):
    return Pair((("user", f"Question {number}?"),), f"right {number}", f"wrong {number}")


PAIRS = [pair(number) for number in range(10)]


def answers(session):
    return session.shown.first, session.shown.second


class TestTheOrder:
    def test_it_hangs_on_seed_and_texts_alone(self):
        """Neither the list's order nor which answer is the chosen one moves anything: the screen is blind."""
        shown = [(each.prompt, each.first, each.second) for each in arranged(PAIRS, "one", 3)[0]]
        turned = [Pair(each.prompt, each.rejected, each.chosen) for each in reversed(PAIRS)]
        assert [(each.prompt, each.first, each.second) for each in arranged(turned, "one", 3)[0]] == shown
        assert [(each.prompt, each.first, each.second) for each in arranged(PAIRS, "one", 4)[0]] != shown

    def test_each_side_holds_the_chosen_answer_half_of_the_time(self):
        """1,000 coin flips: mean 500, standard deviation 15.8; four of them on either side."""
        shown, _ = arranged([pair(number) for number in range(1000)], "one")
        assert abs(sum(each.first == each.pair.chosen for each in shown) - 500) < 64

    def test_two_annotators_begin_with_the_same_pairs_but_see_them_turned_each_in_their_own_way(self):
        one, two = (arranged(PAIRS, name)[0] for name in ("one", "two"))
        assert [each.key for each in one] == [each.key for each in two]
        assert 0 < sum(a.first != b.first for a, b in zip(one, two, strict=True)) < 10

    def test_what_cannot_be_labelled_is_counted_by_reason(self, tmp_path, capsys):
        bad = [Pair((("user", "Q"),), "same", "same"), Pair((("user", "Q"),), "a", None), Pair((), "a", "b"), {}]
        session = Session([*PAIRS, PAIRS[0], *bad], tmp_path / "labels.jsonl", "one")
        assert session.total == 10 and sum(session.left_out.values()) == 5
        said = capsys.readouterr().out
        assert "1 left out: the two answers are equal" in said and "3 left out: prompt or answer is not text" in said
        assert "1 left out: an earlier pair is the same" in said

    @pytest.mark.parametrize("pairs", [[], [Pair((("user", "Q"),), "same", "same")]])
    def test_no_pairs_and_no_name_are_refused(self, tmp_path, pairs):
        with pytest.raises(DataError, match="no pairs to label"):
            Session(pairs, tmp_path / "labels.jsonl", "one")
        with pytest.raises(DataError, match="no annotator"):
            Session(PAIRS, tmp_path / "labels.jsonl", "  ")


class TestTheSession:
    def test_labels_are_rows_of_the_human_judge(self, tmp_path):
        session = Session(PAIRS, tmp_path / "labels.jsonl", "one")
        asked, said = [], ("first", "second", "tie", "skip")
        for label in said:
            asked.append((session.shown.prompt, *answers(session)))
            assert session.add(label)
        found = HumanLabels(tmp_path / "labels.jsonl").compare(*map(list, zip(*asked, strict=True)))
        np.testing.assert_array_equal(found, [1, 0, 0.5, np.nan])

    def test_another_kernel_goes_on_where_this_one_stopped(self, tmp_path):
        first = Session(PAIRS, tmp_path / "labels.jsonl", "one", seed=2)
        first.add("first")
        first.add("skip")
        second = Session(PAIRS, tmp_path / "labels.jsonl", "one", seed=2)
        assert second.shown == first.shown and len(second.labels) == 2
        other = Session(PAIRS, tmp_path / "labels.jsonl", "two", seed=2)
        assert len(other.labels) == 0 and other.shown.key != first.shown.key

    def test_every_label_is_on_the_disk_before_the_next_pair_is_shown(self, tmp_path, monkeypatch):
        session = Session(PAIRS, tmp_path / "labels.jsonl", "one")
        before, seen = session.shown, []
        monkeypatch.setattr("os.fsync", lambda end: seen.append((session.shown, (tmp_path / "labels.jsonl").read_text())))
        session.add("tie")
        assert seen[0][0] == before and '"tie"' in seen[0][1] and session.shown != before

    def test_undo_appends_and_shows_the_pair_again_and_again(self, tmp_path):
        session = Session(PAIRS, tmp_path / "labels.jsonl", "one")
        shown = []
        for label in ("first", "second"):
            shown.append(session.shown)
            session.add(label)
        text = (tmp_path / "labels.jsonl").read_text()
        for expected in reversed(shown):
            assert session.undo() and session.shown == expected
        assert not session.undo()  # nothing left to take back
        after = (tmp_path / "labels.jsonl").read_text()
        assert after.startswith(text) and [json.loads(line)["label"] for line in after.splitlines()] == ["first", "second", "undo", "undo"]
        assert read_labels(tmp_path / "labels.jsonl") == []
        session.add("tie")
        assert [label.label for label in read_labels(tmp_path / "labels.jsonl")] == ["tie"]

    def test_undo_reaches_what_an_earlier_kernel_saved_but_never_another_annotator(self, tmp_path):
        Session(PAIRS, tmp_path / "labels.jsonl", "one").add("first")
        Session(PAIRS, tmp_path / "labels.jsonl", "two").add("first")
        assert Session(PAIRS, tmp_path / "labels.jsonl", "one").undo()
        assert [label.annotator for label in read_labels(tmp_path / "labels.jsonl")] == ["two"]

    def test_the_end_and_labels_that_are_none(self, tmp_path):
        session = Session(PAIRS[:1], tmp_path / "labels.jsonl", "one")
        with pytest.raises(DataError, match="'undo' is no label"):
            session.add("undo")
        session.add("first")
        assert session.shown is None and session.seconds_left() == 0
        with pytest.raises(DataError, match="every pair is labelled"):
            session.add("first")

    def test_time_left_is_the_median_times_the_rest(self, tmp_path):
        """Seconds 2, 4 and a break of 900: median 4, seven pairs left."""
        session = Session(PAIRS, tmp_path / "labels.jsonl", "one")
        assert session.seconds_left() is None
        rows = [
            Label(each.prompt[0][1], each.first, each.second, "first", "one", seconds=seconds)
            for each, seconds in zip(arranged(PAIRS, "one")[0], (2, 4, 900), strict=False)
        ]
        LabelsFile(tmp_path / "labels.jsonl").add(rows)
        assert Session(PAIRS, tmp_path / "labels.jsonl", "one").seconds_left() == 28

    def test_a_csv_file_and_a_place_that_is_no_folder_are_refused(self, tmp_path):
        with pytest.raises(DataError, match="JSON lines"):
            Session(PAIRS, tmp_path / "labels.csv", "one")
        (tmp_path / "file").write_text("")
        with pytest.raises(ArtifactError, match="no folder for labels"):
            Session(PAIRS, tmp_path / "file" / "labels.jsonl", "one")


class TestTheFile:
    def test_a_line_cut_short_is_set_aside_and_its_pair_comes_again(self, tmp_path, capsys):
        file = tmp_path / "labels.jsonl"
        session = Session(PAIRS, file, "one")
        session.add("first")
        lost = session.shown
        session.add("second")
        whole, second = file.read_text().splitlines()
        file.write_text(f"{whole}\n{second[:40]}")
        assert len(read_labels(file)) == 1 and "line 2: cut short" in capsys.readouterr().out  # a reader mends nothing
        again = Session(PAIRS, file, "one")
        assert again.shown == lost and "set aside" in again.messages[0]
        assert file.read_text() == whole + "\n" and (tmp_path / "labels.torn").read_text() == second[:40] + "\n"

    def test_a_label_that_only_lacks_its_line_break_is_kept(self, tmp_path):
        file = tmp_path / "labels.jsonl"
        Session(PAIRS, file, "one").add("first")
        file.write_text(file.read_text().rstrip("\n"))
        session = Session(PAIRS, file, "one")
        session.add("second")
        assert len(read_labels(file)) == len(session.labels) == 2 and not (tmp_path / "labels.torn").exists()

    def test_lines_that_are_no_labels_are_named_and_stay(self, tmp_path, capsys):
        file = tmp_path / "labels.jsonl"
        file.write_text('not JSON\n{"prompt": "Q", "first": "a", "second": "b", "label": "left", "annotator": "one"}\n')
        session = Session(PAIRS, file, "one")
        session.add("first")
        said = capsys.readouterr().out
        assert "line 1: not a label" in said and "line 2: not a label" in said and len(session.labels) == 1
        assert file.read_text().startswith("not JSON\n") and "label is one of first, second" in said

    def test_labels_of_other_pairs_are_counted_and_named(self, tmp_path, capsys):
        file = tmp_path / "labels.jsonl"
        Session([pair(77)], file, "one").add("first")
        session = Session(PAIRS, file, "one")
        assert len(session.labels) == 0 and "1 labels of pairs that are not among these (such as “Question 77?”)" in capsys.readouterr().out

    def test_a_repeated_label_replaces_and_an_undo_of_nothing_is_counted(self, tmp_path, capsys):
        row = Label("Q", "a", "b", "first", "one")
        turned, vain = Label("Q", "b", "a", "first", "one"), Label("Q", "a", "c", "undo", "one")
        LabelsFile(tmp_path / "labels.jsonl").add([row, turned, vain])
        assert read_labels(tmp_path / "labels.jsonl") == [turned]  # the same pair, seen the other way round
        said = capsys.readouterr().out
        assert "1 labels replaced" in said and "1 undos with no label to take back" in said

    def test_two_kernels_of_one_annotator_label_no_pair_twice(self, tmp_path):
        one, two = (Session(PAIRS, tmp_path / "labels.jsonl", "one") for _ in "12")
        assert one.add("first") and not two.add("second")  # the pair was labelled in the other window meanwhile
        assert "another window" in two.messages[-1] and one.shown == two.shown
        assert [label.label for label in read_labels(tmp_path / "labels.jsonl")] == ["first"]

    def test_several_processes_and_threads_write_whole_lines(self, tmp_path):
        code = "import sys; sys.path.insert(0, sys.argv[2]); from test_judges_labelling import work; work(sys.argv[1], sys.argv[3])"
        here = str(__import__("pathlib").Path(__file__).parent)
        runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "labels.jsonl"), here, name]) for name in ("one", "two")]
        thread = threading.Thread(target=work, args=(tmp_path / "labels.jsonl", "three"))
        thread.start()
        assert [run.wait() for run in runs] == [0, 0]
        thread.join()
        labels = read_labels(tmp_path / "labels.jsonl")
        assert len(labels) == 30 and len((tmp_path / "labels.jsonl").read_text().splitlines()) == 30

    def test_a_file_that_was_emptied_is_read_anew(self, tmp_path):
        session = Session(PAIRS, tmp_path / "labels.jsonl", "one")
        session.add("first")
        (tmp_path / "labels.jsonl").unlink()
        session.add("second")
        assert [label.label for label in session.labels] == ["second"] and "shorter than before" in session.messages[0]


def work(file, annotator):
    """Label everything, as one person does."""
    session = Session(PAIRS, file, annotator)
    while session.shown is not None:
        session.add("first")


def says(values):
    """An annotator who prefers `chosen` of pair n with these probabilities, in the order of PAIRS."""
    by_prompt = {each.prompt: value for each, value in zip(PAIRS, values, strict=True)}

    def answer(pairs, first, second):
        told = np.array([by_prompt[each.prompt] for each in pairs], dtype=float)
        return np.where([each.chosen == text for each, text in zip(pairs, first, strict=True)], told, 1 - told)

    return answer


class TestAgreement:
    def test_kappa_and_alpha_of_two_by_hand(self):
        """Ten pairs, one: 1 1 1 1 1 0 0 0 0 0, other: the same but for two. Both orders and hashes must not matter.

        Equal on 8 of 10. Kappa is the library's on the labels as the hash turns them; alpha is checked by its formula,
        1 - (n - 1) * unequal / (n0 * n1) * ..., with n = 20 values: alpha = 1 - (N - 1) * o01 / (n0 * n1).
        """
        one, other = [1] * 5 + [0] * 5, [1] * 4 + [0] * 5 + [1]
        labels = simulated(PAIRS, {"one": says(one), "other": says(other)})
        found = agreement(labels)
        (both,) = found.between
        assert both.pairs == 10 and both.share.value.value == pytest.approx(0.8)
        codes = {name: {} for name in ("one", "other")}
        for label in labels:
            from repro.judges.agreement import _code

            codes[label.annotator][label.pair] = _code(label)
        a, b = ([codes[name][key] for key in codes["one"]] for name in ("one", "other"))
        ones = (a.count(2) / 10) * (b.count(2) / 10) + (a.count(0) / 10) * (b.count(0) / 10)
        assert both.kappa.value.value == pytest.approx((0.8 - ones) / (1 - ones))
        zero, two = (a + b).count(0), (a + b).count(2)
        assert found.alpha.value.value == pytest.approx(1 - 19 * 2 / (zero * two))
        assert both.kappa.value.low <= both.kappa.value.value <= both.kappa.value.high

    def test_the_order_on_the_screen_does_not_matter(self):
        people = {"one": says([1] * 10), "other": says([1] * 10)}
        found = agreement(simulated(PAIRS, people))
        assert found.between[0].kappa.value.value == 1 and found.alpha.value.value == 1

    def test_ties_are_a_label_of_their_own_and_skips_are_none(self):
        people = {"one": says([0.5] * 4 + [1] * 6), "other": says([0.5] * 4 + [1] * 4 + [np.nan] * 2)}
        found = agreement(simulated(PAIRS, people))
        assert found.between[0].pairs == 8 == found.pairs and found.between[0].kappa.value.value == 1

    def test_a_judge_is_one_more_annotator(self):
        people = {"one": says([1] * 9 + [0]), "judge": says([0.7] * 10)}  # a probability is a side
        assert agreement(simulated(PAIRS, people)).between[0].share.value.value == pytest.approx(0.9)

    def test_two_who_never_overlap_have_no_agreement_and_it_says_so(self):
        half = [1] * 5 + [np.nan] * 5
        found = agreement(simulated(PAIRS, {"one": says(half), "other": says(half[::-1])}))
        assert found.between[0].kappa.value is None and found.alpha.value is None and found.pairs == 0
        assert any("not one pair that both labelled" in line for line in found.warnings())
        assert all(row.value is None for row in found.records("x"))

    def test_one_label_throughout_is_undefined_not_nan(self):
        found = agreement(simulated(PAIRS, {"one": says([0.5] * 10), "other": says([0.5] * 10)}))
        assert found.between[0].share.value.value == 1 and found.between[0].kappa.value is None and found.alpha.value is None
        assert any("one and the same label throughout" in line for line in found.warnings())

    def test_nobody_and_one_alone(self):
        assert agreement([]).warnings() == ["all 0 annotators: not one pair with two labels, so alpha is not defined"]
        assert agreement(simulated(PAIRS, {"one": says([1] * 10)})).between == ()

    def test_who_says_a_to_everything_is_named(self):
        """Ten of ten: p = 2 / 2^10. Half and half: p = 1. Ties and skips are no choices."""
        found = sides(simulated(PAIRS, {"a": lambda pairs, first, second: np.ones(len(pairs)), "one": says([1] * 10)}))
        assert found[0].p == pytest.approx(2 / 1024) and "10 of 10" in found[0].suspect and "position bias" in found[0].suspect
        assert found[1].suspect == "" and sides([Label("Q", "a", "b", "tie", "x")])[0].choices == 0

    def test_simulated_labels_are_the_same_from_memory_and_from_a_file(self, tmp_path):
        labels = simulated(PAIRS, {"one": says([1] * 6 + [0.5, np.nan, 0, 0])}, seed=4)
        LabelsFile(tmp_path / "labels.jsonl").add(labels)
        assert read_labels(tmp_path / "labels.jsonl") == labels
        assert sorted(label.label for label in labels).count("tie") == 1
        assert Session(PAIRS, tmp_path / "labels.jsonl", "one", seed=4).shown is None

    @pytest.mark.parametrize("bad", [np.ones(3), np.full(10, 1.5)])
    def test_verdicts_of_the_wrong_shape_or_range_are_refused(self, bad):
        with pytest.raises(DataError, match="for 10 pairs"):
            simulated(PAIRS, {"one": lambda pairs, first, second: bad})


class TestTheWidget:
    """Its Python half; what the browser does with it is in test_labeller_jupyterlab.py."""

    @pytest.fixture(autouse=True)
    def at_the_screen(self, monkeypatch):
        monkeypatch.delenv("REPRO_BATCH", raising=False)

    def press(self, tool, what, token=None):
        tool._pressed(tool, {"press": what, "token": tool.view["token"] if token is None else token}, [])

    def test_the_browser_learns_texts_and_progress_and_nothing_else(self, tmp_path):
        pairs = [SimpleNamespace(prompt=each.prompt, chosen=each.chosen, rejected=each.rejected, extras={"writers": ["strong", "small"]}) for each in PAIRS]
        tool = labeller(pairs, tmp_path / "labels.jsonl", "one")
        assert set(tool.view) == {"token", "annotator", "done", "total", "left", "undo", "message", "finished", "prompt", "first", "second"}
        assert "strong" not in json.dumps(tool.view) and tool.view["prompt"][0][0] == "Prompt"

    def test_a_key_struck_twice_labels_one_pair(self, tmp_path):
        tool = labeller(PAIRS, tmp_path / "labels.jsonl", "one")
        for _ in "12":
            self.press(tool, "first", token=0)
        self.press(tool, "left")  # no such label
        tool._pressed(tool, "text", [])
        assert tool.view["done"] == 1 and tool.view["undo"]
        self.press(tool, "undo")
        assert tool.view["done"] == 0 and not tool.view["undo"]

    def test_what_cannot_be_saved_stays_on_the_screen_with_the_reason(self, tmp_path, monkeypatch):
        tool = labeller(PAIRS, tmp_path / "labels.jsonl", "one")

        def full(end):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        before = tool.view["first"]
        self.press(tool, "first")
        assert "No space left" in tool.view["message"] and tool.view["first"] == before and tool.view["done"] == 0
        monkeypatch.undo()
        self.press(tool, "second")
        assert tool.view["message"] == "" and [label.label for label in read_labels(tmp_path / "labels.jsonl")] == ["second"]

    def test_the_end_names_a_leaning_to_one_side(self, tmp_path):
        tool = labeller(PAIRS, tmp_path / "labels.jsonl", "one")
        for _ in PAIRS:
            self.press(tool, "first")
        assert "All 10 pairs are labelled: 10 A, 0 B, 0 tie, 0 skipped" in tool.view["finished"]
        assert "one chose the answer shown first in 10 of 10" in tool.view["finished"]
        assert labeller(PAIRS, tmp_path / "labels.jsonl", "one").view["done"] == 10

    def test_in_batch_it_is_a_picture_of_plain_text_and_touches_no_file(self, tmp_path, monkeypatch):
        monkeypatch.setenv("REPRO_BATCH", "1")
        picture = labeller([Pair((("user", "Q\x1b"),), "<script>x</script>", "b")], tmp_path / "labels.jsonl", "one")
        page = picture._repr_mimebundle_()
        assert "<script>" not in page["text/html"] and "&lt;script&gt;" in page["text/html"] and "\x1b" not in page["text/html"]
        assert "Nobody sits here" in page["text/plain"] and list(tmp_path.iterdir()) == []
        assert "0 pairs wait" in labeller([], tmp_path / "labels.jsonl", "one")._repr_mimebundle_()["text/plain"]

"""The adapters on the real public sets, against counts known from the sets' own documentation."""

import pytest

from repro.core.errors import MissingInput
from repro.core.paths import data_folder
from repro.data import alpaca_eval, hh_rlhf, llmbar, pku_saferlhf
from repro.data.difficulty import as_csv, recovered_difficulty
from repro.data.schema import Reason


def need(name):
    folder = data_folder()
    if folder is None or not (folder / name).is_dir():
        pytest.skip(f"no data folder with {name}: `repro data fetch` brings it, or set REPRO_DATA")
    return folder


@pytest.fixture(scope="module")
def hh():
    folder = need("hh-rlhf")
    return {subset: hh_rlhf.load(folder, subsets=[subset]) for subset in hh_rlhf.SUBSETS}


def test_hh_counts(hh):
    published = {"helpful-base": 2354, "harmless-base": 2312, "helpful-online": 1137, "helpful-rejection-sampled": 2749}
    assert {name: len(each.rows) + len(each.set_aside) for name, each in hh.items()} == published
    assert {name: each.counts()[Reason.EQUAL] for name, each in hh.items()} == dict(
        zip(hh_rlhf.SUBSETS, (2, 0, 2, 32), strict=True)
    )
    assert {name: len(each.rows) for name, each in hh.items()} == dict(
        zip(hh_rlhf.SUBSETS, (2333, 2299, 1129, 2714), strict=True)
    )


def test_hh_files_share_no_prompt_so_beyond_base_can_train_for_base(hh):
    ids = {name: {pair.prompt_id for pair in each.rows} for name, each in hh.items()}
    train = set().union(*(ids[name] for name in hh_rlhf.BEYOND_BASE))
    test = set().union(*(ids[name] for name in hh_rlhf.BASE))
    assert len(train) > 3000 and len(test) > 4000 and not train & test
    assert sum(map(len, ids.values())) == len(set().union(*ids.values()))


def test_hh_turns_alternate_and_hold_no_mark(hh):
    for loaded in hh.values():
        for pair in loaded.rows:
            assert [role for role, _ in pair.prompt] == ["user", "assistant"] * (len(pair.prompt) // 2) + ["user"]
            assert all("\n\nHuman:" not in text and "\n\nAssistant:" not in text for _, text in pair.prompt)
            assert pair.chosen != pair.rejected and pair.chosen and pair.rejected


def test_pku_counts():
    folder = need("pku-saferlhf")
    assert len(pku_saferlhf.load(folder, keep_repeats=True).rows) == 5135
    loaded = pku_saferlhf.load(folder)
    assert len(loaded.rows) == 3590 and loaded.counts() == {Reason.REPEATED: 1545}
    assert len({pair.prompt_id for pair in loaded.rows}) == 930
    both = {(pair.prompt, pair.chosen, pair.rejected) for pair in loaded.rows}
    assert sum((prompt, rejected, chosen) in both for prompt, chosen, rejected in both) == 2 * 144


def test_llmbar_counts():
    folder = need("llmbar")
    sizes = [len(llmbar.load(folder, subsets=[subset]).rows) for subset in llmbar.LLMBAR]
    assert sizes == [100, 134, 92, 47, 46] and sum(sizes) == 419
    human = llmbar.load(folder, subsets=tuple(llmbar.PROCESSED))
    assert len(human.rows) + len(human.set_aside) == 466
    assert human.counts() == {Reason.EQUAL: 1, Reason.EMPTY_ANSWER: 1}


@pytest.fixture(scope="module")
def annotations():
    return alpaca_eval.annotations(need("alpaca_eval"))


def test_alpaca_eval_counts(annotations):
    folder = need("alpaca_eval")
    prompts = alpaca_eval.prompts(folder).rows
    assert len({prompt.prompt_id for prompt in prompts}) == 805
    answers = alpaca_eval.load(folder)
    assert len({answer.model for answer in answers.rows}) == 23
    assert len(answers.rows) + len(answers.set_aside) == 805 * 23
    assert answers.counts() == {Reason.EMPTY_ANSWER: 2}  # both of text_davinci_003
    assert len(alpaca_eval.load(folder, also_annotated=True).rows) == len(answers.rows) + 805
    assert len(annotations.rows) == 805 * 10 and not annotations.set_aside


def test_alpaca_eval_preferences_give_the_published_win_rates(annotations):
    board = alpaca_eval.leaderboard(need("alpaca_eval"))
    assert len(board) == 223
    checked = 0
    for model in alpaca_eval.annotated_models(need("alpaca_eval")):
        wins = [each.preference - 1 for each in annotations.rows if each.model == model]
        if model in board:
            assert 100 * sum(wins) / len(wins) == pytest.approx(board[model]["win_rate"], abs=1e-9)
            checked += 1
    assert checked == 9  # text_davinci_003 is not on the AlpacaEval 2 leaderboard


def test_difficulty_is_recovered_to_the_last_digit(annotations):
    folder = need("alpaca_eval")
    weights = alpaca_eval.weights(folder)
    assert len(weights) == 200
    chosen = [each for each in annotations.rows if each.model == alpaca_eval.ONLY_ANNOTATED]
    recovered = recovered_difficulty(chosen, weights[alpaca_eval.ONLY_ANNOTATED])
    assert recovered == pytest.approx(alpaca_eval.difficulty(folder), abs=1e-9)
    assert as_csv(recovered) == (folder / "alpaca_eval" / alpaca_eval.DIFFICULTY).read_text()


def test_a_model_without_annotations_is_missing_not_empty():
    with pytest.raises(MissingInput):
        alpaca_eval.annotations(need("alpaca_eval"), models=["claude-2.1"])

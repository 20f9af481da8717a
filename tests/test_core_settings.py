"""Tiers: one declares, the others state differences; what is not declared is refused, with the nearest right name."""

import pytest
import yaml

from repro.core import settings
from repro.core.errors import SettingsError


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "PARAMS", tmp_path)

    def write(**tiers):
        for name, text in tiers.items():
            (tmp_path / f"{name}.yaml").write_text(text)

    write(
        paper="shared: {dtype: bfloat16}\nloop:\n  prompts_per_iteration: 20000  # p2 section 3.3\n  rate: 5.0e-7\n",
        laptop="extends: paper\nloop:\n  prompts_per_iteration: 32  # minutes on two cores\n",
    )
    return write


def test_a_tier_is_its_chain_and_overrides_come_last(params):
    loop = settings.load("laptop", {"rate": 1}, "loop").section("loop")
    assert (loop.prompts_per_iteration, loop.rate, loop.dtype) == (32, 1, "bfloat16")
    assert settings.load("paper").section("loop").prompts_per_iteration == 20000
    assert settings.comments("laptop")["loop", "prompts_per_iteration"] == "minutes on two cores"
    assert settings.tiers() == ["paper", "laptop"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: settings.load("latpop"), "Did you mean laptop"),
        (lambda: settings.load("../laptop"), "no tier"),
        (
            lambda: settings.load("laptop", {"loop.prompts_per_iter": 3}),
            "Did you mean prompts_per_iteration.*paper.yaml",
        ),
        (lambda: settings.load("laptop", {"lop.rate": 3}), "Did you mean loop"),
        (lambda: settings.load("laptop", {"loop.rate": "high"}), "give it a float"),
        (lambda: settings.load("laptop", {"loop.rate": "5e-7"}), "give it a float"),
        (lambda: settings.load("laptop").section("lopp"), "Did you mean loop"),
        (lambda: settings.load("laptop").section("loop").rte, "Did you mean rate"),
    ],
)
def test_what_is_wrong_is_named_with_the_fix(params, call, says):
    with pytest.raises(SettingsError, match=f"(?s){says}"):
        call()


def test_a_tier_file_cannot_invent_a_key_or_write_a_number_as_text(params):
    params(bad="extends: paper\nloop: {prompts_per_iter: 3}\n", text="extends: paper\nloop: {rate: 5e-7}\n")
    with pytest.raises(
        SettingsError, match="(?s)params/bad.yaml: loop.prompts_per_iter is unknown.*Did you mean prompts_per_iteration"
    ):
        settings.load("bad")
    with pytest.raises(SettingsError, match="(?s)reads as text.*5.0e-7"):
        settings.load("text")


def test_settings_do_not_change_and_a_pick_is_only_what_was_named(params):
    loop = settings.load("laptop").section("loop")
    with pytest.raises(SettingsError):
        loop.rate = 3
    assert dict(loop.pick("rate", extra=1)) == {"rate": 5e-7, "extra": 1}


def test_a_renamed_or_constant_setting_remembers_where_it_came_from(params):
    loop = settings.load("laptop").section("loop").renamed(size="prompts_per_iteration")
    picked = loop.pick("size", "rate", fixed=1)
    assert dict(picked) == {"size": 32, "rate": 5e-7, "fixed": 1}
    assert picked.origin["renamed"] == {"size": "prompts_per_iteration"} and picked.origin["constants"] == ["fixed"]


REAL = ["gpu", "laptop", "smoke"]


@pytest.mark.parametrize("tier", REAL)
def test_a_tier_states_only_its_differences_and_why(tier):
    parent = settings.load(yaml.safe_load((settings.PARAMS / f"{tier}.yaml").read_text())["extends"])
    why = settings.comments(tier)
    for section, values in settings.stated(tier).items():
        for key, value in values.items():
            assert parent.sections[section][key] != value, f"{tier}: {section}.{key} repeats its parent; delete it"
            assert why.get((section, key)), f"{tier}: {section}.{key} does not say why it differs"


def test_paper_says_where_each_parameter_stands():
    where = settings.comments("paper")
    missing = [f"{s}.{k}" for s, values in settings.stated("paper").items() for k in values if not where.get((s, k))]
    assert not missing, missing

"""p1's framework: preference data in four steps, each of which lets only part of what enters go on (p1.fig1).

    1 prompts     keep x where r*(x, y_strong) - r*(x, y_sft) > epsilon (p1.eq2): what the SFT model does not do well yet
    2 responses   one pair of answers a prompt, by writers of several sizes and settings, one presumed stronger
    3 filter      a judge's 1 to 5 for each answer; only some of the 25 cells of (r+, r-) go on (p1.table1)
    4 labels      people review direction, quality and doubt; what they agree on and accept is kept

Steps 1 and 2 stand in `collection_prompts`, 3 and 4 in `collection_reviews`. Answers, scores and labels are got apart from the
steps, so that another threshold, mask or panel can be tried on what is there. What a step drops has a reason in its tally.
"""

from dataclasses import dataclass, field
from typing import Any

from repro.core.artifacts import canonical
from repro.core.paths import runs_folder
from repro.core.settings import Section
from repro.data import Pair
from repro.papers.collection_prompts import answered, completed, keep_hard, pair_up, prompt_pool, with_gold
from repro.papers.collection_reviews import Scorer, filter_pairs, label_pairs, mask_of, reviewed, scores_of
from repro.papers.collection_rows import Candidate, Graded, Tally
from repro.world.sources import annotators

__all__ = ["Candidate", "Collection", "Graded", "Tally", "collect"]


@dataclass(frozen=True)
class Collection:
    """The three data sets and the four tallies; pool and hard: all prompts and those that step 1 kept, with their answers.

    candidates: after step 2, chosen by the model presumed stronger. filtered: after step 3, by the judge's levels.
    labelled: after step 4, by people. scores: what the judge said of each candidate's answers, (candidates, 2).
    """

    candidates: list[Pair]
    filtered: list[Pair]
    labelled: list[Pair]
    tallies: list[Tally]
    pool: list[Candidate] = field(repr=False)
    hard: list[Candidate] = field(repr=False)
    scores: list[tuple[Any, Any]] = field(repr=False)
    graded: Graded = field(repr=False)

    @property
    def retained(self) -> float:
        """Pairs after step 4 by the prompts that entered step 1: each would give one pair if nothing were lost."""
        return self.tallies[-1].kept / self.tallies[0].entered

    @property
    def turned(self) -> int:
        """Pairs of step 4 whose direction people turned against the judge's."""
        return sum(pair.extras["turned"] for pair in self.labelled)


_COLLECTIONS: dict[tuple, Collection] = {}  # made once a process: three chapters begin with the same one


def collect(world: Section, settings: Section, seed: int, judge: Scorer | None = None) -> Collection:
    """The whole framework, from prompts to labelled pairs.

    world: the section `world`; settings: the section `p1_01_collection`; judge: scores answers in place of the world's.
    Raises SettingsError for a role, mask or choice that is none, and as its steps do.
    """
    known = (str(runs_folder()), canonical(world), canonical(settings), seed)
    if judge is None and known in _COLLECTIONS:
        return _COLLECTIONS[known]
    mask = mask_of(settings.mask)
    pool = answered(prompt_pool(settings.prompts, seed), world, settings, seed)
    hard, first = keep_hard(pool, settings.epsilon)
    hard = completed(hard, world, settings, seed)
    candidates, second = pair_up(hard, settings, seed)
    graded = Graded.of(candidates)
    candidates = with_gold(candidates, graded)
    scores = scores_of(candidates, graded, judge)
    filtered, third = filter_pairs(candidates, scores, mask)
    reviews = reviewed(filtered, graded, annotators()["human"], settings.reviewers, seed)
    filtered, labelled, fourth = label_pairs(filtered, reviews, settings.quality_floor, settings.contradicted)
    tallies = [first, second, third, fourth]
    made = Collection(candidates, filtered, labelled, tallies, pool, hard, scores, graded)
    if judge is None:
        _COLLECTIONS[known] = made
    return made

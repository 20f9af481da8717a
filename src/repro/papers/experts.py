"""Who relabels interaction samples on levels 1 to 5: the judge, or the reward ensemble itself as a control (p3 section 4.3).

The ensemble's level of an answer is the fifth of all answers that its mean reward lies in, so it says nothing new: what
refinement on it changes is done by the extra training, the rounding to five levels and the noise alone.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from repro.core.errors import SettingsError
from repro.objectives.relabel import quantiles
from repro.world.sources import annotators
from repro.world.task import Task

JUDGE, OWN = "judge", "ensemble mean"
EXPERTS = (JUDGE, OWN)


def levels_of(expert: str, tasks: Sequence[Task], texts: Sequence[str], rewards: ArrayLike) -> np.ndarray:
    """An expert's level 1 to 5 of every answer, (samples,).

    rewards: (members, samples), which the ensemble's own levels are made from. Raises SettingsError for another expert,
    and as `Judge.score` and `quantiles` do.
    """
    if expert == JUDGE:
        return annotators()["judge"].score(tasks, texts)
    if expert != OWN:
        raise SettingsError(f"unknown expert {expert!r}", where="relabelling", fix=f"choose from {', '.join(EXPERTS)}")
    mean = np.asarray(rewards, dtype=np.float64).mean(0)
    return 1 + np.searchsorted(quantiles(mean[None])[0, :-1], mean, side="left")

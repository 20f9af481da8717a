"""The labelling session as a notebook widget, driven by buttons or keys; where nobody can sit there, a picture of it."""

import html
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from repro.core.errors import ReproError
from repro.judges.agreement import sides
from repro.judges.human import LABELS, UNDO
from repro.judges.judge import dialogue
from repro.judges.labelling import Pair, Session, arranged

FRONT = Path(__file__).parent
WORDS = {"first": "A", "second": "B", "tie": "tie", "skip": "skipped"}
NOBODY = "Nobody sits here in a batch run, so nothing was labelled: this is what a person sees first."


class Labeller(anywidget.AnyWidget):
    """A session on the screen. The browser gets texts and progress; who wrote what never leaves the kernel.

    Each view has a token, and a press counts once: what arrives for an older view (a key struck twice) is not used.
    """

    _esm = FRONT / "labeller.js"
    _css = FRONT / "labeller.css"
    view = traitlets.Dict().tag(sync=True)

    def __init__(self, session: Session):
        self.session, self._token = session, 0
        super().__init__(view=self._view([]))  # what the session had to say so far stands above, in the cell's output
        self.on_msg(self._pressed)

    def _pressed(self, _: Any, content: Any, __: Any) -> None:
        if not isinstance(content, Mapping) or content.get("token") != self._token:
            return
        known, failed = len(self.session.messages), []
        try:
            if content.get("press") == UNDO:
                self.session.undo()
            elif content.get("press") in LABELS:
                self.session.add(content["press"])
        except ReproError as error:  # the pair stays on the screen, with the reason under it
            failed = [str(error)]
        self._token += 1
        self.view = self._view(self.session.messages[known:] + failed)

    def _view(self, messages: Sequence[str]) -> dict[str, Any]:
        """What the browser draws."""
        session = self.session
        labels, shown = session.labels, session.shown
        view = {"token": self._token, "annotator": session.annotator, "done": len(labels), "total": session.total}
        view |= {"left": _left(session.seconds_left()), "undo": bool(labels), "message": "\n".join(messages)}
        if shown is None:
            return view | {"finished": _finished(session)}
        turns = [["Prompt" if len(shown.prompt) == 1 else role.capitalize(), text] for role, text in shown.prompt]
        return view | {"finished": "", "prompt": turns, "first": shown.first, "second": shown.second}


class Picture:
    """What a person would see first, as a page can show it: text only, and nothing to press."""

    def __init__(self, pairs: Sequence[Pair], annotator: str, seed: int):
        shown, left_out = arranged(pairs, annotator, seed)
        self._shown, self._total = next(iter(shown), None), len(shown)
        reasons = [f"{count} left out: {reason}" for reason, count in left_out.items()]
        self._words = "; ".join([f"{self._total} pairs wait for a person", *reasons])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        parts = [f"<p>{html.escape(NOBODY)} {html.escape(self._words)}.</p>"]
        if self._shown:
            answers = _block("A", self._shown.first), _block("B", self._shown.second)
            cells = "".join(f'<div style="flex: 1 1 16rem; min-width: 0">{each}</div>' for each in answers)
            parts += [_block("Prompt", dialogue(self._shown.prompt))]
            parts += [f'<div style="display: flex; flex-wrap: wrap; gap: 0 1rem">{cells}</div>']
            parts += ["<p>Keys: left or A, right or B, T for a tie, S to skip, U to undo.</p>"]
        return {"text/html": "".join(parts), "text/plain": f"{NOBODY} {self._words}."}


def labeller(pairs: Sequence[Pair], file: Path, annotator: str, seed: int = 0) -> Labeller | Picture:
    """Label pairs as a person: two answers side by side, blind, in random order; every label is on disk before the next.

    Open the same file again, in this kernel or another, and it goes on where the annotator stopped. In a batch run
    (REPRO_BATCH set) it shows a picture and touches no file. Raises DataError without pairs or a name, ArtifactError if
    the file cannot be written.
    """
    if os.environ.get("REPRO_BATCH"):
        return Picture(pairs, annotator, seed)
    return Labeller(Session(pairs, file, annotator, seed))


def _left(seconds: float | None) -> str:
    if not seconds:
        return ""
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {max(seconds, 1):.0f} s left"


def _finished(session: Session) -> str:
    """What to say when every pair is labelled."""
    said = Counter(label.label for label in session.labels)
    counts = ", ".join(f"{said[label]} {word}" for label, word in WORDS.items())
    lines = [f"All {session.total} pairs are labelled: {counts}. Saved in {session.saved.file}."]
    return "\n".join(lines + [each.suspect for each in sides(session.labels) if each.suspect])


def _block(label: str, text: str) -> str:
    """Text as HTML that shows exactly what it holds."""
    clean = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", text)
    body = f'<pre class="repro-text mathjax_ignore tex2jax_ignore">{html.escape(clean)}</pre>'
    return f'<div class="repro-label">{html.escape(label)}</div>{body}'

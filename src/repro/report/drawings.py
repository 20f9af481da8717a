"""Drawings of how things hang together: boxes with words, and arrows from box to box. Nothing in them is measured."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from repro.report.figures import BLUE, GREEN, GREY, ORANGE

Boxes = Mapping[str, tuple[float, float, str, str]]  # name -> centre across and down, words, colour
Arrows = Sequence[tuple[str, str]]
WIDTH, HEIGHT = 0.86, 0.6  # of a box, where neighbours' centres are 1 apart


def flow(boxes: Boxes, arrows: Arrows, ax: Axes, *, title: str = "", width: float = WIDTH) -> Axes:
    """Boxes at places of a grid, rows counted downwards, and arrows between those named; width: of a box."""
    patches = {}
    for name, (x, y, words, colour) in boxes.items():
        corner = (x - width / 2, y - HEIGHT / 2)
        style = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": "white", "edgecolor": colour, "lw": 1.4}
        patches[name] = ax.add_patch(FancyBboxPatch(corner, width, HEIGHT, **style))
        ax.text(x, y, words, ha="center", va="center", fontsize=8.5)
    for start, end in arrows:
        ends = [boxes[name][:2] for name in (end, start)]
        line = {"arrowstyle": "-|>", "color": GREY, "lw": 1.2, "shrinkA": 2, "shrinkB": 2}
        ax.annotate("", *ends, arrowprops=line | {"patchA": patches[start], "patchB": patches[end]})
    columns, rows = zip(*(box[:2] for box in boxes.values()), strict=True)
    ax.set(
        xlim=(min(columns) - width / 2 - 0.12, max(columns) + width / 2 + 0.12),
        ylim=(max(rows) + 0.45, min(rows) - 0.45),
    )
    ax.set_title(title, loc="left")
    ax.axis("off")
    return ax


def bradley_terry(ax: Axes) -> Axes:
    """p2.fig2, the Bradley-Terry model: each answer is read alone, a linear head makes a number of it, and the difference decides."""
    boxes = {}
    for row, n in ((0, "1"), (1, "2")):
        boxes |= {
            f"text{n}": (0, row, f"prompt $x$\nanswer $a^{n}$", BLUE),
            f"model{n}": (1, row, "language model\n(the same)", ORANGE),
            f"head{n}": (2, row, f"linear head\nreward $r(x, a^{n})$", ORANGE),
        }
    boxes["out"] = (3, 0.5, "$P(a^1 \\succ a^2) =$\n$\\sigma(r^1 - r^2)$", GREEN)
    arrows = [(f"{one}{n}", f"{two}{n}") for n in "12" for one, two in (("text", "model"), ("model", "head"))]
    return flow(boxes, [*arrows, ("head1", "out"), ("head2", "out")], ax, title="Bradley-Terry")


def preference(ax: Axes) -> Axes:
    """p2.fig2, the preference model: one text holds both answers, and the model's next word, A or B, is the decision; both orders count."""
    boxes = {
        "text1": (0, 0, "prompt $x$\nA: $a^1$, B: $a^2$", BLUE),
        "text2": (0, 1, "prompt $x$\nA: $a^2$, B: $a^1$", BLUE),
        "model1": (1, 0, "language model\n(the same)", ORANGE),
        "model2": (1, 1, "language model\n(the same)", ORANGE),
        "word1": (2, 0, "next word A or B\n$p_1 = P($A$)$", ORANGE),
        "word2": (2, 1, "next word A or B\n$p_2 = P($A$)$", ORANGE),
        "out": (3, 0.5, "$P(a^1 \\succ a^2) =$\n$(p_1 + 1 - p_2)/2$", GREEN),
    }
    arrows = [(f"{one}{n}", f"{two}{n}") for n in "12" for one, two in (("text", "model"), ("model", "word"))]
    return flow(boxes, [*arrows, ("word1", "out"), ("word2", "out")], ax, title="Preference model")


def workflow(ax: Axes) -> Axes:
    """p2.fig1: preferences make a reward model, and the reward model ranks what the policy samples, again and again."""
    boxes = {
        "sets": (0, 0, "open preference\nsets", BLUE),
        "clean": (1, 0, "cleaning,\nmixtures", BLUE),
        "reward": (2, 0, "reward or\npreference model", ORANGE),
        "sft": (0, 1, "SFT policy $\\pi_0$", BLUE),
        "sample": (1, 1, "sample $n$ answers\nto new prompts", GREEN),
        "rank": (2, 1, "rank them: best\nagainst worst", GREEN),
        "dpo": (3, 1, "DPO step:\npolicy $\\pi_t$", GREEN),
        "again": (2, 2, "next iteration", GREY),
    }
    arrows = [("sets", "clean"), ("clean", "reward"), ("reward", "rank"), ("sft", "sample"), ("sample", "rank")]
    return flow(boxes, [*arrows, ("rank", "dpo"), ("dpo", "again"), ("again", "sample")], ax)


def collection(ax: Axes) -> Axes:
    """p1.fig1: four steps from prompts to preference data, and the reward model trained on it."""
    boxes = {
        "prompts": (0, 0, "1 prompts:\nhard for the SFT model", BLUE),
        "responses": (1.2, 0, "2 responses:\nseveral models, a pair", BLUE),
        "filter": (2.4, 0, "3 filter:\na judge's 1 to 5", ORANGE),
        "labels": (3.6, 0, "4 labels:\npeople review", ORANGE),
        "model": (4.8, 0, "5 reward model", GREEN),
        "drop1": (0, 1, "dropped: the SFT\nmodel keeps up", GREY),
        "drop3": (2.4, 1, "dropped: equal\nscores, extremes", GREY),
        "drop4": (3.6, 1, "dropped: doubt,\npoor quality", GREY),
    }
    chain = ("prompts", "responses", "filter", "labels", "model")
    arrows = [*pairwise(chain), ("prompts", "drop1"), ("filter", "drop3"), ("labels", "drop4")]
    return flow(boxes, arrows, ax, width=1.06)


def prompt_generation(ax: Axes) -> Axes:
    """p1.fig2: prompts of many categories, answered by two models, scored by a proxy reward model, and filtered by p1.eq2."""
    boxes = {
        "pool": (0, 0.5, "prompt pool $X$,\nevery category", BLUE),
        "strong": (1.2, 0, "strong model:\n$y^G$", BLUE),
        "sft": (1.2, 1, "SFT model:\n$y^S$", BLUE),
        "proxy": (2.4, 0.5, "proxy reward\nmodel $r^*$", ORANGE),
        "keep": (3.6, 0, "difference $> \\epsilon$:\nkeep $x$", GREEN),
        "drop": (3.6, 1, "difference $\\leq \\epsilon$:\ndrop $x$", GREY),
    }
    arrows = [("pool", "strong"), ("pool", "sft"), ("strong", "proxy"), ("sft", "proxy"), ("proxy", "keep")]
    return flow(boxes, [*arrows, ("proxy", "drop")], ax, width=1.0)

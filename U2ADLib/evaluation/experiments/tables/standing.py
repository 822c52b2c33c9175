"""Who is first, and where U²AD is not: the summary of a comparison."""

from dataclasses import dataclass

import numpy as np

from ..config import DETECTORS, PAPER_METHODS, RULES, SIGNAL
from ..figures import Figure
from ..training import Entry
from .common import strategy_text
from .context import Context, interval
from .result import Table, Value

OURS = ("u2ad", "u2ad-default")
RIVALS = tuple(name for name in (*PAPER_METHODS, *DETECTORS, *SIGNAL) if name not in OURS)
MEASURES = (  # level, name in a sentence, figure
    ("patient", "patient AUROC", "patient AUROC"),
    ("patient", "patient AUPRC", "patient AUPRC"),
    ("patient", "patient F1 of the paper's protocol", "patient F1"),
    ("segment", "segment AUROC", "segment AUROC"),
    ("segment", "segment AP", "segment AP"),
    ("segment", "segment F1 of the paper's protocol (oracle)", "segment F1 (oracle)"),
    ("segment", "segment F1, located", "located F1"),
)
MAIN = ("patient AUROC", "segment AUROC")


@dataclass(frozen=True)
class Place:
    """A method in a strategy, with its figures."""

    entry: Entry
    strategy: int
    title: str
    figures: dict[str, Figure]

    @property
    def name(self) -> str:
        """In a sentence."""
        return f"{self.title}, strategy {strategy_text(self.strategy)}" if self.strategy else self.title


@dataclass(frozen=True)
class Standing:
    """sentences: what the summary says, the first ones matter most. not_first: those of them where U²AD is behind."""

    sentences: list[str]
    not_first: list[str]
    table: Table | None


def places(context: Context) -> list[Place]:
    """Every method in every strategy that was scored."""
    found = []
    for name in context.config.methods:
        entry = context.comparison.entry(name)
        for strategy in context.comparison.strategies(name):
            if context.is_there(entry, strategy):
                found.append(Place(entry, strategy, context.title(entry), context.figures(entry, strategy)))
    return found


def standing(context: Context) -> Standing:
    """U²AD with all it has learnt against each rival in its best strategy, chosen on the test: that favours them."""
    found = places(context)
    ours = [
        place for name in OURS for place in found
        if place.entry.method == name and place.strategy == context.comparison.best_strategy(name)
    ]  # fmt: skip
    sentences, behind, lines = [], [], []
    for level, words, key in MEASURES:
        ranked = _ranked(found, key)
        if not ranked:
            continue
        first = ranked[0]
        others = {"rival": _best(ranked, RIVALS), "rule": _best(ranked, RULES)}
        if key in MAIN:
            sentences.append(f"First at {level} level: {first.name}, {words} {_text(first, key)}.")
        for mine in ours:
            if not _known(mine, key):
                continue
            for kind, other in others.items():
                if other is None:
                    continue
                ahead = mine.figures[key].value - other.figures[key].value
                apart = _apart(context, mine, other, key)
                whom = "the paper's methods" if kind == "rival" else "the simple rules"
                if ahead < 0:
                    behind.append(
                        f"{mine.name} is not first among {whom} in {words}: {_text(mine, key)}, and {other.name} "
                        f"{_text(other, key)}{apart}."
                    )
                elif key in MAIN:
                    sentences.append(
                        f"{mine.name} is ahead of {whom} in {words}: {_text(mine, key)}, then {other.name} "
                        f"{_text(other, key)}{apart}."
                    )
        lines.append((
            words,
            first.name,
            interval(first.figures[key]) if "AU" in key or "AP" in key else Value(first.figures[key].value),
            *(_rank(ranked, found, mine, key) for mine in ours),
            *(other.name if other else "–" for other in others.values()),
            *(Value(other.figures[key].value) if other else "–" for other in others.values()),
        ))  # fmt: skip
    if not ours:
        sentences.append("U²AD does not take part.")
    table = None
    if lines:
        table = Table(
            "standing",
            "Who is first",
            ("Figure", "First of all", "Its value", *(f"Rank of {mine.title}" for mine in ours),
             "Best of the paper's methods", "Best simple rule", "Best of the paper's methods: value",
             "Best simple rule: value"),
            tuple(lines),
            notes=(
                "U²AD with all that it has learnt; every other method in the strategy that is best on the test itself, "
                "which favours it. Ranks: among all methods and strategies.",
                context.stated(),
            ),
        )  # fmt: skip
    return Standing([*sentences], behind, table)


def _known(place, key):
    return key in place.figures and np.isfinite(place.figures[key].value)


def _ranked(found, key):
    return sorted((one for one in found if _known(one, key)), key=lambda one: -one.figures[key].value)


def _best(ranked, methods):
    return next((one for one in ranked if one.entry.method in methods), None)


def _rank(ranked, found, mine, key):
    if not _known(mine, key):
        return "not defined"
    better = sum(one.figures[key].value > mine.figures[key].value for one in ranked)
    return f"{better + 1} of {len(ranked)} ({mine.figures[key].value:.3f})"


def _text(place, key):
    figure = place.figures[key]
    if "AU" in key or "AP" in key:
        return interval(figure).text
    return f"{figure.value:.3f}"


def _apart(context, mine, other, key):
    """The paired difference, where it can be had."""
    if not ("AU" in key or "AP" in key):
        return ""
    one = context.difference((mine.entry, mine.strategy), (other.entry, other.strategy)).get(key)
    if one is None or not np.isfinite([one.low, one.high]).all():
        return ""
    sure = "" if one.low > 0 or one.high < 0 else ", which is no clear difference"
    return f"; difference {one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f}){sure}"

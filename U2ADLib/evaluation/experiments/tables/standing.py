"""Who is first, and where U²AD is not: the summary of a comparison."""

from dataclasses import dataclass

import numpy as np

from ..config import ABLATION, DETECTORS, OURS, PAPER_METHODS, RULES, SIGNAL
from ..figures import Figure
from ..training import Entry
from .common import strategy_text
from .context import Context, interval
from .result import Table, Value

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
OTHERS = {"the paper's methods": RIVALS, "the simple rules": RULES, "the ablation": ABLATION}
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
    """What the summary says. not_first: where U²AD is behind, level, or without a value. takes_part: it was scored."""

    sentences: list[str]
    not_first: list[str]
    table: Table | None = None
    takes_part: bool = True


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
    """U²AD with all it has learnt against everything else in its best strategy, chosen on the test, which favours the
    others."""
    found = places(context)
    ours = [
        place for name in OURS for place in found
        if place.entry.method == name and place.strategy == context.comparison.best_strategy(name)
    ]  # fmt: skip
    sentences, behind, lines = [], [], []
    also: dict[str, list[str]] = {}  # who is behind whom → in what, besides the main measures
    for level, words, key in MEASURES:
        if not (ranked := _ranked(found, key)):
            continue
        others = {whom: _best(ranked, methods) for whom, methods in OTHERS.items()}
        if key in MAIN:
            sentences.append(f"First at {level} level: {ranked[0].name}, {words} {_text(ranked[0], key)}.")
        for mine in ours:
            if not _known(mine, key):
                also.setdefault(f"{mine.name} has no value in ", []).append(words)
                continue
            for whom, other in others.items():
                if other is None:
                    continue
                ahead = mine.figures[key].value - other.figures[key].value
                if key in MAIN:
                    place = "ahead of" if ahead > 0 else "behind" if ahead < 0 else "level with"
                    said = (
                        f"In {words} {mine.name} is {place} {whom}: {_text(mine, key)}, and {other.name} "
                        f"{_text(other, key)}{_apart(context, mine, other, key)}."
                    )
                    (sentences if ahead > 0 else behind).append(said)
                elif ahead <= 0:
                    said = f"{words} ({_short(mine, key)}; {other.name} {_short(other, key)})"
                    also.setdefault(f"{mine.name} is not ahead of {whom} in ", []).append(said)
        lines.append(_line(words, key, ranked, ours, others))
    behind += [f"{who}{', '.join(what)}." for who, what in also.items()]
    if not ours:
        sentences.append("U²AD does not take part.")
    return Standing(sentences, behind, _standing_table(context, ours, lines) if lines else None, bool(ours))


def _line(words, key, ranked, ours, others):
    first = ranked[0]
    value = interval(first.figures[key]) if _has_interval(key) else Value(first.figures[key].value)
    return (
        words,
        first.name,
        value,
        *(_rank(ranked, mine, key) for mine in ours),
        *(f"{other.name} ({_short(other, key)})" if other else "–" for other in others.values()),
    )


def _standing_table(context, ours, lines):
    ranks = (f"Rank of {mine.title}" for mine in ours)
    return Table(
        "standing",
        "Who is first",
        ("Figure", "First of all", "Its value", *ranks, *map("Best of {}".format, OTHERS)),
        tuple(lines),
        notes=(
            "U²AD with all that it has learnt; every other method in the strategy that is best on the test itself, "
            "which favours it. Ranks: among all methods and strategies. In brackets: after a "
            "value its 95 % interval over people, after a rank or a name the value.",
            context.stated(),
        ),
    )


def _known(place, key):
    return key in place.figures and np.isfinite(place.figures[key].value)


def _ranked(found, key):
    return sorted((one for one in found if _known(one, key)), key=lambda one: -one.figures[key].value)


def _best(ranked, methods):
    return next((one for one in ranked if one.entry.method in methods), None)


def _rank(ranked, mine, key):
    if not _known(mine, key):
        return "not defined"
    better = sum(one.figures[key].value > mine.figures[key].value for one in ranked)
    return f"{better + 1} of {len(ranked)} ({mine.figures[key].value:.3f})"


def _has_interval(key):
    """Over people; the paper's figures have a spread over folds."""
    return "AU" in key or "AP" in key


def _text(place, key):
    return interval(place.figures[key]).text if _has_interval(key) else _short(place, key)


def _short(place, key):
    return f"{place.figures[key].value:.3f}"


def _apart(context, mine, other, key):
    """The paired difference, where it can be had."""
    one = context.difference((mine.entry, mine.strategy), (other.entry, other.strategy)).get(key)
    if one is None or not np.isfinite([one.low, one.high]).all():
        return ""
    sure = "" if one.low > 0 or one.high < 0 else ", which is no clear difference"
    return f"; difference {one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f}){sure}"

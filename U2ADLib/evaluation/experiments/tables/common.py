"""Tables that several experiments share: the paper's protocol, and the figures that a reviewer believes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..config import OURS, RULES
from ..figures import FALSE_MARKS, ORACLE, Figure
from ..training import Comparison, Entry
from . import paper
from .context import Context, interval, jobs_of, spread
from .result import Cell, Table, Value
from .scoring import Job

PROTOCOL = (
    ("Accuracy", "patient accuracy"),
    ("F1", "patient F1"),
    ("Specificity", "patient specificity"),
    ("F1", "segment F1 (oracle)"),
    ("Recall", "segment recall (oracle)"),
    ("Specificity", "segment specificity (oracle)"),
    ("F1", "segment F1"),
    ("F1, located", "located F1"),
)
PROTOCOL_GROUPS = (("Patient level", 3), ("Segment level, threshold of the test fold", 3), ("of the other folds", 2))
PROTOCOL_NOTE = (
    "Mean ± SD over folds. Patient level: the threshold with sensitivity 0.9 in the other folds. Segment level: the "
    "top segment; “threshold of the test fold” is the paper's rule and an oracle's, “of the other folds” is not. "
    "Located: an image with a hyperintensity whose top segment is another one is a miss. –: not defined in any fold, "
    "for instance because no top segment there has a hyperintensity."
)
OURS_COLUMNS = (
    ("AUROC", "patient AUROC", 1),
    ("AUPRC", "patient AUPRC", 1),
    ("Sensitivity, fixed threshold", "patient sensitivity (fixed threshold)", 1),
    ("Specificity, fixed threshold", "patient specificity (fixed threshold)", 1),
    ("Healthy false positives", "healthy false-positive rate", -1),
    ("Healthy false positives", "healthy false-positive rate, pooled", -1),
    ("Specificity at sensitivity 0.9 (oracle)", "patient specificity at sensitivity 0.9 (oracle)", 1),
    ("AUROC", "segment AUROC", 1),
    ("AP", "segment AP", 1),
    ("Found at 0.5 false per image", "segments found at 0.5 false per image", 1),
    ("Lesions found at 1 false mark per image", "lesions found at 1 false mark per image", 1),
    ("Pixel AP", "pixel AP (oracle)", 1),
    ("Pixel Dice (oracle)", "pixel Dice (oracle)", 1),
)
OURS_NOTE = (
    "All segments are judged; those with a hyperintensity that were not found count as missed. In brackets 95 % "
    "intervals over people (bootstrap; of rates of healthy images Clopper-Pearson, as if each image were a person's). "
    "Pixels: in the cord, means over the images with a planted lesion, Dice at the best threshold of each. Seconds: "
    "median, of computing an image's maps or boxes. –: not defined, for instance pixels where a method makes boxes."
)
FIXED_NOTE = "The fixed threshold is that with sensitivity 0.9 on validation images, which are not the test's."
CALLS = (
    ("Sensitivity", "patient sensitivity, pooled"),
    ("Specificity", "patient specificity, pooled"),
    ("F1", "patient F1, pooled"),
    ("F1", "segment F1, pooled"),
    ("Recall", "segment recall, pooled"),
    ("Specificity", "segment specificity, pooled"),
    ("F1, located", "located F1, pooled"),
)
CALLS_NOTE = (
    "Each image is judged at the threshold of the other folds, and the calls of all folds are counted together: with "
    "few positives a fold alone says little. Patient level: the threshold with sensitivity 0.9. Segment level: the top "
    "segment, at the threshold with the best F1; located: an image with a hyperintensity whose top segment is another "
    "one is a miss. In brackets 95 % intervals over people, at the same thresholds. –: the other folds set none."
)
KINDS = f"lesions found at {FALSE_MARKS:g} false mark per image: "
KINDS_NOTE = (
    "The share of planted lesions that are found where 1 false mark per image is made; n: how many there are. A1: as "
    "in the paper (App. A.1), 1 to 3 in an image; the number after h, small or long is the contrast, in % of the way "
    "from cord to fluid; small: 2 to 3 mm; border: at the cord's border. In brackets 95 % intervals over people."
)
POOLED_NOTE = "Healthy false positives: at the thresholds with sensitivity 0.9 in the other folds."


@dataclass(frozen=True)
class Row:
    """A method in a strategy. label: of its first columns."""

    entry: Entry
    strategy: int
    labels: tuple[str, ...]

    @property
    def name(self) -> str:
        """In a sentence."""
        return f"{self.labels[1]}, strategy {self.strategy}" if self.strategy else self.labels[1]

    @property
    def is_ours(self) -> bool:
        return self.entry.method in OURS


def strategy_text(strategy: int) -> str:
    """For a cell."""
    return str(strategy) if strategy else "–"


def rows_of(context: Context, methods: Sequence[str], strategies: Sequence[int] | None = None) -> list[Row]:
    """Methods in their strategies, of those given if any; strategy by strategy as in the paper's Table 1."""
    made = []
    for name in context.config.known(tuple(methods)):
        entry = context.comparison.entry(name)
        for strategy in context.comparison.strategies(name):
            if (strategies is None or strategy in strategies) and context.is_there(entry, strategy):
                made.append(Row(entry, strategy, (strategy_text(strategy), context.title(entry))))
    return sorted(made, key=lambda row: row.strategy)


def best_rows(context: Context, methods: Sequence[str]) -> list[Row]:
    """Methods in their best strategy alone."""
    best = context.comparison.best_strategy
    return [row for row in rows_of(context, methods) if row.strategy == best(row.entry.method)]


def detection_tables(context: Context, name: str, title: str, rows: Sequence[Row]) -> list[Table]:
    """Everything about finding lesions, of the rows and of the simple rules, which stand in every table. name:
    "table1" …, also of the paper's table whose values stand beside."""
    known = {row.entry for row in rows}
    rows = [*rows, *(row for row in rows_of(context, RULES) if row.entry not in known)]
    made = [
        protocol_table(context, f"{name}-protocol", f"{title}: the paper's protocol", rows, name),
        calls_table(context, f"{name}-calls", f"{title}: calls of all folds together", rows),
        reviewers_table(context, name, f"{title}: all segments, intervals over people", rows),
        kinds_table(context, f"{name}-kinds", f"{title}: lesions found, by kind", rows),
        groups_table(context, f"{name}-groups", f"{title}: phantoms and people apart", rows),
        difference_table(context, f"{name}-differences", f"{title}: U²AD less the others", "u2ad", rows),
    ]
    return [table for table in made if table]


def method_jobs(comparison: Comparison, methods: Sequence[str], best_only: bool = False) -> list[Job]:
    """Scores of methods in all their strategies (or their best one), and of the simple rules."""
    jobs = []
    for name in comparison.config.known(tuple(dict.fromkeys((*methods, *RULES)))):
        strategies = (comparison.best_strategy(name),) if best_only else comparison.strategies(name)
        for strategy in strategies:
            jobs += jobs_of(comparison, comparison.entry(name), strategy, uses=("test", "validation"))
    return jobs


def protocol_table(context: Context, name: str, title: str, rows: Sequence[Row], number: str) -> Table:
    """Figures as the paper has them, with its own beside them where the data are the paper's.

    :param number: of the paper's table, "table1" …
    """
    columns = ("Strategy", "Method", *(short for short, _ in PROTOCOL))
    figures = [context.figures(row.entry, row.strategy) for row in rows]
    lines: list[tuple[Cell, ...]] = []
    for row, found in zip(rows, figures, strict=True):
        keys = (row.entry.method, row.strategy) if number == "table1" else (row.entry.method,)
        known = paper.found(number, context.config.paper_data, *keys)
        lines.append((*row.labels, *protocol_cells(found, known)))
    return Table(
        name,
        title,
        columns,
        tuple(lines),
        (0, 0, *(1 for _ in PROTOCOL)),
        (
            PROTOCOL_NOTE,
            context.folds_told(),
            *_fewer_folds(context, rows, figures),
            *context.doubts(),
            context.stated(),
        ),
        (("", 2), *PROTOCOL_GROUPS),
        _emphasised(rows),
    )


def protocol_cells(found: Mapping[str, Figure], known: Mapping[str, str]) -> list[Value]:
    """The columns of `PROTOCOL`. known: the paper's; its figures of segments are at the threshold of the test fold."""
    return [
        spread(found.get(key), known.get(key.removesuffix(ORACLE), "") if key in _PAPERS else "") for _, key in PROTOCOL
    ]


_PAPERS = {key for _, key in PROTOCOL if key.startswith("patient") or key.endswith(ORACLE)}


def _fewer_folds(context, rows, figures):
    """Who has figures that are the mean of some of the folds only, in a sentence."""
    folds, named = context.config.folds.count, {}
    for row, found in zip(rows, figures, strict=True):
        counts = {key: found[key].n for _, key in PROTOCOL if key in found}
        if few := [f"{key} of {n}" for key, n in counts.items() if 0 < n < folds]:
            named.setdefault(", ".join(few), []).append(row.name)
    said = "; ".join(f"{what}: {' / '.join(names)}" for what, names in named.items())
    return [f"Means of fewer folds, because the others are undefined: {said}."] if said else []


def _emphasised(rows):
    return tuple(n for n, row in enumerate(rows) if row.is_ours)


def calls_table(context: Context, name: str, title: str, rows: Sequence[Row]) -> Table:
    """Sensitivity, specificity and F1 of the calls in all folds."""
    figures = [context.figures(row.entry, row.strategy) for row in rows]
    return Table(
        name,
        title,
        ("Strategy", "Method", *(short for short, _ in CALLS)),
        tuple(
            (*row.labels, *(interval(found.get(key)) for _, key in CALLS))
            for row, found in zip(rows, figures, strict=True)
        ),
        (0, 0, *(1 for _ in CALLS)),
        (CALLS_NOTE, *context.doubts(), context.stated()),
        (("", 2), ("Patient level", 3), ("Segment level", 4)),
        _emphasised(rows),
    )


def kinds_table(context: Context, name: str, title: str, rows: Sequence[Row]) -> Table | None:
    """The lesions that are found, each kind apart; None where none is planted."""
    figures = [context.figures(row.entry, row.strategy) for row in rows]
    counts = {key: figure.n for found in figures for key, figure in found.items() if key.startswith(KINDS)}
    if not counts:
        return None
    return Table(
        name,
        title,
        ("Strategy", "Method", *(f"{key.removeprefix(KINDS)} (n = {n})" for key, n in counts.items())),
        tuple(
            (*row.labels, *(interval(found.get(key)) for key in counts))
            for row, found in zip(rows, figures, strict=True)
        ),
        (0, 0, *(1 for _ in counts)),
        (KINDS_NOTE, *context.doubts(), context.stated()),
        emphasised=_emphasised(rows),
    )


def reviewers_table(context: Context, name: str, title: str, rows: Sequence[Row]) -> Table:
    """Figures that need no threshold of the test's own; oracles are named so."""
    figures = [context.figures(row.entry, row.strategy) for row in rows]
    known = [one for one in OURS_COLUMNS if any(one[1] in found for found in figures)]
    fixed = any("(fixed threshold)" in key for _, key, _ in known)
    if fixed:
        known = [one for one in known if not one[1].endswith(", pooled")]
    seconds = [context.seconds(row.entry, row.strategy) for row in rows]
    lines = tuple(
        (*row.labels, *(interval(found.get(key)) for _, key, _ in known), Value(_median(spent), digits=3))
        for row, found, spent in zip(rows, figures, seconds, strict=True)
    )
    patient = sum("patient" in key or "healthy" in key for _, key, _ in known)
    segment = sum("segment" in key for _, key, _ in known)
    prevalence = np.mean([truth.patient for truth in context.truths]) if context.truths else np.nan
    truth = [value for one in context.truths for value in one.segments.values()]
    chance = (
        f"Prevalence, which is the AUPRC or AP of a guess: {prevalence:.2f} of images, "
        f"{np.mean(truth) if truth else np.nan:.2f} of segments."
    )
    return Table(
        name,
        title,
        ("Strategy", "Method", *(short for short, _, _ in known), "Seconds per image"),
        lines,
        (0, 0, *(sign for *_, sign in known), -1),
        (OURS_NOTE, FIXED_NOTE if fixed else POOLED_NOTE, chance, *context.doubts(), context.stated()),
        (
            ("", 2),
            ("Patient level", patient),
            ("Segment level", segment),
            ("Planted lesions", len(known) - patient - segment),
            ("", 1),
        ),
        _emphasised(rows),
    )


def groups_table(context: Context, name: str, title: str, rows: Sequence[Row]) -> Table | None:
    """Phantoms and the people of each folder apart; None where all are of one kind."""
    groups = sorted({truth.group for truth in context.truths})
    if len(groups) < 2:
        return None
    keys = (("Patient AUROC", "patient AUROC"), ("Segment AUROC", "segment AUROC"))
    lines = []
    for row in rows:
        found = [context.figures_of_group(row.entry, row.strategy, group) for group in groups]
        lines.append((*row.labels, *(interval(one.get(key)) for one in found for _, key in keys)))
    counts = {group: [truth for truth in context.truths if truth.group == group] for group in groups}
    told = ", ".join(
        f"{group}: {len(truths)} images of {len({truth.person for truth in truths})} people"
        for group, truths in counts.items()
    )
    return Table(
        name,
        title,
        ("Strategy", "Method", *(short for _ in groups for short, _ in keys)),
        tuple(lines),
        (0, 0, *(1 for _ in groups for _ in keys)),
        (
            f"{told}. Intervals of 95 % over people; of few people they are too narrow. –: all are of one kind, or (of "
            "an interval) one person's.",
            context.stated(),
        ),
        (("", 2), *((group, len(keys)) for group in groups)),
        _emphasised(rows),
    )


def _median(values):
    return float(np.median(values)) if len(values) else np.nan


def difference_table(context: Context, name: str, title: str, reference: str, rows: Sequence[Row]) -> Table | None:
    """U²AD, all that it has learnt, less each other row, on the same draws of people; None without U²AD."""
    if reference not in context.config.methods or not context.is_there(context.comparison.entry(reference)):
        return None
    mine = (context.comparison.entry(reference), context.comparison.best_strategy(reference))
    keys = ("patient AUROC", "patient AUPRC", "segment AUROC", "segment AP")
    others = [row for row in rows if (row.entry, row.strategy) != mine]
    lines = []
    for row in others:
        found = context.difference(mine, (row.entry, row.strategy))
        lines.append((*row.labels, *(interval(found.get(key)) for key in keys)))
    return Table(
        name,
        title,
        ("Strategy", "Method", *keys),
        tuple(lines),
        notes=(
            "Above 0: U²AD is better. Intervals of 95 % over people, drawn together for both methods; one that holds 0 "
            "shows no difference.",
            context.stated(),
        ),
        emphasised=_emphasised(others),
    )

"""The tables of a run, markdown and CSV: every score, every person, differences with paired intervals, false alarms.

Each figure is computed per person and kind of lesion, then averaged over repetitions, over the kinds of a group and
over people. Two intervals: over slices within each person (as the study's), and over people, then their slices. With
a handful of people the second says little more than that they are few.

Rows that are chosen: "chosen on others" takes, for every cell, the setting (or the rule) that was best for that very
cell on the people that the fold learnt from; "oracle" the one that is best on the test itself, which nobody could
have known.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ...errors import UsageError
from ...files import staged
from . import metrics
from .cases import NONE, PHANTOM, people_names
from .parts import METRICS, Part
from .study import GROUPS

REFERENCE = "ridge8 + expected error, 1 px"
MAIN, MORE = METRICS[:4], METRICS[4:]
CHOSEN, ORACLE = "best simple rule, chosen on others", "best simple rule, oracle"
TABLES = "tables.md"
SENSITIVITY = 0.9  # of the threshold for false alarms, on lesions of the group "mid"
GROUP_NAMES = tuple(GROUPS)
MANUAL, AUTOMATIC, BY_FOLD = (
    "people with a manual mask",
    "people whose mask was found",
    "phantoms, seen by each fold's fit",
)


class Results:
    """Figures of all parts, by block: a condition and a group of people that are reported together.

    test[block][score][person]: (groups, metrics, 1 + R), the mean over repetitions; for phantoms the folds stand for
    people. training[condition][score][fold]: (groups, metrics), the mean of the people the fold learnt from.
    spread[block][score]: (groups, metrics), standard deviation over repetitions of the mean over people.
    parts[block][job]: the parts of the tests. mid_peaks[score][fold]: counted peaks of mid lesions of people learnt
    from.
    """

    def __init__(self, setup, jobs: Iterable):
        manual = set(people_names(setup.folder)[0])
        owners = {}  # score → method
        self.parts, self.mid_peaks = defaultdict(dict), defaultdict(lambda: defaultdict(list))
        tests, training = _nested(), _nested()
        for job in jobs:
            part = Part.load(job.path(setup.out))
            names = part.variants.tolist()
            for name in names:
                if owners.setdefault(name, job.method) != job.method:
                    raise UsageError(f"Two methods have a score of the name {name!r}: give them names of their own.")
            group = BY_FOLD if job.condition == PHANTOM else MANUAL if job.fold in manual else AUTOMATIC
            if job.is_test:
                self.parts[job.condition, group][job] = part
            elif job.condition == "clinical":
                mid = np.isin(part.kinds, GROUPS["mid"])
                for v, name in enumerate(names):
                    self.mid_peaks[name][job.fold].append(part.counted_peak[v][mid])
            for v, name in enumerate(names if len(part.lesion_kinds) else ()):
                if job.is_test:
                    tests[job.condition, group][name][job.fold].append(group_figures(part, v))
                else:
                    training[job.condition][name][job.fold].append(group_figures(part, v)[..., 0])
        self.spread = {block: {n: _spread(by) for n, by in scores.items()} for block, scores in tests.items()}
        self.test = {block: {n: _means(by) for n, by in scores.items()} for block, scores in tests.items()}
        self.training = {c: {n: _means(by) for n, by in scores.items()} for c, scores in training.items()}
        self.rules = [name for name, method in owners.items() if method == "rules"]
        for block in self.test:
            self._add_chosen(block)

    def _add_chosen(self, block):
        scores, condition = self.test[block], block[0]
        training = self.training.get("clinical" if condition == PHANTOM else condition, {})
        settings = defaultdict(list)
        for name in scores:
            settings[name.removesuffix(", max").rsplit(",", 1)[0].removesuffix(" + expected error")].append(name)
        rules = [name for name in scores if name in self.rules]
        rows = {f"{one}, setting chosen on others": names for one, names in settings.items() if len(names) > 1}
        rows |= {CHOSEN: rules} if rules else {}
        made = {}
        for row, names in rows.items():
            folds = [fold for fold in scores[names[0]] if all(fold in training.get(name, {}) for name in names)]
            if folds:
                made[row] = {f: _pick([training[n][f] for n in names], [scores[n][f] for n in names]) for f in folds}
        if rules:
            each = [mean_of_people(scores[name])[..., 0] for name in rules]
            made[ORACLE] = {fold: _pick(each, [scores[n][fold] for n in rules]) for fold in scores[rules[0]]}
        scores |= made


def group_figures(part: Part, variant: int) -> np.ndarray:
    """(groups, metrics, 1 + R): means over the kinds of each group."""
    kinds = {kind: part.figures(variant, kind) for kind in part.lesion_kinds}
    empty = np.full((len(METRICS), len(part.weights)), np.nan)
    return np.stack([_nanmean([kinds.get(kind, empty) for kind in members]) for members in GROUPS.values()])


def mean_of_people(by_person: dict[str, np.ndarray]) -> np.ndarray:
    """Mean over people; NaN only where all are."""
    return _nanmean(list(by_person.values()))


def _nested():
    return defaultdict(lambda: defaultdict(lambda: defaultdict(list)))


def _means(by_fold):
    return {fold: _nanmean(values) for fold, values in by_fold.items()}


def _spread(by_fold):
    """Standard deviation over repetitions; NaN for one."""
    count = min(map(len, by_fold.values()))
    each = [_nanmean([values[r][..., 0] for values in by_fold.values()]) for r in range(count)]
    return np.std(each, axis=0, ddof=1) if count > 1 else np.full_like(each[0], np.nan)


def _nanmean(values):
    values = np.asarray(values, float)
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def _pick(judged, values):
    """Of values (names, groups, metrics, 1 + R), for each group and metric, those of the name that is judged best."""
    judged, values = np.stack(judged), np.stack(values)
    best = np.where(np.isfinite(judged), judged, -np.inf).argmax(0)
    return np.take_along_axis(values, best[None, ..., None], axis=0)[0]


def pooled_patients(parts: Iterable[Part], variant: int, kind: str) -> tuple[float, float]:
    """AUROC and AUPRC of patients with one lesion against patients without (`Part.patients`), of all people together.

    The AUPRC is that at a prevalence of one half: both sides are weighted to it.
    """
    pairs = [part.patients(variant, kind) for part in parts]
    sides = [np.concatenate([np.empty(0), *(pair[k] for pair in pairs)]) for k in (0, 1)]
    labels = np.arange(sum(map(len, sides))) < len(sides[0])
    weights = np.concatenate([np.full(len(side), 0.5 / max(len(side), 1)) for side in sides])
    scores = np.concatenate(sides)
    both = 0 < len(sides[0]) < len(scores)
    return metrics.auroc(scores, labels), metrics.average_precision(scores, labels, weights) if both else np.nan


# ------------------------------------------------------------------------------------------------ false alarms


def false_alarms(results: Results) -> list[dict]:
    """Alarms on lesion-free cases, in the rows that count in an analysis, at the threshold that each fold set:
    sensitivity 0.9 on the mid lesions, clinical, of the people it learnt from (first repetition). A method that knows
    these people by heart sets it too high, finds fewer of the test's lesions ("mid found") and gives fewer false
    alarms: look at both.

    Of slices, and of volumes: all slices of a person in one repeat, or of a phantom, of which one alarms. Counts are
    over all folds and repetitions, the interval (Clopper-Pearson) takes them for independent. Clean slices without a
    lesion are the same in every repeat: each counts once. Phantoms are the same for every fold: theirs are the mean
    over folds.
    """
    rows = []
    for (condition, group), parts in results.parts.items():
        counts = defaultdict(lambda: {unit: np.zeros(2) for unit in ("mid", "slices", "volumes")} | {"folds": set()})
        for job, part in parts.items():
            mid = np.isin(part.kinds, GROUPS["mid"])
            for v, name in enumerate(part.variants.tolist()):
                if job.fold not in results.mid_peaks[name]:
                    continue
                limit = metrics.threshold_at(np.concatenate(results.mid_peaks[name][job.fold]), SENSITIVITY)
                alarm = part.counted_peak[v] >= limit
                for kind in (kind for kind in np.unique(part.kinds) if kind not in part.lesion_kinds):
                    # Phantoms with lesions and the many without are different ones.
                    what = condition if kind == NONE else f"{condition}, {kind}"
                    row = counts[name, job.person if condition == PHANTOM else what]
                    chosen = part.kinds == kind
                    if condition == "clean":
                        chosen &= (part.repeats == 0) & (job.repetition == 0)
                    volumes = np.char.add(part.volumes[chosen], part.repeats[chosen].astype(str))
                    row["folds"].add(job.fold)
                    row["mid"] += alarm[mid].sum(), mid.sum()
                    row["slices"] += alarm[chosen].sum(), chosen.sum()
                    row["volumes"] += len(set(volumes[alarm[chosen]])), len(set(volumes))
        for (name, what), row in counts.items():
            line = {"people": group, "what": what, "score": name, "mid found": _share(*row["mid"])}
            share = len(row["folds"]) if condition == PHANTOM else 1
            for unit in ("slices", "volumes"):
                alarms, total = (round(value / share) for value in row[unit])
                line |= {f"{unit} alarming": alarms, unit: total, f"{unit} share": _share(alarms, total)}
                line[f"{unit} low"], line[f"{unit} high"] = metrics.clopper_pearson(alarms, total)
            rows.append(line)
    return rows


def _share(count, total):
    return float(count / total) if total else np.nan


# ------------------------------------------------------------------------------------------------------ output


def short(value: float) -> str:
    """Three digits after the point, without the nought before it."""
    return "–" if not np.isfinite(value) else f"{value:.3f}".removeprefix("0")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def write_tables(setup, jobs: Sequence, reference: str | None = None) -> Path:
    """`tables.md`, `results.csv`, `differences.csv` and `false_alarms.csv` in the run's folder; the path of the first.
    They are written aside and moved there: what was there stays until all are whole.

    :param reference: the score that the others are compared with, by default ridge inpainting.
    """
    results = Results(setup, jobs)
    names = [name for scores in results.test.values() for name in scores]
    reference = reference or (REFERENCE if REFERENCE in names else names[0] if names else "")
    text, figures, differences = ["# Planted lesions\n", __doc__.split("\n\n", 1)[1]], [], []
    for block, scores in results.test.items():
        apart = _differences(block, scores, reference)
        text += _section(results, block, scores)
        text.append(_difference_table(reference, apart))
        figures += _figure_rows(block, scores)
        differences += apart
    alarms = false_alarms(results)
    text += _alarm_tables(alarms)
    sheets = {"results.csv": figures, "differences.csv": differences, "false_alarms.csv": alarms}
    with staged(setup.out, (*sheets, TABLES), overwrite=True) as place:
        for name, rows in sheets.items():
            _write_csv(place / name, rows)
        (place / TABLES).write_text("\n".join(text), encoding="utf-8")
    return setup.out / TABLES


def _section(results, block, scores):
    """Tables of one block, as lines."""
    condition, group = block
    parts = [part for part in results.parts[block].values() if len(part.lesion_kinds)]
    people = list(next(iter(scores.values())))
    prevalence = np.mean([part.prevalence.mean() for part in parts])
    means = {name: mean_of_people(values)[..., 0] for name, values in scores.items()}
    yield f"## {condition}: {group} ({', '.join(people)})\n"
    yield f"{' / '.join(MAIN)}. All-positive: .500/{short(prevalence)}/.500/.500\n"
    rows = ([name, *("/".join(map(short, cell[: len(MAIN)])) for cell in figures)] for name, figures in means.items())
    yield markdown(["score", *GROUP_NAMES], rows)
    largest = np.max([spread[:, : len(MAIN)] for spread in results.spread[block].values()], axis=(0, 1))
    if np.isfinite(largest).all():
        yield f"Largest standard deviation over repetitions: {'/'.join(map(short, largest))}\n"
    yield f"{' / '.join(MORE)}\n"
    rows = ([name, *("/".join(map(short, cell[len(MAIN) :])) for cell in figures)] for name, figures in means.items())
    yield markdown(["score", *GROUP_NAMES], rows)
    yield "Patients of all people together: AUROC / AUPRC at a prevalence of .500\n"
    yield markdown(["score", *GROUP_NAMES], _patient_rows(results.parts[block]))
    yield f"Every person, faint lesions: {' / '.join(MAIN)}\n"
    rows = (
        [name, *("/".join(map(short, v[: len(MAIN), 0])) for v in (by[p][0] for p in by))]
        for name, by in scores.items()
    )
    yield markdown(["score", *people], rows)
    lost, planted = (sum(int(getattr(part, key).sum()) for part in parts) for key in ("left_out", "planted"))
    yield f"Left out, because the given mask shows less than 3 px of the lesion: {lost / planted:.1%} of the lesions.\n"


def _patient_rows(parts):
    for method in dict.fromkeys(job.method for job in parts):
        own = [part for job, part in parts.items() if job.method == method and len(part.lesion_kinds)]
        for v, name in enumerate(own[0].variants.tolist()):
            cells = [_nanmean([pooled_patients(own, v, kind) for kind in kinds]) for kinds in GROUPS.values()]
            yield [name, *("/".join(map(short, cell)) for cell in cells)]


def _figure_rows(block, scores):
    for name, values in scores.items():
        for person, figures in {**values, "mean": mean_of_people(values)}.items():
            for g, lesions in enumerate(GROUP_NAMES):
                row = {"condition": block[0], "people": block[1], "score": name, "group": lesions, "person": person}
                yield row | {metric: float(figures[g, m, 0]) for m, metric in enumerate(METRICS)}


def _differences(block, scores, reference):
    """Reference minus each other score that has the same people, with both intervals."""
    if reference not in scores:
        return []
    rows, base = [], np.stack(list(scores[reference].values()))
    draws = metrics.people_draws(len(base), base.shape[-1] - 1)
    for name, values in scores.items():
        if name == reference or list(values) != list(scores[reference]):
            continue
        apart = base - np.stack(list(values.values()))  # (people, groups, metrics, 1 + R)
        for g, lesions in enumerate(GROUP_NAMES):
            for m, metric in enumerate(METRICS):
                each = apart[:, g, m]
                if metric.startswith("oracle") or not np.isfinite(each[:, 0]).any():
                    continue
                mean = _nanmean(each)
                slices, people = metrics.interval(mean[1:]), metrics.interval(metrics.over_people(each, draws))
                row = {"condition": block[0], "people": block[1], "score": name, "group": lesions, "metric": metric}
                row |= {"difference": float(mean[0]), "slices low": slices[0], "slices high": slices[1]}
                rows.append(row | {"people low": people[0], "people high": people[1]})
    return rows


def _difference_table(reference, rows, lesions="faint"):
    def cell(row):
        ends = [f"{row[f'{unit} low']:+.3f} to {row[f'{unit} high']:+.3f}" for unit in ("slices", "people")]
        return f"{ends[0]} [{ends[1]}]"

    shown = [row for row in rows if row["metric"] in MAIN and row["group"] == lesions]
    text = f"{reference} minus the others, {lesions} lesions: 95 % over slices [over people and slices]\n\n"
    return text + _wide_table(shown, lambda row: row["metric"], cell)


def _alarm_tables(alarms):
    yield f"## False alarms\n\n{' '.join(false_alarms.__doc__.split())}\n"
    for group in dict.fromkeys(row["people"] for row in alarms):
        rows = [row for row in alarms if row["people"] == group]
        for unit in ("slices", "volumes"):
            yield f"{group}: share of {unit} that alarm\n"
            yield _wide_table(
                rows,
                lambda row, u=unit: f"{row['what']} (of {row[u]})",
                lambda row, u=unit: f"{short(row[f'{u} share'])} ({short(row[f'{u} low'])}–{short(row[f'{u} high'])})",
            )
        yield f"{group}: share of mid lesions found at these thresholds\n"
        lesioned = [row for row in rows if np.isfinite(row["mid found"])]
        yield _wide_table(lesioned, lambda row: row["what"], lambda row: short(row["mid found"]))


def _wide_table(rows, column, cell):
    """A line for every score, a column for everything else."""
    cells = defaultdict(dict)
    for row in rows:
        cells[row["score"]][column(row)] = cell(row)
    columns = list(dict.fromkeys(map(column, rows)))
    return markdown(["score", *columns], ([name, *(by.get(c, "–") for c in columns)] for name, by in cells.items()))


def _write_csv(path, rows):
    rows = [{k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]) if rows else ["nothing"])
        writer.writeheader()
        writer.writerows(rows)

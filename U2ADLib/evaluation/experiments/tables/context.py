"""What every experiment is given: the configuration, the scores of each method, and figures from them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ....files import write_json
from ....rivals.detector import Maps
from ....thresholds import SENSITIVITY, sensitivity_threshold
from ..config import digest
from ..contracts import CaseScores, ExperimentCase
from ..figures import HEALTHY, Figure, all_figures, differences, our_figures
from ..scores import Truth, read_scores
from ..training import Comparison, Entry, title_of
from .result import INTERVAL, SPREAD, Value, plain
from .scoring import UNCHANGED, Change, Job, is_scored, key_of, look, read_quality, stage_of


def jobs_of(
    comparison: Comparison,
    entry: Entry,
    strategy: int | None = None,
    inference: int = 0,
    change: Change = UNCHANGED,
    uses: Sequence[str] = ("test",),
) -> list[Job]:
    """Every fold and seed of a method in a strategy (None: the best one).

    Scores at which thresholds are fixed before, `uses` with "validation", are those of the same models.
    """
    config = comparison.config
    strategy = comparison.best_strategy(entry.method) if strategy is None else strategy
    seeds = config.seeds if strategy else config.seeds[:1]
    uses = [use for use in uses if use == "test" or config.validation]
    return [
        Job(entry, strategy, fold, seed, inference, change, use)
        for seed in seeds
        for fold in range(config.folds.count)
        for use in uses
    ]


class Context:
    """Reads what was scored; `failed` are the jobs that were not, which are missing from every table."""

    def __init__(self, comparison: Comparison, failed: Iterable[Job] = ()):
        self.comparison, self.config, self.out = comparison, comparison.config, comparison.out
        self.failed = set(failed)
        self.pictures = self.out / "figures"
        self._rivals: dict = {}

    # ----------------------------------------------------------------------------------------------------- methods

    def entries(self, methods: Sequence[str]) -> list[Entry]:
        """Those that take part and of which nothing failed in their best strategy."""
        made = [self.comparison.entry(name) for name in self.config.known(tuple(methods))]
        return [entry for entry in made if self.is_there(entry)]

    def is_there(
        self, entry: Entry, strategy: int | None = None, inference: int = 0, change: Change = UNCHANGED
    ) -> bool:
        """Whether all of a method's scores are there, and those of this configuration and version."""
        jobs = jobs_of(self.comparison, entry, strategy, inference, change)
        return not self.failed.intersection(jobs) and all(is_scored(self.comparison, job) for job in jobs)

    def title(self, entry: Entry) -> str:
        """A method's name as it stands in the tables."""
        return title_of(entry.method)

    # ----------------------------------------------------------------------------------------------------- figures

    @cached_property
    def truths(self) -> list[Truth]:
        """Of the test set."""
        return [Truth.of(case) for case in self.comparison.cases]

    def scores(
        self, entry: Entry, strategy: int | None = None, seed: int | None = None, inference=0, change=UNCHANGED
    ) -> dict[str, CaseScores]:
        """By case: each is scored by the model that did not see its person."""
        seed = self.config.seeds[0] if seed is None else seed
        made: dict[str, CaseScores] = {}
        for job in jobs_of(self.comparison, entry, strategy, inference, change):
            if job.seed == seed:
                made |= read_scores(job.path(self.out))
        return made

    def quality(self, entry: Entry, strategy: int | None = None, change=UNCHANGED) -> dict[str, dict]:
        """How well cords are rebuilt, by case; empty for methods that do not rebuild. Of the first seed."""
        made: dict[str, dict] = {}
        for job in jobs_of(self.comparison, entry, strategy, change=change):
            if job.seed == self.config.seeds[0]:
                made |= read_quality(job.path(self.out))
        return {name: line for name, line in made.items() if len(line) > 1}

    def mean_quality(self, entry: Entry, strategy: int | None = None) -> dict[str, float]:
        """Means over the images; those of lesions over the images that have one."""
        lines = list(self.quality(entry, strategy).values())
        names = sorted({name for line in lines for name in line} - {"id", "rebuilt"})
        return {name: float(np.mean([line[name] for line in lines if name in line])) for name in names}

    def figures(
        self, entry: Entry, strategy: int | None = None, inference: int = 0, change: Change = UNCHANGED
    ) -> dict[str, Figure]:
        """`figures.all_figures` over all test images. Of several seeds the mean of values and of interval ends.

        They are kept: resampling people for every method takes longer than reading it.
        """
        jobs = jobs_of(self.comparison, entry, strategy, inference, change)
        limits = {job.seed: self.thresholds(entry, strategy, job.seed) for job in jobs}
        keys = [key_of(self.comparison, job) for job in jobs]
        kept = self.out / "computed" / f"{digest([keys, self.config.resamples, len(self.truths)])}.json"
        if kept.exists():
            found = {
                name: Figure(**{key: np.nan if one is None else one for key, one in values.items()})
                for name, values in json.loads(kept.read_text(encoding="utf-8")).items()
            }
            # Validation images may have been scored since, for another table or after a failure.
            if (HEALTHY in found) == all(limits.values()):
                return found
        made = _mean_of_seeds([
            self._figures(self.scores(entry, strategy, seed, inference, change), limits[seed]) for seed in limits
        ])  # fmt: skip
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {name: plain(asdict(figure)) for name, figure in made.items()})
        return made

    def _figures(self, scores, limits):
        settings = {"resamples": self.config.resamples}
        made = all_figures(scores, self.truths, fold_of=self.comparison.fold_of, **settings)
        if limits:
            fixed = our_figures(_above(scores, limits, self._model_of), self.truths, threshold=0.0, **settings)
            made |= {name: figure for name, figure in fixed.items() if "(fixed threshold)" in name or name == HEALTHY}
        return made

    def figures_of_group(self, entry: Entry, strategy: int | None, group: str) -> dict[str, Figure]:
        """`figures.our_figures` of phantoms or of the people of one folder alone; of several seeds as `figures`."""
        truths = [truth for truth in self.truths if truth.group == group]
        runs = self._runs(entry, strategy)
        return _mean_of_seeds([our_figures(one, truths, resamples=self.config.resamples) for one in runs])

    def _runs(self, entry, strategy):
        """The scores of each seed."""
        seeds = dict.fromkeys(job.seed for job in jobs_of(self.comparison, entry, strategy))
        return [self.scores(entry, strategy, seed) for seed in seeds]

    def thresholds(self, entry: Entry, strategy: int | None, seed: int) -> dict[int, float]:
        """Of each fold's model, the patient threshold with sensitivity 0.9 on the validation images; empty where they
        are not scored, for all folds."""
        jobs = jobs_of(self.comparison, entry, strategy, uses=("validation",)) if self.config.validation else []
        jobs = [job for job in jobs if job.seed == seed]
        if not jobs or not all(is_scored(self.comparison, job) for job in jobs):
            return {}
        truths = [Truth.of(case) for case in self.comparison.validation]
        labels = np.array([truth.patient for truth in truths])
        if not labels.any():
            return {}
        runs = {job.fold: read_scores(job.path(self.out)) for job in jobs}
        return {
            fold: float(sensitivity_threshold([scores[truth.id].patient for truth in truths], labels, SENSITIVITY))
            for fold, scores in runs.items()
        }

    def _model_of(self, case_id):
        return self.comparison.fold_of[self._people[case_id]]

    @cached_property
    def _people(self):
        return {truth.id: truth.person for truth in self.truths}

    def difference(self, first: tuple[Entry, int], second: tuple[Entry, int]) -> dict[str, Figure]:
        """First less second on the same draws of people; of several seeds as `figures`."""
        runs = [self._runs(*one) for one in (first, second)]
        count = max(map(len, runs))
        pairs = zip(*(one * count if len(one) == 1 else one for one in runs), strict=False)  # a rule has one run
        return _mean_of_seeds([differences(*pair, self.truths, resamples=self.config.resamples) for pair in pairs])

    def seconds(self, entry: Entry, strategy: int | None = None) -> np.ndarray:
        """Of computing each test image's maps or boxes."""
        return np.array([one.seconds for one in self.scores(entry, strategy).values()])

    # -------------------------------------------------------------------------------------------------------- maps

    def maps(self, entry: Entry, case: ExperimentCase, strategy: int | None = None) -> Maps | None:
        """A method's maps of a test image, by the model that did not see its person; None of detectors."""
        strategy = self.comparison.best_strategy(entry.method) if strategy is None else strategy
        job = Job(entry, strategy, self.comparison.fold_of[case.person], self.config.seeds[0])
        stage = stage_of(self.comparison, job)
        at = (entry, stage and stage.id)
        if at not in self._rivals:
            self._rivals = {at: self.comparison.trained(entry, stage)}  # one at a time: they are large
        found = look(self._rivals[at], case)
        return found if isinstance(found, Maps) else None

    def shown_cases(self, count: int, positive: bool | None = True) -> list[ExperimentCase]:
        """Images for pictures: of phantoms only, unless the configuration allows people. Large lesions first."""
        allowed = [case for case in self.comparison.cases if self.may_show(case)]
        allowed = [case for case in allowed if positive is None or case.patient == positive]
        area = {case.id: 0 if case.lesions is None else int((case.lesions > 0).sum()) for case in allowed}
        return sorted(allowed, key=lambda case: -area[case.id])[:count]

    def may_show(self, case: ExperimentCase) -> bool:
        """Whether an image may stand in the report."""
        return self.config.pictures_of == "all" or case.group == "phantom"

    def picture_path(self, name: str) -> Path:
        """Where a picture is written; its name is what the report knows it by."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        return self.pictures / f"{name}.png"

    # ------------------------------------------------------------------------------------------------------- words

    def doubts(self) -> list[str]:
        """What is missing from the tables."""
        names = set()
        for job in self.failed:
            title = title_of(job.entry.method) + job.entry.label.removeprefix(job.entry.method)
            names.add(f"{title}, strategy {job.strategy}" if job.strategy else title)
        return [f"Failed and left out: {'; '.join(sorted(names))}."] if names else []

    def folds_told(self) -> str:
        """How many images with a hyperintensity each fold has, in a sentence: with few of them a fold says little."""
        fold_of, counts = self.comparison.fold_of, []
        for fold in range(self.config.folds.count):
            labels = [truth.patient for truth in self.truths if fold_of[truth.person] == fold]
            counts.append(f"{sum(labels)} of {len(labels)}")
        return f"Images with a hyperintensity in each fold: {', '.join(counts)}."

    def stated(self) -> str:
        """The configuration in a sentence, for the foot of every table."""
        config = self.config
        people, positive = len({truth.person for truth in self.truths}), sum(truth.patient for truth in self.truths)
        segments = [value for truth in self.truths for value in truth.segments.values()]
        groups = sorted({truth.group for truth in self.truths})
        budget = "; ".join(_budget_text(stage, one) for stage, one in config.budget.items())
        learnt = (
            "the target stage learns from the test images"
            if config.folds.transductive
            else "nobody tested is learnt from"
        )
        return (
            f"Configuration {config.name} ({config.key()}): {len(self.truths)} test images of {people} people "
            f"({', '.join(groups)}), {positive} with a hyperintensity; {len(segments)} labelled segments, "
            f"{sum(segments)} with one; {config.folds.count} folds of people, {learnt}; {budget}; {self._seeds()}; "
            f"{config.resamples} resamples.{self._own_steps()}"
        )

    def _seeds(self):
        count = len(self.config.seeds)
        return f"{count} seeds, of which values and ends of intervals are the means" if count > 1 else "1 seed"

    def _own_steps(self):
        """Methods whose maps come to scores by other steps."""
        own = [name for name, score in self.config.scores.items() if score != self.config.score]
        named = ", ".join(title_of(name) for name in own if name in self.config.methods)
        return f" With steps of its own from map to scores (see the configuration): {named}." if named else ""


def spread(figure: Figure | None, paper: str = "") -> Value:
    """A figure of the paper's protocol: ± its standard deviation over folds."""
    return Value.of(figure, SPREAD, paper)


def interval(figure: Figure | None, digits: int = 3) -> Value:
    """A figure with its interval over people."""
    return Value.of(figure, INTERVAL, digits=digits)


def _budget_text(stage, budget):
    limits = {"minutes": budget.minutes, "steps": budget.steps}
    parts = [f"{limit:g} {unit[:-1] if limit == 1 else unit}" for unit, limit in limits.items() if limit is not None]
    return f"{stage} stage {' or '.join(parts)}"


def _above(scores, limits, model_of):
    """Patient scores less the threshold of their model, so that all have the threshold 0."""
    return {name: replace(one, patient=one.patient - limits[model_of(name)]) for name, one in scores.items()}


def _mean_of_seeds(made: list[dict[str, Figure]]) -> dict[str, Figure]:
    if len(made) == 1:
        return made[0]
    names = [name for name in made[0] if all(name in one for one in made)]
    result = {}
    for name in names:
        found = [one[name] for one in made]
        with np.errstate(invalid="ignore"):
            ends = [float(np.mean([getattr(one, end) for one in found])) for end in ("value", "low", "high")]
            apart = float(np.std([one.value for one in found], ddof=1))
        result[name] = Figure(*ends, found[0].n, f"{found[0].note}; mean of {len(made)} seeds, SD {apart:.3f}")
    return result

"""Which trainings a comparison needs, and one of them done: methods × strategies × folds, each once under one budget.

A stage is found again by a hash of all that it depends on: method, settings, images, people, budget, seed, and the
stage before it. Methods that differ in their maps alone name whose training is theirs (`source_of`, `target_of`).
Strategy 1 is the source stage, 2 the target stage alone, 3 both (paper 4.5); methods that learn nothing have one
strategy, 0, and supervised ones learn from the annotated target alone, strategy 2.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property, lru_cache
from importlib import import_module
from pathlib import Path

from ... import __version__, rivals
from ...errors import InputError, UsageError
from ...files import write_json
from ...progress import Progress, format_seconds, no_progress
from ...rivals.detector import SOURCE, TARGET, Budget, Rival, Training, TrainingSlices
from ...rivals.pace import seconds_computed
from .cases import experiment_cases, training_slices
from .config import FROM_SOURCE, FROM_TARGET, ONCE, TITLES, ExperimentConfig, digest, tupled
from .contracts import ExperimentCase
from .folds import folds_of_people, split
from .sets import SetConfig, image_count, people_of, place_of, planned_images, refuse_shared, set_key

DONE = "done.json"
MODEL = "model"
SECONDS_PER_PHANTOM = 3.0  # of processor time; for the estimate
Say = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """A method as it is compared: in tables and folders it is its label.

    settings, target_settings, source_settings: JSON; of the maps, and those with which its stages are trained, so that
    variants of one method share what they can. share: of the target stage's budget.
    """

    label: str
    method: str
    settings: str = "{}"
    target_settings: str = "{}"
    source_settings: str = "{}"
    share: float = 1.0

    def variant(self, label: str, *, retrained: bool = True, share: float = 1.0, **settings) -> "Entry":
        """The same source stage and other settings after it, or, if it is not `retrained`, of the maps alone."""
        changed = json.dumps(json.loads(self.settings) | settings, sort_keys=True)
        target = changed if retrained else self.target_settings
        return replace(self, label=f"{self.label} {label}", settings=changed, target_settings=target, share=share)

    def make(self) -> Rival:
        """The method with its settings, untrained."""
        return _make(self.method, self.settings)


@dataclass(frozen=True)
class Stage:
    """One training.

    data: a hash of what it learns from and of the method's settings, defaults included. without: people whom it must
    not see; people: the only ones it sees, None for all. after: the stage whose weights it goes on from.
    """

    method: str
    settings: str
    stage: str
    data: str
    without: tuple[str, ...] = ()
    people: tuple[str, ...] | None = None
    seed: int = 0
    minutes: float | None = None
    steps: int | None = None
    after: "Stage | None" = None

    @property
    def key(self) -> str:
        values = [self.method, self.settings, self.stage, self.data, self.seed, self.minutes, self.steps]
        return digest([*values, self.after and self.after.key])

    @property
    def id(self) -> str:
        """The name of its folder."""
        return f"{self.method}-{self.stage}-{self.key}"

    @property
    def budget(self) -> Budget:
        return Budget(self.minutes, self.steps)

    @property
    def chain(self) -> tuple["Stage", ...]:
        """The stages up to this one, the first first."""
        return (*(self.after.chain if self.after else ()), self)


def kind_of(method: str) -> type:
    """The class of a method, for what is known without making one."""
    module, name = rivals.RIVALS[method]
    return getattr(import_module(f"{rivals.__name__}.{module}"), name)


def title_of(method: str) -> str:
    """As it stands in the tables."""
    return TITLES.get(method, method)


def _make(method, settings) -> Rival:
    return rivals.make(method, **tupled(json.loads(settings)))


class Comparison:
    """A configuration, a folder, and what follows from both. Cheap to make: nothing is read before it is asked for."""

    def __init__(self, config: ExperimentConfig, out: Path, device: str | None = None):
        """:param device: of this process, where several share a computer's GPUs."""
        self.config, self.out = config, Path(out)
        self.device = device or _device(config.device)

    # ------------------------------------------------------------------------------------------ people and images

    @cached_property
    def people(self) -> dict[str, bool]:
        """Everybody in the test set, and whether an image of them has a hyperintensity."""
        return people_of(self.config.test, "test")

    @cached_property
    def fold_of(self) -> dict[str, int]:
        """The fold of everybody in the test set."""
        return folds_of_people(self.people, self.config.folds.count, self.config.folds.seed)

    def check(self) -> None:
        """:raises InputError, UsageError: people are shared between sets that must be apart, or there are too few."""
        config = self.config
        for fold in range(config.folds.count):
            held_out = self.held_out(fold)
            for use in (SOURCE, TARGET):
                refuse_shared(self._without(getattr(config, use), held_out), use, self._only(held_out))
        refuse_shared(config.validation, "validation", config.test)
        for use in (SOURCE, TARGET):
            refuse_shared(getattr(config, use), use, config.validation, "validation")

    def held_out(self, fold: int) -> tuple[str, ...]:
        """The people that a fold tests."""
        return tuple(sorted(name for name, number in self.fold_of.items() if number == fold))

    def _without(self, sets: Iterable[SetConfig], people: Iterable[str]) -> tuple[SetConfig, ...]:
        """Sets without some people of the test set; a set of which nobody is left is left out."""
        kept = []
        for one in sets:
            names = self._names_in(one, people)
            if names and one.people:
                names &= set(one.people)
            if names:
                left = tuple(name for name in one.people if name not in names)
                if one.people and not left:
                    continue
                one = replace(one, people=left, without=tuple(sorted({*one.without, *names})))
            kept.append(one)
        return tuple(kept)

    def _only(self, people: Iterable[str]) -> list[SetConfig]:
        """The test sets with some of their people only; phantoms as they are."""
        kept = []
        for one in self.config.test:
            if one.folder is None:
                kept.append(one)
            elif names := self._names_in(one, people):
                kept.append(replace(one, people=tuple(sorted(names)), without=()))
        return kept

    @cached_property
    def _homes(self) -> dict[str, tuple[Path, str]]:
        """Of everybody in the test set who is no phantom: the folder, and the name in it."""
        plans = planned_images(self.config.test, "test", labelled=True)
        return {one.person: (place_of(one.config), one.case.person) for one in plans if one.case is not None}

    def _names_in(self, one: SetConfig, people: Iterable[str]) -> set[str]:
        """What people of the test set are called in a folder, if it is the same as theirs."""
        if one.folder is None:
            return set()
        place = place_of(one)
        homes = (self._homes[name] for name in people if name in self._homes)
        return {name for home, name in homes if home == place}

    @cached_property
    def cases(self) -> tuple[ExperimentCase, ...]:
        """The test set. Its images stay in memory: every job needs them."""
        return tuple(experiment_cases(self.config.test, "test", cache=self.cache, device=self.device))

    @cached_property
    def validation(self) -> tuple[ExperimentCase, ...]:
        """Labelled cases that set thresholds before the test; empty where there are none."""
        if not self.config.validation:
            return ()
        return tuple(experiment_cases(self.config.validation, "validation", cache=self.cache, device=self.device))

    @cached_property
    def images_tested(self) -> int:
        """How many images the test set has."""
        return image_count(self.config.test, "test")

    @lru_cache(maxsize=64)  # noqa: B019  (a comparison lives as long as its process)
    def set_key(self, sets: tuple[SetConfig, ...], use: str) -> str:
        """`sets.set_key`, which looks through folders."""
        return set_key(sets, use)

    @property
    def cache(self) -> Path:
        return self.out / "cache"

    def make_images(self, workers: int, progress: Progress, say: Say) -> None:
        """Make all images that are not kept yet, in so many processes."""
        config, named = self.config, set()

        def once(message):
            if message not in named:
                named.add(message)
                say(message)

        settings = {"cache": self.cache, "workers": workers, "device": self.device, "progress": progress, "say": once}
        self.cases = tuple(experiment_cases(config.test, "test", **settings))
        if config.validation:
            self.validation = tuple(experiment_cases(config.validation, "validation", **settings))
        for sets, use in ((config.source, SOURCE), config.target_sets):
            if sets and use != "test":
                training_slices(sets, use, **settings)

    def slices(self, stage: Stage, progress: Progress = no_progress) -> TrainingSlices:
        """What a stage learns from."""
        sets, use = self._data_of(stage.stage)
        return training_slices(
            self._without(sets, stage.without),
            use,
            labels=stage.people is not None,
            people=stage.people,
            cache=self.cache,
            device=self.device,
            progress=progress,
        )

    def _data_of(self, stage):
        return self.config.target_sets if stage == TARGET else (self.config.source, SOURCE)

    # ---------------------------------------------------------------------------------------------------- the plan

    def entry(self, method: str) -> Entry:
        """A method of the configuration."""
        settings = json.dumps(self.config.methods[method], sort_keys=True)
        return Entry(method, method, settings, settings, settings)

    def strategies(self, method: str) -> tuple[int, ...]:
        """Those in which a method takes part."""
        kind = kind_of(method)
        if not kind.learns:
            return (ONCE,)
        return (FROM_TARGET,) if kind.supervised else self.config.strategies

    def best_strategy(self, method: str) -> int:
        """The one to show a method in where only one is shown: all that it can learn."""
        return max(self.strategies(method))

    def stage(self, entry: Entry, strategy: int, fold: int, seed: int) -> Stage | None:
        """The last stage of a method in a strategy, for the images that a fold tests; None where nothing is learnt."""
        if strategy == ONCE or not kind_of(entry.method).learns:
            return None
        if strategy == FROM_TARGET:
            return self._stage(entry, TARGET, fold, seed, None)
        source = self._stage(entry, SOURCE, fold, seed, None)
        if strategy == FROM_SOURCE or entry.share == 0:
            return source
        return self._stage(entry, TARGET, fold, seed, source)

    def _stage(self, entry, stage, fold, seed, after):
        settings = entry.source_settings if stage == SOURCE else entry.target_settings
        owner = _owner(entry.method, stage, settings)
        without, people, data = self._fold_data(stage, fold, kind_of(entry.method).supervised)
        budget, share = self.config.budget[stage], entry.share if stage == TARGET else 1.0
        minutes = None if budget.minutes is None else budget.minutes * share
        steps = None if budget.steps is None else max(round(budget.steps * share), 1)
        data = digest([data, _resolved(owner, settings), __version__])
        return Stage(owner, settings, stage, data, without, people, seed, minutes, steps, after)

    @lru_cache(maxsize=512)  # noqa: B019  (a comparison lives as long as its process)
    def _fold_data(self, stage, fold, supervised):
        """(people left out, only people, hash) of what a stage of a fold learns from."""
        sets, use = self._data_of(stage)
        if not sets:
            raise UsageError(f"There is no {stage} set to learn from.")
        if supervised:
            kept, tested = set(split(self.fold_of, fold).train), self._tested(sets)
            people = tuple(name for name in people_of(sets, use) if name in kept or name not in tested)
            return (), people, digest([self.set_key(sets, use), people])
        transductive = stage == TARGET and self.config.folds.transductive
        held_out = () if transductive else self.held_out(fold)
        without = tuple(name for name in held_out if any(self._names_in(one, [name]) for one in sets))
        apart = self._without(sets, without)
        if not apart:
            raise InputError(f"Nobody is left in the {stage} set that fold {fold + 1} does not test.")
        return without, None, self.set_key(apart, use)

    def _tested(self, sets) -> set[str]:
        """Names, as the training set has them, of its people that are tested, too."""
        if self.config.folds.transductive:
            return set(self.people)
        return {f"{one.group}_{name}" for one in sets for name in self._names_in(one, self.people)}

    # ------------------------------------------------------------------------------------------------ one training

    def folder(self, stage: Stage) -> Path:
        return self.out / "models" / stage.id

    def is_done(self, stage: Stage) -> bool:
        return (self.folder(stage) / DONE).exists()

    def train(self, stage: Stage, progress: Progress = no_progress, say: Say = lambda message: None) -> None:
        """Do a stage, or go on with it; one that is done is left alone. The stage before it must be done."""
        if self.is_done(stage):
            return
        folder = self.folder(stage)
        rival = _make(stage.method, stage.settings)
        if stage.after is not None:
            rival.load(self.folder(stage.after) / MODEL)
        named = f"{title_of(stage.method)}, {stage.stage}"
        slices = self.slices(stage, lambda *_: progress(named, 0, 1))
        began = seconds_computed(self.device)
        told = Training(
            stage.stage,
            folder / "training",
            stage.budget,
            self.device,
            stage.seed,
            lambda _, done, total: progress(named, done, total),
            say,
        )
        rival.fit(slices, told)
        shutil.rmtree(folder / MODEL, ignore_errors=True)
        rival.save(folder / MODEL)
        record = {
            "method": stage.method,
            "stage": stage.stage,
            "slices": len(slices),
            "people": len(set(slices.people.tolist())),
            "seconds": round(seconds_computed(self.device) - began, 1),  # counted as the budget is
            "after": stage.after and stage.after.id,
            "version": __version__,
        }
        write_json(folder / DONE, record)

    def trained(self, entry: Entry, stage: Stage | None) -> Rival:
        """The method with the weights of a stage that is done, on this process's device."""
        made = entry.make()
        if stage is not None:
            made.load(self.folder(stage) / MODEL)
        if hasattr(made, "device"):
            made.device = self.device
        return made


@lru_cache(maxsize=256)
def _resolved(method, settings) -> str:
    """All settings of a method, defaults and presets included: they may change from version to version."""
    made = getattr(_make(method, settings), "settings", None)
    return repr(made) if is_dataclass(made) else settings


def _owner(method, stage, settings):
    """Whose training a stage is, if that method takes the same settings."""
    owner = getattr(kind_of(method), f"{stage}_of", None) or method
    if owner != method:
        try:
            _make(owner, settings)
        except (TypeError, ValueError, UsageError):
            return method
    return owner


def _device(name: str) -> str:
    from ...device import choose_device

    return str(choose_device(name))


# --------------------------------------------------------------------------------------------------------- estimate


@dataclass(frozen=True)
class Estimate:
    """seconds: of one process. unknown: stages whose budget is in steps, so that nobody knows their minutes."""

    images: int
    stages: int
    stages_left: int
    scorings: int
    scorings_left: int
    seconds: float
    unknown: int = 0

    def text(self, workers: int = 1) -> str:
        """For a person, before anything starts."""
        lines = [
            f"{self.images} images, {self.stages} trainings ({self.stages_left} to do), {self.scorings} sets of scores "
            f"({self.scorings_left} to do)."
        ]
        if self.unknown:
            lines.append(f"{self.unknown} trainings are counted in steps: how long they take depends on the computer.")
        shared = f" with {workers} processes" if workers > 1 else ""
        rest = " besides them" if self.unknown else ""
        lines.append(f"About {format_seconds(self.seconds / max(workers, 1))}{rest}{shared}.")
        return "\n".join(lines)


def images_of(config: ExperimentConfig) -> int:
    """Images of all sets."""
    sets = [(config.test, "test"), (config.source, SOURCE), (config.target, TARGET), (config.validation, "validation")]
    return sum(image_count(one, use) for one, use in sets if one)


def training_seconds(stages: Iterable[Stage]) -> tuple[float, int]:
    """Seconds of the stages with a budget in minutes, and how many have none."""
    minutes = [stage.minutes for stage in stages]
    return 60 * sum(one for one in minutes if one is not None), minutes.count(None)

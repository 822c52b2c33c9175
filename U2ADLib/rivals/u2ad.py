"""U²AD itself and what its ablation leaves of it, as methods of the comparison (paper 4.7, Table 3).

| class | adaptation | reconstruction | map |
|---|---|---|---|
| `SinglePass` | random masks | each patch once | \\|x − x̂\\| |
| `Baseline` | random masks | Monte Carlo | \\|x − μ\\| |
| `SignedResidual` | random masks | Monte Carlo | x − μ where positive, smoothed |
| `EUGuided` | EU stage | Monte Carlo | \\|x − μ\\| |
| `U2AD` | EU stage, then AU stage | Monte Carlo | \\|x − μ\\| |
| `DefaultScore` | of the discriminator | none | probability of a corruption |

Trainings are the project's own (`training.pretrain`, `training.adapt`, `training.discriminator`), cut to the budget.
`source_of` and `target_of` name the method whose training of that stage is this one's, too: saved by one, loaded by
the other. That the first three differ in nothing but their maps is the point of the ablation.
"""

import os
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from ..anomaly import anomaly_map
from ..config import Architecture, MonteCarloConfig
from ..errors import ModelError, UsageError
from ..mae import EdgeMAE
from ..montecarlo import monte_carlo
from ..package import load_model, save_model
from ..scoring.discriminator import Discriminator, DiscriminatorArchitecture
from ..scoring.evidence import discriminator_logits, probability
from ..training.adapt import AdaptConfig, adapt
from ..training.adapt_discriminator import ADAPT_DISCRIMINATOR, MARGIN_PX, SUSPICIOUS
from ..training.checkpoint import load_state, save_state, with_prefix
from ..training.corrupted import draw_example
from ..training.data import SliceSet, sampling_weights
from ..training.discriminator import EXAMPLES_PER_TASK, DiscriminatorConfig, as_input, train_discriminator
from ..training.pretrain import PretrainConfig, pretrain
from .detector import SOURCE, Budget, Maps, Training, TrainingSlices
from .pace import Pace, check_budget, measure, planned, seconds_computed, steps_and_epochs
from .rules import signed_residual

TIMED_SLICES = 16  # of which maps are made to time a refresh
WARM_UP = 10  # at most one step in so many warms up: the paper's 500 would be all of a short training


@dataclass(frozen=True)
class Settings(Architecture):
    """Network (by default the paper's, with 24 and 8 blocks), inference and training.

    What is not here is as in `PretrainConfig` and `AdaptConfig`. Epochs say how finely a budget is divided; there are
    fewer where it does not allow a step in each (`pace.steps_and_epochs`).
    """

    k: int = 10
    mask_ratio: float = 0.75
    scheme: str = "balanced"
    device: str = "cpu"  # of inference; that of the training after one
    epochs: int = 200  # of pretraining and of adaptation
    batch: int = 8
    learning_rate: float = 3e-3
    decay: float = 0.1
    adapt_batch: int = AdaptConfig.batch
    schedule: str = AdaptConfig.schedule
    eu_rate: float = AdaptConfig.eu_rate
    au_rate: float = AdaptConfig.au_rate
    tau: float = 1.0
    refreshes: int = 20  # of the maps in an adaptation, about: every 10 of 200 epochs
    au_share: float = 0.25  # of an adaptation: epochs 150 … 199 of 200
    # The paper does not say how strategy 2 trains on clinical images alone. The uncertainty of an untrained network
    # says nothing: so much of the budget goes to random masks first.
    random_share: float = 0.5

    @property
    def architecture(self) -> Architecture:
        """The network alone."""
        return Architecture(**{field.name: getattr(self, field.name) for field in fields(Architecture)})


@dataclass(frozen=True)
class _Once(MonteCarloConfig):
    """Masks until every patch has been hidden, of which one reconstruction is taken, at random."""

    k: int = 1
    scheme: str = "random"

    def __post_init__(self):
        """One is too few for a variance, which is not wanted here."""


class Baseline:
    """Random masks in both stages, Monte Carlo reconstruction: the paper's baseline, and what the others build on."""

    name: ClassVar[str] = "mae-mc"
    learns: ClassVar[bool] = True
    supervised: ClassVar[bool] = False
    source_of: ClassVar[str | None] = None
    target_of: ClassVar[str | None] = None
    eu_weight: ClassVar[str] = "uniform"  # of the adaptation's first stage
    leaves_alone: ClassVar[bool] = False  # has an AU stage

    def __init__(self, **settings):
        """:raises UsageError: a setting that there is not, or a value that it cannot have."""
        self.settings = settings_of(Settings, settings, self.name)
        self.monte_carlo = self._monte_carlo()
        self.device = self.settings.device
        self.source: EdgeMAE | None = None  # what an adaptation starts from
        self.network: EdgeMAE | None = None  # what makes the maps

    def fit(self, slices: TrainingSlices, training: Training) -> None:
        """See `detector.Rival`. An adaptation starts from the network of the source stage, or from a loaded one;
        without any, from one that is trained with random masks on the same slices (see `Settings.random_share`)."""
        self.device = training.device
        train = slice_set(slices)
        if training.stage == SOURCE:
            self.source = self.network = self._pretrain(train, training)
            return
        start, share = self.source, self.settings.random_share
        if start is None:
            start = self._pretrain(train, part(training, "random", share))
            training = part(training, "guided", 1 - share)
        self.network = self._adapt(start, train, training)

    def anomaly_map(self, images: np.ndarray, cords: np.ndarray, seed: int = 0) -> Maps:
        """See `detector.MapDetector`. seed: of the masks. Slices without cord have an empty map."""
        network = trained(self.network, self.name)
        anomaly, uncertainty = np.zeros((2, *images.shape), np.float32)
        rebuilt = images.astype(np.float32)
        if len(seen := np.flatnonzero(cords.any(axis=(1, 2)))):
            seen_images, seen_cords = rebuilt[seen], cords[seen]
            made = monte_carlo(network, seen_images, seen_cords, self.monte_carlo, seed, device=self.device)
            rebuilt[seen] = np.where(seen_cords, made.mean, seen_images)
            anomaly[seen] = self._map(seen_images, made.mean, seen_cords)
            uncertainty[seen] = made.epistemic
        return Maps(anomaly, rebuilt, uncertainty if self.monte_carlo.k > 1 else None)

    def save(self, folder: Path) -> None:
        """Write a model package (`package.save_model`), which `u2ad analyse --model` takes, too."""
        save_model(Path(folder), trained(self.network, self.name), {"training": {"method": self.name}}, "float32")

    def load(self, folder: Path) -> None:
        """Read a model package, of whichever of these methods.

        :raises ModelError: there is none, it is damaged, or its network has another architecture.
        """
        network = load_model(folder).network
        if network.architecture != self.settings.architecture:
            raise ModelError(f"{folder} holds a network with other settings than those of {self.name}: train it again.")
        self.source = self.network = network

    def _monte_carlo(self) -> MonteCarloConfig:
        return MonteCarloConfig(self.settings.k, self.settings.mask_ratio, self.settings.scheme)

    def _map(self, images, means, cords):
        """(S, H, W) from slices, mean reconstructions and cords, each (S, H, W)."""
        return anomaly_map(images, means, cords)

    def _pretrain(self, train: SliceSet, training: Training) -> EdgeMAE:
        settings, budget, device = self.settings, training.budget, training.device

        def configured(steps: int, epochs: int) -> PretrainConfig:
            return PretrainConfig(
                epochs=epochs,
                batch=settings.batch,
                learning_rate=settings.learning_rate,
                decay=settings.decay,
                warmup_steps=_warm_up(PretrainConfig.warmup_steps, steps * epochs),
                mask_ratio=settings.mask_ratio,
                slices_per_epoch=steps * settings.batch,
                seed=training.seed,
            )

        def run(folder: Path, steps: int) -> None:
            config = configured(steps, 1)
            pretrain(train, None, folder, settings.architecture, config, device=device, progress=_timing(training))

        def decide() -> dict:
            start, pace = seconds_computed(device), None
            if budget.minutes is not None:
                pace = Pace(*measure(run, device))
            spent = seconds_computed(device) - start
            return _said(training, *steps_and_epochs(budget, spent, pace, settings.epochs))

        config = configured(**planned(training.folder, budget, decide))
        network, _ = pretrain(
            train, None, training.folder, settings.architecture, config,
            device=device, progress=training.progress, say=training.say,
        )  # fmt: skip
        return network

    def _adapt(self, start: EdgeMAE, train: SliceSet, training: Training) -> EdgeMAE:
        settings, budget, device = self.settings, training.budget, training.device

        def configured(steps: int, epochs: int) -> AdaptConfig:
            return AdaptConfig(
                epochs=epochs,
                au_from=int((1 - settings.au_share) * epochs) if self.leaves_alone else None,
                tau=settings.tau,
                eu_weight=self.eu_weight,
                refresh=max(1, epochs // settings.refreshes),
                k=settings.k,
                mask_ratio=settings.mask_ratio,
                batch=settings.adapt_batch,
                slices_per_epoch=steps * settings.adapt_batch,
                schedule=settings.schedule,
                eu_rate=settings.eu_rate,
                au_rate=settings.au_rate,
                paper_rate=settings.learning_rate,
                decay=settings.decay,
                warmup_steps=_warm_up(AdaptConfig.warmup_steps, steps * epochs),
                seed=training.seed,
            )

        def run(folder: Path, steps: int, count: int = TIMED_SLICES) -> None:
            some = np.arange(count) % len(train)
            few = SliceSet(*(getattr(train, field.name)[some] for field in fields(SliceSet)))
            config = replace(configured(steps, 1), au_from=None, watch_cases=0)
            adapt(start, few, folder, config, device=device, progress=_timing(training))

        def timed() -> Pace:
            step, rest = measure(run, device)
            _, more = measure(partial(run, count=2 * TIMED_SLICES), device)
            # Maps are made twice in each run, of all slices; what else there is does not depend on their number.
            per_slice = max(more - rest, 0.0) / (2 * TIMED_SLICES)
            return Pace(step, max(rest - 2 * TIMED_SLICES * per_slice, 0.0), per_slice * len(train))

        def decide() -> dict:
            began, pace = seconds_computed(device), timed() if budget.minutes is not None else None
            spent = seconds_computed(device) - began
            return _said(
                training,
                *steps_and_epochs(
                    budget, spent, pace, settings.epochs, lambda epochs: len(configured(1, epochs).refreshes())
                ),
            )

        config = configured(**planned(training.folder, budget, decide))
        network, _ = adapt(
            start, train, training.folder, config, device=device, progress=training.progress, say=training.say
        )
        return network


class SinglePass(Baseline):
    """MAE: as the baseline, but every patch is rebuilt once, in a random mask."""

    name = "mae"
    source_of = target_of = "mae-mc"

    def _monte_carlo(self):
        return _Once(mask_ratio=self.settings.mask_ratio)


class SignedResidual(Baseline):
    """As the baseline, but only what is brighter than its reconstruction counts."""

    name = "mae-mc-signed"
    source_of = target_of = "mae-mc"

    def _map(self, images, means, cords):
        return np.stack([signed_residual(*one) for one in zip(images, means, cords, strict=True)])


class EUGuided(Baseline):
    """The adaptation masks what the network is unsure about more often (paper 3.4.1)."""

    name = "eu-guided"
    source_of = "mae-mc"
    eu_weight = "text"


class U2AD(EUGuided):
    """… and at last leaves alone what could be an anomaly (paper 3.4.2)."""

    name = "u2ad"
    leaves_alone = True


@dataclass(frozen=True)
class DefaultSettings:
    """Of the discriminators; what is not here is as in `DiscriminatorConfig` and, for an adaptation,
    `ADAPT_DISCRIMINATOR`. Their steps and examples are the most, however large the budget is."""

    count: int = 3  # trainings that are averaged; they share the budget
    widths: tuple[int, ...] = DiscriminatorArchitecture.widths
    batch: int = DiscriminatorConfig.batch
    device: str = "cpu"  # of inference; that of the training after one


class DefaultScore:
    """The score that analyses use by default: discriminators that learnt to find corruptions in healthy slices.

    The adaptation goes on with corruptions of the target's slices. Unlike `training.adapt_discriminator` it adds no
    phantoms, and leaves out only what the discriminators themselves suspect: there is no network here whose AU could
    say more. On the target alone (strategy 2) all of it is taken for healthy.
    """

    name = "u2ad-default"
    learns = True
    supervised = False
    source_of = None
    target_of = None

    def __init__(self, **settings):
        """:raises UsageError: a setting that there is not."""
        self.settings = settings_of(DefaultSettings, settings, self.name)
        self.architecture = DiscriminatorArchitecture(widths=tuple(self.settings.widths))
        self.device = self.settings.device
        self.source: tuple[Discriminator, ...] = ()
        self.discriminators: tuple[Discriminator, ...] = ()

    def fit(self, slices: TrainingSlices, training: Training) -> None:
        """See `detector.Rival`. A discriminator whose training was stopped is trained anew, finished ones are read."""
        self.device = training.device
        train = slice_set(slices)
        starts, unknown, base = (None,) * self.settings.count, None, DiscriminatorConfig()
        if training.stage != SOURCE and self.source:
            starts, base = self.source, ADAPT_DISCRIMINATOR
            unknown = self._suspicious(slices.images, slices.cords)
        base = replace(base, batch=self.settings.batch)
        plan = planned(training.folder, training.budget, lambda: self._plan(train, base, training))
        config = replace(base, **plan, warmup_steps=_warm_up(base.warmup_steps, plan["steps"]))
        learnt = [
            train_discriminator(
                train,
                training.folder / f"discriminator-{k}",
                self.architecture,
                replace(config, seed=training.seed + k),
                unknown=unknown,
                start=start,
                device=training.device,
                progress=training.progress,
                say=training.say,
            )[0]
            for k, start in enumerate(starts)
        ]
        self.discriminators = tuple(learnt)
        if training.stage == SOURCE:
            self.source = self.discriminators

    def anomaly_map(self, images: np.ndarray, cords: np.ndarray, seed: int = 0) -> Maps:
        """See `detector.MapDetector`: probabilities. Nothing is random."""
        return Maps(self._probabilities(trained(self.discriminators, self.name), images, cords))

    def save(self, folder: Path) -> None:
        """See `detector.Rival`."""
        networks = trained(self.discriminators, self.name)
        tensors = {f"{k}.{name}": values for k, one in enumerate(networks) for name, values in one.state_dict().items()}
        save_state(Path(folder), tensors, {"epoch": 0, **self._record()})

    def load(self, folder: Path) -> None:
        """See `detector.Rival`."""
        tensors, record = load_state(Path(folder)) or ({}, {})
        if {name: record.get(name) for name in self._record()} != self._record():
            raise ModelError(f"{folder} does not hold {self.name} with these settings: train it again.")
        networks = [Discriminator(self.architecture) for _ in range(self.settings.count)]
        for k, network in enumerate(networks):
            network.load_state_dict(with_prefix(tensors, f"{k}."))
        self.source = self.discriminators = tuple(network.eval() for network in networks)

    def _record(self) -> dict:
        return {"method": self.name, "count": self.settings.count, "widths": list(self.architecture.widths)}

    def _probabilities(self, discriminators, images, cords) -> np.ndarray:
        maps = np.zeros(images.shape, np.float32)
        if len(seen := np.flatnonzero(cords.any(axis=(1, 2)))):
            logits = discriminator_logits(discriminators, images[seen], cords[seen], None, self.device)
            maps[seen] = [probability(*one) for one in zip(logits, cords[seen], strict=True)]
        return maps

    def _suspicious(self, images, cords) -> np.ndarray:
        """(N, H, W) bool: what could be a lesion, with a margin, inside the cord."""
        likely = self._probabilities(self.source, images, cords) > SUSPICIOUS
        grown = np.stack([binary_dilation(one, iterations=MARGIN_PX) for one in likely])
        return grown & cords

    def _plan(self, train: SliceSet, base: DiscriminatorConfig, training: Training) -> dict:
        """Examples and steps of each discriminator: as large a share of the recipe's as the budget allows."""
        budget, device = training.budget, training.device
        check_budget(budget)
        share = 1.0
        if budget.steps is not None:
            share = budget.steps / (self.settings.count * base.steps)
        if budget.minutes is not None:
            began = seconds_computed(device)

            def run(folder: Path, steps: int) -> None:
                config = replace(base, rounds=1, examples=EXAMPLES_PER_TASK, steps=steps)
                train_discriminator(train, folder, self.architecture, config, device=device, progress=_timing(training))

            step, rest = measure(run, device)
            example = self._seconds_of_example(train, base, training)
            left = (60 * budget.minutes - seconds_computed(device) + began) / self.settings.count - rest
            share = min(share, left / (base.examples * example + base.steps * step))
        share = min(max(share, 0.0), 1.0)
        plan = {
            "examples": EXAMPLES_PER_TASK * max(1, int(share * base.examples / EXAMPLES_PER_TASK)),
            "steps": max(1, int(share * base.steps)),
        }
        training.say(f"{plan['steps']} steps on {plan['examples']} examples for each of {self.settings.count}.")
        return plan

    def _seconds_of_example(self, train, base, training) -> float:
        """Examples are drawn by all processors of the computer, however many threads torch has."""
        rng, count = np.random.default_rng(training.seed), 10
        weights = sampling_weights(train, base.real_share)
        began = seconds_computed(training.device)
        for _ in range(count):
            as_input(draw_example(train, weights, rng, base.corruption), self.architecture)
        at_once = 1 if torch.device(training.device).type == "cpu" else os.cpu_count() or 1
        return (seconds_computed(training.device) - began) / count / at_once


def slice_set(slices: TrainingSlices) -> SliceSet:
    """As the project's own trainings take slices: every person counts equally much."""
    return SliceSet(slices.images.astype(np.float16), slices.cords, slices.people, np.zeros(len(slices), bool))


def settings_of(kind, values: dict, name: str):
    """Settings of class `kind` for the method `name`. :raises UsageError: it has no such setting."""
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(values) - set(known)):
        raise UsageError(f"{name} has no setting {', '.join(unknown)}: it has {', '.join(known)}.")
    return kind(**values)


def part(training: Training, name: str, share: float) -> Training:
    """A share of a stage's budget, in a folder of its own within the stage's."""
    budget = training.budget
    minutes = None if budget.minutes is None else share * budget.minutes
    steps = None if budget.steps is None else max(1, round(share * budget.steps))
    return replace(training, folder=training.folder / name, budget=Budget(minutes, steps))


def trained(networks, name: str):
    """:raises UsageError: nothing was trained or loaded."""
    if not networks:
        raise UsageError(f"{name} has not been trained: fit it, or load what was trained.")
    return networks


def _timing(training: Training):
    """Progress of steps that are only timed; it can cancel."""
    return lambda stage, done, total: training.progress("Timing", done, total)


def _said(training: Training, steps: int, epochs: int) -> dict:
    training.say(f"The budget allows {epochs} epochs of {steps} steps.")
    return {"steps": steps, "epochs": epochs}


def _warm_up(usual: int, steps: int) -> int:
    return max(1, min(usual, steps // WARM_UP))

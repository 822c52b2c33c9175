"""U²AD itself and what its ablation leaves of it, as methods of the comparison (paper 4.7, Table 3).

| class | adaptation | reconstruction | map |
|---|---|---|---|
| `SinglePass` | random masks | each patch once | \\|x − x̂\\| |
| `Baseline` | random masks | Monte Carlo | \\|x − μ\\| |
| `SignedResidual` | random masks | Monte Carlo | x − μ where positive, smoothed |
| `EUGuided` | EU stage | Monte Carlo | \\|x − μ\\| |
| `U2AD` | EU stage, then AU stage | Monte Carlo | \\|x − μ\\| |

Trainings are the project's own (`training.pretrain`, `training.adapt`), cut to the budget.
`source_of` and `target_of` name the method whose training of that stage is this one's, too: saved by one, loaded by
the other. That the first three differ in nothing but their maps is the point of the ablation.
"""

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..anomaly import anomaly_map
from ..config import Architecture, MonteCarloConfig
from ..errors import ModelError
from ..mae import EdgeMAE
from ..montecarlo import monte_carlo
from ..package import load_model, save_model
from ..training.adapt import AdaptConfig, adapt
from ..training.data import SliceSet
from ..training.pretrain import PretrainConfig, pretrain
from .detector import SOURCE, Maps, Training, TrainingSlices, settings_of, trained
from .pace import Pace, measure, part, planned, seconds_computed, steps_and_epochs, timing, warm_up
from .rules import signed_residual

TIMED_SLICES = 16  # of which maps are made to time a refresh
PRESETS = {"small": {"depth": 6, "decoder_depth": 2, "epochs": 40, "refreshes": 5}}  # small: for two cores


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

    def __init__(self, preset: str = "full", **settings):
        """:param settings: go before those of the preset.

        :raises UsageError: a preset or setting that there is not, or a value that it cannot have.
        """
        self.settings = settings_of(Settings, self.name, settings, preset, PRESETS)
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
        """See `detector.MapDetector`. seed: of the masks, together with a slice's number among those with cord. Slices
        without cord have an empty map."""
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
                warmup_steps=warm_up(PretrainConfig.warmup_steps, steps * epochs),
                mask_ratio=settings.mask_ratio,
                slices_per_epoch=steps * settings.batch,
                seed=training.seed,
            )

        def run(folder: Path, steps: int) -> None:
            config = configured(steps, 1)
            pretrain(train, None, folder, settings.architecture, config, device=device, progress=timing(training))

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
                warmup_steps=warm_up(AdaptConfig.warmup_steps, steps * epochs),
                seed=training.seed,
            )

        def run(folder: Path, steps: int, count: int = TIMED_SLICES) -> None:
            some = np.arange(count) % len(train)
            few = SliceSet(*(getattr(train, field.name)[some] for field in fields(SliceSet)))
            config = replace(configured(steps, 1), au_from=None, watch_cases=0)
            adapt(start, few, folder, config, device=device, progress=timing(training))

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


def slice_set(slices: TrainingSlices) -> SliceSet:
    """As the project's own trainings take slices: every person counts equally much."""
    return SliceSet(slices.images.astype(np.float16), slices.cords, slices.people, np.zeros(len(slices), bool))


def _said(training: Training, steps: int, epochs: int) -> dict:
    training.say(f"The budget allows {epochs} epochs of {steps} steps.")
    return {"steps": steps, "epochs": epochs}

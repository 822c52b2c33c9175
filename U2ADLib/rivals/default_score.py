"""The default score of analyses as a method of the comparison: discriminators instead of reconstructions."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from ..errors import ModelError
from ..scoring.discriminator import Discriminator, DiscriminatorArchitecture
from ..scoring.evidence import discriminator_logits, probability
from ..training.adapt_discriminator import ADAPT_DISCRIMINATOR, MARGIN_PX, SUSPICIOUS
from ..training.checkpoint import load_state, save_state, with_prefix
from ..training.corrupted import draw_example
from ..training.data import SliceSet, sampling_weights
from ..training.discriminator import EXAMPLES_PER_TASK, DiscriminatorConfig, as_input, train_discriminator
from .detector import SOURCE, Maps, Training, TrainingSlices, settings_of, trained
from .pace import check_budget, measure, planned, seconds_computed, timing, warm_up
from .u2ad import slice_set


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
        self.settings = settings_of(DefaultSettings, self.name, settings)
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
        config = replace(base, **plan, warmup_steps=warm_up(base.warmup_steps, plan["steps"]))
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
                train_discriminator(train, folder, self.architecture, config, device=device, progress=timing(training))

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

"""Adaptation of the default score to a hospital's own unlabelled images.

The discriminators go on learning, now on the hospital's slices with corruptions planted into them, beside phantoms.
These slices may hold real lesions, which must not be learnt as healthy: what the uncertainty-guided adaptation leaves
out (the top components of AU, paper 3.4.2) and what the discriminators themselves suspect does not count.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from ..config import MonteCarloConfig
from ..montecarlo import monte_carlo
from ..package import Model
from ..progress import Progress, no_progress
from ..scoring.discriminator import Discriminator
from ..scoring.evidence import discriminator_logits, probability
from .data import SliceSet, concatenate
from .discriminator import DiscriminatorConfig, train_discriminator
from .guidance import anomalous
from .phantoms import phantom_slices

STAGE = "Adapting, score"
PARTS = 1000
SUSPICIOUS = 0.3  # probability from which a pixel may be a lesion
MARGIN_PX = 1  # around them
# The discriminators know most of it already.
ADAPT_DISCRIMINATOR = DiscriminatorConfig(steps=600, learning_rate=1e-3)
PHANTOMS = 60


def adapt_discriminators(
    model: Model,
    network,
    slices: SliceSet,
    folder: Path,
    *,
    phantoms: int = PHANTOMS,
    config: DiscriminatorConfig = ADAPT_DISCRIMINATOR,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> tuple[Discriminator, ...]:
    """The model's discriminators, adapted to `slices`; the model's own stay as they are.

    :param network: the adapted EdgeMAE: its AU says what is left out.
    :param folder: gets the training state of each; a run that was stopped goes on from there.
    """
    count = len(model.discriminators)
    unknown = may_be_lesions(model, network, slices, device=device, progress=_within(progress, 0, count))
    share = unknown[slices.cords].mean()
    say(f"Adapting {count} discriminators; {share:.0%} of the cord may be lesions: left out.")
    mixed = slices
    if phantoms:
        mixed = concatenate([slices, phantom_slices(phantoms, config.seed, folder, _within(progress, 0, count))])
        unknown = np.concatenate([unknown, np.zeros((len(mixed) - len(slices), *unknown.shape[1:]), bool)])
    adapted = []
    for k, discriminator in enumerate(model.discriminators):
        one, _ = train_discriminator(
            mixed,
            folder / f"discriminator-{k}",
            discriminator.architecture,
            replace(config, seed=config.seed + k),
            network=network,
            unknown=unknown,
            start=discriminator,
            device=device,
            progress=_within(progress, k, count),
            say=say,
        )
        adapted.append(one)
    return tuple(adapted)


def _within(progress, number, count):
    """Progress of the whole, of which the adaptation of a discriminator is one of `count` parts: examples, training."""

    def report(stage, done, total):
        part = {"Examples": 0.0, "Training": 0.5}.get(stage)
        done = 0.0 if part is None else part + 0.5 * done / max(total, 1)  # what comes before takes little
        progress(STAGE, round(PARTS * (number + done)), PARTS * count)

    return report


def may_be_lesions(
    model: Model, network, slices: SliceSet, *, device="cpu", progress: Progress = no_progress
) -> np.ndarray:
    """(N, H, W) bool: top components of AU, and what the discriminators suspect, with a margin, inside the cord."""
    images = slices.images.astype(np.float32)
    rebuilt = monte_carlo(network, images, slices.cords, MonteCarloConfig(), device=device, progress=progress)
    logits = discriminator_logits(model.discriminators, images, slices.cords, rebuilt, device)
    marked = np.zeros(slices.cords.shape, bool)
    for k, cord in enumerate(slices.cords):
        suspicious = probability(logits[k], cord) > SUSPICIOUS
        marked[k] = cord & binary_dilation(suspicious | anomalous(rebuilt.aleatoric[k], cord), iterations=MARGIN_PX)
    return marked

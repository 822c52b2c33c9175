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
from .phantoms import phantom_slices, refuse_phantoms

STAGE = "Adapting, score"
PARTS = 1000
AT_A_TIME = 64  # slices: all maps of one take some megabytes
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
    :param phantoms: simulated T2-weighted necks to learn from besides.
    :raises UsageError: phantoms are wanted for another contrast, or their seeds are kept for judging.
    """
    refuse_phantoms(model.purpose, phantoms)
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
    marked = np.zeros(slices.cords.shape, bool)
    # The longest cord comes with every part: discriminators see all slices in strips as long as its own, as at once.
    longest = int(np.argmax([np.ptp(np.flatnonzero(cord.any(1))) for cord in slices.cords]))
    for start in range(0, len(slices), AT_A_TIME):
        part = range(start, min(start + AT_A_TIME, len(slices)))
        numbers = [*part, *({longest} - set(part))]
        images, cords = slices.images[numbers].astype(np.float32), slices.cords[numbers]
        rebuilt = monte_carlo(
            network, images, cords, MonteCarloConfig(), numbers=numbers, device=device, progress=progress
        )
        logits = discriminator_logits(model.discriminators, images, cords, rebuilt, device)
        for i, k in enumerate(part):
            suspicious = probability(logits[i], cords[i]) > SUSPICIOUS
            left_out = suspicious | anomalous(rebuilt.aleatoric[i], cords[i])
            marked[k] = cords[i] & binary_dilation(left_out, iterations=MARGIN_PX)
    return marked

"""Training of the region model: where the cord is and which disc is which, on scanners it never saw.

Real slices with masks and disc labels, and as many simulated ones, both with randomised contrast. Resumable at any
moment and reproducible from its seed, as `pretrain.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..progress import Progress, no_progress
from ..roi.network import DISC_NUMBERS, LEVELS, MIDDLE_LEVEL, RegionArchitecture, RegionNet
from .fit import fit
from .region_data import Batch, RegionSlices, draw_batch

PARTS = ("loss", "cord", "canal", "heat", "level")
CHARTS = {
    "Held-out slices: Dice of the cord": {"Dice": "held_out_dice"},
    "Held-out slices: share of discs": {"seen": "held_out_discs_seen", "named right": "held_out_discs_named"},
}
SEARCH_PX = 6  # held-out discs: how far from its tip a disc's heat is looked for


@dataclass(frozen=True)
class RegionTrainConfig:
    """Settings of the training."""

    steps: int = 3000
    batch: int = 8
    learning_rate: float = 2e-3  # falls to zero along half a cosine, after a linear warm-up
    warmup_steps: int = 50
    weight_decay: float = 1e-4
    real_share: float = 0.5  # of the slices drawn
    heat_weight: float = 60.0  # a pixel at a disc's tip counts so many times one far from any
    steps_per_epoch: int = 50  # state is saved, and held-out slices are looked at, so often
    seed: int = 0


def train_region(
    train: RegionSlices,
    validation: RegionSlices | None,
    folder: Path,
    architecture: RegionArchitecture | None = None,
    config: RegionTrainConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> tuple[RegionNet, list[dict]]:
    """Train a RegionNet, or go on where `folder` says it stopped. The last weights are taken.

    :param validation: slices of other people and phantoms, only watched.
    :returns: the network, in evaluation mode on the CPU, and the curves (one dict an epoch).
    :raises ModelError: the folder holds the state of another training.
    """
    config, device = config or RegionTrainConfig(), torch.device(device)
    network = RegionNet(architecture)

    def losses(rng, weights):
        batch = draw_batch(train, rng.choice(len(train), config.batch, p=weights), rng)
        return region_loss(network, _to(batch, device), config.heat_weight)

    curves = fit(
        network,
        folder,
        config,
        train,
        _labels_checksum(train),
        PARTS,
        losses,
        lambda: {} if validation is None else validate_region(network, validation, device),
        CHARTS,
        device=device,
        progress=progress,
        say=say,
    )
    return network, curves


def region_loss(network: RegionNet, batch: Batch, heat_weight: float) -> list[torch.Tensor]:
    """[total, cord, canal, heat, level]: cross-entropy and soft Dice of the masks, weighted cross-entropy of the discs'
    heat, distance of the level (L1, quadratic below half a level). What is not known does not count.
    """
    found = network(batch.images)
    masks, disc, level = found[:, :2], found[:, 2], MIDDLE_LEVEL + LEVELS * found[:, 3]
    crossed = F.binary_cross_entropy_with_logits(masks, batch.masks, reduction="none") * batch.masks_known
    known = batch.masks_known.sum((0, 2, 3)).clamp(min=1)
    likely = masks.sigmoid() * batch.masks_known
    truth = batch.masks * batch.masks_known
    dice = 1 - (2 * (likely * truth).sum((0, 2, 3)) + 1) / (likely.sum((0, 2, 3)) + truth.sum((0, 2, 3)) + 1)
    cord, canal = 5 * crossed.sum((0, 2, 3)) / known + dice
    weight = batch.heat_known * (1 + heat_weight * batch.heat)
    entropy = F.binary_cross_entropy_with_logits(disc, batch.heat, reduction="none")
    # Less the entropy of the target itself, so that a perfect map costs nothing.
    floor = F.binary_cross_entropy(batch.heat, batch.heat, reduction="none")
    heat = 10 * ((entropy - floor) * weight).sum() / weight.sum().clamp(min=1)
    error = F.smooth_l1_loss(level, batch.level, reduction="none", beta=0.5) * batch.level_known
    levels = error.sum() / batch.level_known.sum().clamp(min=1)
    return [cord + 0.5 * canal + heat + levels, cord, canal, heat, levels]


@torch.inference_mode()
def validate_region(network: RegionNet, data: RegionSlices, device) -> dict[str, float]:
    """On slices as they are: Dice of the cord; share of discs that are seen (heat over 0.3 within 6 mm of the tip),
    their median distance (mm), and the share that is named right (by the level at the tip, to the nearest number).
    """
    network.eval()
    dice, seen, away, named = [], [], [], []
    for start in range(0, len(data), 8):
        batch = draw_batch(data, np.arange(start, min(start + 8, len(data))), np.random.default_rng(0), change=False)
        found = network(batch.images.to(device)).cpu()
        masks = (found[:, 0] > 0, batch.masks[:, 0] > 0, batch.masks_known[:, 0] > 0)
        for cord, truth, known in zip(*masks, strict=True):
            if (truth & known).any():
                both, sizes = (cord & truth & known).sum(), (cord & known).sum() + (truth & known).sum()
                dice.append(float(2 * both / sizes))
        level = MIDDLE_LEVEL + LEVELS * found[:, 3]
        for heat, levels, tips in zip(found[:, 2].sigmoid(), level, batch.tips, strict=True):
            for number, (row, column) in zip(DISC_NUMBERS, tips.tolist(), strict=True):
                if not (SEARCH_PX < row < heat.shape[0] - SEARCH_PX and SEARCH_PX < column < heat.shape[1] - SEARCH_PX):
                    continue
                r, c = round(row), round(column)
                part = heat[r - SEARCH_PX : r + SEARCH_PX + 1, c - SEARCH_PX : c + SEARCH_PX + 1]
                at = np.unravel_index(int(part.argmax()), part.shape)
                seen.append(float(part.max()) > 0.3)
                away.append(np.hypot(r - SEARCH_PX + at[0] - row, c - SEARCH_PX + at[1] - column))
                named.append(abs(float(levels[r, c]) - number) < 0.5)
    return {
        "held_out_dice": float(np.mean(dice)) if dice else float("nan"),
        "held_out_discs_seen": float(np.mean(seen)),
        "held_out_disc_mm": float(np.median(away)),
        "held_out_discs_named": float(np.mean(named)),
    }


def _labels_checksum(data):
    """Of masks and discs of the real slices. Those of phantoms follow from their names, and their pixels differ in the
    last bit with the number of threads that made them."""
    parts = (data.cords, data.canals, data.tips, data.tips_known)
    return sha256(b"".join(part[~data.phantom].tobytes() for part in parts)).hexdigest()


def _to(batch, device):
    return Batch(*(getattr(batch, f).to(device) for f in Batch.__dataclass_fields__))

"""What every training of an EdgeMAE does the same way: rebuild masked patches, take a step, write down how it went."""

import csv
import os
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from ..config import MonteCarloConfig
from ..evaluation.reconstruction import reconstruction_quality
from ..mae import EdgeMAE, patchify
from ..masking import Masks
from ..montecarlo import monte_carlo, network_input
from .data import SliceSet
from .loss import sobel


def rebuild(network, architecture, images, cords, masks: Masks):
    """Rebuild the masked patches of images (B, H, W) float32 0–1 with cords (B, H, W) bool.

    :param network: an EdgeMAE of this architecture, or a wrapper that is called as one.
    :returns: what `loss.reconstruction_loss` takes: pixels, edges, the true ones of both, and their weight in the loss,
        which is 1 for cord pixels of masked patches. Each (B, T, P²).
    """
    seen = patchify(network_input(images, cords, architecture.outside), architecture.patch)
    pixels, edges = network(
        _take(seen, masks.visible), masks.visible, masks.target, masks.visible_valid, masks.target_valid
    )
    truth, true_edges, inside = (
        _take(patchify(values, architecture.patch), masks.target) for values in (images, sobel(images), cords.float())
    )
    return pixels, edges, truth, true_edges, inside * masks.target_valid[:, :, None]


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def descend(network, optimiser: torch.optim.Optimizer, loss: torch.Tensor, clip_norm: float) -> None:
    """One step against the gradient, whose norm is limited."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    optimiser.step()


def step_decay(rate: float, decay: float, epoch: int, epochs: int) -> float:
    """The paper's schedule (4.3): `rate` times `decay` after every quarter of the epochs (50 of 200)."""
    return rate * decay ** int(4 * epoch / epochs)


def warm_up(step: int, steps: int) -> float:
    """Factor for the learning rate: rises from almost 0 to 1 over the first `steps` steps."""
    return min(1.0, (step + 1) / max(steps, 1))


def validate(network: EdgeMAE, data: SliceSet, device, seed: int = 0) -> dict[str, float]:
    """Monte Carlo reconstruction quality on slices of other people."""
    images = data.images.astype(np.float32)
    rebuilt = monte_carlo(network, images, data.cords, MonteCarloConfig(), seed, device=device)
    return reconstruction_quality(images, data.cords, rebuilt)


def snapshot(network) -> dict[str, torch.Tensor]:
    """A copy of the weights."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def fingerprint(*sets: SliceSet | None, cords: bool = False) -> list[dict | None]:
    """What a training was fed, without any image: counts and a checksum of the images, and of the cords if wanted."""
    return [
        s
        and {
            "slices": len(s),
            "people": len(set(s.people)),
            "sha256": sha256(s.images.tobytes() + (np.packbits(s.cords).tobytes() if cords else b"")).hexdigest(),
        }
        for s in sets
    ]


def write_table(path: Path, columns: Sequence[str], rows: list[dict]) -> None:
    """Write a CSV beside its place and move it there; what a row lacks stays empty."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    # On Windows a file that somebody is just reading cannot be replaced. The next epoch writes it again.
    with suppress(PermissionError):
        os.replace(temporary, path)


def _take(patches, positions):
    """Patches (B, G², P²) at positions (B, L)."""
    return patches.gather(1, positions[:, :, None].expand(-1, -1, patches.shape[2]))

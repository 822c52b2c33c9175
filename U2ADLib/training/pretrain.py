"""Pretraining with random masks (paper 3.3), resumable at any moment and reproducible from its seed.

Everything random in an epoch comes from generators seeded with (seed, epoch), so the state on disk is just the weights,
the optimiser and the epoch's number, and a run that was killed and resumed ends in the same weights as one that was
not.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..config import Architecture
from ..mae import EdgeMAE
from ..masking import random_masks, ring, roi_patches
from ..pictures.charts import line_chart
from ..progress import Progress, no_progress
from . import augment
from .checkpoint import network_tensors, resume, save_state, with_prefix
from .data import SliceSet, sampling_weights
from .loss import reconstruction_loss
from .step import descend, fingerprint, rebuild, set_rate, snapshot, step_decay, validate, warm_up, write_table


@dataclass(frozen=True)
class PretrainConfig:
    """The paper's settings (4.3), except where said."""

    epochs: int = 200
    batch: int = 8
    learning_rate: float = 3e-3
    decay: float = 0.1  # factor, every quarter of the epochs (50 of 200)
    warmup_steps: int = 500  # not in the paper: without it 32 blocks at 3e-3 do not start reliably
    clip_norm: float = 1.0  # not in the paper, same reason
    betas: tuple[float, float] = (0.9, 0.95)
    mask_ratio: float = 0.75
    edge_weight: float = 0.1  # λ
    real_share: float = 0.5  # of the slices drawn, where there are phantoms too
    slices_per_epoch: int = 0  # 0: as many as there are
    validate_every: int = 5  # epochs
    seed: int = 0
    augmentation: augment.AugmentConfig = field(default_factory=augment.AugmentConfig)


def pretrain(
    train: SliceSet,
    validation: SliceSet | None,
    folder: Path,
    architecture: Architecture | None = None,
    config: PretrainConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> tuple[EdgeMAE, list[dict]]:
    """Train an EdgeMAE, or go on where `folder` says it stopped.

    :param validation: slices of people who are not in `train`; they choose the best epoch (lowest MSE in the cord).
        Without them the last epoch is taken.
    :param folder: training state, `curves.csv` and `curves.png`.
    :returns: the network with the best weights, in evaluation mode on the CPU, and the curves (one dict an epoch).
    :raises ModelError: the folder holds the state of another training.
    """
    architecture, config, device = architecture or Architecture(), config or PretrainConfig(), torch.device(device)
    network = EdgeMAE(architecture).initialise(torch.Generator().manual_seed(config.seed)).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=config.betas)
    recipe = {
        "architecture": asdict(architecture),
        "config": asdict(config) | {"betas": list(config.betas)},
        "data": fingerprint(train, validation, cords=True),
    }
    curves: list[dict] = []
    best: dict[str, torch.Tensor] = {}
    first_epoch = 0
    if stored := resume(folder, recipe, network, optimiser):
        tensors, record = stored
        best = with_prefix(tensors, "best.")
        curves, first_epoch = record["curves"], record["epoch"]
        say(f"Resuming after epoch {first_epoch} of {config.epochs}.")

    images = torch.from_numpy(train.images).to(device)
    cords = torch.from_numpy(train.cords).to(device)
    weights = sampling_weights(train, config.real_share)
    per_epoch = config.slices_per_epoch or len(train)
    steps = -(-per_epoch // config.batch)
    total = config.epochs * steps
    for epoch in range(first_epoch, config.epochs):
        rng = np.random.default_rng([config.seed, epoch])
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
        chosen = torch.from_numpy(rng.choice(len(train), size=(steps, config.batch), p=weights)).to(device)
        sums = torch.zeros(3, device=device)
        network.train()
        for step in range(steps):
            progress("Pretraining", epoch * steps + step, total)
            rate = learning_rate(config, epoch, epoch * steps + step)
            set_rate(optimiser, rate)
            losses = _losses(network, images[chosen[step]], cords[chosen[step]], config, generator)
            descend(network, optimiser, losses[0], config.clip_norm)
            sums += torch.stack(losses).detach()
        loss, mse, edge = (sums / steps).tolist()
        line = {"epoch": epoch + 1, "rate": rate, "loss": loss, "mse": mse, "edge": edge}
        last = epoch + 1 == config.epochs
        if validation is not None and (last or (epoch + 1) % config.validate_every == 0):
            line |= {f"held_out_{k}": v for k, v in validate(network, validation, device).items()}
            lowest = min((c["held_out_mse"] for c in curves if "held_out_mse" in c), default=np.inf)
            if line["held_out_mse"] < lowest:
                best = snapshot(network)
        elif validation is None and last:
            best = snapshot(network)
        curves.append(line)
        tensors = network_tensors(network, optimiser) | {f"best.{k}": v for k, v in best.items()}
        save_state(folder, tensors, {"epoch": epoch + 1, "curves": curves, "recipe": recipe})
        write_curves(folder, curves)
    progress("Pretraining", total, total)
    network.load_state_dict(best)
    return network.cpu().eval(), curves


def learning_rate(config: PretrainConfig, epoch: int, step: int) -> float:
    """Step decay every quarter of the epochs, after a linear warm-up."""
    rate = step_decay(config.learning_rate, config.decay, epoch, config.epochs)
    return rate * warm_up(step, config.warmup_steps)


def _losses(network, images, cords, config, generator):
    """Draw, apply, mask, rebuild: (total, MSE, edge)."""
    architecture = network.architecture
    drawn = augment.draw(config.augmentation, images.shape, generator)
    images, cords = augment.apply(images.float(), cords, drawn)
    roi = roi_patches(cords, architecture.patch)
    masks = random_masks(roi, config.mask_ratio, generator, ring(roi, architecture.context))
    rebuilt = rebuild(network, architecture, images, cords, masks)
    return reconstruction_loss(*rebuilt, config.edge_weight)


def write_curves(folder: Path, curves: list[dict]) -> None:
    """`curves.csv` with every epoch and `curves.png` with loss and reconstruction quality."""
    columns = ["epoch", "rate", "loss", "mse", "edge"]
    columns += [f"held_out_{name}" for name in ("mse", "psnr", "ssim", "variance")]
    write_table(folder / "curves.csv", columns, curves)
    epochs = [c["epoch"] for c in curves]
    held_out = [c for c in curves if "held_out_mse" in c]
    held_epochs = [c["epoch"] for c in held_out]
    panels = [
        {
            "title": "Mean squared error in the cord (logarithmic)",
            "log": True,
            "lines": {
                "training (masked patches)": (epochs, [c["mse"] for c in curves]),
                "held-out people (Monte Carlo mean)": (held_epochs, [c["held_out_mse"] for c in held_out]),
            },
        },
        {"title": "Held-out SSIM", "lines": {"SSIM": (held_epochs, [c["held_out_ssim"] for c in held_out])}},
        {
            "title": "Held-out variance (EU × 1000)",
            "lines": {"variance": (held_epochs, [c["held_out_variance"] for c in held_out])},
        },
    ]
    line_chart(folder / "curves.png", panels, x_label="epoch")

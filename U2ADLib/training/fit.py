"""A supervised training that can be stopped at any moment and repeats itself from its seed: what the networks of the
region share."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..pictures.charts import line_chart
from ..progress import Progress, no_progress
from .checkpoint import network_tensors, resume, save_state
from .data import sampling_weights
from .step import descend, set_rate, warm_up

CLIP_NORM = 1.0


class Schedule(Protocol):
    """What `fit` reads of a training's settings."""

    steps: int
    learning_rate: float  # falls to zero along half a cosine, after a linear warm-up
    warmup_steps: int
    weight_decay: float
    real_share: float  # of the examples drawn
    steps_per_epoch: int  # state is saved, and held-out data are looked at, so often
    seed: int


def fit(
    network: torch.nn.Module,
    folder: Path,
    config: Schedule,
    train,
    labels: str,
    parts: Sequence[str],
    losses: Callable[[np.random.Generator, np.ndarray], list[torch.Tensor]],
    watch: Callable[[], dict[str, float]],
    charts: Mapping[str, Mapping[str, str]],
    *,
    device: torch.device,
    stage: str = "Training",
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> list[dict]:
    """Train a network, its weights drawn with the seed, or go on where `folder` says it stopped. The last are taken.

    :param network: has an `architecture` with `widths`. :param config: a dataclass.
    :param train: what is learnt from, a set that has `people` and `phantom`, (N,) each. :param labels: a checksum of
        its labels. With architecture and settings both say which training a state belongs to.
    :param parts: names of what `losses` returns for a new batch, given the probability (N,) of each of `train`; the
        first is descended.
    :param watch: figures on held-out data, after every epoch. :param charts: of those figures, title → line → name.
    :returns: the curves (one dict an epoch); the network is left on the CPU, in evaluation mode.
    :raises ModelError: the folder holds the state of another training.
    """
    network.initialise(torch.Generator().manual_seed(config.seed)).to(device)
    weights = sampling_weights(train, config.real_share)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    recipe = {
        "architecture": asdict(network.architecture) | {"widths": list(network.architecture.widths)},
        "config": asdict(config),
        "data": [len(train), sha256("\n".join(train.people).encode()).hexdigest()],
        "labels": labels,
    }
    curves, first = [], 0
    if stored := resume(folder, recipe, network, optimiser):
        _, record = stored
        curves, first = record["curves"], record["epoch"]
        say(f"Resuming after step {first * config.steps_per_epoch} of {config.steps}.")
    epochs = -(-config.steps // config.steps_per_epoch)
    for epoch in range(first, epochs):
        rng = np.random.default_rng([config.seed, epoch])
        sums = torch.zeros(len(parts), device=device)
        network.train()
        for step in range(epoch * config.steps_per_epoch, (epoch + 1) * config.steps_per_epoch):
            progress(stage, step, epochs * config.steps_per_epoch)
            fallen = 0.5 * (1 + math.cos(math.pi * min(step / config.steps, 1)))
            rate = config.learning_rate * warm_up(step, config.warmup_steps) * fallen
            set_rate(optimiser, rate)
            values = losses(rng, weights)
            descend(network, optimiser, values[0], CLIP_NORM)
            sums += torch.stack(values).detach()
        means = dict(zip(parts, (sums / config.steps_per_epoch).tolist(), strict=True))
        curves.append({"epoch": epoch + 1, "rate": rate, **means, **watch()})
        save_state(
            folder, network_tensors(network, optimiser), {"epoch": epoch + 1, "curves": curves, "recipe": recipe}
        )
        _draw(folder / "curves.png", curves, {"Loss": {part: part for part in parts}, **charts})
    progress(stage, epochs * config.steps_per_epoch, epochs * config.steps_per_epoch)
    network.cpu().eval()
    return curves


def _draw(path, curves, charts):
    def line(name):
        found = [c for c in curves if name in c]
        return [c["epoch"] for c in found], [c[name] for c in found]

    panels = [
        {"title": title, "log": title == "Loss", "lines": {label: line(name) for label, name in lines.items()}}
        for title, lines in charts.items()
    ]
    line_chart(path, panels, x_label="epoch")

"""Training of the discriminator on corrupted healthy slices, resumable and reproducible from its seed.

Examples are made in rounds by all processors, since that takes as long as learning from them; every round has new ones.
Everything random in a round comes from generators seeded with (seed, round), so weights, optimiser and the round's
number are the whole state.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..config import MonteCarloConfig
from ..mae import EdgeMAE
from ..montecarlo import monte_carlo
from ..pictures.charts import line_chart
from ..progress import Progress, no_progress
from ..scoring.channels import channels
from ..scoring.discriminator import Discriminator, DiscriminatorArchitecture, features
from ..scoring.strip import WIDTH, Strip
from .checkpoint import network_tensors, resume, save_state, with_prefix
from .corrupted import WINDOW, CorruptionConfig, Example, draw_example
from .data import SliceSet, sampling_weights
from .step import fingerprint, set_rate, warm_up

REBUILT = ("rebuilt", "uncertainty")  # channels that need a reconstruction
SHOWN_PIXELS = 8  # the most suspicious ones speak for their slice
EXAMPLES_PER_TASK = 50


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Rounds of `examples` new examples, each followed by `steps` steps."""

    rounds: int = 1  # more did not help: three rounds found less in an unseen person than two trainings of one
    examples: int = 4000
    steps: int = 1200
    batch: int = 16
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 1e-2
    dice_weight: float = 0.1
    slice_weight: float = 0.1
    averaging: float = 0.01  # of the weights, exponential: the average is what is kept
    real_share: float = 0.6  # of the examples, where there are phantoms too
    seed: int = 0
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)


def train_discriminator(
    train: SliceSet,
    folder: Path,
    architecture: DiscriminatorArchitecture | None = None,
    config: DiscriminatorConfig | None = None,
    *,
    network: EdgeMAE | None = None,
    unknown: np.ndarray | None = None,
    start: Discriminator | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> tuple[Discriminator, list[dict]]:
    """Train a discriminator, or go on where `folder` says it stopped.

    :param train: healthy slices, lesion-free as far as anyone knows.
    :param network: rebuilds the examples, where the architecture looks at reconstructions.
    :param unknown: (N, H, W) bool, pixels of `train` that may not be healthy: they do not count, corrupted or not.
    :param start: goes on from these weights (adaptation).
    :returns: the discriminator in evaluation mode on the CPU, and the curves (one dict a round).
    :raises ModelError: the folder holds the state of another training.
    """
    architecture, config = architecture or DiscriminatorArchitecture(), config or DiscriminatorConfig()
    device = torch.device(device)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        torch.manual_seed(config.seed)
        student = Discriminator(architecture)
    student.to(device)
    if start is not None:
        student.load_state_dict(start.state_dict())
    optimiser = torch.optim.AdamW(student.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    recipe = {
        "architecture": {name: list(values) for name, values in asdict(architecture).items()},
        "config": asdict(config),
        "data": fingerprint(train, cords=True),
        "unknown": None if unknown is None else sha256(np.packbits(unknown).tobytes()).hexdigest(),
        "start": None if start is None else _checksum(start),
    }
    average = {name: value.clone() for name, value in student.state_dict().items()}
    curves, first = [], 0
    if stored := resume(folder, recipe, student, optimiser):
        tensors, record = stored
        average = {name: value.to(device) for name, value in with_prefix(tensors, "average.").items()}
        curves, first = record["curves"], record["epoch"]
        say(f"Resuming after round {first} of {config.rounds}.")
    total = config.rounds * config.steps
    for round_ in range(first, config.rounds):
        inputs, targets = _examples(train, unknown, architecture, config, round_, network, device, progress)
        rng = np.random.default_rng([config.seed, round_])
        sums = torch.zeros(4, device=device)
        student.train()
        for step in range(round_ * config.steps, (round_ + 1) * config.steps):
            progress("Training", step, total)
            fallen = 0.5 * (1 + np.cos(np.pi * step / total))
            set_rate(optimiser, config.learning_rate * warm_up(step, config.warmup_steps) * fallen)
            chosen = torch.from_numpy(rng.choice(len(inputs), config.batch)).to(device)
            losses = discriminator_loss(student, inputs[chosen].float(), targets[chosen].float(), config)
            optimiser.zero_grad(set_to_none=True)
            losses[0].backward()
            optimiser.step()
            sums += torch.stack(losses).detach()
            with torch.no_grad():
                pace = max(config.averaging, 1 / (step + 1))
                for name, value in student.state_dict().items():
                    average[name] = value.clone() if not value.is_floating_point() else average[name].lerp(value, pace)
        names = ("loss", "pixels", "dice", "slices")
        curves.append({"round": round_ + 1, **dict(zip(names, (sums / config.steps).tolist(), strict=True))})
        tensors = network_tensors(student, optimiser) | {f"average.{name}": value for name, value in average.items()}
        save_state(folder, tensors, {"epoch": round_ + 1, "curves": curves, "recipe": recipe})
        _draw_curves(folder, curves)
    progress("Training", total, total)
    student.load_state_dict(average)
    return student.cpu().eval(), curves


def discriminator_loss(
    network: Discriminator, inputs: torch.Tensor, targets: torch.Tensor, config: DiscriminatorConfig
) -> list[torch.Tensor]:
    """[total, pixels, dice, slices]: cross-entropy of the cord's pixels, soft Dice per slice, and cross-entropy of
    "this slice has a corruption", for which its most suspicious 3 × 3 neighbourhoods speak.

    :param inputs: (B, channels, rows, WIDTH); channel "inside" must be among them. :param targets: (B, rows, WIDTH),
        1 where corrupted, negative where it is unknown, which does not count.
    """
    cord = (inputs[:, network.architecture.channels.index("inside")] > 0.5) & (targets >= 0)
    logits, targets = network(inputs), targets * cord
    crossed = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    pixels = (crossed * cord).sum() / cord.sum().clamp(min=1)
    likely = logits.sigmoid() * cord
    dice = 1 - (2 * (likely * targets).sum((1, 2)) + 1) / (likely.sum((1, 2)) + targets.sum((1, 2)) + 1)
    around = F.avg_pool2d(logits.clamp(min=-12).masked_fill(~cord, -12)[:, None], 3, 1, 1)[:, 0].flatten(1)
    spoken = around.topk(SHOWN_PIXELS, 1).values.mean(1)
    slices = F.binary_cross_entropy_with_logits(spoken, (targets.sum((1, 2)) > 0).float())
    return [pixels + config.dice_weight * dice.mean() + config.slice_weight * slices, pixels, dice.mean(), slices]


def _examples(train, unknown, architecture, config, round_, network, device, progress):
    """Inputs (N, channels, rows, WIDTH) float16 and targets (N, rows, WIDTH) int8 of a round, on the device."""
    weights = sampling_weights(train, config.real_share)
    needs_network = any(name in REBUILT for name in architecture.channels)
    counts = [EXAMPLES_PER_TASK] * (config.examples // EXAMPLES_PER_TASK)
    seeds = [[config.seed, round_, task] for task in range(len(counts))]
    inputs, targets = [], []
    progress("Examples", 0, len(counts))
    workers = os.cpu_count() or 1
    # Fresh processes, not forks: torch's threads do not survive a fork.
    with ProcessPoolExecutor(
        workers, get_context("spawn"), _keep, (train, weights, config.corruption, unknown)
    ) as pool:
        for task, examples in enumerate(pool.map(_drawn, seeds, counts)):
            rebuilt = (
                _rebuilt(network, examples, seeds[task], device) if needs_network else [(None, None)] * len(examples)
            )
            for example, (mean, variance) in zip(examples, rebuilt, strict=True):
                one, target = as_input(example, architecture, mean, variance)
                inputs.append(one)
                targets.append(target)
            progress("Examples", task + 1, len(counts))
    return torch.from_numpy(np.stack(inputs)).to(device), torch.from_numpy(np.stack(targets)).to(device)


def as_input(example: Example, architecture: DiscriminatorArchitecture, mean=None, variance=None):
    """What the discriminator sees of an example, (channels, 160, 40) float16, and its target (160, 40) int8."""
    maps = channels(example.image, example.cord, mean=mean, variance=variance)
    strip = Strip.around(example.cord, architecture.multiple)
    rows = min(len(strip.columns), WINDOW[0])
    one = np.zeros((len(architecture.channels), WINDOW[0], WIDTH), np.float16)
    one[:, :rows] = strip.cut(features(maps, architecture.channels))[:, :rows]
    target = np.zeros((WINDOW[0], WIDTH), np.int8)
    target[:rows] = strip.cut(example.corrupted.astype(np.int8) - example.unknown)[:rows]
    return one, target


_kept = {}


def _keep(train, weights, corruption, unknown):
    _kept.update(data=train, weights=weights, config=corruption, unknown=unknown)


def _drawn(seed, count):
    rng = np.random.default_rng(seed)
    return [draw_example(rng=rng, **_kept) for _ in range(count)]


def _rebuilt(network, examples, seed, device):
    """(mean, variance) of each example, rebuilt in the middle of an image as large as the network's."""
    size = network.architecture.image_size
    row, column = ((size - length) // 2 for length in WINDOW)
    place = slice(row, row + WINDOW[0]), slice(column, column + WINDOW[1])
    images = np.zeros((len(examples), size, size), np.float32)
    cords = np.zeros(images.shape, bool)
    for k, example in enumerate(examples):
        images[(k, *place)], cords[(k, *place)] = example.image, example.cord
    made = monte_carlo(
        network, images, cords, MonteCarloConfig(), int(np.random.default_rng(seed).integers(2**31)), device=device
    )
    return [(made.mean[(k, *place)], made.epistemic[(k, *place)]) for k in range(len(examples))]


def _checksum(network):
    return sha256(b"".join(v.cpu().numpy().tobytes() for v in network.state_dict().values())).hexdigest()


def _draw_curves(folder, curves):
    rounds = [c["round"] for c in curves]
    lines = {name: (rounds, [c[name] for c in curves]) for name in ("pixels", "dice", "slices")}
    line_chart(folder / "curves.png", [{"title": "Loss", "log": True, "lines": lines}], x_label="round")

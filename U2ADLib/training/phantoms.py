"""Phantom slices to learn from, made in parallel and kept, since simulating a few hundred takes minutes.

Seeds are kept apart so that nothing is ever judged on what it learnt from: see `TRAINING_SEEDS`, `THRESHOLD_SEEDS`.
"""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from safetensors.numpy import safe_open, save_file

from ..config import Purpose
from ..errors import UsageError
from ..progress import Progress
from ..simulation.phantom import Phantom, phantom_config, simulate_phantom
from .data import SliceSet, concatenate, slices_of

TRAINING_SEEDS = 1_000_000  # phantom i of training seed s has seed TRAINING_SEEDS + PER_SEED · s + i
PER_SEED = 10_000
THRESHOLD_SEEDS = 2_000_000  # lesion-free phantoms for thresholds
KINDS = ("clinical", "clinical", "space")  # two of three are thick-slice clinical scans


def refuse_phantoms(purpose: Purpose, count: int) -> None:
    """:raises UsageError: phantoms are wanted for another contrast than theirs."""
    if count and purpose != Purpose():
        raise UsageError(
            f"Simulated necks are T2-weighted: they cannot serve a model for {purpose.contrast} of the "
            f"{purpose.region}. "
            "Ask for 0 phantoms, and set thresholds from lesion-free people (`u2ad thresholds MODEL --healthy FOLDER`)."
        )


def phantom_seeds(count: int, seed: int) -> range:
    """Seeds of the phantoms that a training with this seed learns from.

    :raises UsageError: some of them are kept for judging.
    """
    first = TRAINING_SEEDS + PER_SEED * seed
    seeds = range(first, first + count)
    if count and not TRAINING_SEEDS <= first < seeds.stop <= THRESHOLD_SEEDS:
        raise UsageError(
            f"{count} simulated necks for seed {seed} would be some that models are judged on: choose a seed from 0 to "
            f"{(THRESHOLD_SEEDS - TRAINING_SEEDS) // PER_SEED - 1} or fewer phantoms."
        )
    return seeds


def random_phantom(seed: int, kind: str) -> Phantom:
    """A lesion-free phantom with anatomy and contrast drawn from its seed."""
    return simulate_phantom(phantom_config(kind, seed), seed)


def phantom_slices(count: int, seed: int, folder: Path, progress: Progress) -> SliceSet:
    """Slices of `count` phantoms; kept in `folder` and read from there when asked for again.

    :raises UsageError: as `phantom_seeds`.
    """
    seeds = phantom_seeds(count, seed)
    path = folder / "phantoms.safetensors"
    wanted = json.dumps({"count": count, "seed": seed})
    if path.exists():
        with safe_open(path, "np") as stored:
            if (stored.metadata() or {}).get("wanted") == wanted:
                people = np.array([f"phantom-{n}" for n in stored.get_tensor("number")])
                images, cords = stored.get_tensor("images"), stored.get_tensor("cords") > 0
                return SliceSet(images, cords, people, np.ones(len(images), bool))
    sets = []
    progress("Phantoms", 0, count)
    # Fresh processes, not forks: torch's threads do not survive a fork.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for i, slices in enumerate(pool.map(_slices_of_phantom, seeds)):
            sets.append(slices)
            progress("Phantoms", i + 1, count)
    data = concatenate(sets)
    folder.mkdir(parents=True, exist_ok=True)
    number = np.array([int(name.split("-")[1]) for name in data.people])
    temporary = path.with_suffix(".tmp")
    tensors = {"images": data.images, "cords": data.cords.astype(np.uint8), "number": number}
    save_file(tensors, temporary, metadata={"wanted": wanted})
    os.replace(temporary, path)
    return data


def _slices_of_phantom(seed: int) -> SliceSet:
    phantom = random_phantom(seed, KINDS[seed % len(KINDS)])
    return slices_of(phantom.volume, phantom.cord.array > 0, f"phantom-{seed}", phantom=True)

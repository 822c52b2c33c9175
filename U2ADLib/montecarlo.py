"""Monte Carlo reconstruction: mean, aleatoric and epistemic uncertainty (paper 3.4, Algorithm 1).

All passes of all slices are rows of one batch. The reconstructions of a run are a few megabytes, so they are kept and
the variance is computed in two steps, which is exact where running sums of squares would cancel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .config import MonteCarloConfig
from .device import is_out_of_memory
from .errors import InputError
from .mae import EdgeMAE, patchify, unpatchify
from .masking import balanced_passes, random_passes, ring, roi_patches
from .progress import Progress, no_progress
from .reconstruction import Reconstruction

ROWS_PER_BATCH = 256  # (slice, pass) pairs computed at once: about 150 MB of activations


@dataclass(frozen=True)
class _Rows:
    """One row per (slice, pass): which patches are shown and which rebuilt, padded to a common length."""

    slice_index: np.ndarray  # (R,)
    visible: np.ndarray  # (R, V) grid positions
    visible_valid: np.ndarray
    target: np.ndarray  # (R, T)
    target_valid: np.ndarray
    weight: np.ndarray  # (R, T) 1 where the reconstruction is used


def monte_carlo(
    model: EdgeMAE,
    images: np.ndarray,
    cords: np.ndarray,
    config: MonteCarloConfig | None = None,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    *,
    device: torch.device | str = "cpu",
    rows_per_batch: int = ROWS_PER_BATCH,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> Reconstruction:
    """Rebuild every cord patch of every slice at least K times from its surroundings.

    :param images: (S, H, W) float32, 0–1. :param cords: (S, H, W) bool, each slice with some cord.
    :param seed: masks of slice i come from the generator seeded with (seed, numbers[i]): a slice's result does not
        depend on which others are computed with it, nor on the device.
    :param numbers: of the slices, for instance in their stack; by default 0, 1, 2 …
    :param rows_per_batch: bounds memory. Halved when memory runs out; then the CPU takes over. `say` is told.
    :raises InputError: a slice without cord.
    """
    config = config or MonteCarloConfig()
    device = torch.device(device)
    architecture = model.architecture
    if not cords.any(axis=(1, 2)).all():
        raise InputError("A slice without any cord cannot be reconstructed: leave it out.")
    cord = torch.from_numpy(np.ascontiguousarray(cords))
    roi = roi_patches(cord, architecture.patch)
    rows = _draw_rows(
        roi.numpy(),
        ring(roi, architecture.context).numpy(),
        config,
        seed,
        range(len(images)) if numbers is None else numbers,
    )
    passes = int(np.bincount(rows.slice_index).max())
    while True:
        try:
            mean, variance = _run(model.to(device).eval(), images, cord, rows, device, rows_per_batch, progress)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if rows_per_batch > 1:
                rows_per_batch //= 2
                say(f"Memory ran out on {device}: trying again with {rows_per_batch} passes at a time.")
            elif device.type != "cpu":
                device, rows_per_batch = torch.device("cpu"), ROWS_PER_BATCH
                say("Memory ran out on the GPU even for a single pass: going on with the CPU, which is slower.")
            else:
                raise
        if device.type == "cuda" or torch.cuda.is_available():
            torch.cuda.empty_cache()
    mean = np.where(cords, mean, 0).astype(np.float32)
    variance = np.where(cords, variance, 0).astype(np.float32)
    error = np.where(cords, np.abs(images - mean), 0).astype(np.float32)
    return Reconstruction(mean, error, variance, passes, str(device))


def network_input(images: torch.Tensor, cords: torch.Tensor, outside: str) -> torch.Tensor:
    """x ⊙ M (Algorithm 1), or x itself where the architecture keeps what lies outside the cord."""
    return images * cords if outside == "zero" else images


def _draw_rows(roi, context, config, seed, numbers) -> _Rows:
    """Draw the masks of all slices; roi and context are (S, G²) bool."""
    index, visible, target, weight = [], [], [], []
    for i, (inside, around) in enumerate(zip(roi, context, strict=True)):
        patches, always = np.flatnonzero(inside), np.flatnonzero(around)
        rng = np.random.default_rng([seed, numbers[i]])
        if config.scheme == "balanced":
            masked = used = balanced_passes(len(patches), config.k, config.mask_ratio, rng)
        else:
            masked, used = random_passes(len(patches), config.k, config.mask_ratio, rng)
        for hide, use in zip(masked, used, strict=True):
            index.append(i)
            visible.append(np.concatenate([patches[~hide], always]))
            target.append(patches[hide])
            weight.append(use[hide])
    visible, visible_valid = _pad(visible, np.int64)
    target, target_valid = _pad(target, np.int64)
    weight, _ = _pad(weight, np.float32)
    return _Rows(np.array(index), visible, visible_valid, target, target_valid, weight)


def _pad(rows, dtype):
    length = max(len(row) for row in rows)
    values = np.zeros((len(rows), length), dtype)
    valid = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        values[i, : len(row)], valid[i, : len(row)] = row, True
    return values, valid


@torch.inference_mode()
def _run(model, images, cord, rows, device, rows_per_batch, progress):
    """Mean and variance (S, H, W) as numpy arrays; one transfer to the device, one back."""
    architecture = model.architecture
    x = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).to(device)
    patches = patchify(network_input(x, cord.to(device), architecture.outside), architecture.patch)
    index, visible, target = (torch.from_numpy(a).to(device) for a in (rows.slice_index, rows.visible, rows.target))
    visible_valid, target_valid = (torch.from_numpy(a).to(device) for a in (rows.visible_valid, rows.target_valid))
    weight = torch.from_numpy(rows.weight).to(device)
    total = len(index)
    rebuilt = torch.empty((*target.shape, patches.shape[2]), device=device)
    progress("Reconstruction", 0, total)
    for start in range(0, total, rows_per_batch):
        batch = slice(start, start + rows_per_batch)
        shown = patches[index[batch, None], visible[batch]]
        padded = not (rows.visible_valid[batch].all() and rows.target_valid[batch].all())
        rebuilt[batch], _ = model(
            shown,
            visible[batch],
            target[batch],
            visible_valid[batch] if padded else None,
            target_valid[batch] if padded else None,
        )
        progress("Reconstruction", min(start + rows_per_batch, total), total)
    # Each reconstruction goes to its (slice, patch) cell; padding has weight 0.
    cells = (index[:, None] * patches.shape[1] + target).flatten()
    weight = weight.flatten()
    flat = rebuilt.flatten(0, 1)
    zeros = torch.zeros(patches.shape[0] * patches.shape[1], device=device)
    count = zeros.index_add(0, cells, weight)
    zeros = torch.zeros(len(count), flat.shape[1], device=device)
    mean = zeros.index_add(0, cells, flat * weight[:, None]) / count.clamp(min=1)[:, None]
    squares = zeros.index_add(0, cells, (flat - mean[cells]) ** 2 * weight[:, None])
    variance = squares / (count - 1).clamp(min=1)[:, None]
    both = torch.stack([mean, variance]).view(2, *patches.shape)
    both = torch.stack([unpatchify(one, architecture.patch) for one in both]).cpu().numpy()
    return both[0], both[1]

"""Which patches are seen and which are rebuilt: random masks for training, passes for Monte Carlo.

Masks are drawn here and applied elsewhere. The share of masked patches is exact for *each* image, however many patches
its cord touches: `masked_count`.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


def masked_count(n: int, ratio: float) -> int:
    """How many of n ROI patches are masked: ratio · n rounded half up, at least one, leaving at least one visible."""
    if n < 2:
        return n  # a lone patch is rebuilt from the class token alone
    return min(max(int(ratio * n + 0.5), 1), n - 1)


def roi_patches(cord: torch.Tensor, patch: int) -> torch.Tensor:
    """Patches with any cord pixel: (B, H, W) bool → (B, G²) bool."""
    return F.max_pool2d(cord.float()[:, None], patch)[:, 0].flatten(1) > 0


def ring(roi: torch.Tensor, rings: int) -> torch.Tensor:
    """Patches within `rings` steps (8-connected) around the ROI but not in it: (B, G²) bool."""
    if rings == 0:
        return torch.zeros_like(roi)
    grid = round(roi.shape[1] ** 0.5)
    wide = F.max_pool2d(roi.view(-1, 1, grid, grid).float(), 2 * rings + 1, stride=1, padding=rings)
    return (wide.flatten(1) > 0) & ~roi


@dataclass(frozen=True)
class Masks:
    """Grid positions of the visible and the target patches of a batch, padded; `valid` marks real ones."""

    visible: torch.Tensor  # (B, V) long
    visible_valid: torch.Tensor  # (B, V) bool
    target: torch.Tensor  # (B, T) long
    target_valid: torch.Tensor  # (B, T) bool


def masks_from_scores(roi, scores, ratio, always_visible=None, never_target=None) -> Masks:
    """Mask the highest-scoring `ratio` of each image's ROI patches.

    :param roi: (B, G²) bool, patches that touch the cord.
    :param scores: (B, G²), any real numbers; uniform random numbers give plain random masking.
    :param always_visible: (B, G²) bool, context patches outside the ROI that every pass shows.
    :param never_target: (B, G²) bool, ROI patches that are hidden from the target list whatever their score:
        they count as visible, and if they are more than 1 − ratio of the ROI, fewer patches are masked.
    """
    counts = roi.sum(1)
    wanted = torch.floor(counts * ratio + 0.5).long()  # same rule as masked_count
    wanted = torch.minimum(wanted.clamp(min=1), (counts - 1).clamp(min=1))
    wanted = torch.minimum(wanted, counts)
    candidates = roi if never_target is None else roi & ~never_target
    wanted = torch.minimum(wanted, candidates.sum(1))
    order = scores.masked_fill(~candidates, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(roi.shape[1], device=roi.device).expand_as(order))
    target = candidates & (rank < wanted[:, None])
    visible = roi & ~target
    if always_visible is not None:
        visible = visible | always_visible
    return Masks(*_positions(visible), *_positions(target))


def random_masks(roi, ratio, generator: torch.Generator, always_visible=None) -> Masks:
    """Uniformly random masking of exactly `ratio` of each image's ROI patches (paper 3.2.1, 3.3)."""
    scores = torch.rand(roi.shape, generator=generator, device=roi.device)
    return masks_from_scores(roi, scores, ratio, always_visible)


def _positions(chosen):
    """(B, G²) bool → padded (B, L) positions and their validity."""
    counts = chosen.sum(1)
    length = int(counts.max())
    order = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, :length]
    return order, torch.arange(length, device=chosen.device) < counts[:, None]


# ---------------------------------------------------------------- Monte Carlo passes


def balanced_passes(n: int, k: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Passes that show every patch equally often: (passes, n) bool, True = masked.

    Each pass shows the next part of a random permutation of the patches; when it is used up, a fresh one follows. The
    number of passes is the smallest that gives every patch at least k reconstructions: 14 at k = 10 and 75 %, against
    about 19 for independent masks of 50 patches.
    """
    hidden = masked_count(n, ratio)
    if hidden == n:
        return np.ones((k, n), bool)
    shown = n - hidden
    passes = k
    while passes - -(-passes * shown // n) < k:
        passes += 1
    masked = np.ones((passes, n), bool)
    queue = rng.permutation(n)
    for row in masked:
        if len(queue) < shown:
            # The rest of the old permutation is shown together with the head of a new one; patches of the rest go
            # to the new one's tail, so that no pass shows a patch twice.
            fresh = rng.permutation(n)
            again = np.isin(fresh, queue)
            queue = np.concatenate([queue, fresh[~again], fresh[again]])
        row[queue[:shown]] = False
        queue = queue[shown:]
    return masked


def random_passes(n: int, k: int, ratio: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The paper's scheme: independent masks until every patch has k reconstructions, then a random k of each.

    Returns masked (passes, n) bool and used (passes, n) bool, used ⊆ masked with exactly k per patch.
    """
    hidden = masked_count(n, ratio)
    rows = []
    counts = np.zeros(n, int)
    while counts.min() < k:
        row = np.zeros(n, bool)
        row[rng.permutation(n)[:hidden]] = True
        rows.append(row)
        counts += row
    masked = np.array(rows)
    used = np.zeros_like(masked)
    for patch in range(n):
        used[rng.permutation(np.flatnonzero(masked[:, patch]))[:k], patch] = True
    return masked, used

"""Which patches uncertainty tells to mask, and which it tells to leave alone (paper 3.4, Algorithm 2).

Pixel maps are moved with the image by the augmentation and only then pooled to patches. Shapes: B images of H × W
pixels, G² patches of P × P pixels.
"""

import numpy as np
import torch
import torch.nn.functional as F

from ..anomaly import components

EU_WEIGHTS = ("text", "raw", "printed", "uniform")
TOUCHED = 0.01  # share of a pixel; less is the rounding of a shift by whole pixels


def patch_sums(maps: torch.Tensor, cords: torch.Tensor, patch: int) -> torch.Tensor:
    """EU_ip: sum of a pixel map (B, H, W) over each patch's cord pixels, (B, G²) (paper 3.4.1)."""
    return F.avg_pool2d((maps * cords)[:, None], patch)[:, 0].flatten(1) * patch**2


def touched_patches(marked: torch.Tensor, patch: int) -> torch.Tensor:
    """Patches with any marked pixel, (B, G²) bool. `marked` (B, H, W) is 0–1: moved pixels are marked in part."""
    return F.max_pool2d(marked[:, None], patch)[:, 0].flatten(1) > TOUCHED


def eu_scores(
    uncertainty: torch.Tensor, roi: torch.Tensor, uniform: torch.Tensor, tau: float = 1.0, weight: str = "text"
) -> torch.Tensor:
    """Scores (B, G²) of which the highest are masked: P'_ip = w_ip · P_ip (paper 3.4.1).

    :param uncertainty: (B, G²) EU_ip, not negative. :param roi: (B, G²) bool, patches that touch the cord.
    :param uniform: (B, G²) random numbers P_ip, uniform in 0–1.
    :param weight: the reading of w_ip. "text": softmax((EU / mean EU of the image's patches) / τ), so that a patch of
        high EU is masked more often, as the paper's text wants it; dividing by the mean makes τ mean the same whatever
        the scale of EU. "raw": softmax(EU / τ); EU being far below 1, nearly uniform at τ = 1. "printed": the formula
        as it is printed, −log(exp(EU/τ)) / Σ exp(EU/τ), by which a patch of *high* EU is masked *less* often.
        "uniform": random masking, the paper's baseline.
    """
    if weight == "uniform":
        return uniform
    scaled = uncertainty / tau
    if weight == "text":
        mean = (uncertainty * roi).sum(1, keepdim=True) / roi.sum(1, keepdim=True).clamp(min=1)
        scaled = scaled / mean.clamp(min=torch.finfo(mean.dtype).tiny)
    logits = scaled.masked_fill(~roi, -torch.inf)
    if weight == "printed":
        # Divided by the largest exponential above and below: large EU / τ must not overflow; the order stays.
        highest = logits.amax(1, keepdim=True)
        return -scaled / (logits - highest).exp().sum(1, keepdim=True) * uniform
    return logits.softmax(1) * uniform


def anomalous(
    error: np.ndarray, cord: np.ndarray, percentile: float = 90, smallest: int = 2, count: int = 3
) -> np.ndarray:
    """Pixels of one image (H, W) bool that could be an anomaly and are left out of training (paper 3.4.2).

    Of the pixels above the `percentile` of AU in the cord, the 8-connected components of at least `smallest` pixels; of
    these the `count` with the highest AnoScore_CC, the sum of AU over the component. The percentile and the smallest
    size are not in the paper.

    :param error: (H, W) AU. :param cord: (H, W) bool.
    """
    if not cord.any():
        return np.zeros_like(cord)
    above = np.where(cord & (error > np.percentile(error[cord], percentile)), error, 0)
    labels, scores = components(above, cord)
    sizes = np.bincount(labels.ravel(), minlength=len(scores) + 1)[1:]
    large = np.flatnonzero(sizes >= smallest)
    best = large[np.argsort(-scores[large], kind="stable")[:count]]
    return np.isin(labels, best + 1)

"""What the Monte Carlo makes of a stack of slices."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Maps (S, H, W) float32 in the slices' units (0–1), zero outside the cord (paper, Algorithm 1)."""

    mean: np.ndarray  # μ: mean of the reconstructions
    aleatoric: np.ndarray  # AU = |x − μ|
    epistemic: np.ndarray  # EU = σ², K − 1 in the denominator
    passes: int  # network passes per slice, the largest of all slices
    device: str  # where it was computed in the end

"""What is known about each pixel of a slice: the maps that the discriminator can look at."""

import numpy as np
from scipy.ndimage import distance_transform_edt

from .gain import local_gain

DEEP = 5.0  # px from the border; what lies deeper is the same


def channels(
    image: np.ndarray,
    cord: np.ndarray,
    mean: np.ndarray | None = None,
    variance: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Maps (H, W) of one slice, all relative to the cord's own level L thereabouts (`gain.local_gain`).

    gain: x / L − 1. inside: the mask. depth: distance to its border, 0–1. rebuilt: (x − mean of the reconstructions) /
    L inside the cord. uncertainty: √EU / L. The last two only where a reconstruction is given.

    :param image: (H, W) in any unit in which 0 is no signal. :param mean, variance: of the Monte Carlo reconstructions.
    """
    level = local_gain(image, cord)[:, None]
    gain = (image / level).astype(np.float32) - 1
    maps = {
        "gain": gain,
        "inside": cord.astype(np.float32),
        "depth": np.minimum(distance_transform_edt(cord), DEEP) / DEEP,
    }
    if mean is not None:
        maps["rebuilt"] = np.where(cord, image - mean, 0) / level
        maps["uncertainty"] = np.where(cord, np.sqrt(variance), 0) / level
    return maps

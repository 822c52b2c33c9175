"""From the reconstruction to the filtered anomaly map (paper 3.5.1). numpy only; every slice stands alone."""

import numpy as np
from scipy import ndimage

from .config import ScoreConfig

EIGHT_CONNECTED = np.ones((3, 3), bool)
CROSS = ndimage.generate_binary_structure(2, 1)  # one step = one pixel, no diagonals


def anomaly_map(image: np.ndarray, mean: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """AnoMap[x] = |x − mean of the K reconstructions|, 0 outside the mask (paper 3.5.1). Any common shape, 0–1."""
    return np.where(mask, np.abs(image - mean), 0)


def erode(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Take `pixels` off the border of each slice of a mask (…, H, W).

    Where nothing of an image row would be left (thin, compressed cord), the middle one or two pixels of its
    cord stay, so that no length of cord is lost. The edge of the image is not a border: the cord goes on
    there.
    """
    mask = np.asarray(mask, bool)
    if pixels == 0:
        return mask
    cross = CROSS.reshape((1,) * (mask.ndim - 2) + (3, 3))
    eroded = ndimage.binary_erosion(mask, cross, iterations=pixels, border_value=1)
    count = mask.sum(axis=-1, keepdims=True)
    position = np.cumsum(mask, axis=-1)  # 1 … count within the row's cord
    middle = mask & (2 * position >= count) & (2 * position <= count + 2)
    return eroded | (middle & ~eroded.any(axis=-1, keepdims=True))


def filter_bottom(error: np.ndarray, mask: np.ndarray, bottom="percentile", fraction=0.2) -> np.ndarray:
    """One slice's map (H, W) without its low values: 0 outside the mask and below the limit.

    The paper's "bottom 20 % of error values" has two readings. "percentile": the limit is the 20th percentile
    of the values in the mask, so a fifth of the pixels is removed. "of_max": it is 20 % of the largest value
    in the mask.
    """
    values = error[mask]
    if not values.size:
        return np.zeros_like(error)
    limit = np.percentile(values, 100 * fraction) if bottom == "percentile" else fraction * values.max()
    return np.where(mask & (error >= limit), error, 0)


def components(error: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8-connected components of the positive values of one slice (H, W) in the mask.

    Returns labels (H, W), 0 and 1 … n, and scores (n,): AnoScore_CC, the sum of the component's values.
    """
    labels, count = ndimage.label((error > 0) & mask, EIGHT_CONNECTED)
    return labels, np.bincount(labels.ravel(), error.ravel(), minlength=count + 1)[1:]


def filtered_map(error: np.ndarray, mask: np.ndarray, config: ScoreConfig | None = None) -> np.ndarray:
    """The refined AnoMap (S, H, W): per slice only the components with the highest scores keep their values.

    error, mask: (S, H, W), the error map and the cord. The cord is eroded, the bottom 20 % are removed, the
    first `config.components` of the remaining components stay (paper 3.5.1), or all where that is 0.
    """
    config = config or ScoreConfig()
    mask = erode(mask, config.erosion_px)
    filtered = np.zeros_like(error)
    for k in range(len(error)):
        values = filter_bottom(error[k], mask[k], config.bottom, config.bottom_fraction)
        if config.components == 0:
            filtered[k] = values
            continue
        labels, scores = components(values, mask[k])
        best = 1 + np.argsort(-scores, kind="stable")[: config.components]
        filtered[k] = np.where(np.isin(labels, best), values, 0)
    return filtered

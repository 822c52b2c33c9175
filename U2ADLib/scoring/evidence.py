"""What speaks for a lesion at each pixel, under the score in use.

"paper": the error of the Monte Carlo reconstruction. "default": the probability that the discriminators give, averaged
over their trainings and over left and right, smoothed, and weighed together with that of the neighbouring slices
(`ScoreConfig.neighbours_mm`): what stands out in one slice of 1 mm and in neither neighbour is noise. Thick slices stay
alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..anomaly import erode
from ..config import ScoreConfig
from ..progress import Progress, no_progress
from ..reconstruction import Reconstruction
from .channels import channels
from .gain import local_gain_difference, smooth_inside
from .strip import WIDTH, Strip

SMOOTHING_PX = 0.8
CERTAIN = 12.0  # logits beyond this are cut off, so that one pixel cannot outvote its neighbours


@dataclass(frozen=True, eq=False)
class Evidence:
    """Maps (S, H, W) float32, 0 outside the cord.

    map: the score's own, before it is filtered. smaller: the same, had the mask been one pixel smaller all around.
    gain: how much brighter than the cord thereabouts (x / L − 1), smoothed: the simple rule beside every finding.
    """

    map: np.ndarray
    smaller: np.ndarray
    gain: np.ndarray


def error_evidence(images: np.ndarray, cords: np.ndarray, rebuilt: Reconstruction, config: ScoreConfig) -> Evidence:
    """The paper's: AnoMap = |x − μ| (3.5.1). images (S, H, W) 0–1, cords (S, H, W) bool."""
    smaller = np.where(erode(cords, config.erosion_px + 1), rebuilt.aleatoric, 0)
    return Evidence(rebuilt.aleatoric, smaller, gain_maps(images, cords))


def discriminator_evidence(
    discriminators: Sequence["Discriminator"],  # noqa: F821  (torch is imported only where it is used)
    images: np.ndarray,
    cords: np.ndarray,
    rebuilt: Reconstruction,
    config: ScoreConfig,
    positions_mm: Sequence[float],
    *,
    device="cpu",
    progress: Progress = no_progress,
) -> Evidence:
    """The default score's.

    :param images, cords: (S, H, W), 0–1 and bool. :param positions_mm: (S,) of the slices, from right to left.
    """
    maps = []
    for k, given in enumerate((cords, erode(cords, 1))):
        progress("Scoring", k, 2)
        logits = discriminator_logits(discriminators, images, given, rebuilt, device)
        maps.append(default_map(logits, given, positions_mm, config.neighbours_mm))
    progress("Scoring", 2, 2)
    return Evidence(*maps, gain_maps(images, cords))


def discriminator_logits(discriminators, images, cords, rebuilt: Reconstruction | None, device="cpu") -> np.ndarray:
    """Mean logit (S, H, W) of the discriminators and of the slices seen both ways round; 0 outside the cord.

    :param rebuilt: may be None where no discriminator looks at a reconstruction.
    """
    import torch

    from .discriminator import features

    strips = [Strip.around(cord, max(d.architecture.multiple for d in discriminators)) for cord in cords]
    rows = max(len(strip.columns) for strip in strips)
    maps = [
        channels(
            image,
            cord,
            mean=None if rebuilt is None else rebuilt.mean[k],
            variance=None if rebuilt is None else rebuilt.epistemic[k],
        )
        for k, (image, cord) in enumerate(zip(images, cords, strict=True))
    ]
    total = np.zeros((len(images), rows, WIDTH), np.float32)
    for discriminator in discriminators:
        wanted = discriminator.architecture.channels
        batch = np.zeros((len(images), len(wanted), rows, WIDTH), np.float32)
        for k, strip in enumerate(strips):
            cut = strip.cut(features(maps[k], wanted))
            batch[k, :, : cut.shape[1]] = cut
        with torch.inference_mode():
            network = discriminator.to(device).eval()
            x = torch.from_numpy(batch).to(device)
            both = network(x) + network(x.flip(3)).flip(2)
            total += both.clamp(-2 * CERTAIN, 2 * CERTAIN).cpu().numpy() / (2 * len(discriminators))
    pasted = [strip.paste(one[: len(strip.columns)], images[0].shape) for strip, one in zip(strips, total, strict=True)]
    return np.where(cords, np.stack(pasted), 0)


def default_map(logits: np.ndarray, cords: np.ndarray, positions_mm: Sequence[float], sigma_mm: float) -> np.ndarray:
    """The default score's map (S, H, W) from logits: together with the neighbouring slices, smoothed, a probability."""
    together = across_slices(logits, cords, positions_mm, sigma_mm)
    return np.stack([probability(*pair) for pair in zip(together, cords, strict=True)])


def across_slices(logits: np.ndarray, cords: np.ndarray, positions_mm: Sequence[float], sigma_mm: float) -> np.ndarray:
    """Each pixel's logit averaged with those of the same place in other slices that show cord there.

    Weights are Gaussian in the distance between slices; `sigma_mm` 0 leaves every slice alone. (S, H, W), 0 outside.
    """
    if sigma_mm == 0:
        return np.where(cords, logits, 0)
    distance = np.subtract.outer(np.asarray(positions_mm, float), np.asarray(positions_mm, float))
    weights = np.exp(-0.5 * (distance / sigma_mm) ** 2).astype(np.float32)
    total = np.tensordot(weights, np.where(cords, logits, 0), 1)
    return np.where(cords, total / np.maximum(np.tensordot(weights, cords.astype(np.float32), 1), 1e-6), 0)


def probability(logits: np.ndarray, cord: np.ndarray) -> np.ndarray:
    """Probability (H, W) from logits, smoothed inside the cord; 0 outside."""
    limited = np.clip(logits, -CERTAIN, CERTAIN)
    return np.where(cord, 1 / (1 + np.exp(-smooth_inside(limited, cord, SMOOTHING_PX))), 0).astype(np.float32)


def gain_maps(images: np.ndarray, cords: np.ndarray) -> np.ndarray:
    """(S, H, W): local-gain difference, smoothed inside the cord less 1 px."""
    inner = erode(cords, 1)
    return np.stack([
        smooth_inside(local_gain_difference(image, cord), inside)
        for image, cord, inside in zip(images, cords, inner, strict=True)
    ]).astype(np.float32)  # fmt: skip

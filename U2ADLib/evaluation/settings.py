"""Which model and which settings find lesions planted in phantoms that nothing was trained on.

`python -m U2ADLib.evaluation.settings MODEL …` prints a table: every model with every setting of the score, and the
simple rules with the same post-processing. Used to choose defaults (context, what a patch shows outside the cord,
erosion, the reading of "the bottom 20 %"); the people are left for testing.
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from scipy.stats import rankdata

from ..anomaly import anomaly_map, filtered_map
from ..config import ScoreConfig
from ..curve import anocurve
from ..package import load_model
from ..progress import ProgressBar
from ..rivals.rules import BASELINES, signed_residual
from ..roi.centreline import Centreline
from ..simulation.plant import LESION_KINDS, plant_lesion
from ..training.data import slices_of
from ..training.phantoms import random_phantom

SETTINGS_SEEDS = 3_000_000  # apart from those of training and thresholds
NEAR_MM = 6.0  # a peak so near to the lesion has found it
SCORES = [ScoreConfig(erosion_px=px, bottom=bottom) for px, bottom in product((0, 1, 2), ("percentile", "of_max"))]


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive value exceeds a negative one, ties half."""
    ranks = rankdata(np.concatenate([positive, negative]))
    rank_sum = ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return float(rank_sum / (len(positive) * len(negative)))


def planted_slices(count: int, kinds: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Slices of `count` phantoms: image, cord and lesion (H, W), without a lesion and with one of each kind."""
    for seed in range(SETTINGS_SEEDS, SETTINGS_SEEDS + count):
        phantom = random_phantom(seed, "clinical")
        slices = slices_of(phantom.volume, phantom.cord.array > 0, f"phantom-{seed}")
        middle = int(slices.cords.sum((1, 2)).argmax())
        image, cord = slices.images[middle].astype(np.float32), slices.cords[middle]
        rng = np.random.default_rng(seed)
        yield image, cord, np.zeros_like(cord)
        for kind in kinds:
            planted = plant_lesion(image, cord, kind, rng)
            yield np.clip(planted.image, 0, 1), cord, planted.mask


def figures(maps, cords, lesions, lines: list[Centreline], score: ScoreConfig) -> dict[str, float]:
    """What unfiltered maps (N, H, W) find, given the cords and lesions (N, H, W) and the cords' centrelines.

    pixel: mean AUROC within the cord of slices with a lesion. slice: AUROC of the curve's maximum, slices with a lesion
    against those without.
    found: share of lesions within 6 mm of the curve's peak.
    """
    filtered = filtered_map(maps, cords, score)
    pixel, found, peaks = [], [], []
    for values, cord, lesion, line in zip(filtered, cords, lesions, lines, strict=True):
        s, curve = anocurve(values, cord, line, score)
        peaks.append(np.nanmax(curve))
        if lesion.any():
            pixel.append(auroc(values[lesion], values[cord & ~lesion]))
            along, _ = line.project(np.argwhere(lesion))
            found.append(along.min() - NEAR_MM <= s[np.nanargmax(curve)] <= along.max() + NEAR_MM)
    peaks, positive = np.array(peaks), lesions.any(axis=(1, 2))
    return {
        "pixel": float(np.mean(pixel)),
        "slice": auroc(peaks[positive], peaks[~positive]),
        "found": float(np.mean(found)),
    }


def main(arguments=None) -> None:
    """Print the table."""
    from ..montecarlo import monte_carlo

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--phantoms", type=int, default=40, metavar="N")
    parser.add_argument("--kinds", nargs="+", default=("A1", "h15", "h25", "h50", "small50", "border"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if unknown := set(options.kinds) - set(LESION_KINDS):
        parser.error(f"unknown kinds: {', '.join(sorted(unknown))}")
    images, cords, lesions = map(np.array, zip(*planted_slices(options.phantoms, options.kinds), strict=True))
    lines = [Centreline.from_cord(cord[None]) for cord in cords]
    print(f"{options.phantoms} clinical phantoms, middle slice, kinds {', '.join(options.kinds)}; AUROC, AUROC, share")
    print("| method | erosion | bottom 20 % | pixel | slice | found within 6 mm |\n|---|---|---|---|---|---|")

    def rows(name, maps):
        for score in SCORES:
            cells = " | ".join(f"{value:.3f}" for value in figures(maps, cords, lesions, lines, score).values())
            print(f"| {name} | {score.erosion_px} px | {score.bottom} | {cells} |", flush=True)

    for name, rule in BASELINES.items():
        rows(name, np.array([rule(image, cord) for image, cord in zip(images, cords, strict=True)]))
    for name in options.models:
        model = load_model(name)
        rebuilt = monte_carlo(model.network, images, cords, model.monte_carlo, options.seed, progress=ProgressBar())
        rows(f"{model.name}: AnoMap", anomaly_map(images, rebuilt.mean, cords))
        signed = [signed_residual(*one) for one in zip(images, rebuilt.mean, cords, strict=True)]
        rows(f"{model.name}: signed residual, smoothed", np.array(signed))


if __name__ == "__main__":
    main()

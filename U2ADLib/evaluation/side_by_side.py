"""One volume with and without a planted lesion: what the network says, and what the simple rules say on the same two.

`python -m U2ADLib.evaluation.side_by_side IMAGE --cord M --discs L --segment C4-5` prints the table. All methods share
the filter, the AnoCurve and the scores; only the anomaly map differs.
"""

import argparse
from pathlib import Path

import numpy as np

from ..analysis import Analysis, analyse
from ..anomaly import filtered_map
from ..config import SEGMENT_NAMES, ScoreConfig
from ..curve import segment_scores, volume_curve
from ..package import load_model
from ..rivals.rules import BASELINES, signed_residual

NETWORK = "AnoMap (the network)"


def maps_of_methods(analysis: Analysis) -> dict[str, np.ndarray]:
    """Unfiltered maps (S', 256, 256) of every method on the analysed slices."""
    index = list(analysis.slices)
    images, cords = analysis.stack.images[index], analysis.region.cord[index]
    maps = {NETWORK: analysis.reconstruction.aleatoric}
    residuals = zip(images, analysis.reconstruction.mean, cords, strict=True)
    maps["signed residual, smoothed"] = np.array([signed_residual(*one) for one in residuals])
    for name, rule in BASELINES.items():
        maps[name] = np.array([rule(image, cord) for image, cord in zip(images, cords, strict=True)])
    return maps


def scores_of_methods(analysis: Analysis, score: ScoreConfig) -> dict[str, dict[str, float]]:
    """Segment scores by method: the same post-processing for all."""
    cords = analysis.region.cord[list(analysis.slices)]
    result = {}
    for name, values in maps_of_methods(analysis).items():
        filtered = filtered_map(values, cords, score)
        curve = volume_curve(filtered, cords, analysis.region.centreline, analysis.slices, score)
        result[name] = segment_scores(curve, analysis.region.segments)
    return result


def table(original: dict, planted: dict, segment: str) -> str:
    """Text: per method the scores of all segments before → after, the rank of the planted one, and its gain."""
    names = [name for name in SEGMENT_NAMES.values() if name in planted[NETWORK]]
    lines = ["| method | " + " | ".join(names) + f" | rank of {segment} | {segment} planted / highest elsewhere |"]
    lines.append("|---" * (len(names) + 3) + "|")
    for method, after in planted.items():
        before = original[method]
        cells = [f"{before.get(name, np.nan):.3g} → {after[name]:.3g}" for name in names]
        others = [after[name] for name in names if name != segment]
        rank = 1 + sum(value >= after[segment] for value in others)
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {rank} | {after[segment] / max(others):.2f} |")
    return "\n".join(lines)


def main(arguments=None) -> None:
    """Plant a lesion, analyse both, print the table."""
    from ..io import read_volume
    from ..roi.labels import read_cord, read_discs
    from ..simulation.plant import plant_in_volume

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--cord", type=Path, required=True)
    parser.add_argument("--discs", type=Path, required=True)
    parser.add_argument("--segment", default="C4-5", choices=SEGMENT_NAMES.values())
    parser.add_argument("--contrast", type=float, default=0.5, help="share of the difference between CSF and cord")
    parser.add_argument("--size", default="4x12", help="front to back × along the cord, mm")
    parser.add_argument("--model", default="default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    volume, cord, labels = (read_volume(path) for path in (options.image, options.cord, options.discs))
    mask = read_cord(volume, cord)
    discs = read_discs(labels, cord=cord)
    number = next(n for n, name in SEGMENT_NAMES.items() if name == options.segment)
    ap_mm, length_mm = map(float, options.size.split("x"))
    with_lesion, _ = plant_in_volume(
        volume,
        mask.array,
        centre_ras=discs.points[number],
        contrast=options.contrast,
        ap_mm=ap_mm,
        length_mm=length_mm,
        rl_mm=ap_mm,
        rng=np.random.default_rng(options.seed),
    )
    model = load_model(options.model)
    scores = []
    for one in (volume, with_lesion):
        analysis = analyse(one, cord=cord, discs=labels, model=model, score="paper", seed=options.seed)
        scores.append(scores_of_methods(analysis, model.scores["paper"]))
    print(table(*scores, options.segment))


if __name__ == "__main__":
    main()

"""How well cord and discs are found: people with masks and labels, and phantoms of seeds that trained nothing.

`python -m U2ADLib.evaluation.regions [FOLDER] [--people P …] [--phantoms N]` prints a line a case and a summary. The
cord is compared between C2/3 and C7/T1 (the horizontal planes through the discs' tips). `--lesions` puts two lesions
into every phantom and says how much of them lies in the cord that is found: what is cut out of it is never seen.
`--pictures DIR` draws all. Whoever the model learnt from is marked "(trained on)" and does not count in the summary.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt

from ..errors import InputError
from ..package import find_model, load_region_model, read_card, update_card
from ..roi.locate import Located, locate
from ..volume import Volume

EVALUATION_SEEDS = 6_000_000  # apart from those that trained or were watched
# Where, how bright (of the difference between fluid and cord), front to back, along the cord, across (mm), off its
# middle: a faint one in the middle, and a bright one at the cord's border.
LESIONS = (("C4-5", 0.25, 4, 12, 8), ("C6-7", 0.6, 4, 10, 6, (0.0, 2.0, 2.0)))
NAMED_MM = 8.0  # a tip so near to the true one of its name, along the neck, is named right: levels are 15 mm apart


@dataclass(frozen=True)
class Truth:
    """A volume and what is true of it; cord, lesions: (I, J, K) bool or None, tips: number → RAS mm of C2/3 … C7/T1."""

    name: str
    volume: Volume
    cord: np.ndarray | None
    tips: dict[int, np.ndarray]
    lesions: np.ndarray | None = None


def compare(found: Located, truth: Truth) -> dict[str, float]:
    """Figures of one case: dice, surface_mm (mean distance of the surfaces), named (share of the discs in view that are
    found and named right), tip_mm (median distance of those), lesions (their share inside the cord that was found, NaN
    where there are none), doubts (their number)."""
    row = {"dice": np.nan, "surface_mm": np.nan}
    if truth.cord is not None:
        z = [point[2] for point in truth.tips.values()]
        heights = truth.volume.to_ras(np.argwhere(truth.cord | found.cord))
        kept = np.zeros(truth.cord.shape, bool)
        kept[truth.cord | found.cord] = (heights[:, 2] > min(z)) & (heights[:, 2] < max(z))
        a, b = truth.cord & kept, found.cord & kept
        row["dice"] = 2 * np.count_nonzero(a & b) / max(np.count_nonzero(a) + np.count_nonzero(b), 1)
        row["surface_mm"] = surface_distance(truth.cord, found.cord, kept, truth.volume.spacing)
    away = {n: found.discs.points[n] - tip for n, tip in truth.tips.items() if n in found.discs.points}
    right = [n for n, way in away.items() if np.linalg.norm(way[1:]) < NAMED_MM]
    row["named"] = len(right) / len(truth.tips)
    # The slice of a tip is that of the cord's middle by definition: compared is what is seen in the sagittal plane.
    row["tip_mm"] = float(np.median([np.linalg.norm(away[n][1:]) for n in right])) if right else np.nan
    inside = found.cord[truth.lesions] if truth.lesions is not None and truth.lesions.any() else [np.nan]
    row["lesions"] = float(np.mean(inside))
    row["doubts"] = len(found.doubts)
    return row


def surface_distance(a: np.ndarray, b: np.ndarray, kept: np.ndarray, spacing) -> float:
    """Mean distance in mm from each surface to the other, of surface voxels in `kept`."""
    if not (a & kept).any() or not (b & kept).any():
        return np.inf
    surfaces = [mask & ~binary_erosion(mask) for mask in (a, b)]
    distances = [distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
    return float(np.mean(np.concatenate([distances[1][surfaces[0] & kept], distances[0][surfaces[1] & kept]])))


def phantom_truths(count: int, kind: str = "clinical", lesions: bool = False) -> Iterator[Truth]:
    """Phantoms of unseen seeds, with two lesions each or as their kind is."""
    from ..simulation.phantom import Lesion, phantom_config, simulate_phantom

    given = [Lesion(*values) for values in LESIONS] if lesions else []
    for seed in range(EVALUATION_SEEDS, EVALUATION_SEEDS + count):
        phantom = simulate_phantom(phantom_config(kind, seed, lesions=given), seed)
        tips = {int(n): np.array(tip) for n, tip in phantom.description["disc_tips_ras_mm"].items()}
        tips = {n: tip for n, tip in tips.items() if 3 <= n <= 8}
        if tips:
            yield Truth(f"{kind}-{seed}", phantom.volume, phantom.cord.array > 0, tips, phantom.lesions.array > 0)


def people_truths(folder: Path, people=()) -> Iterator[Truth]:
    """Images of a folder with disc labels, with or without a cord mask."""
    from ..dataset import find_cases
    from ..io import read_volume
    from ..roi.labels import read_cord, read_discs

    for case in find_cases(folder):
        if case.discs is not None and (not people or case.person in people):
            volume = read_volume(case.image)
            cord = None if case.cord is None else read_cord(volume, read_volume(case.cord)).array
            yield Truth(case.person, volume, cord, read_discs(read_volume(case.discs)).points)


def main(arguments=None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--people", nargs="+", default=())
    parser.add_argument("--phantoms", type=int, default=0)
    parser.add_argument("--kind", default="clinical", choices=("clinical", "space", "varied"))
    parser.add_argument("--lesions", action="store_true", help="two in every phantom")
    parser.add_argument("--model", default="default")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw every case")
    parser.add_argument("--into-card", action="store_true", help="write the figures into the model's card")
    options = parser.parse_args(arguments)
    model = load_region_model(options.model)
    learnt_from = model.card.get("training", {}).get("people", ())
    groups, figures = [], {}
    if options.folder:
        names = ", ".join(options.people) or "all people"
        groups.append((names, people_truths(options.folder, options.people)))
    if options.phantoms:
        name = f"{options.kind} phantoms" + (" with two lesions" if options.lesions else "")
        groups.append((name, phantom_truths(options.phantoms, options.kind, options.lesions)))
    print(
        "| case | Dice | surface mm | named right | tip mm | lesions | doubts | s |\n|---|---|---|---|---|---|---|---|"
    )
    for name, truths in groups:
        rows, known = [], 0
        for truth in truths:
            is_known, started = truth.name in learnt_from, perf_counter()
            known += is_known
            label = f"{truth.name} (trained on)" if is_known else truth.name
            try:
                found = locate(truth.volume, model=model, device="cpu")
                row = compare(found, truth)
            except InputError as error:
                print(f"| {label} | refused: {error} | | | | | | |", flush=True)
                if not is_known:
                    nothing = {"dice": 0.0, "surface_mm": np.inf, "named": 0.0, "tip_mm": np.nan}
                    lesions = 0.0 if truth.lesions is not None and truth.lesions.any() else np.nan
                    rows.append(nothing | {"lesions": lesions, "doubts": 1})
                continue
            seconds = perf_counter() - started
            if not is_known:
                rows.append(row)
            print(
                f"| {label} | {row['dice']:.3f} | {row['surface_mm']:.2f} | {row['named']:.2f} | "
                f"{row['tip_mm']:.2f} | {row['lesions']:.2f} | {row['doubts']} | {seconds:.1f} |",
                flush=True,
            )
            if options.pictures:
                _draw(options.pictures / f"{truth.name}.png", truth.volume, found)
        if rows:
            figures[name] = summary = _summary(rows)
            print(f"| **{name}** | " + " | ".join(f"{key}: {value}" for key, value in summary.items()) + " |")
        if known:
            print(f"| {name}: {known} left out of the summary, the model learnt from them | | | | | | | |")
    if options.into_card:
        folder = find_model(options.model, "region")
        update_card(folder, metrics=read_card(folder).get("metrics", {}) | figures)


def _summary(rows):
    """JSON-able figures of a group; None where nothing is known. A case without a mask is neither good nor an other."""
    column = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    masked = np.isfinite(column["dice"])
    good = (column["named"] == 1) & (column["dice"] > 0.9)

    def figure(mean, values):
        values = values[~np.isnan(values)]
        value = float(mean(values)) if len(values) else np.nan
        return round(value, 3) if np.isfinite(value) else None

    return {
        "cases": len(rows),
        "mean Dice": figure(np.mean, column["dice"]),
        "median surface distance, mm": figure(np.median, column["surface_mm"]),
        "all levels named right": figure(np.mean, column["named"] == 1),
        "median distance of tips, mm": figure(np.median, column["tip_mm"]),
        "all levels right and Dice over 0.9": figure(np.mean, good[masked]),
        "lesions inside the cord found": figure(np.mean, column["lesions"]),
        "of the others doubted": figure(np.mean, column["doubts"][masked & ~good] > 0),
    }


def _draw(path, volume, found):
    from ..pictures.labelled import labelled_picture
    from ..roi.labels import disc_labels

    path.parent.mkdir(parents=True, exist_ok=True)
    cord = volume.with_array(found.cord.astype(np.uint8))
    labelled_picture(path, volume, cord, volume.with_array(disc_labels(volume, found.discs.points)))


if __name__ == "__main__":
    main()

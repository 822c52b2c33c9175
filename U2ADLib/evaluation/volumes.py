"""Whole volumes of people whom a model has not seen: does what is planted exceed what is healthy in them?

The benchmark judges slices; an analysis looks at every slice of a volume, and the more it looks at, the more often a
healthy one stands out. Here ellipsoids (3–5 mm front to back, 5–12 mm long, 3–8 mm wide) of known contrast are
planted, one at a time, into each segment of volunteers; slices as scanned and averaged to thicker ones, the cord given
and found. Scored is as an analysis does with the default score, less the reconstruction, which does not enter it.

    python -m U2ADLib.evaluation.volumes DATA --models 'folds/{person}' --region-models 'regions/{person}' --out DIR

`{person}` stands for the person left out; a model that knows that person is refused.
"""

import argparse
import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..anomaly import filtered_map
from ..config import ScoreConfig
from ..curve import patient_score, segment_scores, volume_curve
from ..dataset import Case, find_cases
from ..errors import InputError, U2ADError, UsageError
from ..files import refuse_existing, staged
from ..io import read_volume
from ..package import Model, RegionModel, load_model, load_region_model
from ..roi.labels import read_cord
from ..roi.region import analysed_slices, without_sides
from ..roi.source import Prepared, prepare
from ..scoring.evidence import default_map, discriminator_logits
from ..simulation.plant import plant_in_volume
from ..volume import Volume
from .benchmark.learned import refuse_known
from .benchmark.metrics import interval
from .settings import auroc

CONTRASTS = (0.10, 0.15, 0.25)
THICK = 3  # slices that are averaged into one
SIZES_MM = {"ap_mm": (3.0, 5.0), "length_mm": (5.0, 12.0), "rl_mm": (3.0, 8.0)}
RESAMPLES = 1000
FILES = ("scores.csv", "table.md")
CSV_COLUMNS = ("person", "slices", "cord", "neighbours_mm", "edge_mm", "contrast", "segment", "scored", "score")


@dataclass(frozen=True)
class Scored:
    """One image under one setting.

    contrast, segment: of the lesion planted into it; None where there is none. segments: scores by name.
    """

    person: str
    thick: bool
    found: bool
    neighbours_mm: float
    edge_mm: float
    contrast: float | None
    segment: str | None
    segments: dict[str, float]
    patient: float

    @property
    def group(self) -> tuple[bool, bool, float, float]:
        """What is judged together."""
        return self.found, self.thick, self.neighbours_mm, self.edge_mm


def averaged(volume: Volume, count: int) -> Volume:
    """Each `count` neighbouring sagittal slices averaged into one thicker slice; those left over are dropped."""
    axis = int(np.abs(volume.affine[0, :3] / volume.spacing).argmax())  # nearest to right-left
    slices = volume.array.shape[axis] // count
    if not slices:
        raise UsageError(f"{volume.array.shape[axis]} slices cannot be averaged by {count}.")
    parts = np.moveaxis(volume.array, axis, 0)[: slices * count].astype(np.float32)
    array = np.moveaxis(parts.reshape(slices, count, *parts.shape[1:]).mean(1), 0, axis)
    affine = volume.affine.copy()
    affine[:3, 3] += (count - 1) / 2 * affine[:3, axis]
    affine[:3, axis] *= count
    return Volume(np.ascontiguousarray(array), affine, volume.name)


def planted(volume: Volume, cord: np.ndarray, whole: Prepared, contrasts, seed: int) -> Iterator[tuple]:
    """(contrast, segment, volume) of one lesion for each contrast and each segment, at a random height in it, in the
    cord's middle.

    :param cord: (I, J, K) bool, in which is planted. :param whole: the volume's slices and segments.
    """
    rng = np.random.default_rng(seed)
    region, grid = whole.region, whole.stack.grid
    middle = np.flatnonzero(region.cord.any(axis=(1, 2))).mean()
    for contrast in contrasts:
        for segment in region.segments:
            s = rng.uniform(max(segment.start_mm, 0), min(segment.stop_mm, region.centreline.length))
            point = region.centreline.at(np.array([s]))[0][0]
            centre = grid.stack_to_ras(np.array([[middle, *point]]))[0]
            sizes = {name: rng.uniform(*limits) for name, limits in SIZES_MM.items()}
            yield contrast, segment.name, plant_in_volume(
                volume, cord, centre_ras=centre, contrast=contrast, rng=rng, **sizes
            )[0]  # fmt: skip


def person_scores(
    case: Case,
    model: Model,
    region_model: RegionModel | None,
    settings: Sequence[ScoreConfig],
    contrasts: Sequence[float] = CONTRASTS,
    seed: int = 0,
) -> Iterator[Scored]:
    """All images of one person under all settings of the default score.

    :param region_model: the same with the cord that it finds in the lesion-free image.

    :param case: with cord and discs. :raises InputError: they cannot be used.
    """
    volume, cord, discs = (read_volume(path) for path in (case.image, case.cord, case.discs))

    def ready(image, mask):
        return prepare(
            image, cord=mask, discs=discs, region_model=None if mask else region_model,
            preprocessing=model.preprocessing,
        )  # fmt: skip

    inside = read_cord(volume, cord).array
    images = [(None, None, volume), *planted(volume, inside, ready(volume, cord), contrasts, seed)]
    masks = {}
    for thick in (False, True):
        for contrast, segment, image in images:
            seen = averaged(image, THICK) if thick else image
            for found in (False, True)[: 1 + (region_model is not None)]:
                if found and thick not in masks:
                    one = ready(seen, None)
                    masks[thick] = seen.with_array(one.cord.astype(np.uint8))
                prepared = ready(seen, masks[thick] if found else cord)
                for config, segments, patient in _scores(model, prepared, found, settings):
                    yield Scored(
                        case.person, thick, found, config.neighbours_mm, config.edge_mm, contrast, segment, segments,
                        patient,
                    )  # fmt: skip


def _scores(model, prepared, found, settings):
    """(settings, {segment: score}, patient's score) for each of the settings."""
    stack, region = prepared.stack, prepared.region
    spacing = stack.grid.slice_spacing_mm
    chosen = analysed_slices(without_sides(region.cord, spacing) if found else region.cord, "all")
    images, cords = stack.images[list(chosen)], region.cord[list(chosen)]
    logits = discriminator_logits(model.discriminators, images, cords, None)
    for config in settings:
        evidence = default_map(logits, cords, spacing * np.array(chosen), config.neighbours_mm)
        curve = volume_curve(
            filtered_map(evidence, cords, config), cords, region.centreline, chosen, config,
            segments=region.segments, edge_rows=stack.grid.edge_rows,
        )  # fmt: skip
        yield config, segment_scores(curve, region.segments), patient_score(curve)


def figures(scored: Iterable[Scored], resamples: int = RESAMPLES) -> list[dict]:
    """One row a group: what healthy segments and whole cords reach, and how far planted lesions exceed that.

    auroc: chance that the segment of a lesion exceeds a healthy one of any of the people, with an interval from
    resampling people, then their lesions. found: share of the lesions that exceed every healthy segment of everybody.
    """
    scored = list(scored)
    rows = []
    for group in dict.fromkeys(one.group for one in scored):
        here = [one for one in scored if one.group == group]
        people = list(dict.fromkeys(one.person for one in here))
        healthy = {
            p: np.concatenate([list(o.segments.values()) for o in here if o.person == p and o.contrast is None])
            for p in people
        }
        row = {"cord": "found" if group[0] else "given", "slices": "thick" if group[1] else "thin"}
        row |= {"neighbours_mm": group[2], "edge_mm": group[3]}
        row["highest"] = {p: float(values.max(initial=-np.inf)) for p, values in healthy.items()}
        row["whole"] = {p: max(o.patient for o in here if o.person == p and o.contrast is None) for p in people}
        everybody = np.concatenate(list(healthy.values()))
        for contrast in sorted({one.contrast for one in here} - {None}):
            lesions = {
                # A segment that was not found is missed.
                p: np.array([
                    o.segments.get(o.segment, -np.inf) for o in here if o.person == p and o.contrast == contrast
                ])
                for p in people
            }  # fmt: skip
            values = np.concatenate(list(lesions.values()))
            row[contrast] = {
                "lesions": len(values),
                "auroc": auroc(values, everybody),
                "interval": _interval(lesions, healthy, resamples),
                "found": float(np.mean(values > everybody.max())),
            }
        rows.append(row)
    return rows


def _interval(lesions, healthy, resamples):
    rng = np.random.default_rng(0)
    people = list(lesions)
    drawn = []
    for _ in range(resamples):
        who = rng.choice(people, len(people))
        positive = np.concatenate([rng.choice(lesions[p], len(lesions[p])) for p in who])
        drawn.append(auroc(positive, np.concatenate([healthy[p] for p in who])))
    return interval(np.array(drawn))


def table(rows: Sequence[dict]) -> str:
    """The figures as Markdown."""
    contrasts = [key for key in rows[0] if isinstance(key, float)]
    people = list(rows[0]["highest"])
    head = [
        "cord",
        "slices",
        "neighbours mm",
        "edge mm",
        f"highest healthy segment ({', '.join(people)})",
        "whole cord",
    ]
    lines = [head + [f"{100 * c:.0f} %: AUROC, interval; above every healthy one" for c in contrasts]]
    for row in rows:
        cells = [row["cord"], row["slices"], f"{row['neighbours_mm']:g}", f"{row['edge_mm']:g}"]
        cells += [", ".join(f"{row[name][p]:.2f}" for p in people) for name in ("highest", "whole")]
        for contrast in contrasts:
            one = row[contrast]
            low, high = one["interval"]
            cells.append(f"{one['auroc']:.3f}, {low:.2f} to {high:.2f}; {100 * one['found']:.0f} %")
        lines.append(cells)
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments=None) -> None:
    """Print the table; with --out also every score as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", required=True, metavar="PATTERN", help="packages; {person} is the one left out")
    parser.add_argument("--region-models", metavar="PATTERN", help="also find the cord with these")
    parser.add_argument("--people", nargs="+", default=(), help="those with a cord mask otherwise")
    parser.add_argument("--neighbours", nargs="+", type=float, metavar="MM", help="the models' own otherwise, and 0")
    parser.add_argument("--edge", type=float, metavar="MM", help="`ScoreConfig.edge_mm`; the models' own otherwise")
    parser.add_argument(
        "--contrasts", nargs="*", type=float, default=CONTRASTS, metavar="PART", help="0.1: 10 %%; nothing: no lesions"
    )
    parser.add_argument("--out", type=Path, metavar="DIR")
    options = parser.parse_args(arguments)
    if options.out:
        refuse_existing(options.out, FILES)
    cases = [case for case in find_cases(options.folder) if case.cord and case.discs]
    if missing := sorted(set(options.people) - {case.person for case in cases}):
        raise InputError(f"There is no cord mask with disc labels of {', '.join(missing)}.")
    cases = [case for case in cases if not options.people or case.person in options.people]
    if not cases:
        raise InputError(f"There is nobody with a cord mask and disc labels in {options.folder}.")
    scored: list[Scored] = []
    for case in cases:
        model = load_model(options.models.format(person=case.person))
        if not model.discriminators:
            raise UsageError(f"{model.name} has no default score.")
        refuse_known(model, "discriminator_training", case.person)  # the network is not looked at
        region = options.region_models and load_region_model(options.region_models.format(person=case.person))
        if region:
            refuse_known(region, "training", case.person)
        config = model.scores["default"]
        if options.edge is not None:
            config = replace(config, edge_mm=options.edge)
        settings = [
            replace(config, neighbours_mm=sigma) for sigma in options.neighbours or sorted({0.0, config.neighbours_mm})
        ]
        scored += person_scores(case, model, region, settings, options.contrasts)
        print(f"{case.person}: done", flush=True)
    text = table(figures(scored))
    print(text)
    if options.out:
        _write(options.out, scored, text)


def _write(folder, scored, text):
    with staged(folder, FILES) as place:
        (place / "table.md").write_text(text + "\n", encoding="utf-8")
        with open(place / "scores.csv", "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(CSV_COLUMNS)
            for one in scored:
                start = [one.person, "thick" if one.thick else "thin", "found" if one.found else "given"]
                start += [one.neighbours_mm, one.edge_mm, one.contrast, one.segment]
                for name, value in (*one.segments.items(), ("whole cord", one.patient)):
                    writer.writerow([*start, name, round(value, 5)])


if __name__ == "__main__":
    try:
        main()
    except U2ADError as error:
        raise SystemExit(f"u2ad: {error}") from None

"""Source, target and test: the images of `sets.py`, made once and kept.

Everything that was made lies in a cache folder, one file for each image, and is found there again (`kept.py`).
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...analysis import slice_rule
from ...config import SEGMENT_NAMES
from ...errors import InputError
from ...io import read_volume
from ...progress import Progress, no_progress
from ...rivals.detector import TrainingSlices
from ...roi.locate import FOUND
from ...roi.region import analysed_slices, without_sides
from ...roi.source import Prepared, prepare
from ...training.phantoms import random_phantom
from ..benchmark.metrics import SEGMENT_PX
from .contracts import ExperimentCase
from .kept import load_case, save_case
from .planting import CLEAN, altered
from .sets import ImagePlan, SetConfig, image_count, people_of, planned_images, refuse_shared, region_model_of, set_key
from .workers import worker_processes

__all__ = [
    "SetConfig",
    "anomalous_segments",
    "experiment_cases",
    "image_count",
    "people_of",
    "refuse_shared",
    "set_key",
    "training_slices",
]

STAGE = "Cases"  # of the progress
Say = Callable[[str], None]


def experiment_cases(
    sets: Sequence[SetConfig],
    use: str = "test",
    *,
    cache: Path | None = None,
    workers: int = 0,
    device: str = "cpu",
    progress: Progress = no_progress,
    say: Say = lambda message: None,
) -> Iterator[ExperimentCase]:
    """The images of a labelled set, one after the other, always in the same order. Those that cannot be used are named
    and left out.

    :param cache: folder; None keeps nothing. :param workers: processes that make what the cache lacks; 0: this one.
    :raises InputError: folder or table are wrong, nobody says who has a hyperintensity, or no image can be used.
    """
    images = planned_images(sets, use, labelled=True)
    return _made(images, cache, workers, device, progress, say)


def training_slices(
    sets: Sequence[SetConfig],
    use: str,
    *,
    labels: bool = False,
    people: Collection[str] | None = None,
    cache: Path | None = None,
    workers: int = 0,
    device: str = "cpu",
    progress: Progress = no_progress,
    say: Say = lambda message: None,
) -> TrainingSlices:
    """The slices of a set for a stage of training.

    :param labels: with segments and which of them are anomalous: every image must be annotated, planted or healthy. In
        a planted image each slice has its own truth; an annotation counts for every slice that is taken of the image.
    :param people: only these (the training folds of supervised methods). Others as for `experiment_cases`.
    :raises InputError: as `experiment_cases`; without `labels` nobody has to be annotated.
    """
    images = [one for one in planned_images(sets, use, labelled=labels) if people is None or one.person in people]
    if not images:
        raise InputError(f"There is no image to learn from in the {use} set.")
    made = list(_made(images, cache, workers, device, progress, say))
    return TrainingSlices(
        np.concatenate([case.images for case in made]),
        np.concatenate([case.cords for case in made]),
        np.array([case.person for case in made for _ in case.images]),
        np.concatenate([_segment_labels(case) for case in made]) if labels else None,
        np.concatenate([anomalous_segments(case) for case in made]) if labels else None,
    )


def anomalous_segments(case: ExperimentCase) -> np.ndarray:
    """Which segments of each slice are anomalous, (S, 9) bool by number: those with at least 3 px of a planted lesion,
    or those that the image's annotation names."""
    result = np.zeros((len(case.images), max(SEGMENT_NAMES) + 1), bool)
    if case.lesions is None:
        for number, name in SEGMENT_NAMES.items():
            result[:, number] = case.segments.get(name, False)
        return result
    for k, counts in enumerate(_lesion_pixels(case.lesions, _segment_labels(case))):
        result[k] = counts >= SEGMENT_PX
    return result


# ------------------------------------------------------------------------------------------------------ the images


def _made(images, cache, workers, device, progress, say) -> Iterator[ExperimentCase]:
    """Cases in the order of the images, from the cache where they are there."""
    by_source: dict[tuple, list[ImagePlan]] = {}
    for one in images:
        by_source.setdefault((one.config, one.person, one.case and one.case.id), []).append(one)
    sources = list(by_source.values())
    done, lost = 0, 0
    for source, found in zip(sources, _each(sources, cache, workers, device), strict=True):
        progress(STAGE, done, len(images))
        done += len(source)
        for one, made in zip(source, found, strict=True):
            if isinstance(made, str):
                lost += 1
                say(f"{one.id} is left out: {made}")
                continue
            yield replace(made if isinstance(made, ExperimentCase) else _loaded(made, one, device), id=one.id)
    progress(STAGE, done, len(images))
    if lost == len(images):
        raise InputError("None of the images can be used.")


def _each(sources, cache, workers, device) -> Iterator[list]:
    """Of each source what `_make` returns, in order."""
    arguments = [(source, None if cache is None else Path(cache), device) for source in sources]
    if cache is None or workers < 2 or all(_is_there(source, Path(cache)) for source in sources):
        yield from (_make(one) for one in arguments)
        return
    with worker_processes(workers) as pool:
        yield from pool.map(_make, arguments)


def _is_there(source, cache):
    return all(_file(cache, one).exists() for one in source)


def _file(cache, image):
    return cache / f"{image.key()}.safetensors"


def _make(arguments) -> list[ExperimentCase | Path | str]:
    """The cases of one source: themselves, or files that hold them; or why there is none."""
    source, cache, device = arguments
    prepared, result = None, []
    for one in source:
        kept = None if cache is None else _file(cache, one)
        if kept is not None and kept.exists():
            result.append(kept)
            continue
        try:
            prepared = prepared or _prepared(one, device)
            case = _case(one, prepared)
        except InputError as error:
            result.append(str(error))
            continue
        if kept is not None:
            save_case(kept, case)
        result.append(case if kept is None else kept)
    return result


def _loaded(path: Path, image: ImagePlan, device: str) -> ExperimentCase:
    """A kept case; one that is damaged is made again."""
    case = load_case(path)
    if case is None:
        case = _case(image, _prepared(image, device))
        save_case(path, case)
    return case


def _prepared(image: ImagePlan, device: str) -> Prepared:
    """:raises InputError: the image or its labels cannot be used."""
    if image.case is None:
        phantom = random_phantom(image.phantom, image.config.kind)
        return prepare(phantom.volume, cord=phantom.cord, discs=phantom.discs, region_model=None)
    case, config = image.case, image.config
    beside = {"cord": None if config.find else case.cord, "discs": None if config.find else case.discs}
    labels = {name: path and read_volume(path) for name, path in beside.items()}
    model = region_model_of(config.region_model) if None in labels.values() else None
    return prepare(read_volume(case.image), **labels, region_model=model, device=device)


def _case(image: ImagePlan, prepared: Prepared) -> ExperimentCase:
    """:raises InputError: no slice can be analysed, or no lesion can be planted."""
    config, stack, region = image.config, prepared.stack, prepared.region
    found = prepared.record["cord"] == FOUND
    sure = without_sides(region.cord, stack.grid.slice_spacing_mm) if found else region.cord
    slices = analysed_slices(sure, slice_rule(config.slices))
    record = {"group": config.group, "slices": str(config.slices), "notes": list(prepared.notes)}
    record |= {"phantom": image.phantom, "phantom_kind": config.kind if image.case is None else None}
    record |= {"cord": prepared.record["cord"], "discs": prepared.record["discs"], "degrade": config.degrade}
    record |= {"seed": image.seed, "repetition": image.repetition, "kind": image.kind}
    case = ExperimentCase(
        id=image.id,
        person=image.person,
        group=config.group,
        images=stack.images[list(slices)],
        cords=region.cord[list(slices)],
        slices=slices,
        spacing_mm=stack.grid.slice_spacing_mm,
        region=region,
        patient=image.positive,
        segments=dict(image.labels.segments) if image.labels else _none_in(region),
        found=found,
        record=record,
    )
    if config.degrade == CLEAN and not config.plant:
        return case
    made = altered(
        stack,
        region,
        slices,
        np.random.default_rng(image.seed),
        condition=config.degrade,
        kind=image.kind,
        lesion_slices=config.lesion_slices,
    )
    changed = replace(
        case,
        images=made.images,
        region=made.region,
        cords=made.region.cord[list(slices)],
        record=record | made.record,
    )
    if not config.plant:
        return changed
    # Names come from the true region: a method that is given a wrong one may miss what it cannot name.
    labels = np.where(changed.cords, region.segment_labels()[list(slices)], 0)
    return replace(
        changed,
        segments=_planted_segments(made.lesions, labels, region),
        lesions=made.lesions,
        original=made.original,
        kinds=made.kinds,
    )


def _none_in(region):
    return {segment.name: False for segment in region.segments}


def _lesion_pixels(lesions, labels):
    """Lesion pixels by segment number of each slice, (S, 9)."""
    return np.stack([
        np.bincount(numbers[lesion > 0], minlength=max(SEGMENT_NAMES) + 1) * (np.arange(max(SEGMENT_NAMES) + 1) > 0)
        for lesion, numbers in zip(lesions, labels, strict=True)
    ])  # fmt: skip


def _planted_segments(lesions, labels, region) -> dict[str, bool]:
    """True with at least 3 px of a lesion in a slice, False without any; what is hardly touched is left out."""
    most = _lesion_pixels(lesions, labels).max(axis=0)
    names = {segment.number: segment.name for segment in region.segments}
    return {name: bool(most[n] >= SEGMENT_PX) for n, name in names.items() if most[n] == 0 or most[n] >= SEGMENT_PX}


def _segment_labels(case: ExperimentCase) -> np.ndarray:
    """(S, 256, 256) uint8, as the case's own region names them."""
    return case.region.segment_labels()[list(case.slices)]

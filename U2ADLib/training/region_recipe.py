"""From a folder of images to a region model: what `u2ad train-region` does.

Two networks are trained, one after the other: the one that finds cord and discs in sagittal slices, and the one that
then outlines the cord in axial planes.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from ..config import Purpose
from ..dataset import Case, find_cases
from ..device import choose_device, describe
from ..errors import InputError, UsageError
from ..package import load_region_model, save_model
from ..progress import Progress, no_progress
from ..roi.axial import AxialNet
from ..roi.locate import locate
from ..roi.network import RegionArchitecture
from .axial import AxialTrainConfig, join_volumes, phantom_volumes, train_axial, volumes_of_cases
from .region import RegionTrainConfig, train_region
from .region_data import PER_SEED, REGION_SEEDS, FindCord, join, no_cord, region_phantoms, slices_of_cases

CLINICAL_OFFSET = 50_000  # between the seeds of the varied phantoms and those of the clinical ones
WATCHED_SEEDS = 5_000_000  # phantoms that are only watched
VARIED_WATCHED, CLINICAL_WATCHED = 12, 8


def train_region_from_folder(
    data: Path,
    out: Path,
    *,
    held_out: Sequence[str] = (),
    phantoms: int = 500,
    contrast: str = "T2w",
    architecture: RegionArchitecture | None = None,
    config: RegionTrainConfig | None = None,
    outline: AxialTrainConfig | None = None,
    region_models: str | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Train on the images of a folder that have a cord mask, disc labels or both, and write the package `out`.

    A run that was stopped goes on when it is started again with the same arguments; its state is in `out/training` and
    `out/training/outline`.

    :param held_out: people who are only watched.
    :param phantoms: simulated necks of the kind "varied", and a third as many of the kind "clinical".
    :param outline: of the second network, which learns from the images with masks and from the same phantoms.
    :param region_models: finds the cord of people without a mask. `{person}` stands for the person, so that each can
        have a model that was trained without them.
    :param contrast: of the folder's images, see `dataset.find_cases`; phantoms have contrasts drawn at random.
    :raises InputError: nothing to learn from, or nobody of a name.
    :raises ModelError: a model of `region_models` is missing or damaged.
    :raises UsageError: phantoms whose seeds are kept for watching and judging.
    """
    config = config or RegionTrainConfig()
    varied, clinical = _phantom_seeds(phantoms, config.seed)
    data, out = Path(data), Path(out)
    target = choose_device(device)
    cases = [case for case in find_cases(data, contrast) if case.cord is not None or case.discs is not None]
    if unknown := set(held_out) - {case.person for case in cases}:
        raise InputError(f"{data} has no labelled image of {', '.join(sorted(unknown))}.")
    kept = [case for case in cases if case.person not in held_out]
    watched = [case for case in cases if case.person in held_out]
    find = _finder(region_models, kept, target, say)
    learnt, seen = _slices(kept, watched, varied, clinical, find, progress, say)
    people = sorted({case.person for case in kept})
    slices = len(learnt)
    say(f"Training on {slices} slices of {len(people)} people and {len(varied) + len(clinical)} phantoms.")
    running = {"device": target, "progress": progress, "say": say}
    network, curves = train_region(learnt, seen, out / "training", architecture, config, **running)
    del learnt, seen  # several GB
    outline = outline or AxialTrainConfig(seed=config.seed)
    axial, outline_curves = train_outline(
        kept, watched, out / "training" / "outline", outline, varied=varied, clinical=clinical, find=find, **running
    )
    card = {
        "kind": "region",
        "licence": "MIT",
        "purpose": asdict(Purpose(contrast)),
        "training": {
            "method": "U-Net with attention on real and simulated slices of randomised contrast",
            "people": people,
            "held_out_people": sorted({case.person for case in watched}),
            "found_cords": sorted({case.person for case in kept if case.cord is None}) if region_models else [],
            "slices": slices,
            "phantoms": {"varied": len(varied), "clinical": len(clinical)},
            "phantom_seeds": [varied.start, clinical.start],
            "recipe": asdict(config),
            "outline_recipe": asdict(outline),
            "device": describe(target),
        },
        "metrics": {
            "held_out_slices": {
                name: value for name, value in (curves[-1] | outline_curves[-1]).items() if name.startswith("held_out_")
            }
        },
    }
    save_model(out, network, card, axial=axial)
    return out


def train_outline(
    kept: Sequence[Case],
    watched: Sequence[Case],
    folder: Path,
    config: AxialTrainConfig,
    *,
    varied: range,
    clinical: range,
    find: FindCord = no_cord,
    device: torch.device,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> tuple[AxialNet | None, list[dict]]:
    """Train the network of the second look; its state is in `folder`.

    :param kept: images to learn from, those with masks. :param watched: of other people.
    :param find: the cord of images without one.
    :param varied, clinical: seeds of the phantoms of both kinds.
    :returns: as `train_axial`; no network where there is neither an image with a mask nor a phantom.
    """
    learnt = join_volumes(
        [
            volumes_of_cases(kept, find),
            *(phantom_volumes(seeds, kind, progress) for seeds, kind in ((varied, "varied"), (clinical, "clinical"))),
        ]
    )
    if not len(learnt):
        say("No image has a cord mask: the model will not look at the cord a second time, in axial planes.")
        return None, [{}]
    seen = [phantom_volumes(range(WATCHED_SEEDS, WATCHED_SEEDS + CLINICAL_WATCHED), "clinical", progress)]
    return train_axial(
        learnt,
        join_volumes([*seen, volumes_of_cases(watched)]),
        folder,
        config=config,
        device=device,
        progress=progress,
        say=say,
    )


def _finder(pattern, cases, device, say):
    """Finds cords with the models of a pattern, each once. All that will be needed are loaded at once, so that one that
    is missing is refused before hours of training."""
    if pattern is None:
        return no_cord
    people = {case.person for case in cases if case.cord is None}
    models = {person: load_region_model(pattern.replace("{person}", person)) for person in sorted(people)}
    found = {}

    def find(case, volume):
        if case.id not in found:
            model = models[case.person]
            found[case.id] = locate(volume, model=model, device=str(device)).cord
            say(f"{case.id} has no cord mask: {model.name} found the cord.")
        return found[case.id]

    return find


def _slices(kept, watched, varied, clinical, find, progress, say):
    """What the first network learns from, and what is only watched."""
    sets = [slices_of_cases(kept, say, find)] if kept else []
    for seeds, kind in ((varied, "varied"), (clinical, "clinical")):
        if len(seeds):
            sets.append(region_phantoms(seeds, kind, progress))
    seen = [
        region_phantoms(range(WATCHED_SEEDS, WATCHED_SEEDS + count), kind, progress)
        for kind, count in (("varied", VARIED_WATCHED), ("clinical", CLINICAL_WATCHED))
    ]
    if watched:
        seen.append(slices_of_cases(watched, say))
    return join(sets), join(seen)


def _phantom_seeds(count, seed):
    """Seeds of the varied phantoms and of the clinical ones."""
    first = REGION_SEEDS + PER_SEED * seed
    varied = range(first, first + count)
    clinical = range(first + CLINICAL_OFFSET, first + CLINICAL_OFFSET + count // 3)
    if count and not REGION_SEEDS <= first < max(varied.stop, clinical.stop) <= WATCHED_SEEDS:
        raise UsageError(
            f"{count} simulated necks for seed {seed} would be some that are only watched or judged on: choose a seed "
            f"from 0 to {(WATCHED_SEEDS - REGION_SEEDS) // PER_SEED - 1} or fewer phantoms."
        )
    return varied, clinical

"""From a folder of images to a model package: what `u2ad pretrain` does."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ..config import Architecture, MonteCarloConfig, Preprocessing, Purpose, ScoreConfig
from ..dataset import Case, find_cases
from ..device import choose_device, describe
from ..errors import InputError
from ..package import NO_REGION_MODEL, load_model, save_model, update_card
from ..progress import Progress, no_progress
from .data import concatenate, slices_of_cases, usable_cases
from .phantoms import phantom_seeds, phantom_slices, refuse_phantoms
from .pretrain import PretrainConfig, pretrain
from .thresholds import check_phantoms, phantom_thresholds

HELD_OUT_SHARE = 0.2  # of the people, where the user names none
# The paper's to the letter, so that it can be reproduced. Without the cord's border, where the mask is never exact and
# CSF is mixed in, its error tells more (`evaluation.settings`); what beats it is the default score.
SCORE = ScoreConfig()


def pretrain_from_folder(
    data: Path,
    out: Path,
    *,
    people: Sequence[str] = (),
    validation: Sequence[str] = (),
    phantoms: int = 0,
    threshold_phantoms: int = 100,
    region_model: str = NO_REGION_MODEL,
    purpose: Purpose | None = None,
    architecture: Architecture | None = None,
    config: PretrainConfig | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Pretrain on the images with cord masks in a folder (BIDS or flat) and write the package `out`.

    A run that was stopped goes on when it is started again with the same arguments; its state is in `out/training`.

    :param people: train on these only; all others are left alone.
    :param validation: people of `data`, or paths of images with a mask beside them, that choose the best epoch. Empty:
        a fifth of the people, drawn with the seed, where there are at least three.
    :param phantoms: simulated necks to learn from besides.
    :param threshold_phantoms: lesion-free phantoms of unseen seeds for the first thresholds; 0 sets none.
    :param region_model: finds the cord of people without a mask; "none" leaves them alone.
    :param purpose: contrast and region, by default T2w of the cervical cord. There are no phantoms of other contrasts.
    :raises InputError: nothing to learn from, a person on both sides, or too few phantoms for thresholds.
    :raises UsageError: phantoms of another contrast, or whose seeds are kept for judging.
    """
    architecture, config = architecture or Architecture(), config or PretrainConfig()
    purpose = purpose or Purpose()
    refuse_phantoms(purpose, phantoms + threshold_phantoms)
    seeds = phantom_seeds(phantoms, config.seed)
    if threshold_phantoms:
        check_phantoms(threshold_phantoms)
    data, out = Path(data), Path(out)
    target = choose_device(device)
    cases, found, finder = usable_cases(data, purpose.contrast, region_model)
    held_out = _held_out_cases(cases, validation, people, config.seed, purpose.contrast)
    held_out_people = {case.person for case in held_out}
    wanted = set(people) or {case.person for case in cases}
    if not (people and validation):  # whoever was drawn, or named for validation alone, does not train
        wanted -= held_out_people
    if unknown := wanted - {case.person for case in cases}:
        raise InputError(f"{data} has no image with a cord mask of {', '.join(sorted(unknown))}.")
    if both := wanted & held_out_people:
        raise InputError(f"{', '.join(sorted(both))} would train and validate: name them on one side only.")
    train_cases = [case for case in cases if case.person in wanted]
    train, used = slices_of_cases(train_cases, say, region_model=finder, device=device)
    held, held_used = slices_of_cases(held_out, say, region_model=finder, device=device)
    sets = list(train)
    if phantoms:
        sets.append(phantom_slices(phantoms, config.seed, out / "training", progress))
    learnt = concatenate(sets)
    held_set = concatenate(held) if held else None
    say(
        f"Training on {len(learnt)} slices of {len(used)} people and {phantoms} phantoms; "
        f"choosing the epoch on {0 if held_set is None else len(held_set)} slices of {len(held_used)} others."
    )
    network, curves = pretrain(
        learnt, held_set, out / "training", architecture, config, device=target, progress=progress, say=say
    )
    best = min((c for c in curves if "held_out_mse" in c), key=lambda c: c["held_out_mse"], default=curves[-1])
    card = {
        "licence": "MIT",
        "purpose": asdict(purpose),
        "preprocessing": asdict(Preprocessing()),
        "monte_carlo": asdict(MonteCarloConfig()),
        "scores": {"paper": asdict(SCORE)},
        "training": {
            "method": "pretraining with random masks (paper 3.3)",
            "people": used,
            "validation_people": held_used,
            "found_cords": [person for person in used if person in found],
            "slices": len(learnt),
            "phantoms": phantoms,
            "phantom_seeds": f"{seeds.start} and following" if phantoms else None,
            "recipe": asdict(config) | {"betas": list(config.betas)},
            "epoch": best["epoch"],
            "device": describe(target),
        },
        "metrics": {"held_out": {key: best[key] for key in best if key.startswith("held_out_")}},
        "thresholds": [],
    }
    save_model(out, network, card)
    if threshold_phantoms:
        thresholds = phantom_thresholds(load_model(out), threshold_phantoms, device=device, progress=progress)
        update_card(out, thresholds=thresholds)
    return out


def _held_out_cases(cases: list[Case], validation, people, seed, contrast) -> list[Case]:
    if validation:
        chosen = []
        for name in validation:
            found = [case for case in cases if case.person == name]
            path = Path(name)
            if not found and path.exists():
                place = path if path.is_dir() else path.parent
                found = [c for c in find_cases(place, contrast) if c.cord is not None]
                found = [c for c in found if path.is_dir() or c.image.resolve() == path.resolve()]
            if not found:
                raise InputError(f"Nobody called {name!r} has an image with a cord mask, nor is it an image with one.")
            chosen += found
        return chosen
    available = sorted({case.person for case in cases if not people or case.person in people})
    if len(available) < 3:
        return []
    count = max(1, round(HELD_OUT_SHARE * len(available)))
    drawn = set(np.random.default_rng(seed).choice(available, count, replace=False).tolist())
    return [case for case in cases if case.person in drawn]


def config_with(config: PretrainConfig | None = None, **changes) -> PretrainConfig:
    """A configuration with the given settings changed; None keeps a setting."""
    return replace(config or PretrainConfig(), **{k: v for k, v in changes.items() if v is not None})

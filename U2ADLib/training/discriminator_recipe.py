"""From healthy images, or from simulated necks alone, to the discriminators of a model package: what `u2ad
train-discriminator` does."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ..config import ScoreConfig
from ..device import choose_device, describe
from ..errors import InputError, UsageError
from ..package import NO_REGION_MODEL, load_model, save_model
from ..progress import Progress, no_progress
from ..scoring.discriminator import DiscriminatorArchitecture
from .data import concatenate, slices_of_cases, thick_and_thin, usable_cases
from .discriminator import DiscriminatorConfig, train_discriminator
from .phantoms import phantom_seeds, phantom_slices, refuse_phantoms

# Chosen on the person 24, before any other was looked at; the last two on three people left out. See MEASUREMENTS.md.
DEFAULT_SCORE = ScoreConfig(
    evidence="discriminator", bottom_fraction=0.0, components=0, across="max", neighbours_mm=1.0, edge_mm=15.0
)


def discriminators_from_folder(
    data: Path | None,
    out: Path,
    *,
    model: str | Path = "default",
    held_out: Sequence[str] = (),
    phantoms: int = 300,
    count: int = 3,
    region_model: str = NO_REGION_MODEL,
    architecture: DiscriminatorArchitecture | None = None,
    config: DiscriminatorConfig | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Train discriminators on the images with cord masks in a folder; the package `out` is `model` with them.

    A run that was stopped goes on when it is started again with the same arguments; its state is in `out/training`.

    :param data: None: from phantoms alone.
    :param model: its network rebuilds; its own discriminators are replaced, its thresholds hold for its "paper" score.
    :param held_out: people of the folder who must not be learnt from.
    :param phantoms: simulated necks to learn from besides.
    :param region_model: finds the cord of people without a mask; "none" leaves them alone.
    :param count: trainings with seeds `config.seed`, `config.seed` + 1 …, whose probabilities are averaged.
    :raises InputError: nothing to learn from, or nobody of a name.
    :raises UsageError: phantoms of another contrast, or whose seeds are kept for judging; neither data nor phantoms.
    """
    architecture, config = architecture or DiscriminatorArchitecture(), config or DiscriminatorConfig()
    out = Path(out)
    if data is None and not phantoms:
        raise UsageError("There is nothing to learn from: give a folder of healthy images, or --phantoms.")
    target = choose_device(device)
    source = load_model(model)
    refuse_phantoms(source.purpose, phantoms)
    seeds = phantom_seeds(phantoms, config.seed)
    cases, found, finder = [], [], None
    if data is not None:
        cases, found, finder = usable_cases(Path(data), source.purpose.contrast, region_model)
    if unknown := set(held_out) - {case.person for case in cases}:
        raise InputError(f"There is no image with a cord mask of {', '.join(sorted(unknown))}.")
    kept = [case for case in cases if case.person not in held_out]
    sets, people = slices_of_cases(kept, say, thick_and_thin, finder, device)
    if phantoms:
        sets.append(phantom_slices(phantoms, config.seed, out / "training", progress))
    learnt = concatenate(sets)
    say(f"Training {count} discriminators on {len(learnt)} slices of {len(people)} people and {phantoms} phantoms.")
    trained, losses = [], []
    for k in range(count):
        one, curves = train_discriminator(
            learnt,
            out / "training" / f"discriminator-{k}",
            architecture,
            replace(config, seed=config.seed + k),
            network=source.network,
            device=target,
            progress=progress,
            say=say,
        )
        trained.append(one)
        losses.append(curves[-1])
    card = {
        key: value for key, value in source.card.items() if key not in ("format", "name", "architecture", "weights")
    }
    card |= {
        "scores": {"paper": asdict(source.scores["paper"]), "default": asdict(DEFAULT_SCORE)},
        "thresholds": [asdict(t) for t in source.thresholds if t.score == "paper"],
        "discriminator_training": {
            "method": "corrupted healthy slices",
            "people": people,
            "found_cords": [person for person in people if person in found],
            "held_out_people": sorted(held_out),
            "slices": len(learnt),
            "phantoms": phantoms,
            "phantom_seeds": f"{seeds.start} and following" if phantoms else None,
            "recipe": asdict(config),
            "last_round": losses,
            "device": describe(target),
            "network": {"name": source.name, "sha256": source.sha256},
        },
    }
    save_model(out, source.network, card, discriminators=trained)
    return out

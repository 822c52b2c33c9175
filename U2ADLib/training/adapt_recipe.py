"""From a hospital's own unlabelled images to a model package: what `u2ad adapt` does."""

import csv
import os
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from ..config import Purpose
from ..dataset import Case, find_cases, labels_beside, stem
from ..device import choose_device, describe
from ..errors import InputError, U2ADError, UsageError
from ..files import staged
from ..io import read_volume
from ..package import CARD, NO_REGION_MODEL, Model, find_model, load_model, load_region_model, save_model, verify_model
from ..progress import Progress, no_progress
from ..roi.doubt import refuse_other_contrast
from ..roi.locate import FOUND
from ..roi.region import analysed_slices, without_sides
from ..roi.source import prepare
from ..volume import reorient
from .adapt import QUALITY, AdaptConfig, adapt
from .adapt_discriminator import ADAPT_DISCRIMINATOR, PHANTOMS, adapt_discriminators
from .data import SliceSet, concatenate
from .phantoms import phantom_seeds
from .team import joined

FEWEST_SLICES, FEWEST_PEOPLE = 20, 3
USED, LEFT_OUT = "used.csv", "left_out.csv"
USED_COLUMNS, LEFT_OUT_COLUMNS = ("file", "slices", "cord", "doubts"), ("file", "why")


@dataclass(frozen=True)
class _Scans:
    """What was found. used, left_out: rows of the tables, which name files and nobody."""

    slices: SliceSet | None
    used: list[dict]
    left_out: list[dict]


def adapt_from_folder(
    data: Path | Sequence[Path],
    out: Path,
    *,
    model: str | Path = "default",
    people: Sequence[str] = (),
    region_model: str | Path = "default",
    few: bool = False,
    min_slices: int = FEWEST_SLICES,
    config: AdaptConfig | None = None,
    discriminator_steps: int = ADAPT_DISCRIMINATOR.steps,
    device: str = "auto",
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Adapt a model to images, labels or not, and write the package `out`; the source stays as it is.

    The new package has the source's preprocessing and scores, and no thresholds: those of the source do not hold for
    it. A run that was stopped goes on when it is started again with the same arguments; its state is in `out/training`,
    with `used.csv` (file, slices, where the cord came from, doubts about it) and `left_out.csv` (file, why). Under
    torchrun the processes share the work, and the first one reads, writes and reports.

    :param data: a folder (BIDS or flat, as `dataset.find_cases`), or images; those whose names begin with the same
        "sub-…" are one person's. A mask of the cord that lies beside an image is taken, see `dataset.labels_beside`.
    :param people: adapt to these only ("sub-…", or the image's name).
    :param region_model: finds the cord where there is no mask; "none" finds nothing.
    :param discriminator_steps: of the default score's adaptation, see `adapt_discriminator`; 0 keeps the source's.
    :param few: go on with fewer than `min_slices` slices, or than 3 people.
    :raises InputError: nothing or too little to learn from. Single images that cannot be used are left out.
    :raises UsageError: `out` is a finished model, or simulated necks of this seed are kept for judging.
    """
    config, out = config or AdaptConfig(), Path(out)
    if (out / CARD).exists():
        raise UsageError(f"{out.name} is a finished model already: choose another --out folder.")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out.name} is a file: choose a folder for the model.")
    source = load_model(model)
    adapts_score = bool(source.discriminators and discriminator_steps)
    phantoms = PHANTOMS if adapts_score and source.purpose == Purpose() else 0  # there are none of other contrasts
    phantom_seeds(phantoms, config.seed)
    cases = _chosen(_cases([data] if isinstance(data, str | Path) else data, source.purpose.contrast), people)
    found: list[_Scans] = []
    with joined(choose_device(device)) as team:
        if not team.first:
            say = _silent

        def gather() -> dict[str, np.ndarray]:
            scans = _scans(cases, source, region_model, device, progress, say)
            found.append(scans)
            _refuse_few(scans, few, min_slices)
            _write_lists(out / "training", scans)
            return {name: getattr(scans.slices, name) for name in SliceSet.__dataclass_fields__}

        slices = SliceSet(**team.from_first(gather))
        say(
            f"Adapting {source.name} to {len(slices)} slices of {len(set(slices.people))} people"
            + (f"; {len(found[0].left_out)} image(s) left out, see {LEFT_OUT}." if found and found[0].left_out else ".")
        )
        network, curves = adapt(source.network, slices, out / "training", config, team=team, progress=progress, say=say)
        if team.first:
            card = _card(source, found[0], slices, config, curves, team)
            discriminators = source.discriminators
            if adapts_score:
                settings = replace(ADAPT_DISCRIMINATOR, steps=discriminator_steps, seed=config.seed)
                discriminators = adapt_discriminators(
                    source, network, slices, out / "training", phantoms=phantoms, config=settings, device=team.device,
                    progress=progress, say=say,
                )  # fmt: skip
                card["discriminator_adaptation"] = {"recipe": asdict(settings), "phantoms": phantoms}
            save_model(out, network, card, discriminators=discriminators)
            before, after = (card["metrics"]["adapted_slices"][when] for when in ("before", "after"))
            say(
                f"On the adapted slices: SSIM {before['ssim']:.3f} to {after['ssim']:.3f}, PSNR {before['psnr']:.1f} "
                f"to {after['psnr']:.1f} dB, variance {before['variance']:.2f} to {after['variance']:.2f}."
            )
            say("The adapted model has no thresholds: it gives scores and flags nothing until some are set.")
    return out


def _silent(message: str) -> None:
    """Only the first process of a team speaks."""


def _cases(data: Sequence[Path], contrast: str) -> list[Case]:
    """The images of all folders, and those that are named, each once."""
    found: dict[Path, Case] = {}
    for path in (Path(one).absolute() for one in data):  # whose folder has a name, to be left out of what is said
        if path.is_dir():
            cases = find_cases(path, contrast)
        elif path.is_file():
            name = stem(path)
            bids = re.match(r"sub-[A-Za-z0-9]+", name)
            cord, discs = labels_beside(path)
            cases = [Case(name, bids[0] if bids else name, None, path, cord, discs)]
        else:
            raise InputError(f"There is no image and no folder {path}.")
        found |= {case.image.resolve(): case for case in cases}
    return list(found.values())


def _chosen(cases: list[Case], people: Sequence[str]) -> list[Case]:
    if unknown := set(people) - {case.person for case in cases}:
        raise InputError(f"There is no image of {', '.join(sorted(unknown))}.")
    return [case for case in cases if not people or case.person in people]


def _scans(cases, source: Model, region_model, device, progress: Progress, say) -> _Scans:
    """The slices of all images that can be used; what cannot is left out, whatever is wrong with it.

    :raises ModelError, InstallationError: what would stop every other image as well. :raises Cancelled: by `progress`.
    """
    finder = None
    if any(case.cord is None for case in cases) and str(region_model) != NO_REGION_MODEL:
        verify_model(find_model(region_model, "region"))
        finder = load_region_model(region_model)
    parts, used, left_out = [], [], []
    seen: dict[str, Path] = {}  # images that were used, by the checksum of their voxels
    for number, case in enumerate(cases):

        def tick(*_, number=number):
            progress("Reading images", number, len(cases))

        tick()
        try:
            part, origin, doubts = _slices_of(case, source, finder, seen, device, tick, say)
        except (InputError, UsageError) as error:
            why = str(error)
        except U2ADError:
            raise
        except Exception as error:  # one image's misfortune must not end the others
            where = traceback.extract_tb(error.__traceback__)[-1]
            why = f"Unexpected {type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error}"
        else:
            parts.append(part)
            used.append({"file": case.image.name, "slices": len(part), "cord": origin, "doubts": " ".join(doubts)})
            continue
        why = why.replace(str(case.image.parent) + os.sep, "").replace(str(case.image.parent), "the folder")
        left_out.append({"file": case.image.name, "why": " ".join(why.split())})
        say(f"{case.image.name} is left out: {left_out[-1]['why']}")
    progress("Reading images", len(cases), len(cases))
    if not parts:
        return _Scans(None, used, left_out)
    return _Scans(concatenate(parts), used, left_out)


def _slices_of(case: Case, source: Model, finder, seen, device, tick, say) -> tuple[SliceSet, str, list[str]]:
    """The slices that an analysis of this image would look at, where the cord came from, and doubts about it.

    :raises InputError: it cannot be used, or is one that was `seen`: a copy under another name is nobody else.
    """
    if case.cord is None and finder is None:
        raise InputError(f"No cord mask was found: expected is {case.id}_seg.nii.gz beside the image.")
    volume = read_volume(case.image)
    # Of the voxels in one order: a copy may be turned, or another kind of file.
    checksum = sha256(reorient(volume, "RIA")[0].array.astype(np.float32).tobytes()).hexdigest()
    if checksum in seen:
        raise InputError(f"It is a copy of {seen[checksum].name}, and every image counts once.")
    prepared = prepare(
        volume,
        cord=case.cord and read_volume(case.cord),
        region_model=None if case.cord else finder,
        preprocessing=source.preprocessing,
        device=device,
        progress=tick,
        say=say,
    )
    cords, stack = prepared.region.cord, prepared.stack
    was_found = prepared.record["cord"] == FOUND
    chosen = list(analysed_slices(without_sides(cords, stack.grid.slice_spacing_mm) if was_found else cords, "all"))
    images, cords = stack.images[chosen], cords[chosen]
    doubts = [*prepared.record["doubts"], *refuse_other_contrast(volume.name, images, cords, source.purpose)]
    seen[checksum] = case.image
    count = len(chosen)
    part = SliceSet(images.astype(np.float16), cords, np.array([case.person] * count), np.zeros(count, bool))
    return part, "found" if was_found else "given", doubts


def _refuse_few(scans: _Scans, few: bool, min_slices: int) -> None:
    slices = 0 if scans.slices is None else len(scans.slices)
    people = 0 if scans.slices is None else len(set(scans.slices.people))
    missing = f"{len(scans.left_out)} image(s) were left out." if scans.left_out else "No image was left out."
    if slices == 0:
        raise InputError(f"No image can be used to adapt a model. {missing}")
    if not few and (slices < min_slices or people < FEWEST_PEOPLE):
        raise InputError(
            f"{slices} slices of {people} people can be used, and at least {min_slices} slices of {FEWEST_PEOPLE} "
            "people are needed: with fewer, a model learns its patients by heart, lesions and all. "
            f"{missing} Add images, or --few if you want it all the same."
        )


def _write_lists(folder: Path, scans: _Scans) -> None:
    with staged(folder, (USED, LEFT_OUT), overwrite=True) as place:
        for name, columns, rows in ((USED, USED_COLUMNS, scans.used), (LEFT_OUT, LEFT_OUT_COLUMNS, scans.left_out)):
            with open(place / name, "w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, columns)
                writer.writeheader()
                writer.writerows(rows)


def _card(source: Model, scans: _Scans, slices: SliceSet, config: AdaptConfig, curves, team) -> dict:
    """Counts and figures, no name of those adapted to and no file's. Whom the source learnt from is carried on: on them
    the model must not be judged."""
    learnt = source.card.get("training", {})
    known = {name: learnt[name] for name in ("people", "validation_people") if isinstance(learnt.get(name), list)}
    origins = [row["cord"] for row in scans.used]
    lineage = {"name": source.name, "sha256": source.sha256, "method": learnt.get("method")}

    def quality(line):
        return {name: line[f"adapted_{name}"] for name in QUALITY}

    card = {
        "licence": source.card.get("licence"),
        "purpose": asdict(source.purpose),
        "preprocessing": asdict(source.preprocessing),
        "monte_carlo": asdict(source.monte_carlo),
        "scores": {name: asdict(score) for name, score in source.scores.items()},
        "training": {
            "method": "uncertainty-guided adaptation to unlabelled images (paper 3.4, Algorithm 2)",
            "source": {"name": source.name, "sha256": source.sha256},
            "images": len(scans.used),
            "left_out": len(scans.left_out),
            "people_count": len(set(slices.people)),
            **known,
            "slices": len(slices),
            "cords": {"given": origins.count("given"), "found": origins.count("found")},
            "recipe": asdict(config) | {"betas": list(config.betas), "watch_epochs": list(config.watch_epochs)},
            "epoch": curves[-1]["epoch"],
            "device": describe(team.device) + (f", {team.size} processes" if team.size > 1 else ""),
        },
        "lineage": [*source.card.get("lineage", []), lineage],
        "metrics": {"adapted_slices": {"before": quality(curves[0]), "after": quality(curves[-1])}},
        "thresholds": [],
    }
    if "discriminator_training" in source.card:
        card["discriminator_training"] = source.card["discriminator_training"]
    return card

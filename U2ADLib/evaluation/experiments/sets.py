"""What a set of images is made of, and who is in it: planned without looking into a single image.

A set is a list of `SetConfig`. What it is used for is its `use`: seeds of phantoms are apart for each.
"""

import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from ... import __version__
from ...analysis import slice_rule
from ...annotations import Labels, labelled_cases, read_annotations
from ...config import SEGMENT_NAMES
from ...dataset import Case, find_cases
from ...errors import InputError, UsageError
from ...files import file_sha256
from ...package import RegionModel, load_region_model
from ...simulation.degrade import CONDITIONS, NEGATIVES
from ...simulation.plant import LESION_KINDS

# Seed of phantom i = SEEDS[use] + SetConfig.first + i: apart from those of everything else that learns or is measured.
SEEDS = {"source": 7_000_000, "target": 8_000_000, "test": 9_000_000, "validation": 10_000_000}
PHANTOM = "phantom"
PHANTOM_KINDS = ("clinical", "space")
NO_REGION_MODEL = "none"
FORMAT = 1  # of what is kept: another one is made again
MOST_NAMED = 5  # in a message


@dataclass(frozen=True)
class SetConfig:
    """Where images come from, and what is done to them. Lists of a TOML file become tuples.

    Either `folder` (BIDS or flat, see `dataset.find_cases`) or `phantoms`, how many.

    A folder: name, what it is called in tables and in the names of its people, by default the folder's own; table,
    annotations (`annotations.read_annotations`): images that it does not name are left alone; healthy, nobody has a
    hyperintensity; people, only these; without, not these; pathology, only people with one of these in
    participants.tsv; region_model, what finds cords and discs that do not lie beside the images ("none": nothing
    does); find, it finds them even where they do.
    Phantoms: kind, "clinical" or "space"; first, see `SEEDS`.
    slices: "middle" as the paper, "all", or so many around the middle.
    degrade: a condition of `simulation.degrade` ("clean", "clinical", "mismatch"); other than "clean", thin slices are
    averaged to 3 mm first, and masks are wrong by a pixel.
    plant: kinds of lesions (`simulation.plant`) for healthy people or phantoms; share, of the images that get one,
    evenly over people and kinds; lesion_slices, in how many of the image's slices one is planted.
    repetitions: images made of each, with other seeds. seed: decides on places, degradations and kinds.
    """

    folder: str | None = None
    phantoms: int = 0
    name: str = ""
    table: str | None = None
    healthy: bool = False
    people: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    pathology: tuple[str, ...] = ()
    region_model: str = "none"
    find: bool = False
    kind: str = "clinical"
    first: int = 0
    slices: str | int = "middle"
    degrade: str = "clean"
    plant: tuple[str, ...] = ()
    share: float = 0.5
    lesion_slices: int = 1
    repetitions: int = 1
    seed: int = 0

    def __post_init__(self):
        for name in ("people", "without", "pathology", "plant"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        slice_rule(self.slices)
        wrong = [
            ("phantoms", (self.folder is None) == (self.phantoms == 0), "a set has a folder or phantoms: one of them"),
            ("phantoms", self.phantoms < 0 or self.first < 0, "numbers of phantoms are not negative"),
            ("name", bool(self.folder) and self.group == PHANTOM, f"{PHANTOM!r} is what phantoms are called"),
            ("table", self.table is not None and self.folder is None, "a table is about the images of a folder"),
            ("plant", self.table is not None and bool(self.plant), "lesions are planted in images without any"),
            ("kind", self.kind not in PHANTOM_KINDS, f"a phantom is {' or '.join(PHANTOM_KINDS)}"),
            ("degrade", self.degrade not in CONDITIONS | NEGATIVES, f"choose from {', '.join(CONDITIONS | NEGATIVES)}"),
            ("plant", not set(self.plant) <= set(LESION_KINDS), f"the kinds are {', '.join(LESION_KINDS)}"),
            ("share", not 0 <= self.share <= 1, "it lies between 0 and 1"),
            ("repetitions", self.repetitions < 1, "at least 1"),
            ("lesion_slices", self.lesion_slices < 1, "at least 1"),
            ("find", self.find and self.region_model == NO_REGION_MODEL, "it needs a region_model"),
            ("find", self.find and bool(self.plant), "lesions are planted in cords that are known"),
        ]
        if found := [f"{name} = {getattr(self, name)!r}: {why}" for name, bad, why in wrong if bad]:
            raise UsageError(f"A set of images cannot be made like this: {'; '.join(found)}.")

    @property
    def group(self) -> str:
        """What the images are called in tables: "phantom", or the folder's name."""
        if self.folder is None:
            return PHANTOM
        return re.sub(r"[^\w.-]+", "-", self.name or Path(self.folder).resolve().name)

    @property
    def labelled(self) -> bool:
        """Whether it is known who has a hyperintensity."""
        return self.folder is None or self.table is not None or self.healthy or bool(self.plant)


def people_of(sets: Sequence[SetConfig], use: str) -> dict[str, bool]:
    """Everybody in a labelled set, and whether an image of them has a hyperintensity: what folds are made of. Makes no
    image. :raises InputError: as `experiment_cases`."""
    found: dict[str, bool] = {}
    for one in planned_images(sets, use, labelled=True):
        found[one.person] = found.get(one.person, False) or one.positive
    return found


def image_count(sets: Sequence[SetConfig], use: str) -> int:
    """How many images a set has. :raises InputError: as `experiment_cases`, but nobody has to be annotated."""
    return len(planned_images(sets, use, labelled=False))


def set_key(sets: Sequence[SetConfig], use: str) -> str:
    """A hash of everything that decides on the images of a set, the bytes of its files included; of no paths."""
    return _digest([(one.person, one.key()) for one in planned_images(sets, use, labelled=False)])


def refuse_shared(sets: Sequence[SetConfig], use: str, others: Sequence[SetConfig], other_use: str = "test") -> None:
    """:raises InputError: the sets of two uses share a person or a phantom: source, target or validation with the test,
    source or target with the validation."""
    known = _identities(others, other_use)
    if shared := sorted({name for key, name in _identities(sets, use).items() if key in known}):
        raise InputError(
            f"{use.capitalize()} and {other_use} share {_some(shared)}: nobody may be learnt from and judged. Name "
            "them under `people` or `without`."
        )


# -------------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class ImagePlan:
    """One image to be made, and what is known of it before: of a phantom of this seed, or of an image in a folder.

    kind: of the lesion that is planted.
    """

    config: SetConfig
    person: str
    id: str
    phantom: int | None = None
    case: Case | None = None
    labels: Labels | None = None
    kind: str | None = None
    repetition: int = 0

    @property
    def positive(self) -> bool:
        """Whether it has a hyperintensity."""
        return self.kind is not None or (self.labels is not None and self.labels.patient)

    @property
    def seed(self) -> list[int]:
        """Written down with the case. It depends on no other image of the set, and not on the set's name."""
        person = self.person if self.case is None else self.case.person
        what = f"{person} {self.config.degrade} {self.kind} {self.config.slices}"
        return [self.config.seed, self.repetition, zlib.crc32(what.encode())]

    def key(self) -> str:
        """A hash of everything that decides on the image."""
        config = self.config
        what = {"format": FORMAT, "version": __version__, "person": self.person, "seed": self.seed, "kind": self.kind}
        what |= {"slices": str(config.slices), "degrade": config.degrade, "lesion_slices": config.lesion_slices}
        what["labels"] = None if self.labels is None else asdict(self.labels)
        if self.case is None:
            what |= {"phantom": self.phantom, "phantom_kind": config.kind}
        else:
            files = [self.case.image] + ([] if config.find else [self.case.cord, self.case.discs])
            what["files"] = [None if file is None else _contents(file) for file in files]
            if None in what["files"] or config.find:
                model = region_model_of(config.region_model)
                what["region_model"] = model and model.sha256
        return _digest(what)


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def _contents(path):
    """Checksum of a file, or of the files of a folder."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    return _digest([_file_hash(str(one), one.stat().st_size, one.stat().st_mtime_ns) for one in files if one.exists()])


@lru_cache(maxsize=4096)
def _file_hash(path, size, changed):
    return file_sha256(Path(path))


@lru_cache(maxsize=2)
def region_model_of(name: str) -> RegionModel | None:
    """The model of this name, loaded once; None of "none"."""
    return None if name == NO_REGION_MODEL else load_region_model(name)


def planned_images(sets: Sequence[SetConfig], use: str, labelled: bool) -> list[ImagePlan]:
    """All images of a set, those that are made of one beside each other.

    :param labelled: it must be known who has a hyperintensity, and segments must be named.
    :raises InputError: a folder, a table or names in the configuration are wrong.
    """
    if use not in SEEDS:
        raise UsageError(f"A set of images is used as {', '.join(SEEDS)}, not {use!r}.")
    if not sets:
        raise InputError(f"The {use} set is empty: give it a folder or phantoms.")
    folders: dict[str, Path] = {}
    made: list[ImagePlan] = []
    for config in sets:
        if config.folder is not None and folders.setdefault(config.group, where := place_of(config)) != where:
            raise InputError(f"Two folders of the {use} set are called {config.group}: give one another `name`.")
        if labelled and not config.labelled:
            raise InputError(
                f"Nobody says who has a hyperintensity in {config.group}: give a `table`, say `healthy`, or `plant` "
                "lesions."
            )
        made += _with_lesions(config, _sources(config, use, labelled))
    kinds: dict[int, str] = {}
    for one in made:
        if one.phantom is not None and kinds.setdefault(one.phantom, one.config.kind) != one.config.kind:
            raise InputError(f"Phantom {one.phantom} would be of two kinds: let one set begin at another `first`.")
    times, seen = Counter(one.id for one in made), Counter()
    for k, one in enumerate(made):
        if times[one.id] > 1:
            made[k] = replace(one, id=f"{one.id}_{seen[one.id]}")
            seen[one.id] += 1
    return made


def place_of(config: SetConfig) -> Path:
    """The folder of a set, whatever it is called."""
    return Path(config.folder).resolve()


def _sources(config, use, labelled) -> list[ImagePlan]:
    """One image of every phantom or of every image in the folder."""
    if config.folder is None:
        first = SEEDS[use] + config.first
        names = {seed: f"{PHANTOM}-{seed}" for seed in range(first, first + config.phantoms)}
        return [ImagePlan(config, name, name, phantom=seed) for seed, name in names.items()]
    cases = find_cases(Path(config.folder))
    _refuse_unknown(config, cases)
    known: dict[str, Labels] = {}
    if config.table is not None:
        labels = labelled_cases(read_annotations(Path(config.table)), cases, Path(config.table).name)
        known = {case.id: one for case, one in labels}
        cases = [case for case in cases if case.id in known]
    elif config.healthy or config.plant:
        known = {case.id: Labels(False, dict.fromkeys(SEGMENT_NAMES.values(), False)) for case in cases}
    chosen = [
        case
        for case in cases
        if (not config.people or case.person in config.people)
        and case.person not in config.without
        and (not config.pathology or case.pathology in config.pathology)
    ]
    if not chosen:
        raise InputError(f"No image is left in {config.group}: look at people, without, pathology and the table.")
    if config.region_model == NO_REGION_MODEL:
        # Without discs no segment can be named: nothing could be scored.
        lacking = [case.id for case in chosen if case.cord is None or (labelled and case.discs is None)]
        if lacking:
            what = "cord mask and disc labels" if labelled else "cord mask"
            raise InputError(
                f"No {what} beside {_some(lacking)} in {config.group}: add them, leave these out, or name a "
                "region_model."
            )
    group = config.group
    return [ImagePlan(config, f"{group}_{c.person}", f"{group}_{c.id}", case=c, labels=known.get(c.id)) for c in chosen]


def _refuse_unknown(config, cases):
    people = {case.person for case in cases}
    if unknown := [name for name in (*config.people, *config.without) if name not in people]:
        raise InputError(f"There is no {_some(unknown)} in {config.group}: people are {_some(sorted(people))}.")


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _with_lesions(config: SetConfig, sources: Sequence[ImagePlan]) -> Iterator[ImagePlan]:
    """Repetitions, and who gets which lesion: evenly, whatever the number of people, so that a few more of them change
    nothing for the others."""
    count = lesions = 0
    for source in sources:
        for repetition in range(config.repetitions):
            kind = None
            count += 1
            if config.plant and int(count * config.share + 1e-9) > lesions:
                cycle, place = divmod(lesions, len(config.plant))
                order = np.random.default_rng([config.seed, cycle]).permutation(len(config.plant))
                kind, lesions = config.plant[order[place]], lesions + 1
            yield replace(source, kind=kind, repetition=repetition)


def _identities(sets, use) -> dict[tuple, str]:
    """What tells people from others, whatever their folder is called → their names. A file that two folders show, as
    links do, is one person's."""
    found = {}
    for one in planned_images(sets, use, labelled=False) if sets else ():
        if one.case is None:
            found["", one.person] = one.person
        else:
            name = one.case.person
            found |= {(str(place_of(one.config)), name): name, ("", str(one.case.image.resolve())): name}
    return found

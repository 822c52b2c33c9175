"""Run the benchmark: `python -m U2ADLib.evaluation.benchmark FOLDER --out DIR`.

FOLDER is a BIDS folder of healthy necks, voxels of 1 mm. Every person is left out once: methods learn from the others
with a cord mask. What was fitted and every part that was scored lie in DIR; a run that was stopped goes on from there.
A method or region model that was changed needs another DIR.
People without a mask (theirs is found, less 1 px) and phantoms are tested, never learnt from, and reported apart.
"""

import argparse
import importlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from ...errors import InputError, ModelError, UsageError
from ...files import write_json
from ...package import RegionModel, load_region_model
from ...progress import format_seconds
from ...scoring.expected import ExpectedError
from . import cases, methods
from .cases import PHANTOM, Person
from .parts import RESAMPLES, score_cases
from .rules import SimpleRules

METHODS = {"rules": SimpleRules}  # others as "module:callable" or "module:callable:argument"
PHANTOMS, ALARM_PHANTOMS = "phantoms", "lesion-free phantoms"  # stand-ins for a person's name
PHANTOM_PLANES = ("thin", "cord", "segments", "counted")  # what is kept of them
FIRST_ALARM_PHANTOM = 1000
FORMAT = 2  # of what is kept; 2: which rows count in an analysis
SECONDS_PER_CASE = 0.04  # of the rules, on one core
CASES_PER_SLICE = {"negatives": 12}  # elsewhere 26; for the estimate


@dataclass(frozen=True)
class Setup:
    """What a run depends on. regions: model package by person, for masks that have to be found."""

    folder: Path
    out: Path
    regions: tuple[tuple[str, str], ...] = ()
    phantoms: int = 20
    alarm_phantoms: int = 200
    resamples: int = RESAMPLES

    def region(self, person: str) -> RegionModel | None:
        """The package that never saw this person; None where there is none."""
        name = dict(self.regions).get(person)
        return None if name is None else load_region_model(name)


@dataclass(frozen=True)
class Job:
    """One part: `person` as the fit of `fold` sees them, in a condition and repetition."""

    method: str
    fold: str
    person: str
    condition: str
    repetition: int

    @property
    def is_test(self) -> bool:
        """False for people that the fold learnt from: on them settings and thresholds are chosen."""
        return self.person == self.fold or self.condition == PHANTOM

    def path(self, out: Path) -> Path:
        """Where the part is kept."""
        name = f"{self.person}.{self.condition}.{self.repetition}.npz"
        return out / "parts" / file_name(self.method) / self.fold / name.replace(" ", "-")


def file_name(method: str) -> str:
    """A method's name without what a folder's name cannot hold."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in method)


def make_method(name: str) -> methods.Method:
    """A method by its name in `METHODS` or its place, "module:callable[:argument]"; the argument is a string.

    :raises UsageError: there is none.
    """
    if name in METHODS:
        return METHODS[name]()
    module, _, rest = name.partition(":")
    attribute, _, argument = rest.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"There is no method {name!r} ({error}). Known: {', '.join(METHODS)}, module:callable."
        ) from None
    return made(argument) if argument else made()


# ---------------------------------------------------------------------------------------------------- the work


@lru_cache(maxsize=16)
def person_of(setup: Setup, name: str) -> Person:
    """A person of the folder, or the phantoms as one."""
    if name not in (PHANTOMS, ALARM_PHANTOMS):
        return cases.load_person(setup.folder, name, setup.region(name))
    first, count = (0, setup.phantoms) if name == PHANTOMS else (FIRST_ALARM_PHANTOM, setup.alarm_phantoms)
    kept = setup.out / f"{name.replace(' ', '-')}-{count}.safetensors"
    if not kept.exists():
        made = [one for i in range(first, first + count) for one in _phantom_slices(i, name == PHANTOMS)]
        tensors = {key: np.array([getattr(one, key) for one in made]) for key in PHANTOM_PLANES}
        tensors["number"] = np.array([int(one.volume.split("-")[1]) for one in made])
        _keep(kept, tensors)
    stored = load_file(kept)
    planes = zip(stored["number"], *(stored[key] for key in PHANTOM_PLANES), strict=True)
    return Person(name, tuple(cases.HealthySlice(f"phantom-{n}", image, image, *rest) for n, image, *rest in planes))


def _phantom_slices(index, best_only):
    made = cases.phantom_slices(index)
    return made[:1] if best_only else made


@lru_cache(maxsize=2)
def fitted(setup: Setup, method: str, test: str) -> tuple[methods.Method, dict[str, ExpectedError]]:
    """A method that has learnt from everybody with a mask but `test`, and the expected error of its maps."""
    made = make_method(method)
    training = tuple(person_of(setup, name) for name in cases.people_names(setup.folder)[0] if name != test)
    folder = setup.out / "folds" / file_name(method) / test
    made.fit(methods.Fold(test, training, folder))
    kept = folder / "expected_error.safetensors"
    if kept.exists():
        stored = load_file(kept)
        names = [key.removesuffix("/median") for key in stored if key.endswith("/median")]
        return made, {name: ExpectedError(stored[f"{name}/median"], stored[f"{name}/spread"]) for name in names}
    expected = methods.fit_expected_errors(made, cases.reference_cases(training))
    _keep(kept, {f"{name}/{key}": getattr(one, key) for name, one in expected.items() for key in ("median", "spread")})
    return made, expected


def cases_of(setup: Setup, job: Job) -> list[cases.Case]:
    """The cases of a part."""
    person = person_of(setup, job.person)
    if job.person == ALARM_PHANTOMS:
        return cases.make_cases(person, PHANTOM, kinds=(), seed=cases.SEEDS[PHANTOM], healthy=1)
    if job.condition != "found":
        return cases.benchmark_cases(person, job.condition, job.repetition)
    # Finding is slow, and every method gets the same masks.
    kept = setup.out / "found" / job.fold / f"{job.person}.{job.repetition}.safetensors"
    if kept.exists():
        masks = iter(load_file(kept)["masks"] > 0)
        return cases.benchmark_cases(person, "found", job.repetition, lambda *_: next(masks))
    made = cases.benchmark_cases(person, "found", job.repetition, cases.cord_finder(setup.region(job.fold)))
    _keep(kept, {"masks": np.array([case.mask for case in made]).astype(np.uint8)})
    return made


def do(setup: Setup, job: Job) -> None:
    """Score a part and keep it."""
    method, expected = fitted(setup, job.method, job.fold)
    person = person_of(setup, job.person)
    resamples = setup.resamples if job.is_test else 0
    part = score_cases(method, expected, cases_of(setup, job), person.number, len(person.slices), resamples)
    part.save(job.path(setup.out))


def _keep(path, tensors):
    """Write beside its place and move it there: several processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary)
    temporary.replace(path)


def fitted_there(setup: Setup, method: str, fold: str) -> None:
    """Fit in this process; what a method keeps, others find."""
    fitted(setup, method, fold)


def plan(
    setup: Setup, names: Sequence[str], people: Sequence[str], conditions: Sequence[str], repetitions: int
) -> list[Job]:
    """All parts of a run: everybody left out, in every condition and repetition; and, in the first repetition only, the
    people the fold learnt from: settings and thresholds are chosen on them."""
    manual, _ = cases.people_names(setup.folder)
    jobs = []
    for name in names:
        for test in people:
            training = [person for person in manual if person != test]
            for condition in conditions:
                if condition == PHANTOM:
                    if test in manual:
                        jobs += [Job(name, test, PHANTOMS, PHANTOM, r) for r in range(repetitions)]
                    continue
                if condition == "found" and test not in dict(setup.regions):
                    continue
                jobs += [Job(name, test, test, condition, r) for r in range(repetitions)]
                if condition != "negatives":
                    jobs += [Job(name, test, person, condition, 0) for person in training]
            if PHANTOM in conditions and setup.alarm_phantoms and test in manual:
                jobs.append(Job(name, test, ALARM_PHANTOMS, PHANTOM, 0))
    return jobs


def run(setup: Setup, jobs: Sequence[Job], workers: int = 2, say=print) -> None:
    """Do what is not done yet, in so many processes; with 0 in this one."""
    left = [job for job in jobs if not job.path(setup.out).exists()]
    fits = list(dict.fromkeys((job.method, job.fold) for job in left))
    counts = [len(person_of(setup, job.person).slices) * CASES_PER_SLICE.get(job.condition, 26) for job in left]
    total = sum(counts)
    seconds = total * SECONDS_PER_CASE / max(workers, 1)
    say(
        f"{len(jobs) - len(left)} of {len(jobs)} parts are there. To do: {len(fits)} fits, {len(left)} parts, about "
        f"{total} cases. Simple rules alone would take about {format_seconds(seconds)} with {workers} workers."
    )
    started = time.monotonic()
    for _ in _each(fitted_there, [(setup, *fit) for fit in fits], workers):
        pass
    say(f"{len(fits)} fits: done after {format_seconds(time.monotonic() - started)}")
    started, done = time.monotonic(), 0
    for k, index in enumerate(_each(do, [(setup, job) for job in left], workers), 1):
        done += counts[index]
        spent = time.monotonic() - started
        say(f"part {k} of {len(left)}, {format_seconds(spent / done * (total - done))} left")


def _each(work, arguments, workers):
    """Call a function with each of the arguments; yields the index of each that is done."""
    if not workers or not arguments:
        for index, values in enumerate(arguments):
            work(*values)
            yield index
        return
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")  # of the processes: one on each core is far faster than threads
    # Fresh processes, not forks: torch's threads do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(work, *values): index for index, values in enumerate(arguments)}
        for future in as_completed(futures):
            future.result()
            yield futures[future]


# --------------------------------------------------------------------------------------------------- the door


def main(arguments=None) -> None:
    """Run what is not done yet and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m U2ADLib.evaluation.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="BIDS folder of healthy necks")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for fits, parts and tables")
    parser.add_argument("--study", action="store_true", help="the study's conditions, people and seeds only")
    parser.add_argument("--conditions", nargs="+", choices=(*cases.CONDITIONS, PHANTOM), metavar="C")
    parser.add_argument("--people", nargs="+", metavar="P", help="who is tested; by default everybody")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions of planting and degradation")
    parser.add_argument("--methods", nargs="+", default=["rules"], help="rules, or module:callable[:argument]")
    parser.add_argument(
        "--regions",
        nargs="+",
        default=(),
        metavar="MODEL",
        help="region models that never saw a person: PERSON=MODEL, or a path with {person} in it",
    )
    parser.add_argument("--phantoms", type=int, default=20, help="phantoms with lesions")
    parser.add_argument("--alarm-phantoms", type=int, default=200, help="phantoms without, for false alarms")
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--reference", help="score that the others are compared with")
    parser.add_argument("--pages", nargs="+", default=(), metavar="SCORE", help="draw its best and worst cases")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each; 0: in this one")
    options = parser.parse_args(arguments)
    setup, people, conditions = _chosen(options)
    jobs = plan(setup, options.methods, people, conditions, 1 if options.study else options.seeds)
    _check_same(setup)
    run(setup, jobs, options.workers)
    from .pages import draw_pages
    from .tables import write_tables

    print(write_tables(setup, jobs, options.reference))
    for score in options.pages:
        for path in draw_pages(setup, jobs, score):
            print(path)


def _chosen(options):
    """The setup, the people and the conditions of a command line; says what has to be left out."""
    manual, automatic = cases.people_names(options.folder)
    everybody = [*manual, *automatic]
    regions = {}
    for item in options.regions:
        person, equals, model = item.partition("=")
        regions |= {person: model} if equals else {name: item.format(person=name) for name in everybody}
    for name, model in list(regions.items()):
        try:
            load_region_model(model)
        except ModelError as error:
            print(f"No region model for {name}: {error}")
            del regions[name]
    people = list(options.people or (manual if options.study else everybody))
    if unknown := set(people) - set(everybody):
        raise InputError(f"There is no {', '.join(sorted(unknown))} in {options.folder}.")
    if len(manual) < 2:
        raise InputError("The benchmark needs at least two people with a cord mask: one is left out.")
    for name in [name for name in people if name in automatic and name not in regions]:
        print(f"{name} has no cord mask and no region model (--regions): left out.")
        people.remove(name)
    conditions = options.conditions or (cases.STUDY if options.study else (*cases.CONDITIONS, PHANTOM))
    if "found" in conditions and not set(people) <= set(regions):
        without = ", ".join(name for name in people if name not in regions)
        print(f"The condition 'found' is left out for {without}: no region model was given (--regions).")
    setup = Setup(
        options.folder.absolute(),
        options.out.absolute(),
        tuple(sorted(regions.items())),
        options.phantoms,
        options.alarm_phantoms,
        options.resamples,
    )
    return setup, people, conditions


def _check_same(setup):
    """Refuse to mix parts of different setups in one folder."""
    kept = setup.out / "setup.json"
    current = {key: value for key, value in asdict(setup).items() if key not in ("out", "regions")}
    current["format"] = FORMAT
    current["folder"] = str(current["folder"])
    if not kept.exists():
        setup.out.mkdir(parents=True, exist_ok=True)
        write_json(kept, current)
    elif json.loads(kept.read_text(encoding="utf-8")) != current:
        raise UsageError(
            f"{setup.out} holds a run with other settings or of another version (setup.json): choose another folder."
        )

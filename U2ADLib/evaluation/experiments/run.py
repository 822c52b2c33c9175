"""Everything in its order: estimate, images, trainings, scores, tables, report (`u2ad evaluate`).

What is done lies in the folder and is found again; a comparison that was stopped goes on from there. Trainings and
scorings are tasks; a task is done when the tasks it needs are. They run in this process, in several, on a Dask cluster,
or dealt to the processes that torchrun started. A task that fails is named in the report and tried again next time; the
others go on.
"""

import json
import os
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from uuid import uuid4

from ... import __version__
from ...batch import dask_executor
from ...errors import Cancelled, InstallationError, U2ADError, UsageError
from ...files import write_json
from ...progress import Progress, format_seconds, no_progress
from .config import SHOWN, ExperimentConfig, digest, read_config
from .report import Report, write_report
from .tables import EXPERIMENTS, case_pages, experiment
from .tables.context import Context
from .tables.result import Result
from .tables.scoring import Job, is_scored, key_of, score, seconds_of, stage_of
from .tables.standing import standing
from .training import (
    DONE,
    SECONDS_PER_PHANTOM,
    Comparison,
    Estimate,
    Stage,
    images_of,
    title_of,
    training_seconds,
)
from .workers import worker_processes

SETUP = "comparison.json"
CASES = "cases"
KEPT = "Cancelled. What is complete is kept; the same command goes on from there."
POLL_SECONDS = 0.2  # between two looks at whether the user wants to stop
STEPS_SECONDS = 300.0  # what a training in steps counts for the progress
SILENT_SECONDS = 60.0  # between two scorings that are told
TABLE_SECONDS = 20.0  # of an experiment's tables and pictures
LAYOUT = 1  # of tables and pictures: those that were kept with another one are made again, from the same scores
NEEDS_FAILED = "what it needs failed"
Say = Callable[[str], None]
Task = Stage | Job


@dataclass(frozen=True)
class Plan:
    """Trainings, each after the one it needs, and scorings."""

    stages: tuple[Stage, ...]
    jobs: tuple[Job, ...]

    @property
    def tasks(self) -> tuple[Task, ...]:
        return (*self.stages, *self.jobs)


def evaluate(
    config: str | Path | ExperimentConfig,
    out: Path,
    *,
    workers: int = 1,
    dask: str | None = None,
    only: Sequence[str] = (),
    dry_run: bool = False,
    device: str | None = None,
    progress: Progress = no_progress,
    say: Say = lambda message: None,
) -> Path | None:
    """Run a comparison, or go on with it; returns the report, or None after a dry run and in all but the first process.

    :param config: a configuration, its file, or the name of a bundled one.
    :param only: these experiments. :param device: instead of the configuration's.
    :param dask: address of a scheduler whose workers see the same folders; then `workers` means nothing.
    :raises UsageError: the configuration is wrong, or the folder holds something else.
    :raises InputError: images or annotations cannot be used. :raises InstallationError: matplotlib is missing.
    :raises Cancelled: by `progress`.
    """
    if find_spec("matplotlib") is None:  # pictures are drawn last, after hours
        raise InstallationError("The report needs matplotlib: pip install 'u2ad[rivals]'.")
    if not isinstance(config, ExperimentConfig):
        config = read_config(config)
    if unknown := set(only) - set(EXPERIMENTS):
        raise UsageError(f"There is no experiment {min(unknown)!r}. Known are {', '.join(EXPERIMENTS)}.")
    if only:
        config = replace(config, experiments=tuple(name for name in EXPERIMENTS if name in only))
    if device is not None:
        config = replace(config, device=device)
    out = Path(out).absolute()
    refuse_other(config, out)
    from ...training.team import joined

    with joined(_torch_device(config.device)) as team:
        comparison = Comparison(config, out, str(team.device))
        comparison.check()
        planned = plan(comparison)
        if team.first:
            for note in config.notes:
                say(note)
            say(estimate(comparison, planned).text(1 if dask else workers * team.size))
        if dry_run:
            return None
        if team.first:
            _claim(config, out)
            comparison.make_images(workers, progress, say)
        _meet(team)
        mine = share(comparison, planned, team.rank, team.size)
        failed = _work(comparison, mine, workers, dask, progress, say)
        _meet(team)
        if not team.first:
            return None
        if team.size > 1:  # what the others could not do is tried once more, which says why
            failed = _work(comparison, planned, 1, None, progress, say)
        return conclude(comparison, failed, planned, progress, say)


def plan(comparison: Comparison) -> Plan:
    """What the configuration's experiments need, each thing once."""
    wanted = [job for name in comparison.config.experiments for job in experiment(name).jobs(comparison)]
    if wanted:
        wanted += case_pages.jobs(comparison)
    jobs = tuple(dict.fromkeys(wanted))
    stages = {one: None for job in jobs if (last := stage_of(comparison, job)) for one in last.chain}
    # Sources first, so that whatever ends early leaves what others can go on from.
    return Plan(tuple(sorted(stages, key=lambda stage: len(stage.chain))), jobs)


def estimate(comparison: Comparison, planned: Plan) -> Estimate:
    """What there is to do, and about how long it takes."""
    todo = [stage for stage in planned.stages if not comparison.is_done(stage)]
    images = images_of(comparison.config)
    seconds, unknown = training_seconds(todo)
    kept = sum(1 for _ in comparison.cache.glob("*.safetensors")) if comparison.cache.is_dir() else 0
    seconds += max(images - kept, 0) * SECONDS_PER_PHANTOM
    left = [job for job in planned.jobs if not is_scored(comparison, job)]
    seconds += sum(_job_seconds(comparison, job) for job in left)
    seconds += len(comparison.config.experiments) * TABLE_SECONDS
    return Estimate(images, len(planned.stages), len(todo), len(planned.jobs), len(left), seconds, unknown)


def _job_seconds(comparison, job):
    return seconds_of(job, -(-comparison.images_tested // comparison.config.folds.count))


def share(comparison: Comparison, planned: Plan, rank: int, size: int) -> Plan:
    """The part of one of several processes: a stage and all that goes on from it stay together, scores included."""
    if size == 1:
        return planned
    owners: dict = {}
    for stage in planned.stages:
        owners.setdefault(stage.chain[0], len(owners) % size)
    stages = tuple(stage for stage in planned.stages if owners[stage.chain[0]] == rank)
    jobs = []
    for number, job in enumerate(planned.jobs):
        before = stage_of(comparison, job)
        if (number % size if before is None else owners[before.chain[0]]) == rank:
            jobs.append(job)
    return Plan(stages, tuple(jobs))


# ------------------------------------------------------------------------------------------------------- the folder


def refuse_other(config: ExperimentConfig, out: Path) -> None:
    """:raises UsageError: the folder holds another comparison, or something else."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out.name} is a file: choose another folder for the comparison.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        kept = json.loads((out / SETUP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"{out.name} holds something else than a comparison: choose an empty folder.") from None
    if kept.get("key") != config.key():
        record, other = config.record(), kept.get("configuration", {})
        differing = ", ".join(name for name in record if name not in SHOWN and record[name] != other.get(name))
        raise UsageError(
            f"{out.name} holds a comparison with another configuration ({kept.get('name')}, {kept.get('key')}; other "
            f"{differing or 'version'}): choose another folder."
        )


def _claim(config, out):
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / SETUP, {"name": config.name, "key": config.key(), "configuration": config.record()})


# --------------------------------------------------------------------------------------------------------- the work


def do(comparison: Comparison, task: Task, progress: Progress, say: Say = lambda message: None) -> None:
    """A training or a scoring."""
    if isinstance(task, Stage):
        comparison.train(task, progress, say)
    else:
        score(comparison, task, progress)


def needs(comparison: Comparison, task: Task) -> Stage | None:
    """The task that must be done before."""
    return task.after if isinstance(task, Stage) else stage_of(comparison, task)


def named(comparison: Comparison, task: Task) -> str:
    """For messages."""
    if isinstance(task, Stage):
        return f"training {title_of(task.method)}, {task.stage}"
    return f"scoring {task.name}"


def is_done(comparison: Comparison, task: Task) -> bool:
    """Whether nothing is left to do."""
    return comparison.is_done(task) if isinstance(task, Stage) else is_scored(comparison, task)


def _work(comparison, planned, workers, dask, progress, say) -> dict[Task, str]:
    """Do what is left; the tasks that failed, and why."""
    todo = [task for task in planned.tasks if not is_done(comparison, task)]
    if not todo:
        return {}
    weights = {task: _weight(comparison, task) for task in todo}
    watch = _Watch(comparison, weights, progress, say)
    if dask:
        with dask_executor(dask) as executor:
            return _spread(comparison, todo, executor, len(todo), watch)
    if workers > 1:
        with worker_processes(workers) as executor:
            return _spread(comparison, todo, executor, workers, watch)
    return _in_turn(comparison, todo, watch)


def _weight(comparison, task):
    if isinstance(task, Stage):
        return STEPS_SECONDS if task.minutes is None else 60 * task.minutes
    return _job_seconds(comparison, task)


class _Watch:
    """Progress over all tasks, in expected seconds, and a line when one is done."""

    def __init__(self, comparison, weights, progress, say):
        self.comparison, self.weights, self.progress, self.say = comparison, weights, progress, say
        self.total, self.finished, self.started = sum(weights.values()), 0.0, monotonic()
        self.said = self.started
        self.count = 0
        self.tick()

    def tick(self, extra: float = 0.0) -> None:
        """May raise `Cancelled`."""
        self.progress("Comparison", round(self.finished + extra), max(round(self.total), 1))

    def within(self, task) -> Progress:
        """For the task itself."""
        return lambda _, done, total: self.tick(self.weights[task] * min(done / max(total, 1), 1) * 0.999)

    def done(self, task, failure: str | None = None) -> None:
        self.count += 1
        self.finished += self.weights[task]
        spent = monotonic() - self.started
        left = spent / max(self.finished, 1e-9) * (self.total - self.finished)
        what = f"{self.count} of {len(self.weights)}: {named(self.comparison, task)}"
        if failure:
            self.say(f"{what}: failed. {failure}")
        elif isinstance(task, Stage) or monotonic() - self.said > SILENT_SECONDS:
            self.say(f"{what}: done, {format_seconds(left)} left")
            self.said = monotonic()
        self.tick()


def _in_turn(comparison, todo, watch) -> dict[Task, str]:
    failed: dict[Task, str] = {}
    for task in todo:
        before = needs(comparison, task)
        if before in failed:
            failed[task] = NEEDS_FAILED
        else:
            failure = attempt(comparison, task, watch.within(task), watch.say)
            if failure:
                failed[task] = failure
        watch.done(task, failed.get(task))
    return failed


def attempt(comparison: Comparison, task: Task, progress: Progress, say: Say = lambda message: None) -> str | None:
    """Do a task; why it failed, if it did. One method's misfortune must not end the others.

    :raises Cancelled: by `progress`.
    """
    try:
        do(comparison, task, progress, say)
    except Cancelled:
        raise
    except U2ADError as error:
        return str(error)
    except Exception as error:
        return _unexpected(error)
    return None


def _unexpected(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"Unexpected {type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    """Some libraries put a page there."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _spread(comparison, todo, executor: Executor, limit: int, watch) -> dict[Task, str]:
    """Each task as soon as what it needs is done; `limit` at a time."""
    # A file is the one signal that reaches processes on other computers, too.
    stop = comparison.out / f".stop-{uuid4().hex}"
    waiting, running, failed = list(todo), {}, {}
    try:
        while waiting or running:
            for task in list(waiting):
                before = needs(comparison, task)
                if before in failed:
                    waiting.remove(task)
                    failed[task] = NEEDS_FAILED
                    watch.done(task, failed[task])
                elif len(running) < limit and (before is None or comparison.is_done(before)):
                    waiting.remove(task)
                    running[_submit(executor, stop, comparison, task)] = task
            for future in wait(running, POLL_SECONDS, FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    failure = future.result()
                except (U2ADError, BrokenProcessPool):
                    raise
                except Exception as error:  # of a Dask worker that was lost, for instance
                    failure = f"The worker failed: {_first_line(error)}"
                if failure:
                    failed[task] = failure
                watch.done(task, failure)
            watch.tick()
    except BaseException:
        stop.touch()
        wait(running)
        raise
    finally:
        stop.unlink(missing_ok=True)
    return failed


def _submit(executor, stop, comparison, task) -> Future:
    return executor.submit(_in_worker, str(stop), comparison.config, str(comparison.out), comparison.device, task)


_busy = threading.Lock()
_known: dict[tuple, Comparison] = {}


def _in_worker(stop: str, config: ExperimentConfig, out: str, device: str, task: Task) -> str | None:
    def check(*_):
        if os.path.exists(stop):
            raise Cancelled(KEPT)

    with _busy:  # one task at a time in a process: each uses all threads of it
        key = (config.key(), out, device)
        comparison = _known.setdefault(key, Comparison(config, Path(out), device))
        return attempt(comparison, task, check)


def _meet(team) -> None:
    """Wait for the processes that torchrun started."""
    if team.size > 1:
        import torch.distributed as dist

        dist.barrier()


def _torch_device(name):
    from ...device import choose_device

    return choose_device(name)


# ------------------------------------------------------------------------------------------------------ conclusions


def conclude(comparison: Comparison, failed: dict[Task, str], planned: Plan, progress: Progress, say: Say) -> Path:
    """Tables, pictures and the report, from scores that are there."""
    from ...device import describe

    context = Context(comparison, [task for task in failed if isinstance(task, Job)])
    modules = {name: experiment(name) for name in comparison.config.experiments}
    if planned.jobs:
        modules[CASES] = case_pages
    results, left_out = {}, _reasons(comparison, failed)
    if lost := comparison.images_tested - len(context.truths):
        left_out.append(f"{lost} of {comparison.images_tested} test images cannot be used and are left out.")
    for number, (name, module) in enumerate(modules.items()):
        progress("Tables", number, len(modules))
        try:
            results[name] = _result(context, name, module)
        except U2ADError:
            raise
        except Exception as error:  # a picture that cannot be drawn must not cost the tables
            left_out.append(f"{module.TITLE} failed: {_unexpected(error)}")
            results[name] = Result(notes=["This part failed, see the summary."], title=module.TITLE)
    progress("Tables", len(modules), len(modules))
    report = Report(
        comparison.config,
        standing(context),
        results,
        context.stated(),
        describe(_torch_device(comparison.device)),
        left_out,
        list(_trainings(comparison, planned)),
    )
    path = write_report(comparison.out, report)
    for sentence in (*report.standing.sentences, *report.standing.not_first):
        say(sentence)
    return path


def _result(context: Context, name: str, module) -> Result:
    """As it was kept, where nothing has changed since."""
    comparison, config = context.comparison, context.config
    jobs = module.jobs(comparison)
    option = config.record()["options"].get(name)
    settings = [config.resamples, config.pictures_of, config.paper_data, config.folds.repeats, config.name]
    keys = [key_of(comparison, job) for job in jobs]
    missing = sorted(job.name for job in context.failed.intersection(jobs))
    key = digest([__version__, LAYOUT, name, option, settings, keys, missing, config.key()])
    kept = comparison.out / "results" / f"{name}.json"
    if kept.exists():
        record = json.loads(kept.read_text(encoding="utf-8"))
        if record["key"] == key:
            found = Result.from_record(record["result"])
            if all((context.pictures / one.file).exists() for one in found.figures):
                return found
    made = replace(module.run(context), title=module.TITLE)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, {"key": key, "result": made.record()})
    return made


def _reasons(comparison, failed) -> list[str]:
    """Each misfortune once, the first that it happened to named."""
    reasons: dict[str, str] = {}
    for task, why in failed.items():
        if why != NEEDS_FAILED:
            reasons.setdefault(why, named(comparison, task))
    return [f"{what[0].upper()}{what[1:]} failed: {why}" for why, what in reasons.items()]


def _trainings(comparison: Comparison, planned: Plan) -> Iterable[tuple[str, ...]]:
    for stage in planned.stages:
        path = comparison.folder(stage) / DONE
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            counts = (str(record[name]) for name in ("slices", "people", "seconds"))
            yield (title_of(stage.method), stage.stage, *counts, stage.id)

"""How many steps fit a budget, for trainings that count epochs and not minutes.

Their learning rates fall along the epochs, so the number must be known before the first step. A few steps are timed,
the rest is arithmetic, and what was decided is kept in the stage's folder: a training that is resumed after a kill, on
a computer as slow as it may be, has the same number of steps and ends in the same weights.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..errors import ModelError, UsageError
from ..files import write_json
from ..progress import Progress
from .detector import Budget, Training

PLAN = "plan.json"
TIMED_STEPS = 6
WARM_UP = 10  # at most one step in so many warms up: the paper's 500 would be all of a short training


@dataclass(frozen=True)
class Pace:
    """Seconds of computing: of a step; besides, of an epoch, and of each time that maps are refreshed or data made."""

    step: float
    epoch: float = 0.0
    refresh: float = 0.0


def seconds_computed(device: torch.device | str) -> float:
    """A clock as `detector.Budget` counts: on a CPU processor time over torch's threads, else time.

    Processes that were started and waited for count, too.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return sum(os.times()[:4]) / torch.get_num_threads()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(run: Callable[[Path, int], None], device, clock=seconds_computed) -> tuple[float, float]:
    """(seconds of a step, seconds of all else) of `run(empty folder, steps)`."""

    def seconds(steps):
        with tempfile.TemporaryDirectory() as folder:
            start = clock(device)
            run(Path(folder), steps)
            return clock(device) - start

    seconds(1)  # what is needed once: libraries, memory
    one, more = seconds(1), seconds(1 + TIMED_STEPS)
    step = max((more - one) / TIMED_STEPS, 1e-5)
    return step, max(one - step, 0.0)


def steps_and_epochs(
    budget: Budget, spent: float, pace: Pace | None, epochs: int, refreshes: Callable[[int], int] = lambda epochs: 0
) -> tuple[int, int]:
    """(steps in an epoch, epochs) that a budget allows: as many steps as it can hold, at least one.

    Epochs are `epochs` or somewhat fewer, where that leaves less of the budget unused; fewer than half of them only
    where there are not as many steps.

    :param spent: seconds of the budget that are gone. :param pace: needed for a budget in minutes.
    :param refreshes: how many an adaptation of so many epochs has.
    :raises UsageError: the budget has no limit.
    """
    check_budget(budget)

    def allowed(count: int) -> int:
        """Steps in each of `count` epochs."""
        limits = []
        if budget.steps is not None:
            limits.append(budget.steps // count)
        if budget.minutes is not None:
            left = 60 * budget.minutes - spent - count * pace.epoch - refreshes(count) * pace.refresh
            limits.append(max(int(left / (count * pace.step)), 0))
        return min(limits)

    most = next((count for count in range(epochs, 1, -1) if allowed(count)), 1)
    best = max(range(most, most // 2, -1), key=lambda count: count * allowed(count))
    return max(allowed(best), 1), best


def check_budget(budget: Budget) -> None:
    """:raises UsageError: it has no limit."""
    if budget.minutes is None and budget.steps is None:
        raise UsageError("A training needs a budget: give minutes or steps.")


def planned(folder: Path, budget: Budget, decide: Callable[[], dict]) -> dict:
    """The plan that a stage's folder holds; where it holds none, what `decide` says, which is kept there.

    :raises ModelError: it was made for another budget.
    """
    path = Path(folder) / PLAN
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["budget"] != asdict(budget):
            raise ModelError(
                f"{folder} holds a training with another budget, {kept['budget']}: choose another folder, or delete it."
            )
        return kept["plan"]
    plan = decide()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"budget": asdict(budget), "plan": plan})
    return plan


def part(training: Training, name: str, share: float) -> Training:
    """A share of a stage's budget, in a folder of its own within the stage's."""
    budget = training.budget
    minutes = None if budget.minutes is None else share * budget.minutes
    steps = None if budget.steps is None else max(1, round(share * budget.steps))
    return replace(training, folder=training.folder / name, budget=Budget(minutes, steps))


def timing(training: Training) -> Progress:
    """Progress of steps that are only timed; it can cancel."""
    return lambda stage, done, total: training.progress("Timing", done, total)


def warm_up(usual: int, steps: int) -> int:
    """Steps that warm up, of so many."""
    return max(1, min(usual, steps // WARM_UP))

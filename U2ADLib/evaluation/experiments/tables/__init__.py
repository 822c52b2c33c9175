"""One module for each experiment of the paper. Each has

- `TITLE`, as it stands in the report,
- `jobs(comparison)`: the scores it needs, from which trainings and the estimate follow,
- `run(context)`: its `result.Result`, from scores that are there.
"""

from importlib import import_module
from types import ModuleType

from ..config import OPTIONS

EXPERIMENTS = tuple(OPTIONS)


def experiment(name: str) -> ModuleType:
    """The module of an experiment."""
    return import_module(f".{name}", __name__)

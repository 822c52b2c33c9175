"""Folds of people: nobody is ever in two of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...errors import UsageError
from ...thresholds import FOLDS, deal_folds


def folds_of_people(people: Mapping[str, bool | int], folds: int = FOLDS, seed: int = 0) -> dict[str, int]:
    """The fold of each person, 0 … folds − 1; those with a hyperintensity are spread evenly, and so are the others.

    :param people: name → has a hyperintensity, or how many. :param seed: other seeds, other folds.
    :raises UsageError: there are fewer than two folds, or fewer people than folds.
    """
    if folds < 2 or len(people) < folds:
        raise UsageError(f"{len(people)} people cannot be dealt to {folds} folds: from 2 folds to as many as people.")
    names = sorted(people)
    # `deal_folds` shuffles always in the same way: other seeds come from other names.
    alias = {name: f"{place:06d}" for name, place in zip(names, _order(len(names), seed), strict=True)}
    dealt = deal_folds({alias[name]: (int(people[name]),) for name in names}, folds)
    return {name: dealt[alias[name]] for name in names}


def repeated_folds(
    people: Mapping[str, bool | int], folds: int = FOLDS, repeats: int = 20, seed: int = 0
) -> list[dict[str, int]]:
    """So many times `folds_of_people`, each with a seed of its own (paper, App. F)."""
    return [folds_of_people(people, folds, seed + repeat) for repeat in range(repeats)]


@dataclass(frozen=True)
class Split:
    """Names of people; nobody is in two groups."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def split(fold_of: Mapping[str, int], fold: int) -> Split:
    """Test on one fold, validate on the next, train on the others: 3/1/1 with five (paper B.2). With two folds, the
    other one trains, and nobody validates."""
    count = 1 + max(fold_of.values())
    validation = [(fold + 1) % count] if count > 2 else []
    kept = [k for k in range(count) if k not in (fold, *validation)]

    def named(numbers):
        return tuple(sorted(name for name, number in fold_of.items() if number in numbers))

    return Split(named(kept), named(validation), named([fold]))


def _order(count, seed):
    return np.random.default_rng([seed, count]).permutation(count)

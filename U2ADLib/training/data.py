"""Slices to learn from, with the person each belongs to: train and validation never share a person."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..config import Preprocessing
from ..dataset import Case, find_cases
from ..errors import InputError, U2ADError
from ..io import read_volume
from ..package import NO_REGION_MODEL, RegionModel, load_region_model
from ..roi.labels import read_cord
from ..roi.locate import locate
from ..roi.region import analysed_slices
from ..sagittal import standardise
from ..volume import Volume

THICK_MM = 3.0  # of clinical sagittal slices


@dataclass(frozen=True)
class SliceSet:
    """Standard sagittal slices.

    images (N, 256, 256) float16, 0–1; cords (N, 256, 256) bool; people (N,) names; phantom (N,) bool.
    """

    images: np.ndarray
    cords: np.ndarray
    people: np.ndarray
    phantom: np.ndarray

    def __len__(self):
        return len(self.images)


def slices_of(volume: Volume, cord: np.ndarray, person: str, phantom=False, config=None) -> SliceSet:
    """The slices of one volume that show enough cord (rule "all"). `cord` is bool on the volume's grid."""
    return _slices_of(volume, cord, person, phantom, config)[0]


def thick_and_thin(volume: Volume, cord: np.ndarray, person: str, phantom=False, config=None) -> SliceSet:
    """As `slices_of`; where slices are thin, each comes twice, the second time averaged with its neighbours to 3 mm."""
    thin, stack, chosen = _slices_of(volume, cord, person, phantom, config)
    reach = int(THICK_MM / stack.grid.slice_spacing_mm / 2)
    if reach == 0:
        return thin
    averaged = [stack.images[max(k - reach, 0) : k + reach + 1].mean(axis=0).astype(np.float16) for k in chosen]
    return concatenate([thin, replace(thin, images=np.stack(averaged))])


def _slices_of(volume, cord, person, phantom, config):
    """The set, the stack it is from, and the slices' numbers there."""
    stack = standardise(volume, cord, config=config or Preprocessing())
    cords = stack.grid.to_stack(cord, order=0) > 0
    chosen = list(analysed_slices(cords, "all"))
    n = len(chosen)
    people, phantoms = np.array([person] * n), np.full(n, phantom)
    return SliceSet(stack.images[chosen].astype(np.float16), cords[chosen], people, phantoms), stack, chosen


def slices_of_cases(
    cases: Sequence[Case],
    say: Callable[[str], None],
    slices: Callable[..., SliceSet] = slices_of,
    region_model: RegionModel | None = None,
    device: str = "auto",
) -> tuple[list[SliceSet], list[str]]:
    """Slices of the cases that can be used, and their people; the others are named.

    :param slices: `slices_of` or `thick_and_thin`.
    :param region_model: finds the cord of cases without a mask.
    """
    sets, people = [], []
    for case in cases:
        try:
            volume = read_volume(case.image)
            if case.cord is not None:
                cord = read_cord(volume, read_volume(case.cord)).array
            else:
                cord = locate(volume, model=region_model, device=device, say=say).cord
            sets.append(slices(volume, cord, case.person))
            people.append(case.person)
        except U2ADError as error:
            say(f"{case.id} is left out: {error}")
    return sets, sorted(set(people))


def usable_cases(data: Path, contrast: str, region_model: str) -> tuple[list[Case], list[str], RegionModel | None]:
    """Cases of a folder with a cord mask, or all where a region model finds it; people without one; that model.

    :raises ModelError: there is no such model.
    """
    cases = find_cases(data, contrast)
    without = sorted({case.person for case in cases if case.cord is None})
    if region_model == NO_REGION_MODEL or not without:
        return [case for case in cases if case.cord is not None], [], None
    return cases, without, load_region_model(region_model)


def concatenate(sets: list[SliceSet]) -> SliceSet:
    """All slices of several sets. :raises InputError: there are none."""
    sets = [one for one in sets if len(one)]
    if not sets:
        raise InputError("There is no slice to learn from: no image has a cord mask with enough cord in it.")
    return SliceSet(*(np.concatenate([getattr(s, f) for s in sets]) for f in SliceSet.__dataclass_fields__))


def sampling_weights(data: SliceSet, real_share: float) -> np.ndarray:
    """Probability (N,) of each slice: real and phantom slices get their share, every person of a kind equally much.

    data: a set of slices of any kind that has `people` and `phantom`, (N,) each.
    """
    weights = np.zeros(len(data))
    kinds = [(~data.phantom, real_share), (data.phantom, 1 - real_share)]
    if data.phantom.all() or not data.phantom.any():
        kinds = [(np.ones(len(data), bool), 1.0)]
    for kind, share in kinds:
        people, inverse, counts = np.unique(data.people[kind], return_inverse=True, return_counts=True)
        weights[kind] = share / len(people) / counts[inverse]
    return weights / weights.sum()

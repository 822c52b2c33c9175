"""What every method of the comparison is: it learns from slices, and makes anomaly maps or boxes of others.

What comes before (standard slices, cord, segments) and after (filter, AnoCurve, scores, metrics) is the same for all
and not a rival's business. Slices are 256×256 at 1 mm, 0–1, rows from head to feet, columns from posterior to anterior
(`sagittal.py`); a rival that wants to look at less of them cuts that out itself (`crop.py`).

Training has at most two stages (paper 4.5): "source" (public, healthy) and "target" (clinical, unlabelled). Strategy 1
is source alone, 2 target alone, 3 source and then target; a stage goes on from the weights that the one before left.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np

from ..errors import UsageError
from ..progress import Progress, no_progress

SOURCE, TARGET = "source", "target"

T = TypeVar("T")


@dataclass(frozen=True)
class Budget:
    """How long a stage trains; whichever limit comes first ends it.

    minutes: of computing; on a CPU of processor time, divided by torch's threads, so that other programs do not
    shorten a training; on a GPU of time. Minutes already spent count when a training resumes. steps: optimiser steps.
    """

    minutes: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class TrainingSlices:
    """What a stage learns from.

    images (N, 256, 256) float32 0–1; cords (N, 256, 256) bool; people (N,) names.
    segments (N, 256, 256) uint8, 3 = C2-3 … 8 = C7-T1 on the cord; anomalous (N, 9) bool by segment number, the
    annotation that supervised methods learn from. Both None where nothing is annotated.
    """

    images: np.ndarray
    cords: np.ndarray
    people: np.ndarray
    segments: np.ndarray | None = None
    anomalous: np.ndarray | None = None

    def __len__(self):
        return len(self.images)


@dataclass(frozen=True)
class Training:
    """How a stage is run. folder: of this stage alone, for its state; a training that is there goes on."""

    stage: str
    folder: Path
    budget: Budget
    device: str = "cpu"
    seed: int = 0
    progress: Progress = no_progress
    say: Callable[[str], None] = field(default=lambda message: None)


@dataclass(frozen=True)
class Maps:
    """anomaly (N, 256, 256) float32, not negative, 0 outside the cord: bright is suspicious.

    reconstruction (N, 256, 256), the image outside the cord (paper B.1); uncertainty (N, 256, 256), the epistemic one.
    None for methods without.
    """

    anomaly: np.ndarray
    reconstruction: np.ndarray | None = None
    uncertainty: np.ndarray | None = None


@dataclass(frozen=True)
class Box:
    """Rows top ≤ r < bottom and columns left ≤ c < right of a slice, in pixels, with a confidence 0–1."""

    top: float
    left: float
    bottom: float
    right: float
    confidence: float = 1.0


class Rival(Protocol):
    """What maps and boxes have in common. Constructed with keyword settings, all of which have defaults.

    name: as in the tables. learns: False where `fit` does nothing. supervised: needs annotated slices.
    """

    name: ClassVar[str]
    learns: ClassVar[bool]
    supervised: ClassVar[bool]

    def fit(self, slices: TrainingSlices, training: Training) -> None:
        """Run one stage, or go on with it where `training.folder` says it stopped; a finished one is only read."""

    def save(self, folder: Path) -> None:
        """Write what `load` needs: safetensors and JSON with a checksum."""

    def load(self, folder: Path) -> None:
        """:raises ModelError: the folder holds something else, or is damaged."""


@runtime_checkable
class MapDetector(Rival, Protocol):
    """A method that makes anomaly maps."""

    def anomaly_map(self, images: np.ndarray, cords: np.ndarray, seed: int = 0) -> Maps:
        """Maps of slices (N, 256, 256) float32 with cords (N, 256, 256) bool, which may be wrong."""


@runtime_checkable
class BoxDetector(Rival, Protocol):
    """A supervised object detector (paper B.2)."""

    def boxes(self, images: np.ndarray) -> list[list[Box]]:
        """The boxes found in each slice, highest confidence first."""


def settings_of(
    kind: type[T], name: str, given: Mapping, preset: str = "full", presets: Mapping[str, Mapping] | None = None
) -> T:
    """Settings of class `kind` (a dataclass) for the method `name`: those given, then those of the preset, then the
    defaults, which are also the preset "full".

    :raises UsageError: there is no such preset or setting, or a value is refused.
    """
    presets = {"full": {}, **(presets or {})}
    if preset not in presets:
        raise UsageError(f"{name} has no preset {preset!r}: choose from {', '.join(presets)}.")
    known = [one.name for one in fields(kind)]
    if unknown := sorted(set(given) - set(known)):
        raise UsageError(f"{name} has no setting {', '.join(unknown)}: it has {', '.join(known) or 'none'}.")
    return kind(**{**presets[preset], **given})


def trained(networks: T | None, name: str) -> T:
    """What the method `name` has learnt. :raises UsageError: nothing was trained or loaded."""
    if not networks:
        raise UsageError(f"{name} has not been trained: fit it, or load what was trained.")
    return networks

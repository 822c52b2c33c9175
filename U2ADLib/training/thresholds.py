"""Thresholds from lesion-free phantoms that trained nothing.

The paper sets them on labelled patients (4.2). Without labelled images the first thresholds bound false alarms instead:
the 95th percentile of the segment scores, and of the patient scores, of phantoms with unseen seeds.
"""

from dataclasses import asdict

import numpy as np

from ..analysis import analyse
from ..package import Model, Thresholds
from ..progress import Progress, no_progress
from .phantoms import THRESHOLD_SEEDS, random_phantom

PERCENTILE = 95


def phantom_thresholds(
    model: Model, count: int = 100, rules=("all", "middle"), device="auto", progress: Progress = no_progress
) -> list[dict]:
    """Thresholds for each rule of slices, as they stand in a card.

    Phantoms are of clinical kind. A segment's score enters once per phantom and segment, a patient's once per phantom.
    """
    segments = {rule: [] for rule in rules}
    patients = {rule: [] for rule in rules}
    for i in range(count):
        progress("Thresholds", i, count)
        phantom = random_phantom(THRESHOLD_SEEDS + i, "clinical")
        for rule in rules:
            result = analyse(
                phantom.volume, cord=phantom.cord, discs=phantom.discs, model=model, device=device, slices=rule
            )
            segments[rule] += [segment.score for segment in result.segments]
            patients[rule].append(result.patient_score)
    progress("Thresholds", count, count)
    return [
        asdict(
            Thresholds(
                segment=float(np.percentile(segments[rule], PERCENTILE)),
                patient=float(np.percentile(patients[rule], PERCENTILE)),
                slices=rule,
                origin=f"{PERCENTILE}th percentile of the maxima of {len(segments[rule])} segments and {count} "
                f"patients on lesion-free clinical phantoms (seeds from {THRESHOLD_SEEDS}) that trained nothing; "
                "not set on patients",
            )
        )
        for rule in rules
    ]

"""The one way the method runs: `analyse(volume, …) -> Analysis`.

The panel, Slicer's console and the command line all come down to this function.
"""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from . import __version__
from .anomaly import filtered_map
from .config import MonteCarloConfig, ScoreConfig, from_dict
from .curve import VolumeCurve, patient_score, peak, volume_curve
from .errors import UsageError
from .lesions import find_lesions, lesion_table
from .package import Model, RegionModel, Thresholds, load_model
from .progress import Progress, no_progress
from .reconstruction import Reconstruction
from .roi.doubt import refuse_other_contrast
from .roi.labels import Discs
from .roi.locate import FOUND
from .roi.region import Region, analysed_slices, region_in_stack, without_sides
from .roi.source import Prepared, doubt_note, prepare
from .sagittal import SagittalStack
from .scoring.evidence import Evidence, discriminator_evidence, error_evidence
from .volume import Volume, volume_hash

MAPS = ("anomaly", "error", "uncertainty", "reconstruction", "cord", "segments")
_REGION_RECORD = ("model", "confidence", "doubts", "disc_doubts", "disc_notes")
_AT_EDGE = "Near the image's edge"  # begins the note of that


@dataclass(frozen=True)
class SegmentResult:
    """One segment's score: the maximum of the AnoCurve in it (Eq. 1), and where that lies."""

    number: int  # 3 = C2-3 … 8 = C7-T1
    name: str
    score: float
    flagged: bool | None  # None where the model has no threshold for the chosen slices
    start_mm: float  # along the centreline, from the cord's upper end
    stop_mm: float
    peak_mm: float
    peak_slice: int  # in the stack


@dataclass(frozen=True)
class Analysis:
    """Everything about one volume. Maps of the S' analysed slices are (S', 256, 256) in the stack's pixels."""

    volume: Volume
    stack: SagittalStack
    region: Region
    slices: tuple[int, ...]  # analysed slices, numbered in the stack (0 = most right)
    reconstruction: Reconstruction
    score: str  # name of the score in use: "paper" or "default"
    evidence: Evidence
    anomaly: np.ndarray  # filtered map of the score in use
    curve: VolumeCurve
    smaller_curve: VolumeCurve  # had the mask been one pixel smaller
    segments: tuple[SegmentResult, ...]
    missing: tuple[str, ...]  # segments that are not covered or cannot be named
    patient_score: float
    patient_flagged: bool | None
    thresholds: Thresholds | None
    lesions: list[dict]  # columns: lesions.COLUMNS
    notes: tuple[str, ...]  # what the user should know
    provenance: dict  # JSON-able: model, configuration, seed, versions, device, input hash, seconds

    @property
    def flagged(self) -> tuple[str, ...]:
        """Names of the flagged segments, from head to feet."""
        return tuple(segment.name for segment in self.segments if segment.flagged)

    def on_input(self, name: str) -> np.ndarray:
        """A map (one of `MAPS`) on the input's own grid, (I, J, K); zero where nothing was analysed.

        Maps are float32; `reconstruction` is in the input's intensities, `anomaly` and `error` in the 0–1 of the
        standard slices, `uncertainty` in their square. `cord` and `segments` are uint8.
        """
        if name == "cord":
            return self.stack.grid.to_input(self.region.cord.astype(np.uint8), order=0)
        if name == "segments":
            return self.stack.grid.to_input(self.region.segment_labels(), order=0)
        rebuilt = self.reconstruction
        planes = {
            "anomaly": self.anomaly,
            "error": rebuilt.aleatoric,
            "uncertainty": rebuilt.epistemic,
            "reconstruction": self.stack.to_intensity(rebuilt.mean),
        }[name]
        grid, chosen = self.stack.grid, list(self.slices)
        shown = np.zeros(self.region.cord.shape, bool)
        shown[chosen] = self.region.cord[chosen]
        whole = np.zeros(shown.shape, np.float32)
        whole[chosen] = np.where(shown[chosen], planes, 0)
        # At the border only what lies in the cord is averaged, or values would sink there towards the 0 around it.
        share = grid.to_input(shown.astype(np.float32), order=1)
        cord = (share > 0) & (grid.to_input(shown.astype(np.uint8), order=0) > 0)
        return np.where(cord, grid.to_input(whole, order=1) / np.where(cord, share, 1), 0).astype(np.float32)


def analyse(
    volume: Volume,
    *,
    cord: Volume | None = None,
    discs: Volume | Discs | None = None,
    region_model: RegionModel | str | None = "default",
    cord_convention: str = "auto",
    disc_convention: str = "auto",
    shift_levels: int = 0,
    prepared: Prepared | None = None,
    model: Model | str = "default",
    device: str = "auto",
    slices: str | int = "all",
    score: str | None = None,
    k: int | None = None,
    scheme: str | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> Analysis:
    """Find what does not look like a cord.

    :param volume: sagittal T2-weighted MR of the neck; any orientation, one or more sagittal slices.
    :param cord: mask of the spinal cord, on any grid in the same space.
    :param discs: labels of the discs C2/3 … C7/T1.
    :param region_model: finds the cord and the discs that are not given. None finds nothing: then the cord must be
        given, and without discs everything but the segments works.
    :param cord_convention, disc_convention: how the labels are to be read; "auto" detects it, and a note says how.
    :param shift_levels: added to every disc's number, where the labels are a level off.
    :param prepared: slices and region that `roi.source.prepare` made of this volume, for several analyses of it;
        labels and region model are not looked at then.
    :param slices: "all" slices with enough cord, the "middle" one (as the paper), or a number of slices.
    :param score: "default", or "paper" for the paper's own AnoMap. None: the default where the model has it.
    :param k, scheme: Monte Carlo settings other than the model's.
    :param seed: of the Monte Carlo masks; the same seed gives the same result.
    :param progress: called as `(stage, done, total)`; may raise `errors.Cancelled`.
    :param say: told what happens on the way that the user should know at once, such as memory running out.
    :raises InputError: the image or the labels cannot be used. :raises ModelError: the model cannot.
    """
    started = time.perf_counter()
    slices = slice_rule(slices)

    from .device import choose_device, describe
    from .montecarlo import monte_carlo

    target = choose_device(device)
    if not isinstance(model, Model):
        model = load_model(model)
    score = model.score_name(score)
    score_config = model.scores[score]
    prepared = prepared or prepare(
        volume,
        cord=cord,
        discs=discs,
        cord_convention=cord_convention,
        disc_convention=disc_convention,
        shift_levels=shift_levels,
        region_model=region_model,
        preprocessing=model.preprocessing,
        device=device,
        progress=progress,
        say=say,
    )
    stack, region = prepared.stack, prepared.region
    sure = region.cord
    if prepared.record["cord"] == FOUND:
        sure = without_sides(region.cord, stack.grid.slice_spacing_mm)
    chosen = analysed_slices(sure, slices)
    index = list(chosen)
    images, cords = stack.images[index], region.cord[index]
    doubts = refuse_other_contrast(volume.name, images, cords, model.purpose)
    wanted = {name: value for name, value in (("k", k), ("scheme", scheme)) if value is not None}
    monte_carlo_config: MonteCarloConfig = replace(model.monte_carlo, **wanted)
    rebuilt = monte_carlo(
        model.network, images, cords, monte_carlo_config, seed, chosen, device=target, progress=progress, say=say
    )
    evidence = _evidence(model, score_config, stack, region, chosen, rebuilt, target, progress)
    progress("Scoring", 0, 1)
    thresholds = model.thresholds_for(slices, score)
    notes = (*prepared.notes, *doubts, *_cut_off_notes(stack), *_unflagged_notes(thresholds, score, slices))
    result = scored(
        volume,
        stack,
        region,
        chosen,
        rebuilt,
        evidence,
        score=score,
        score_config=score_config,
        thresholds=thresholds,
        notes=notes,
        provenance={
            "input": {"name": volume.name, "sha256": volume_hash(volume)},
            "model": {"name": model.name, "sha256": model.sha256},
            "region": {name: prepared.record[name] for name in _REGION_RECORD},
            "configuration": {
                "slices": str(slices),
                "analysed_slices": list(chosen),
                "cord_convention": prepared.record["cord"],
                "disc_convention": prepared.record["discs"],
                "shift_levels": shift_levels,
                "preprocessing": asdict(model.preprocessing),
                "monte_carlo": asdict(monte_carlo_config),
                "score": score,
                "score_settings": asdict(score_config),
            },
            "seed": seed,
            "device": describe(target) if rebuilt.device == str(target) else rebuilt.device,
            "versions": _versions(),
        },
    )
    progress("Scoring", 1, 1)
    seconds = round(time.perf_counter() - started, 2)
    return replace(result, provenance=result.provenance | {"seconds": seconds})


def scored(
    volume: Volume,
    stack: SagittalStack,
    region: Region,
    slices: tuple[int, ...],
    reconstruction: Reconstruction,
    evidence: Evidence,
    *,
    score: str,
    score_config: ScoreConfig,
    thresholds: Thresholds | None,
    notes: tuple[str, ...],
    provenance: dict,
) -> Analysis:
    """What follows from reconstruction and evidence: map, curve, scores, flags and lesions. Takes a fraction of a
    second and no torch."""
    cords = region.cord[list(slices)]
    anomaly = filtered_map(evidence.map, cords, score_config)
    judged = {"segments": region.segments, "edge_rows": stack.grid.edge_rows}
    curve = volume_curve(anomaly, cords, region.centreline, slices, score_config, **judged)
    smaller = replace(score_config, erosion_px=score_config.erosion_px + 1)
    smaller_map = filtered_map(evidence.smaller, cords, smaller)
    unflagged = Analysis(
        volume=volume,
        stack=stack,
        region=region,
        slices=slices,
        reconstruction=reconstruction,
        score=score,
        evidence=evidence,
        anomaly=anomaly,
        curve=curve,
        smaller_curve=volume_curve(smaller_map, cords, region.centreline, slices, smaller, **judged),
        segments=(),
        missing=(),
        patient_score=patient_score(curve),
        patient_flagged=None,
        thresholds=None,
        lesions=[],
        notes=notes,
        provenance=provenance,
    )
    return _flagged(unflagged, thresholds)


def _flagged(analysis, thresholds):
    """The analysis with what depends on the thresholds: flags and lesions."""
    region, curve = analysis.region, analysis.curve
    gone = (
        {*_unflagged_notes(None, analysis.score, analysis.provenance["configuration"]["slices"])} if thresholds else ()
    )
    kept = (note for note in analysis.notes if note not in gone and not note.startswith(_AT_EDGE))
    segments, unseen = _segment_results(curve, region, thresholds)
    lesions = []
    if thresholds:
        found = find_lesions(analysis.anomaly, curve, region, thresholds.segment, thresholds.patient)
        signal = analysis.stack.to_intensity(analysis.stack.images)
        lesions = lesion_table(
            found,
            curve,
            region,
            signal,
            analysis.stack.grid.slice_spacing_mm,
            uncertainty=analysis.reconstruction.epistemic,
            evidence=analysis.evidence,
            smaller_curve=analysis.smaller_curve,
        )
    return replace(
        analysis,
        segments=segments,
        missing=tuple(sorted({*region.missing, *unseen})),
        patient_flagged=None if thresholds is None else analysis.patient_score > thresholds.patient,
        thresholds=thresholds,
        lesions=lesions,
        notes=(*kept, *_edge_notes(curve, thresholds)),
    )


def relabelled(analysis: Analysis, discs: Discs) -> Analysis:
    """The same analysis with other discs: names, borders and flags of the segments follow, maps and curve stay.

    What was noted of the discs before, and doubts about those that were found, are dropped with them.

    :raises InputError: the discs do not lie along the cord.
    """
    region = region_in_stack(analysis.stack, analysis.region.cord, discs)
    source = analysis.provenance["region"]
    gone = {*analysis.region.notes, *source.get("disc_notes", ()), *map(doubt_note, source["disc_doubts"])}
    notes = tuple(note for note in analysis.notes if note not in gone) + region.notes
    configuration = analysis.provenance["configuration"] | {"disc_convention": discs.convention}
    source = source | {"disc_doubts": [], "disc_notes": list(region.notes)}
    source["doubts"] = [d for d in source["doubts"] if doubt_note(d) not in gone]
    return scored(
        analysis.volume,
        analysis.stack,
        region,
        analysis.slices,
        analysis.reconstruction,
        analysis.evidence,
        score=analysis.score,
        score_config=from_dict(ScoreConfig, configuration["score_settings"]),
        thresholds=analysis.thresholds,
        notes=notes,
        provenance=analysis.provenance | {"configuration": configuration, "region": source},
    )


def rescored(
    analysis: Analysis, model: Model, score: str, *, device: str = "auto", progress: Progress = no_progress
) -> Analysis:
    """The same analysis under another score of the same model: nothing is reconstructed again.

    :raises UsageError: the model has no such score, or is not the one of the analysis.
    """
    from .device import choose_device

    if analysis.provenance["model"]["sha256"] != model.sha256:
        raise UsageError(f"The analysis was not made with the model {model.name}.")
    score = model.score_name(score)
    config = model.scores[score]
    configuration = analysis.provenance["configuration"]
    rule = configuration["slices"]
    thresholds = model.thresholds_for(rule, score)
    gone = _unflagged_notes(None, analysis.score, rule)
    evidence = _evidence(
        model, config, analysis.stack, analysis.region, analysis.slices, analysis.reconstruction,
        choose_device(device), progress,
    )  # fmt: skip
    return scored(
        analysis.volume,
        analysis.stack,
        analysis.region,
        analysis.slices,
        analysis.reconstruction,
        evidence,
        score=score,
        score_config=config,
        thresholds=thresholds,
        notes=(*(n for n in analysis.notes if n not in gone), *_unflagged_notes(thresholds, score, rule)),
        provenance=analysis.provenance
        | {"configuration": configuration | {"score": score, "score_settings": asdict(config)}},
    )


def _evidence(model, config, stack, region, chosen, rebuilt, device, progress):
    """What speaks for a lesion in the chosen slices, by the evidence that the score asks for."""
    images, cords = stack.images[list(chosen)], region.cord[list(chosen)]
    if config.evidence != "discriminator":
        return error_evidence(images, cords, rebuilt, config)
    positions = [k * stack.grid.slice_spacing_mm for k in chosen]
    return discriminator_evidence(
        model.discriminators, images, cords, rebuilt, config, positions, device=device, progress=progress
    )


def _unflagged_notes(thresholds, score, slices):
    if thresholds is not None:
        return ()
    return (
        f"The model has no thresholds for the score {score!r} with --slices {slices}: scores are given, nothing is "
        "flagged.",
    )


def with_thresholds(analysis: Analysis, segment: float, patient: float) -> Analysis:
    """The same analysis flagged at other thresholds, chosen by the user."""
    slices = analysis.provenance["configuration"]["slices"]
    return _flagged(analysis, Thresholds(segment, patient, slices, "chosen by the user", analysis.score))


def slice_rule(slices: str | int) -> str | int:
    """ "all", "middle" or a positive number, also as text. :raises UsageError: anything else."""
    if isinstance(slices, str) and slices.isdecimal():
        slices = int(slices)
    if slices in ("all", "middle") or (isinstance(slices, int) and slices > 0):
        return slices
    raise UsageError(f"The slices to analyse are 'all', 'middle' or a positive number, not {slices!r}.")


def _segment_results(curve, region, thresholds):
    """Results of the segments that show cord in an analysed slice, and the names of the others."""
    results, unseen = [], []
    for segment in region.segments:
        at = peak(curve, segment.start_mm, segment.stop_mm)
        if at is None:
            unseen.append(segment.name)
            continue
        score = float(curve.maximum[at])
        results.append(
            SegmentResult(
                number=segment.number,
                name=segment.name,
                score=score,
                flagged=None if thresholds is None else score > thresholds.segment,
                start_mm=segment.start_mm,
                stop_mm=segment.stop_mm,
                peak_mm=float(curve.s_mm[at]),
                peak_slice=int(curve.slice_of_maximum[at]),
            )
        )
    return tuple(results), unseen


def _cut_off_notes(stack):
    if not stack.cord_outside_mm:
        return ()
    return (f"{stack.cord_outside_mm:.0f} mm of the cord lie outside the 256 mm window and were not analysed.",)


def _edge_notes(curve, thresholds):
    """What stands out where nothing is flagged because the image ends."""
    over = ~curve.counted & (curve.maximum > thresholds.patient) if thresholds else np.zeros(0, bool)
    if not over.any():
        return ()
    at = int(np.where(over, curve.maximum, -np.inf).argmax())
    return (
        f"{_AT_EDGE} ({curve.s_mm[at]:.0f} mm along the cord, slice {curve.slice_of_maximum[at]}) the score is "
        f"{curve.maximum[at]:.2f}; it is not flagged, since images are distorted there. Look at it yourself.",
    )


def _versions():
    from importlib.metadata import version

    packages = ("torch", "numpy", "SimpleITK", "scikit-image", "safetensors")
    return {"U2AD": __version__, "Python": platform.python_version(), **{name: version(name) for name in packages}}

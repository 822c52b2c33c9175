"""Scores of a method's maps or boxes, one file for each fold and change of the images: `scores/METHOD/STRATEGY/`.

Beside the scores (`FOLD.jsonl`) stands how well the cord is rebuilt (`FOLD.quality.jsonl`), for methods that rebuild.
Every table reads the same files; a case that is there is not scored again.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from scipy.ndimage import zoom

from ....files import write_json
from ....progress import Progress, no_progress
from ....reconstruction import Reconstruction
from ....rivals.detector import BoxDetector, Maps, Rival
from ...reconstruction import reconstruction_quality
from ..config import digest
from ..contracts import CaseScores, ExperimentCase
from ..scores import append_line, append_scores, read_scores, score_boxes, score_maps
from ..training import Comparison, Entry, Stage

BINS = 50  # of histograms of intensities, 0–1
SECONDS_PER_IMAGE = {"anoddpm": 8.0, "u2ad-default": 0.3, "slic": 0.3, "dbscan": 0.3}  # for the estimate
USUAL_SECONDS = 0.2


@dataclass(frozen=True)
class Change:
    """What is done to the images before a method sees them (Fig. 7). noise: σ of a Gaussian; coarse: factor by which
    they are downsampled, and interpolated again."""

    noise: float = 0.0
    coarse: int = 1

    @property
    def name(self) -> str:
        parts = [f"noise-{self.noise:.4g}"] * bool(self.noise) + [f"coarse-{self.coarse}"] * (self.coarse > 1)
        return "-".join(parts)

    def apply(self, images: np.ndarray, seed: int) -> np.ndarray:
        """Images (S, H, W) 0–1, changed; the same for every method."""
        if self.coarse > 1:
            images = np.stack([_coarse(image, self.coarse) for image in images])
        if self.noise:
            images = images + np.random.default_rng(seed).normal(0, self.noise, images.shape)
        return np.clip(images, 0, 1).astype(np.float32)


UNCHANGED = Change()


def _coarse(image, factor):
    rows, columns = image.shape
    small = image.reshape(rows // factor, factor, columns // factor, factor).mean(axis=(1, 3))
    return zoom(small, factor, order=1, grid_mode=True, mode="nearest")


@dataclass(frozen=True)
class Job:
    """Scores of one fold's images. seed: of the training; inference: of the maps."""

    entry: Entry
    strategy: int
    fold: int
    seed: int = 0
    inference: int = 0
    change: Change = UNCHANGED
    use: str = "test"

    @property
    def name(self) -> str:
        """For progress and messages."""
        parts = [self.entry.label, f"strategy {self.strategy}", f"fold {self.fold + 1}", self.change.name]
        parts += [self.use] * (self.use != "test") + [f"maps {self.inference}"] * bool(self.inference)
        return ", ".join(part for part in parts if part)

    def path(self, out: Path) -> Path:
        """Where the scores are kept."""
        parts = [f"fold-{self.fold + 1}"]
        parts += [f"seed-{self.seed}"] * bool(self.seed) + [f"maps-{self.inference}"] * bool(self.inference)
        parts += [self.change.name] * bool(self.change.name) + [self.use] * (self.use != "test")
        folder = out / "scores" / file_name(self.entry.label) / f"strategy-{self.strategy}"
        return folder / (".".join(parts) + ".jsonl")


def file_name(text: str) -> str:
    """Text without what a file's name cannot hold."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)


def quality_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".jsonl") + ".quality.jsonl")


def stage_of(comparison: Comparison, job: Job) -> Stage | None:
    """The training whose result a job scores."""
    return comparison.stage(job.entry, job.strategy, job.fold, job.seed)


def key_of(comparison: Comparison, job: Job) -> str:
    """A hash of all that the scores depend on."""
    config, stage = comparison.config, stage_of(comparison, job)
    sets = config.validation if job.use == "validation" else config.test
    people = None if job.use == "validation" else comparison.held_out(job.fold)
    score = asdict(config.score_of(job.entry.method))
    values = [stage and stage.key, comparison.set_key(sets, job.use), people, score]
    values += [job.entry.method, job.entry.settings]
    return digest([*values, job.inference, asdict(job.change)])


def cases_of(comparison: Comparison, job: Job) -> list[ExperimentCase]:
    """The images of a job."""
    if job.use == "validation":
        return list(comparison.validation)
    held_out = set(comparison.held_out(job.fold))
    return [case for case in comparison.cases if case.person in held_out]


def is_scored(comparison: Comparison, job: Job) -> bool:
    """Whether nothing is left to do."""
    path = job.path(comparison.out)
    return path.exists() and _recorded(path) == {"key": key_of(comparison, job), "done": True}


def _recorded(path):
    try:
        return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def score(comparison: Comparison, job: Job, progress: Progress = no_progress) -> None:
    """Score what is not scored yet. Its training must be done."""
    if is_scored(comparison, job):
        return
    path, key = job.path(comparison.out), key_of(comparison, job)
    kept = _recorded(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kept is None or kept["key"] != key:
        for old in (path, quality_path(path)):
            old.unlink(missing_ok=True)
    write_json(path.with_suffix(".json"), {"key": key, "done": False})
    path.touch()  # a fold may have no image that can be used
    rival = comparison.trained(job.entry, stage_of(comparison, job))
    done, cases = read_scores(path), cases_of(comparison, job)
    known = read_quality(path)
    warm = False
    for number, case in enumerate(cases):
        progress(job.name, number, len(cases))
        if case.id in done:
            continue
        shown = replace(case, images=job.change.apply(case.images, number))
        if not warm:
            look(rival, shown, job.inference)  # what is needed once does not count as the first image's time
            warm = True
        seconds, found = _timed(lambda shown=shown: look(rival, shown, job.inference))
        if isinstance(found, Maps) and case.id not in known and (rebuilt := quality(shown, found)):
            append_line(quality_path(path), json.dumps({"id": case.id, **rebuilt}))
        append_scores(path, scored(comparison, job, case, found, seconds))
    progress(job.name, len(cases), len(cases))
    write_json(path.with_suffix(".json"), {"key": key, "done": True})


def look(rival: Rival, case: ExperimentCase, seed: int = 0):
    """A method's maps of a case, or its boxes."""
    if isinstance(rival, BoxDetector):
        return rival.boxes(case.images)
    return rival.anomaly_map(case.images, case.cords, seed)


def scored(comparison: Comparison, job: Job, case: ExperimentCase, found, seconds: float) -> CaseScores:
    """Scores of what `look` gave."""
    if isinstance(found, Maps):
        return score_maps(case, found.anomaly, comparison.config.score_of(job.entry.method), seconds)
    return score_boxes(case, found, seconds)


def _timed(work: Callable):
    started = perf_counter()
    result = work()
    return round(perf_counter() - started, 5), result


# ---------------------------------------------------------------------------------------------------------- rebuilding


def quality(case: ExperimentCase, maps: Maps) -> dict:
    """MSE, PSNR, SSIM and variance × 1000 in the cord, against the image; "lesion_…": inside planted lesions, against
    the image before they were planted (paper 4.2, App. D). rebuilt: histogram of the rebuilt intensities there. Empty
    for methods that do not rebuild."""
    if maps.reconstruction is None:
        return {}
    variance = np.zeros_like(maps.anomaly) if maps.uncertainty is None else maps.uncertainty
    rebuilt = Reconstruction(maps.reconstruction, maps.anomaly, variance, 0, "")
    made = reconstruction_quality(case.images, case.cords, rebuilt)
    if case.lesions is not None and case.lesions.any() and case.original is not None:
        inside = (case.lesions > 0) & case.cords
        at = np.flatnonzero(inside.any(axis=(1, 2)))
        if len(at):
            part = Reconstruction(maps.reconstruction[at], maps.anomaly[at], variance[at], 0, "")
            found = reconstruction_quality(case.original[at], inside[at], part)
            made |= {f"lesion_{name}": value for name, value in found.items()}
            made["rebuilt"] = histogram(maps.reconstruction[inside])
    if maps.uncertainty is None:
        made = {name: value for name, value in made.items() if not name.endswith("variance")}
    return made


def histogram(values: np.ndarray) -> list[int]:
    """Counts in `BINS` equal parts of 0–1."""
    return np.histogram(np.clip(values, 0, 1), BINS, (0, 1))[0].tolist()


def mean_and_spread(counts: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of a histogram."""
    share, middles = _shares(counts), (np.arange(BINS) + 0.5) / BINS
    mean = float((share * middles).sum())
    return mean, float(np.sqrt((share * (middles - mean) ** 2).sum()))


def distance(counts: np.ndarray, others: np.ndarray) -> float:
    """Wasserstein's, of two histograms, in units of the intensity."""
    return float(np.abs(np.cumsum(_shares(counts) - _shares(others))).sum() / BINS)


def overlap(counts: np.ndarray, others: np.ndarray) -> float:
    """Of two histograms, 0–1."""
    return float(np.minimum(_shares(counts), _shares(others)).sum())


def _shares(counts):
    return counts / max(counts.sum(), 1)


def read_quality(path: Path) -> dict[str, dict]:
    """By case; a last line that a kill cut off is left out."""
    file = quality_path(path)
    if not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
    return {line["id"]: line for line in lines}


def seconds_of(job: Job, images: int) -> float:
    """A guess, for the estimate."""
    return images * SECONDS_PER_IMAGE.get(job.entry.method, USUAL_SECONDS)

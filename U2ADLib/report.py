"""The results of an analysis as files in one folder, all of them or none, and as text for a person.

| file | content |
|---|---|
| `analysis.json` | scores, flags and how they were made, see below |
| `anomaly.nii.gz` | filtered anomaly map of the score in use, image 0–1 |
| `error.nii.gz` | \\|image − mean reconstruction\\| (aleatoric), image 0–1 |
| `uncertainty.nii.gz` | variance of the reconstructions (epistemic), image 0–1 squared |
| `reconstruction.nii.gz` | mean reconstruction in the cord, in the input's own intensities |
| `cord.nii.gz` | 1 = cord |
| `segments.nii.gz` | 3 = C2-3 … 8 = C7-T1; absent where no segment is known |
| `anocurve.csv` | position_mm along the cord, segment, whether it counts (1; 0: at the image's edge, where nothing is
flagged), maximum over the slices, its slice, and a column per slice |
| `segments.csv` | a row per covered segment: score, threshold, flagged, position of its ends and its peak |
| `lesions.csv` | a row per lesion, columns as the Spinal Cord Toolbox (`lesions.COLUMNS`); absent without thresholds |
| `analysis.safetensors` | the maps in the standard slices, to go on from there (see `saved.py`) |
| `overlay.png`, `anocurve.png` | the slices with the map, the curve (see `pictures/analysis.py`) |

Images lie on the input's own grid (float32, labels uint8) and are 0 where nothing was analysed. Slices are
numbered from the patient's right, from 0. Positions are mm along the cord from its upper end. `analysis.json`:

- `research_use_only`: the statement. `format`: 1.
- `patient`: {`score`, `flagged`}; `segments`: [{`name`, `number`, `score`, `flagged`, `start_mm`, `stop_mm`,
  `peak_mm`, `peak_slice`}] from head to feet. `flagged` is null where the model has no thresholds for the
  choice of slices and the score. Scores are values of the AnoCurve, 0–1: mean anomalies across the cord ("paper"), or
  the highest probability there ("default"). `missing`: names of segments not covered.
- `thresholds`: null or {`segment`, `patient`, `slices` and `score` they hold for, `origin`: how they were set}.
- `slices`: the analysed ones, [{`number`, `left_mm` from the slice with most cord (negative: right), `input_axis`,
  `input_index`: the input's own numbering, from 0}].
- `notes`: what the user should know. `files`: what each file holds.
- `provenance`: `input` {`name`, `sha256` of voxels and geometry}, `model` {`name`, `sha256`}, `configuration`,
  `seed`, `device`, `versions`, `seconds`, and what the caller adds. `state_sha256`: of `analysis.safetensors`.

Nothing says more about the patient than the input's own file name does: no path, no date, no header field.
"""

import csv
import json
import os
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from .analysis import MAPS, Analysis
from .curve import patient_peak
from .errors import InputError, U2ADError
from .files import file_sha256, staged, write_json
from .io import write_volume
from .lesions import COLUMNS
from .pictures.analysis import anocurve_picture, mm_left, overlay_picture, verdict
from .pictures.canvas import RESEARCH_USE_ONLY
from .pictures.labelled import labelled_picture
from .progress import Progress, no_progress
from .roi.labels import DISC_NAMES, disc_labels
from .roi.source import Prepared
from .saved import STATE, read_state, write_state
from .volume import Volume, volume_hash

FORMAT = 1
RECORD = "analysis.json"
FILES = {
    "anomaly.nii.gz": "filtered anomaly map of the score in use, image 0-1",
    "error.nii.gz": "|image - mean reconstruction|, image 0-1",
    "uncertainty.nii.gz": "variance of the reconstructions, image 0-1 squared",
    "reconstruction.nii.gz": "mean reconstruction in the cord, in the input's intensities",
    "cord.nii.gz": "1 = cord",
    "segments.nii.gz": "3 = C2-3, 4 = C3-4, 5 = C4-5, 6 = C5-6, 7 = C6-7, 8 = C7-T1",
    "anocurve.csv": "anomaly along the cord: position in mm, maximum over slices, each slice",
    "segments.csv": "scores of the segments",
    "lesions.csv": "findings above the thresholds",
    "overlay.png": "the analysed slices without and with the anomaly map",
    "anocurve.png": "anomaly along the cord",
    STATE: "maps in the standard slices, to go on from there",
}

QC_PAGE = "qc.html"  # shows earlier results (`qc_page.py`): it goes with them

REGION_FILES = ("cord.nii.gz", "discs.nii.gz", "segments.nii.gz", "region.png", "region.json")


def check_output(out: Path, overwrite: bool = False) -> None:
    """Whether results could be written to a folder; to be asked before an analysis, too.

    :raises InputError: it is a file, holds results and `overwrite` is not set, or holds other people's files.
    """
    out = Path(out)
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"The results cannot be written to {out.name}: that is a file. Choose another folder.")
    if not any(out.iterdir()):
        return
    try:
        read_analysis(out)
    except InputError as error:
        raise InputError(f"{error} It is not empty either: choose another folder for the results.") from None
    if not overwrite:
        raise InputError(f"The folder {out.name} holds results already: choose another one, or add --overwrite.")


def write_results(
    analysis: Analysis, out: Path, overwrite: bool = False, progress: Progress = no_progress
) -> list[Path]:
    """Write all files to the folder `out`, or nothing at all.

    Everything is made in a hidden folder beside `out`, which takes its place in the end. Earlier results in
    `out` are replaced as a whole where `overwrite` is set; files in it that are not ours are carried over.

    :param progress: may raise `errors.Cancelled`. :returns: the files' paths.
    :raises InputError: as `check_output`. :raises U2ADError: writing failed; `out` is as it was.
    """
    given, out = Path(out), Path(out).resolve()
    check_output(out, overwrite)
    new_parents = [parent for parent in out.parents if not parent.exists()]
    token = secrets.token_hex(4)
    made, replaced = (out.parent / f".{out.name}-{token}-{kind}" for kind in ("new", "old"))
    try:
        made.mkdir(parents=True)
        names = _write_files(analysis, made, progress)
        if out.exists():
            _carry_over(out, made)
            os.rename(out, replaced)
        os.rename(made, out)
    except BaseException as error:
        if replaced.exists() and not out.exists():
            os.rename(replaced, out)
        shutil.rmtree(made, ignore_errors=True)
        for parent in new_parents:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(error, OSError):
            reason = error.strerror or type(error).__name__
            raise U2ADError(f"The results could not be written to {given}: {reason}.") from error
        raise
    shutil.rmtree(replaced, ignore_errors=True)
    return [given / name for name in names]


def write_region(volume: Volume, prepared: Prepared, out: Path, overwrite: bool = False) -> None:
    """Write what `u2ad locate` finds, all or nothing: see `REGION_FILES`. Labels lie on the volume's own grid.

    :raises InputError: a file of that name is there and `overwrite` is not set.
    """
    region, grid = prepared.region, prepared.stack.grid
    points = {n: grid.stack_to_ras(point) for n, point in (region.discs or {}).items()}
    labels = {
        "cord.nii.gz": prepared.cord.astype(np.uint8),
        "discs.nii.gz": disc_labels(volume, points),
        "segments.nii.gz": grid.to_input(region.segment_labels(), order=0),
    }
    volumes = {name: volume.with_array(array) for name, array in labels.items()}
    with staged(out, REGION_FILES, overwrite) as place:
        for name, label in volumes.items():
            write_volume(place / name, label)
        labelled_picture(place / "region.png", volume, volumes["cord.nii.gz"], volumes["discs.nii.gz"])
        record = {
            "format": FORMAT,
            "research_use_only": RESEARCH_USE_ONLY,
            "input": {"name": volume.name, "sha256": volume_hash(volume)},
            **prepared.record,
            "discs_ras_mm": {DISC_NAMES[n]: np.round(point, 2).tolist() for n, point in points.items()},
            "segments": [segment.name for segment in region.segments],
            "missing": list(region.missing),
            "notes": list(prepared.notes),
        }
        write_json(place / "region.json", record)


def region_text(prepared: Prepared, out: Path) -> str:
    """What a person reads of `write_region`."""
    lines = [f"Segments: {', '.join(s.name for s in prepared.region.segments) or 'none'}"]
    if prepared.record["confidence"]:
        sure = ", ".join(f"{name} {value:.2f}" for name, value in prepared.record["confidence"].items())
        lines.append(f"Confidence (0-1): {sure}")
    lines += [f"Note: {note}" for note in prepared.notes]
    return "\n".join([*lines, f"Picture: {Path(out) / 'region.png'}", RESEARCH_USE_ONLY])


def read_analysis(out: Path) -> dict:
    """The content of `analysis.json` in a folder of results. :raises InputError: there is none that we wrote."""
    path = Path(out) / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"The folder {path.parent.name} holds no {RECORD}.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{RECORD} in {path.parent.name} cannot be read: {error}.") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT or "provenance" not in record:
        raise InputError(f"{RECORD} in {path.parent.name} was not written by this version of U2AD.")
    return record


def read_results(out: Path, volume: Volume) -> Analysis:
    """The analysis of a volume whose results are in the folder `out`. :raises InputError: it holds no such results."""
    return read_state(out, read_analysis(out), volume)


def summary_text(analysis: Analysis, out: Path | None = None) -> str:
    """What a person reads in the end: the verdict, the scores, what to know, and where the pictures are."""
    thresholds, curve = analysis.thresholds, analysis.curve
    at = patient_peak(curve)
    where = (int(curve.slice_of_maximum[at]), float(curve.s_mm[at]))
    rows = [(s.name, s.score, "segment", s.flagged, (s.peak_slice, s.peak_mm)) for s in analysis.segments]
    rows.append(("patient", analysis.patient_score, "patient", analysis.patient_flagged, where))
    lines = [verdict(analysis), "", "segment    score  threshold"]
    for name, score, kind, flagged, (number, mm) in rows:
        limit = f"{getattr(thresholds, kind):.3f}" if thresholds else "-"
        mark = f"  flagged: slice {number}, {mm:.0f} mm along the cord" if flagged else ""
        lines.append(f"{name:<8} {score:>7.3f} {limit:>10}{mark}")
    lines.append("")
    lines += [finding_text(analysis, lesion) for lesion in analysis.lesions]
    if analysis.segments and analysis.missing:
        lines.append(f"Not analysed: {', '.join(analysis.missing)}")
    lines += [f"Note: {note}" for note in analysis.notes]
    if out is not None:
        lines.append(f"Pictures: {Path(out) / 'overlay.png'}, {Path(out) / 'anocurve.png'}")
    seconds, model = analysis.provenance["seconds"], analysis.provenance["model"]["name"]
    lines.append(f"{len(analysis.slices)} slice(s) in {seconds:.1f} s with the model {model}.")
    return "\n".join([*lines, RESEARCH_USE_ONLY])


def finding_text(analysis: Analysis, lesion: dict) -> str:
    """A finding in words: its place, the simple rule beside it, and whether it would survive a smaller mask."""
    place = lesion["segment"] or "outside the segments"
    size = f"{lesion['length [mm]']:.0f} x {lesion['width [mm]']:.0f} mm"
    smaller, thresholds = lesion["peak_score_smaller_mask []"], analysis.thresholds
    limit = thresholds.segment if lesion["segment"] else thresholds.patient
    doubt = ": below the threshold, perhaps CSF at the border" if smaller <= limit else ""
    return (
        f"Finding {lesion['label']} ({place}, {size}): up to {lesion['local_gain []']:+.0%} against the cord around; "
        f"score {lesion['peak_score []']:.3f}, with a mask 1 px smaller {smaller:.3f}{doubt}"
    )


# --------------------------------------------------------------------------------------------------------------


def _write_files(analysis, folder, progress):
    """Write every file that there is something for; their names. The record comes last: it says what there is."""
    writers = {f"{name}.nii.gz": _map_writer(name) for name in MAPS}
    writers |= {
        "anocurve.csv": lambda path, analysis: _write_table(path, *_curve_table(analysis)),
        "segments.csv": lambda path, analysis: _write_table(path, *_segment_table(analysis)),
        "lesions.csv": lambda path, analysis: _write_table(
            path, COLUMNS, [[lesion[column] for column in COLUMNS] for lesion in analysis.lesions]
        ),
        "overlay.png": overlay_picture,
        "anocurve.png": anocurve_picture,
        STATE: write_state,
    }
    if not analysis.region.segments:
        del writers["segments.nii.gz"]
    if analysis.thresholds is None:
        del writers["lesions.csv"]
    for k, (name, write) in enumerate(writers.items()):
        progress("Writing", k, len(writers))
        write(folder / name, analysis)
    progress("Writing", len(writers), len(writers))
    write_json(folder / RECORD, analysis_record(analysis, writers) | {"state_sha256": file_sha256(folder / STATE)})
    return [RECORD, *writers]


def _map_writer(name):
    return lambda path, analysis: write_volume(path, analysis.volume.with_array(analysis.on_input(name)))


def analysis_record(analysis: Analysis, files: Iterable[str] = ()) -> dict:
    """What `analysis.json` holds, see the module's docstring; less the checksum of the state."""
    return {
        "format": FORMAT,
        "research_use_only": RESEARCH_USE_ONLY,
        "patient": {"score": analysis.patient_score, "flagged": analysis.patient_flagged},
        "segments": [asdict(segment) for segment in analysis.segments],
        "missing": list(analysis.missing),
        "thresholds": analysis.thresholds and asdict(analysis.thresholds),
        "slices": [_slice_record(analysis, number) for number in analysis.slices],
        "notes": list(analysis.notes),
        "files": {name: FILES[name] for name in files},
        "provenance": analysis.provenance,
    }


def _slice_record(analysis, number):
    grid = analysis.stack.grid
    index = grid.shape[0] - 1 - number if grid.reorientation.flips[0] else number
    return {
        "number": number,
        "left_mm": round(mm_left(analysis, number), 3),
        "input_axis": grid.reorientation.axes[0],
        "input_index": index,
    }


def _curve_table(analysis):
    curve = analysis.curve
    segment = np.full(len(curve.s_mm), "", object)
    for s in analysis.segments:
        segment[(curve.s_mm >= s.start_mm) & (curve.s_mm < s.stop_mm)] = s.name
    best = [None if number < 0 else int(number) for number in curve.slice_of_maximum]
    columns = ["position_mm", "segment", "counted", "maximum", "slice_of_maximum"]
    rows = zip(curve.s_mm, segment, curve.counted.astype(int), curve.maximum, best, *curve.values, strict=True)
    return [*columns, *(f"slice_{k}" for k in curve.slices)], rows


def _segment_table(analysis):
    threshold = analysis.thresholds and analysis.thresholds.segment
    header = ["segment", "score", "threshold", "flagged", "start_mm", "stop_mm", "peak_mm", "peak_slice"]
    return header, [
        [s.name, s.score, threshold, s.flagged, s.start_mm, s.stop_mm, s.peak_mm, s.peak_slice]
        for s in analysis.segments
    ]


def _write_table(path, header, rows):
    """CSV with six significant digits; empty where there is no value."""
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value):
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float | np.floating) else value


def _carry_over(old, new):
    """Copy what earlier results' folder holds beyond them, so that no file of the user's is ever lost."""
    for path in old.iterdir():
        if path.name in (RECORD, QC_PAGE) or path.name in FILES:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)

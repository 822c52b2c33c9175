import csv
import json
import os
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from made_analysis import CORD, LESION, THRESHOLDS, made_analysis, made_volumes, turn

from U2ADLib import report
from U2ADLib.errors import Cancelled, InputError, U2ADError
from U2ADLib.lesions import COLUMNS
from U2ADLib.report import check_output, read_analysis, summary_text, write_results

MAPS = {"anomaly", "error", "uncertainty", "reconstruction", "cord", "segments"}
ALL = {f"{name}.nii.gz" for name in MAPS} | {
    "analysis.json", "analysis.safetensors", "anocurve.csv", "segments.csv", "lesions.csv",
    "overlay.png", "anocurve.png",
}  # fmt: skip


@pytest.fixture
def analysis(monkeypatch):
    return made_analysis(monkeypatch)


def names(folder):
    return {path.name for path in folder.iterdir()}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def table(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_all_files_are_written(analysis, tmp_path):
    written = write_results(analysis, tmp_path / "deep" / "out")
    assert {path.name for path in written} == ALL
    assert all(path.parent == tmp_path / "deep" / "out" for path in written)
    assert names(tmp_path / "deep") == {"out"}
    assert names(tmp_path / "deep" / "out") == ALL


def test_record(analysis, tmp_path):
    write_results(analysis, tmp_path / "out")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "out" / "analysis.json").read_text(encoding="utf-8")
    record = json.loads(text, parse_constant=refuse)
    assert record == read_analysis(tmp_path / "out")
    assert record["patient"] == {"score": pytest.approx(0.375), "flagged": True}
    assert [s["name"] for s in record["segments"]] == ["C2-3", "C3-4", "C4-5", "C5-6", "C6-7", "C7-T1"]
    assert [s["name"] for s in record["segments"] if s["flagged"]] == ["C4-5"]
    assert record["segments"][2]["score"] == pytest.approx(0.375)
    assert record["segments"][2]["peak_slice"] == 4
    assert record["missing"] == []
    assert record["thresholds"] == {
        "segment": 0.2, "patient": 0.25, "slices": "all", "origin": "made up", "score": "paper"
    }  # fmt: skip
    assert [s["left_mm"] for s in record["slices"]] == pytest.approx([-6.6, -3.3, 0, 3.3, 6.6])
    assert "Research use only" in record["research_use_only"]
    assert set(record["files"]) == ALL - {"analysis.json"}
    provenance = record["provenance"]
    assert {"input", "model", "configuration", "seed", "device", "versions", "seconds"} <= set(provenance)
    assert provenance["input"]["name"] == "case7"
    assert len(provenance["input"]["sha256"]) == 64
    assert str(tmp_path) not in text


def test_tables_hold_the_values_of_the_analysis(analysis, tmp_path):
    write_results(analysis, tmp_path / "out")
    rows = table(tmp_path / "out" / "anocurve.csv")
    curve = analysis.curve
    assert list(rows[0]) == [
        "position_mm",
        "segment",
        "counted",
        "maximum",
        "slice_of_maximum",
        *(f"slice_{k}" for k in range(1, 6)),
    ]
    np.testing.assert_allclose([float(row["position_mm"]) for row in rows], curve.s_mm, rtol=1e-5)
    np.testing.assert_allclose([float(row["maximum"]) for row in rows], curve.maximum, rtol=1e-5)
    assert {row["counted"] for row in rows} == {"1"}
    np.testing.assert_allclose([float(row["slice_4"]) for row in rows], curve.values[3], rtol=1e-5)
    lesion = [row for row in rows if float(row["maximum"]) > 0.3]
    assert {(row["segment"], row["slice_of_maximum"]) for row in lesion} == {("C4-5", "4")}
    assert rows[0]["segment"] == rows[-1]["segment"] == ""

    segments = table(tmp_path / "out" / "segments.csv")
    assert [row["segment"] for row in segments if row["flagged"] == "true"] == ["C4-5"]
    assert [float(row["score"]) for row in segments] == pytest.approx([s.score for s in analysis.segments], rel=1e-5)
    assert {float(row["threshold"]) for row in segments} == {THRESHOLDS.segment}

    (lesion,) = table(tmp_path / "out" / "lesions.csv")
    assert tuple(lesion) == COLUMNS
    assert float(lesion["volume [mm3]"]) == pytest.approx(5 * 8 * 3.3)
    assert float(lesion["signal_change_ratio []"]) == pytest.approx(LESION / CORD)


def test_positions_without_cord_are_empty_cells(analysis, tmp_path):
    curve = analysis.curve
    values, maximum, best = curve.values.copy(), curve.maximum.copy(), curve.slice_of_maximum.copy()
    values[:, 0], maximum[0], best[0] = np.nan, np.nan, -1
    gap = replace(analysis, curve=replace(curve, values=values, maximum=maximum, slice_of_maximum=best))
    write_results(gap, tmp_path / "out")
    first, second = table(tmp_path / "out" / "anocurve.csv")[:2]
    assert set(first.values()) == {"0", "1", ""}
    assert "" not in list(second.values())[2:]


@pytest.mark.parametrize("codes", ["LIP", "RAS", "PSR", "ILA"])
@pytest.mark.parametrize("turned_deg", [0, 20])
def test_maps_lie_on_the_input(monkeypatch, tmp_path, codes, turned_deg):
    analysis = made_analysis(monkeypatch, codes, turned_deg)
    image, cord, _ = made_volumes(codes, turned_deg)
    write_results(analysis, tmp_path / "out")
    found = {name: nib.load(tmp_path / "out" / f"{name}.nii.gz") for name in MAPS}
    for name, nifti in found.items():
        assert nifti.shape == image.array.shape
        np.testing.assert_allclose(nifti.affine, image.affine, atol=1e-4)
        assert nifti.get_data_dtype() == (np.uint8 if name in ("cord", "segments") else np.float32)
        assert b"case7" not in nifti.header.binaryblock
    np.testing.assert_array_equal(found["cord"].dataobj, cord.array)
    lesion = np.abs(image.array - LESION) < 1
    for name in ("anomaly", "error"):
        values = np.asarray(found[name].dataobj)
        np.testing.assert_allclose(values, np.where(lesion, 0.375, 0), atol=1e-6)
    np.testing.assert_allclose(found["uncertainty"].dataobj, np.where(lesion, 0.1875, 0), atol=1e-6)
    np.testing.assert_allclose(found["reconstruction"].dataobj, np.where(cord.array > 0, CORD, 0), atol=1e-2)
    segments = np.asarray(found["segments"].dataobj)
    assert set(np.unique(segments)) == {0, 3, 4, 5, 6, 7, 8}
    assert (segments[lesion] == 5).all()
    # The lesion's middle in mm, from the canonical grid: slice 4, row 77, column 59.5.
    middle = turn(turned_deg) @ np.array([-3.3 * 4 + 12, -59.5 + 40, -77 + 90, 1])
    weights = np.argwhere(np.asarray(found["anomaly"].dataobj) > 0.3)
    np.testing.assert_allclose(nib.affines.apply_affine(image.affine, weights).mean(axis=0), middle[:3], atol=1e-3)


@pytest.mark.parametrize("codes", ["LIP", "RAS", "PSR", "ILA"])
def test_slices_are_found_in_the_input(monkeypatch, tmp_path, codes):
    write_results(made_analysis(monkeypatch, codes), tmp_path / "out")
    image = made_volumes(codes)[0].array
    record = read_analysis(tmp_path / "out")
    entry = next(s for s in record["slices"] if s["number"] == record["segments"][2]["peak_slice"])
    plane = np.take(image, entry["input_index"], axis=entry["input_axis"])
    assert np.count_nonzero(plane == LESION) == 5 * 8


def test_without_discs_or_thresholds_there_is_less(monkeypatch, tmp_path):
    write_results(made_analysis(monkeypatch, discs=(), thresholds=None), tmp_path / "out")
    assert names(tmp_path / "out") == ALL - {"segments.nii.gz", "lesions.csv"}
    record = read_analysis(tmp_path / "out")
    assert record["segments"] == []
    assert record["missing"] == ["C2-3", "C3-4", "C4-5", "C5-6", "C6-7", "C7-T1"]
    assert record["patient"]["flagged"] is None
    assert record["thresholds"] is None
    assert table(tmp_path / "out" / "segments.csv") == []


def test_missing_segments_are_named(monkeypatch, tmp_path):
    write_results(made_analysis(monkeypatch, discs=(3, 4, 5, 6)), tmp_path / "out")
    record = read_analysis(tmp_path / "out")
    assert [s["name"] for s in record["segments"]] == ["C2-3", "C3-4", "C4-5", "C5-6"]
    assert record["missing"] == ["C6-7", "C7-T1"]


def test_the_same_analysis_gives_the_same_bytes(analysis, tmp_path):
    for name in "ab":
        write_results(analysis, tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


# All or nothing


@pytest.mark.parametrize("error", [RuntimeError("bug"), Cancelled(), KeyboardInterrupt()])
def test_failure_leaves_nothing(analysis, tmp_path, monkeypatch, error):
    def fail(path, analysis):
        raise error

    monkeypatch.setattr(report, "anocurve_picture", fail)
    with pytest.raises(type(error)):
        write_results(analysis, tmp_path / "deep" / "er" / "out")
    assert names(tmp_path) == set()


def test_cancelling_by_progress_leaves_the_earlier_result(analysis, tmp_path):
    write_results(analysis, tmp_path / "out")
    before = contents(tmp_path / "out")

    def cancel(stage, done, total):
        if done == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        write_results(replace(analysis, notes=("new",)), tmp_path / "out", overwrite=True, progress=cancel)
    assert names(tmp_path) == {"out"}
    assert contents(tmp_path / "out") == before


def test_a_swap_that_fails_is_undone(analysis, tmp_path, monkeypatch):
    write_results(analysis, tmp_path / "out")
    before = contents(tmp_path / "out")
    rename = os.rename

    def fail_with_the_new_folder(source, target):
        if str(source).endswith("-new"):
            raise PermissionError(13, "in use")
        rename(source, target)

    monkeypatch.setattr(report.os, "rename", fail_with_the_new_folder)
    with pytest.raises(U2ADError, match="in use"):
        write_results(replace(analysis, notes=("new",)), tmp_path / "out", overwrite=True)
    assert names(tmp_path) == {"out"}
    assert contents(tmp_path / "out") == before


def test_earlier_results_are_replaced_only_on_demand(monkeypatch, analysis, tmp_path):
    out = tmp_path / "out"
    write_results(analysis, out)
    with pytest.raises(InputError, match="--overwrite"):
        write_results(analysis, out)
    (out / "my notes.txt").write_text("keep me")
    (out / "views").mkdir()
    (out / "views" / "scene.mrb").write_bytes(b"and me")
    write_results(made_analysis(monkeypatch, discs=(), thresholds=None), out, overwrite=True)
    assert names(tmp_path) == {"out"}
    # What the new result does not have is gone, what the user put there is not.
    assert names(out) == ALL - {"segments.nii.gz", "lesions.csv"} | {"my notes.txt", "views"}
    assert (out / "my notes.txt").read_text() == "keep me"
    assert (out / "views" / "scene.mrb").read_bytes() == b"and me"
    assert read_analysis(out)["segments"] == []


@pytest.mark.parametrize("record", [None, "{}", "not JSON", "[1]"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_others_is_refused(analysis, tmp_path, record, overwrite):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    if record is not None:
        (out / "analysis.json").write_text(record)
    before = contents(out)
    with pytest.raises(InputError, match="choose another folder"):
        write_results(analysis, out, overwrite=overwrite)
    assert contents(out) == before
    assert names(tmp_path) == {"out"}


def test_a_file_is_refused_and_an_empty_folder_is_not(analysis, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="that is a file"):
        check_output(tmp_path / "file", overwrite=True)
    (tmp_path / "empty").mkdir()
    write_results(analysis, tmp_path / "empty")
    assert names(tmp_path / "empty") == ALL
    assert names(tmp_path) == {"file", "empty"}


def test_results_are_as_readable_as_other_new_folders(analysis, tmp_path):
    (tmp_path / "usual").mkdir()
    write_results(analysis, tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


# Text


def test_summary_for_a_person(analysis, tmp_path):
    lines = summary_text(analysis, tmp_path / "out").splitlines()
    assert lines[0] == "Flagged: C4-5"
    values = {line.split()[0]: line.split() for line in lines if line.startswith(("C", "patient"))}
    assert values["C4-5"][1:5] == ["0.375", "0.200", "flagged:", "slice"]
    assert values["C5-6"][1:] == ["0.000", "0.200"]
    assert values["patient"][1:4] == ["0.375", "0.250", "flagged:"]
    assert any("overlay.png" in line for line in lines)
    assert lines[-1].startswith("Research use only")


def test_summary_without_thresholds_and_with_missing_segments(monkeypatch):
    text = summary_text(made_analysis(monkeypatch, discs=(3, 4, 5, 6), thresholds=None))
    assert text.startswith("Nothing is flagged: no thresholds")
    assert "Not analysed: C6-7, C7-T1" in text
    assert "nan" not in text
    assert "None" not in text

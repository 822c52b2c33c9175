"""Results read back and changed: the same numbers, without the network."""

import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from made_analysis import DISC_ROWS, made_analysis, made_volumes

from U2ADLib.analysis import MAPS, relabelled, with_thresholds
from U2ADLib.cli import main
from U2ADLib.errors import InputError
from U2ADLib.io import write_volume
from U2ADLib.report import read_analysis, read_results, write_results
from U2ADLib.roi.labels import Discs, moved, read_discs, renumbered
from U2ADLib.saved import STATE


@pytest.fixture
def analysis(monkeypatch):
    return made_analysis(monkeypatch, codes="PIR", turned_deg=14)


def discs_of(analysis):
    points = {n: analysis.stack.grid.stack_to_ras(p) for n, p in analysis.region.discs.items()}
    return Discs(points, analysis.region.disc_convention)


def test_what_is_read_is_what_was_written(analysis, tmp_path):
    write_results(analysis, tmp_path / "out")
    again = read_results(tmp_path / "out", analysis.volume)
    compared_below = ("volume", "stack", "region", "reconstruction", "evidence", "anomaly", "curve", "smaller_curve")
    for field in fields(analysis):
        if field.name not in compared_below:
            assert getattr(again, field.name) == getattr(analysis, field.name), field.name
    np.testing.assert_array_equal(again.stack.images, analysis.stack.images)
    np.testing.assert_array_equal(again.anomaly, analysis.anomaly)
    for name in ("map", "smaller", "gain"):
        cords = analysis.region.cord[list(analysis.slices)]
        np.testing.assert_array_equal(getattr(again.evidence, name)[cords], getattr(analysis.evidence, name)[cords])
    np.testing.assert_array_equal(again.curve.values, analysis.curve.values)
    np.testing.assert_array_equal(again.smaller_curve.values, analysis.smaller_curve.values)
    for name in MAPS:
        np.testing.assert_array_equal(again.on_input(name), analysis.on_input(name))


def test_another_image_and_damage_are_refused(analysis, tmp_path):
    write_results(analysis, tmp_path / "out")
    other = analysis.volume.with_array(analysis.volume.array + 1)
    with pytest.raises(InputError, match="another image"):
        read_results(tmp_path / "out", other)
    path = tmp_path / "out" / STATE
    path.write_bytes(path.read_bytes()[:-8] + b"changed!")
    with pytest.raises(InputError, match="damaged"):
        read_results(tmp_path / "out", analysis.volume)
    path.unlink()
    with pytest.raises(InputError, match="missing"):
        read_results(tmp_path / "out", analysis.volume)


def test_shifted_levels_move_the_names_only(analysis):
    """The lesion in C4-5 lies in C5-6 when every disc is one further down."""
    lower = relabelled(analysis, renumbered(discs_of(analysis), 1))
    assert analysis.flagged == ("C4-5",)
    assert lower.flagged == ("C5-6",)
    assert lower.missing == ("C2-3",)
    assert lower.patient_score == analysis.patient_score
    np.testing.assert_array_equal(lower.curve.maximum, analysis.curve.maximum)
    assert any("renumbered by +1" in note for note in lower.notes)
    assert lower.lesions[0]["segment"] == "C5-6"


def test_notes_of_other_levels_go_with_them_also_when_read_back(analysis, tmp_path):
    lower = relabelled(analysis, renumbered(discs_of(analysis), 1))
    assert any("renumbered" in note for note in lower.notes)
    write_results(lower, tmp_path / "out")
    for one in (lower, read_results(tmp_path / "out", analysis.volume)):
        back = relabelled(one, discs_of(analysis))
        assert set(back.notes) <= set(analysis.notes)


def test_unnamed_segments_are_named_without_a_trace(monkeypatch, tmp_path):
    unnamed = made_analysis(monkeypatch, discs=())
    named = relabelled(unnamed, read_discs(made_volumes()[2]))
    assert any("cannot be named" in note for note in unnamed.notes)
    assert not any("cannot be named" in note for note in named.notes)


def test_a_moved_disc_moves_the_borders(analysis):
    """Discs at rows 80, 100 and 120 go to 70, 79 and 108: C4-5 ends at 74.5 instead of 90, above the lesion."""
    away = {n: analysis.region.discs[n] - (0, by, 0) for n, by in ((5, 10), (6, 21), (7, 12))}
    points = {n: analysis.stack.grid.stack_to_ras(p) for n, p in away.items()}
    changed = relabelled(analysis, moved(discs_of(analysis), points))
    starts = [next(s.start_mm for s in a.segments if s.name == "C5-6") for a in (analysis, changed)]
    assert starts[1] == pytest.approx(starts[0] - 15.5, abs=0.1)
    assert changed.flagged == ("C5-6",)
    assert any("Placed by hand: C4/5, C5/6, C6/7" in note for note in changed.notes)
    with pytest.raises(InputError, match="C3/4 and C4/5"):
        moved(discs_of(analysis), {5: discs_of(analysis).points[7]})


def test_thresholds_of_the_user(analysis):
    strict = with_thresholds(analysis, 0.4, 0.4)
    assert strict.flagged == ()
    assert strict.patient_flagged is False
    assert strict.thresholds.origin == "chosen by the user"
    assert not strict.lesions
    assert with_thresholds(analysis, 0.2, 0.25).flagged == ("C4-5",)


def test_a_model_without_thresholds_is_no_longer_told_of(monkeypatch):
    bare = made_analysis(monkeypatch, thresholds=None)
    assert any("no thresholds" in note for note in bare.notes)
    chosen = with_thresholds(bare, 0.2, 0.25)
    assert chosen.flagged == ("C4-5",)
    assert not any("no thresholds" in note for note in chosen.notes)


def test_the_command(analysis, tmp_path, capsys):
    write_results(analysis, tmp_path / "out")
    write_volume(tmp_path / "case7.nii.gz", analysis.volume)
    run = ["relabel", str(tmp_path / "out"), str(tmp_path / "case7.nii.gz"), "--progress", "none"]
    assert main([*run, "--out", str(tmp_path / "b")]) == 2
    assert "Say what to change" in capsys.readouterr().err
    assert main([*run, "--shift-levels", "1", "--out", str(tmp_path / "b")]) == 0
    assert "C5-6" in capsys.readouterr().out.splitlines()[0]
    assert [s["name"] for s in read_analysis(tmp_path / "b")["segments"] if s["flagged"]] == ["C5-6"]
    assert main([*run, "--shift-levels", "1", "--out", str(tmp_path / "out")]) == 3  # never over results unasked
    _, _, labels = made_volumes("PIR", 14, discs=(4, 5, 6))
    write_volume(tmp_path / "discs.nii.gz", labels)
    assert main([*run, "--discs", str(tmp_path / "discs.nii.gz"), "--out", str(tmp_path / "c")]) == 0
    assert [s["name"] for s in read_analysis(tmp_path / "c")["segments"]] == ["C3-4", "C4-5", "C5-6"]
    tip = ",".join(f"{v:.3f}" for v in read_discs(labels).points[5])
    added = ["--disc", f"C4/5:{tip}", "--segment-threshold", "0.4", "--patient-threshold", "0.3"]
    assert main([*run, *added, "--out", str(tmp_path / "d")]) == 0
    record = read_analysis(tmp_path / "d")
    assert record["patient"]["flagged"]
    assert not any(s["flagged"] for s in record["segments"])
    assert len(record["segments"]) == len(DISC_ROWS)
    with pytest.raises(SystemExit):
        main([*run, "--disc", "C4/9:1,2,3", "--out", str(tmp_path / "e")])


def test_nothing_of_it_needs_torch():
    code = "import sys, U2ADLib.saved, U2ADLib.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

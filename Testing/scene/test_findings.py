"""Findings in words: where they are, what speaks for them, and what against."""

import re
from dataclasses import replace

import numpy as np
import pytest
from made_scene import LESION_SLICE, THRESHOLDS, made_analysis, volume_node

from U2ADLib.analysis import with_thresholds
from U2ADScene import findings, results


@pytest.fixture
def analysis(monkeypatch):
    return made_analysis(monkeypatch)


def with_lesions(analysis, **values):
    """The analysis with other figures of its one finding."""
    return replace(analysis, lesions=[analysis.lesions[0] | values])


def test_a_finding_says_where_it_is_and_how_sure(analysis):
    (found,) = findings.findings_of(analysis)
    (lesion,) = analysis.lesions
    assert found.name == "C4-5"
    assert found.score == lesion["peak_score []"]
    assert found.smaller == lesion["peak_score_smaller_mask []"]
    assert found.threshold == THRESHOLDS.segment
    assert found.texts()[:4] == ("C4-5", *(f"{v:.3f}" for v in (found.score, found.smaller, found.uncertainty)))
    # Rows 75 … 79 of the lesion are 65 … 69 mm below the cord's upper end.
    assert 64 <= found.s_mm <= 70
    assert found.slice_number == LESION_SLICE


def test_gain_is_told_in_per_cent(analysis):
    (found,) = findings.findings_of(with_lesions(analysis, **{"local_gain []": 0.23}))
    assert found.texts()[4] == "+23 %"
    (found,) = findings.findings_of(with_lesions(analysis, **{"local_gain []": -0.041}))
    assert found.texts()[4] == "-4 %"


@pytest.mark.parametrize(("smaller", "marked"), [(0.15, True), (0.2, True), (0.201, False)])
def test_what_a_smaller_mask_loses_may_be_csf(analysis, smaller, marked):
    (found,) = findings.findings_of(with_lesions(analysis, **{"peak_score_smaller_mask []": smaller}))
    assert found.at_border == marked
    assert found.texts()[-1] == ("may be CSF at the border" if marked else "")


def test_outside_the_segments_the_patient_s_threshold_counts(monkeypatch):
    analysis = made_analysis(monkeypatch, discs=(7, 8))
    (found,) = findings.findings_of(with_lesions(analysis, **{"peak_score_smaller_mask []": 0.22}))
    assert re.fullmatch("cord at 6[5-9] mm", found.name)  # rows 75 … 79 of the lesion
    assert 64 <= found.s_mm <= 70
    assert found.threshold == THRESHOLDS.patient
    assert found.at_border


def test_without_thresholds_there_are_none(monkeypatch):
    assert findings.findings_of(made_analysis(monkeypatch, thresholds=None)) == []


def test_every_column_is_explained(analysis):
    titles = findings.columns()
    assert len(findings.findings_of(analysis)[0].texts()) == len(titles)
    assert all(title and len(explanation) > 40 for title, explanation in titles)


def test_the_scene_s_table_follows_the_thresholds(host, analysis):
    nodes = results.show(with_lesions(analysis, **{"peak_score_smaller_mask []": 0.1}), volume_node(analysis.volume))
    table = nodes.findings_table.GetTable()
    assert table.GetValueByName(0, "finding").ToString() == "C4-5"
    assert table.GetValueByName(0, "score_smaller_mask").ToDouble() == pytest.approx(0.1)
    assert table.GetValueByName(0, "remark").ToString() == "may be CSF at the border"
    assert np.isclose(table.GetValueByName(0, "position_mm").ToDouble(), 67, atol=3)
    results.update_flags(nodes, with_thresholds(analysis, 0.9, 0.9))
    assert nodes.findings_table.GetNumberOfRows() == 0

from dataclasses import replace

import numpy as np
import pytest
from made_analysis import CORD_COLUMNS, LESION_ROWS, THRESHOLDS, made_analysis
from PIL import Image
from skimage.color import rgb2lab

from U2ADLib.pictures import analysis as of_analysis
from U2ADLib.pictures import canvas, charts
from U2ADLib.pictures.analysis import FLAGGED_BAND, curve_title, map_title
from U2ADLib.pictures.canvas import BLUE, ORANGE, SKY, VERMILION, WHITE


def where(picture, colour, tolerance=0):
    """Boolean (H, W): pixels of a colour."""
    return (np.abs(picture.astype(int) - colour) <= tolerance).all(axis=-1)


def box(mask):
    """First and last row, first and last column of what is True."""
    rows, columns = np.nonzero(mask)
    return rows.min(), rows.max(), columns.min(), columns.max()


# Charts


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 237, 10, [0, 50, 100, 150, 200]),
        (-0.3, 0.3, 6, [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]),
        (0.0021, 0.0029, 4, [0.0022, 0.0024, 0.0026, 0.0028]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(low, high, count, expected):
    np.testing.assert_allclose(canvas.nice_ticks(low, high, count), expected, atol=1e-12)


def test_whole_ticks_do_not_split_an_epoch():
    np.testing.assert_array_equal(canvas.nice_ticks(0, 2, 10, whole=True), [0, 1, 2])


def test_logarithmic_ticks():
    np.testing.assert_allclose(canvas.log_ticks(0.0005, 2), [0.001, 0.01, 0.1, 1])
    np.testing.assert_allclose(canvas.log_ticks(0.004, 0.03), [0.005, 0.01, 0.02])
    np.testing.assert_allclose(canvas.log_ticks(0.31, 0.39), [0.32, 0.34, 0.36, 0.38])


def test_line_chart_draws_lines_where_their_values_are():
    panels = [
        {"title": "flat", "lines": {"a": ([0, 10], [3, 3])}},  # the middle of its panel
        {"title": "logarithmic", "log": True, "lines": {"b": ([0, 10], [0.01, 1]), "c": ([0, 10], [1, 0.01])}},
    ]
    picture = charts.draw_line_chart(panels, "epoch")
    assert picture.shape == (800, 1200, 3)
    assert picture.dtype == np.uint8
    left, right, upper, lower = 120, 1160, (80, 320), (480, 720)
    assert where(picture, BLUE)[sum(upper) // 2, [left + 10, (left + right) // 2, right - 10]].all()
    # 0.1 is the middle between 0.01 and 1 on a logarithmic axis, and where the two lines cross.
    crossing = picture[sum(lower) // 2, (left + right) // 2]
    assert (crossing == VERMILION).all()
    quarter = left + (right - left) // 4
    ys = [np.flatnonzero(where(picture, colour)[lower[0] : lower[1], quarter]).mean() for colour in (BLUE, VERMILION)]
    span = np.log10(1.1 * 1.1 * 100)
    np.testing.assert_allclose(ys, [120 + 0.5 * 240 / span, 120 - 0.5 * 240 / span], atol=1.5)


def test_line_chart_breaks_lines_at_missing_values():
    picture = charts.draw_line_chart([{"title": "", "lines": {"": ([0, 1, 2, 3, 4, 5], [1, 1, np.nan, 1, 1, 1])}}], "")
    line = where(picture, BLUE)[200]
    at = lambda epoch: 120 + round(epoch / 5 * 1040)  # noqa: E731
    assert line[at(0.5)]
    assert line[at(3.5)]
    assert not line[at(1.2) : at(2.8)].any()


def test_line_chart_without_data_says_so_and_one_epoch_is_a_dot(tmp_path):
    empty = charts.draw_line_chart([{"title": "t", "lines": {"a": ([], []), "b": ([], [])}}], "epoch")
    assert where(empty, canvas.GREY, 3)[185:215, 560:720].any()
    assert not where(empty, BLUE).any()
    one = charts.draw_line_chart([{"title": "t", "log": True, "lines": {"a": ([0], [0.3])}}], "epoch")
    assert where(one, BLUE)[200, 640]
    charts.line_chart(tmp_path / "curves.png", [{"title": "none", "lines": {}}], "epoch")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


# AnoCurve: the frame reaches from x = 130 to 1380 and y = 210 to 690


def at_mm(analysis, s):
    return 130 + s / analysis.curve.s_mm[-1] * 1250


def at_score(score, top):
    return 690 - score / top * 480


def test_anocurve_shows_bands_peak_and_thresholds(monkeypatch):
    analysis = made_analysis(monkeypatch)
    picture = of_analysis.draw_anocurve(analysis)
    assert picture.shape == (860, 1600, 3)
    # C4-5 reaches from row 69.5 to 89.5 and the cord's upper end is at row 9.5 (each within a pixel of 1 mm).
    _, _, first, last = box(where(picture, FLAGGED_BAND))
    assert first == pytest.approx(at_mm(analysis, 60), abs=7)
    assert last == pytest.approx(at_mm(analysis, 80), abs=7)
    grey = picture[125]  # above the names
    for s in (30, 50, 90, 110, 130):
        assert grey[round(at_mm(analysis, s))].max() < 250
        assert np.ptp(grey[round(at_mm(analysis, s))]) == 0
    for s in (10, 150):
        assert (grey[round(at_mm(analysis, s))] == WHITE).all()
    top = 1.15 * 0.375
    dot = where(picture, VERMILION)[215:]
    first_row, last_row, first_column, last_column = box(dot)
    assert (first_row + last_row) / 2 + 215 == pytest.approx(at_score(0.375, top), abs=1)
    assert (first_column + last_column) / 2 == pytest.approx(at_mm(analysis, analysis.segments[2].peak_mm), abs=1)
    # Of the two dashed lines, the patient's goes on outside the segments.
    dark = where(picture, canvas.DARK, 60)
    outside, inside = (slice(round(at_mm(analysis, s)), round(at_mm(analysis, s)) + 60) for s in (150, 110))
    rows = {name: round(float(at_score(getattr(THRESHOLDS, name), top))) for name in ("segment", "patient")}
    assert dark[rows["segment"] - 2 : rows["segment"] + 2, inside].any()
    assert not dark[rows["segment"] - 2 : rows["segment"] + 2, outside].any()
    assert dark[rows["patient"] - 2 : rows["patient"] + 2, outside].any()
    assert where(picture, BLUE).any()


def test_anocurve_without_thresholds_or_discs(monkeypatch):
    scores_only = of_analysis.draw_anocurve(made_analysis(monkeypatch, thresholds=None))
    assert not where(scores_only, VERMILION).any()
    assert not where(scores_only, FLAGGED_BAND).any()
    assert (scores_only[:680, 1395:] == WHITE).all()  # no threshold is named on the right
    unnamed = made_analysis(monkeypatch, discs=())
    picture = of_analysis.draw_anocurve(unnamed)
    assert (picture[125, 130:1380] == WHITE).all()  # no bands
    assert where(picture, VERMILION).any()  # the patient is flagged
    assert of_analysis.verdict(unnamed) == "Flagged: the cord at 66 mm"


def test_finding_outside_the_segments_is_marked(monkeypatch):
    analysis = made_analysis(monkeypatch, discs=(6, 7, 8))
    assert analysis.flagged == ()
    ((s, number, score),) = of_analysis.findings(analysis)
    assert (number, score) == (4, pytest.approx(0.375))
    assert s == pytest.approx(66, abs=2)
    assert "the cord at 66 mm" in of_analysis.verdict(analysis)


# Overlay


def test_heat_is_perceptually_even():
    lightness = rgb2lab(of_analysis.heat_colours(np.linspace(0, 1, 33)))[:, 0]
    steps = np.diff(lightness)
    assert steps.min() > 0
    steps = steps[4:]  # next to black, a screen's gamma bends what is linear between the anchors
    assert steps.min() > 0.7 * steps.mean()
    assert steps.max() < 1.5 * steps.mean()


def test_overlay_colours_the_lesion_and_shows_the_plain_slice_beside_it(monkeypatch):
    picture = of_analysis.draw_overlay(made_analysis(monkeypatch))
    # Anomaly 0.375 on a bar that ends at 2.5 × 0.2 is 3/4 of the way: (249, 140, 10) to 85 % over white.
    hot = where(picture, (250, 157, 47), 12)
    top, bottom, left, right = box(hot)
    height, width = 3 * (LESION_ROWS.stop - LESION_ROWS.start), 3 * (CORD_COLUMNS.stop - CORD_COLUMNS.start)
    assert (bottom - top + 1, right - left + 1) == (height, width)
    assert hot[top : bottom + 1, left : right + 1].all()
    copies = 3 * (8 + 2 * 26) + 76  # from the slice with to the slice without the map
    plain = picture[top : bottom + 1, left - copies : right + 1 - copies]
    assert (np.ptp(plain.astype(int), axis=-1) == 0).all()
    assert plain[height // 2, width // 2].tolist() == [255, 255, 255]
    healthy = picture[bottom + 30, left - copies + 5 : right - copies - 5]
    assert (healthy == round(255 / 2.5)).all()  # the cord's median
    # The outline runs just outside the cord.
    assert where(picture, SKY)[top + 5, [left - 1, right + 1]].all()
    # An arrow points to the flagged peak from behind, in both copies.
    arrow = where(picture, ORANGE)
    assert arrow[top - 10 : bottom, right + 5 : right + 50].any()
    assert arrow[top - 10 : bottom, right - copies + 5 : right - copies + 50].any()


def test_overlay_shows_every_analysed_slice(monkeypatch):
    analysis = made_analysis(monkeypatch)
    rows, columns = of_analysis.overlay_window(analysis.region.cord[list(analysis.slices)])
    tile = (180 + 16, 8 + 52)
    assert (rows.stop - rows.start, columns.stop - columns.start) == tile
    outlines = where(of_analysis.draw_overlay(analysis), SKY).sum()
    # 5 slices, each with an outline of 3 × (180 + 8) × 2 px and 14 ticks of 12 × 1.5 px.
    assert outlines == pytest.approx(5 * (6 * 188 + 14 * 18), rel=0.1)
    one = of_analysis.draw_overlay(made_analysis(monkeypatch, slices="middle", thresholds=None))
    assert one.shape[0] == 120 + 34 + 4 * tile[0] + 26 + 64
    assert one.shape[1] == 1240
    assert not where(one, ORANGE).any()


def test_slices_are_named_by_side(monkeypatch):
    analysis = made_analysis(monkeypatch)
    labels = [of_analysis.slice_label(analysis, number) for number in (2, 3, 5)]
    assert labels == ["slice 2, 3.3 mm right", "slice 3, middle", "slice 5, 6.6 mm left"]


def test_pictures_are_the_same_every_time_and_say_nothing_about_the_patient(monkeypatch, tmp_path):
    for draw in (of_analysis.anocurve_picture, of_analysis.overlay_picture):
        for name in ("a.png", "b.png"):
            draw(tmp_path / name, made_analysis(monkeypatch))
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
        with Image.open(tmp_path / "a.png") as image:
            assert set(image.info) == {"dpi"}
            assert image.mode == "RGB"


def test_characters_that_the_font_lacks_are_replaced():
    assert canvas.text_width("2–4 × 10², ≥ 3 µm") == canvas.text_width("2-4 x 102, >= 3 um")


def test_titles_say_which_score_it_is(monkeypatch):
    analysis = made_analysis(monkeypatch)
    assert map_title(analysis) == "Anomaly: |image - reconstruction|, image 0-1"
    assert curve_title(analysis) == "Mean anomaly across the cord (image: 0-1)"
    settings = {"evidence": "discriminator", "across": "max"}
    default = replace(analysis, provenance={"configuration": {"score_settings": settings}})
    assert map_title(default) == "Anomaly: probability of a change, 0-1"
    assert curve_title(default) == "Highest probability across the cord (0-1)"

"""Disc chains fitted to heat maps drawn around known tips."""

from itertools import combinations

import numpy as np
import pytest

from U2ADLib.roi import chain as module
from U2ADLib.roi.centreline import Centreline
from U2ADLib.roi.chain import AMBIGUOUS_MARGIN, best_sequence, fit_chain
from U2ADLib.roi.segments import segments_from_discs

ROWS, COLUMNS = np.mgrid[:256, :256].astype(float)
SPACINGS = (16.3, 17.2, 15.1, 18.4, 16.6)  # C2/3 to C7/T1


def straight(first=30, last=220):
    mask = np.zeros((1, 256, 256), bool)
    mask[0, first:last, 120:127] = True
    return Centreline.from_cord(mask)


def arc(radius=70, half_sweep=60):
    """A circular arc that bulges backwards or, with a negative radius, to the front."""
    rows, columns = ROWS - 127.3, (COLUMNS - 126.4) * np.sign(radius) + abs(radius)
    mask = (np.abs(np.hypot(rows, columns) - abs(radius)) <= 3.5) & (
        np.abs(np.arctan2(rows, columns)) <= np.radians(half_sweep)
    )
    return Centreline.from_cord(mask[None])


def tips_on(line, start=30.2, spacings=SPACINGS, front=8.4, first=3):
    """Number → tip, `front` mm in front of the cord."""
    points, tangents = line.at(start + np.concatenate([[0], np.cumsum(spacings)]))
    points = points - front * np.stack([-tangents[:, 1], tangents[:, 0]], axis=1)
    return dict(enumerate(points, first))


def bump(tip, height=0.9, sd=2.5):
    return height * np.exp(-((ROWS - tip[0]) ** 2 + (COLUMNS - tip[1]) ** 2) / (2 * sd**2))


def heat_of(tips, **options):
    return {number: bump(tip, **options) for number, tip in tips.items()}


def errors(chain, tips):
    return {n: float(np.linalg.norm(chain.points[n] - tips[n])) for n in chain.points}


# --- what is seen well ---


@pytest.mark.parametrize(
    "line", [straight(), arc(70), arc(-70), arc(120, 40)], ids=["straight", "back", "front", "wide"]
)
@pytest.mark.parametrize("front", [3.3, 11.7])
def test_known_tips(line, front):
    tips = tips_on(line, start=25.3, front=front)
    chain = fit_chain(heat_of(tips), line)
    assert list(chain.points) == [3, 4, 5, 6, 7, 8]
    assert max(errors(chain, tips).values()) < 0.2
    assert min(chain.confidence.values()) > 0.8
    assert chain.margin > 3
    assert chain.doubts == ()
    assert len(segments_from_discs(line, chain.points)[0]) == 6


@pytest.mark.parametrize("pitch", [13.0, 20.5])
def test_small_and_large_necks(pitch):
    line = straight(20, 240)
    tips = tips_on(line, 40.0, [pitch] * 5)
    tips_seen = {n: tip for n, tip in tips.items() if n != 5}
    chain = fit_chain(heat_of(tips_seen), line)
    assert max(errors(chain, tips).values()) < 1.0  # the vanished one as well: the neck's own pitch counts
    assert list(chain.points) == [3, 4, 5, 6, 7, 8]


def test_context_is_used_but_not_reported():
    line = straight()
    tips = tips_on(line, 25.0, (20.0, *SPACINGS, 19.0), first=2)
    heat = heat_of(tips)
    heat[8][:] = 0
    chain = fit_chain(heat, line)
    assert list(chain.points) == [3, 4, 5, 6, 7, 8]
    assert errors(chain, tips)[8] < 2.0
    heat[9] = bump(tips[8] + [22, 0])  # T1/2 or T2/3, who knows: this distance counts less than those of discs
    assert errors(fit_chain(heat, line), tips)[8] < 2.0
    del heat[9]  # without it nothing holds C7/T1
    assert list(fit_chain(heat, line).points) == [3, 4, 5, 6, 7]
    context = fit_chain({n: heat[n] for n in (2,)} | {9: bump(tips[9])}, line)
    assert context.points == {}
    assert len(context.doubts) == 1


# --- the network's errors ---


@pytest.mark.parametrize("line", [straight(), arc(70), arc(-70)], ids=["straight", "back", "front"])
@pytest.mark.parametrize("number", [4, 5, 6, 7])
def test_a_vanished_disc_is_interpolated(line, number):
    tips = tips_on(line, start=25.3)
    heat = heat_of(tips)
    heat[number] = np.full((256, 256), 0.01)
    chain = fit_chain(heat, line)
    assert list(chain.points) == [3, 4, 5, 6, 7, 8]
    found = errors(chain, tips)
    assert found.pop(number) < 2.0
    assert max(found.values()) < 0.2
    assert chain.confidence[number] <= 0.1
    name = module.DISC_NAMES[number]
    assert chain.doubts == (f"{name} was not recognised; it was placed between its neighbours.",)


def test_two_vanished_discs():
    line = straight()
    tips = tips_on(line)
    heat = heat_of({n: tip for n, tip in tips.items() if n not in (5, 6)})
    chain = fit_chain(heat, line)
    assert max(errors(chain, tips).values()) < 2.0
    assert [doubt.split()[0] for doubt in chain.doubts] == ["C4/5", "C5/6"]


@pytest.mark.parametrize("away", [-9, 8, 30, 60])
def test_a_spurious_peak_is_ignored(away):
    """The stronger peak of C4/5 lies where no disc can be."""
    line = straight()
    tips = tips_on(line)
    heat = heat_of(tips)
    heat[5] = np.maximum(bump(tips[5], 0.4), bump(tips[5] + [away, 0], 0.99))
    chain = fit_chain(heat, line)
    assert max(errors(chain, tips).values()) < 0.5
    assert chain.confidence[5] == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize(("away", "sd"), [(7, 2.5), (9, 2.5), (-9, 2.5), (10, 6.0), (30, 2.5)])
def test_a_spurious_peak_does_not_replace_a_vanished_disc(away, sd):
    """Not even where its flank reaches the place of the disc."""
    line = straight()
    tips = tips_on(line)
    heat = heat_of(tips)
    heat[5] = bump(tips[5] + [away, 0], 0.95, sd)
    chain = fit_chain(heat, line)
    assert errors(chain, tips)[5] < 2.0
    assert chain.confidence[5] <= 0.1


def test_heat_behind_the_cord_or_far_in_front_is_not_a_disc():
    line = straight()
    tips = tips_on(line)
    heat = heat_of(tips, height=0.4)
    for number, side in ((4, 20), (6, -30)):
        heat[number] = np.maximum(heat[number], bump([tips[number][0] + 2, 123 + side], 0.99))
    assert max(errors(fit_chain(heat, line), tips).values()) < 0.2


def test_off_by_one_is_resolved_by_the_chain():
    """In half of the discs the map of the next level is the hotter one."""
    line = straight()
    tips = tips_on(line)
    heat = heat_of(tips)
    for number in (4, 5):
        heat[number] = np.maximum(bump(tips[number], 0.4), bump(tips[number + 1], 0.6))
    heat[6] = np.maximum(bump(tips[6], 0.4), bump(tips[5], 0.6))
    chain = fit_chain(heat, line)
    assert list(chain.points) == [3, 4, 5, 6, 7, 8]
    assert max(errors(chain, tips).values()) < 0.5
    assert chain.margin > AMBIGUOUS_MARGIN


@pytest.mark.parametrize("shift", [-1, 1])
def test_an_ambiguous_count_is_doubted(shift):
    line = straight()
    tips = tips_on(line, 25.0, (17.0,) * 7, first=2)
    heat = {n: np.maximum(bump(tips[n], 0.55), bump(tips[n + shift], 0.45)) for n in range(3, 9)}
    chain = fit_chain(heat, line)
    assert max(errors(chain, tips).values()) < 0.5
    assert chain.margin == pytest.approx(np.log(0.55 / 0.45), abs=0.05)
    assert chain.margin < AMBIGUOUS_MARGIN
    assert len(chain.doubts) == 1
    assert "count of the discs is uncertain" in chain.doubts[0]


def test_low_confidence_is_doubted():
    line = straight()
    heat = heat_of(tips_on(line))
    heat[7] *= 0.25
    chain = fit_chain(heat, line)
    assert chain.doubts == (f"C6/7 was recognised with low confidence only ({chain.confidence[7]:.2f}).",)
    assert chain.confidence[7] == pytest.approx(0.225, abs=0.01)


def test_an_unusual_spacing_is_doubted():
    line = straight()
    tips = tips_on(line, spacings=(16, 17, 25, 17, 16))
    chain = fit_chain(heat_of(tips), line)
    assert max(errors(chain, tips).values()) < 0.2
    assert len(chain.doubts) == 1
    assert "C4/5 and C5/6 are 25 mm apart" in chain.doubts[0]


# --- the field of view ---


def test_a_cut_field_of_view():
    """The cord begins below C3/4 and ends above C7/T1; heat beyond its ends is not used."""
    tips = tips_on(straight())
    line = straight(90, 142)  # tips: rows 59.7, 76, 93.2, 108.3, 126.7, 143.3
    chain = fit_chain(heat_of(tips), line)
    assert list(chain.points) == [5, 6, 7]
    assert max(errors(chain, tips).values()) < 0.2
    assert chain.doubts[0] == "Only 3 of 6 discs were found; missing: C2/3, C3/4, C7/T1."
    assert "C2/3 is not in view" in chain.doubts[1]
    assert len(chain.doubts) == 2


def test_one_disc_alone():
    line = straight()
    tips = tips_on(line)
    chain = fit_chain({n: bump(tip, 0.9 if n == 6 else 0.0) for n, tip in tips.items()}, line)
    assert list(chain.points) == [6]
    assert errors(chain, tips)[6] < 0.2


@pytest.mark.parametrize("heat", [{}, {n: np.full((256, 256), 0.05) for n in range(2, 10)}])
def test_nothing_is_found(heat):
    chain = fit_chain(heat, straight())
    assert (chain.points, chain.confidence, chain.margin) == ({}, {}, 0.0)
    assert len(chain.doubts) == 1
    assert "No disc" in chain.doubts[0]


# --- the best chain, against all chains ---


@pytest.mark.parametrize("seed", range(8))
def test_best_sequence_is_the_best_of_all(seed, monkeypatch):
    """Every subset, every set of places and every pitch, tried one by one."""
    monkeypatch.setattr(module, "STEP_MM", 3.0)  # 12 … 27 mm are 4 … 9 places
    monkeypatch.setattr(module, "SPACING_LIMITS_MM", (12.0, 27.0))
    rng = np.random.default_rng(seed)
    gain, deviations = rng.normal(-1, 2, (4, 26)), np.array([2.5, 4.0, 2.5])
    best = (0.0, 0, [])
    for first in range(4):
        for count in range(1, 5 - first):
            for places in combinations(range(26), count):
                apart = 3.0 * np.diff(places)
                if len(apart) and (apart.min() < 12 or apart.max() > 27):
                    continue
                heat = gain[np.arange(first, first + count), places].sum()
                misfit = ((apart - module.PITCHES_MM[:, None]) / deviations[first : first + count - 1]) ** 2
                prior = -misfit.sum(axis=1) / 2 - ((module.PITCHES_MM - 17) / 2.5) ** 2 / 2
                best = max(best, (heat + prior.max(), first, list(places)))
    first, places, score = best_sequence(gain, deviations)
    assert (first, places) == best[1:]
    assert score == pytest.approx(best[0])


def test_worthless_sequences_are_empty():
    assert best_sequence(np.full((3, 50), -0.1), np.full(2, 2.5)) == (0, [], 0.0)


def test_discs_of_the_chest_are_not_taken_for_the_neck():
    """Heat for T1/2 … T4/5 (9 … 12) alone: nothing is placed, and what was seen is told."""
    line = straight()
    tips = tips_on(line, start=30, spacings=(21.0, 22.0, 22.0), first=9)
    heat = {n: np.zeros((256, 256)) for n in range(3, 14)} | heat_of(tips)
    chain = fit_chain(heat, line)
    assert not chain.points
    assert chain.beyond == (9, 10, 11, 12)
    both = tips_on(line, start=20, spacings=(17.0, 17.0, 19.0, 21.0, 22.0), first=6)
    chain = fit_chain({n: np.zeros((256, 256)) for n in range(3, 14)} | heat_of(both), line)
    assert sorted(chain.points) == [6, 7, 8]
    assert chain.beyond == (9, 10, 11)
    assert any("C2/3 is not in view" in doubt for doubt in chain.doubts)

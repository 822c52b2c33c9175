"""Sets of images: labels, planted lesions, phantoms, what is kept, and that nobody is learnt from and judged."""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_analysis import made_volumes
from scipy.ndimage import binary_dilation

from U2ADLib.config import SEGMENT_NAMES, from_dict
from U2ADLib.errors import InputError, UsageError
from U2ADLib.evaluation.experiments import cases, planting, sets
from U2ADLib.evaluation.experiments.cases import (
    SetConfig,
    anomalous_segments,
    experiment_cases,
    image_count,
    people_of,
    refuse_shared,
    set_key,
    training_slices,
)
from U2ADLib.io import write_volume
from U2ADLib.roi.labels import read_discs
from U2ADLib.roi.source import prepare

PEOPLE = ("sub-01", "sub-02", "sub-03")


def write_person(folder, name, cord=True, discs=True, number=0):
    """`made_volumes` with some noise of this person's own, as BIDS."""
    image, mask, labels = made_volumes()
    rng = np.random.default_rng(number)
    place = folder / name / "anat"
    place.mkdir(parents=True)
    array = image.array + rng.normal(0, 4, image.array.shape)
    array[image.array == 600] -= 300  # its lesion
    write_volume(place / f"{name}_T2w.nii.gz", image.with_array(array.astype(np.float32)))
    if cord:
        write_volume(place / f"{name}_T2w_label-SC_seg.nii.gz", mask)
    if discs:
        write_volume(place / f"{name}_T2w_label-discs_dlabel.nii.gz", labels)


@pytest.fixture(scope="module")
def bids(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "clinic"
    for number, name in enumerate(PEOPLE):
        write_person(folder, name, number=number)
    (folder / "participants.tsv").write_text("participant_id\tpathology\nsub-01\tHC\nsub-02\tDCM\nsub-03\tHC\n")
    return folder


@pytest.fixture(scope="module")
def phantom_cases(tmp_path_factory):
    """Two phantoms, the second with a lesion, and where they are kept."""
    cache = tmp_path_factory.mktemp("cache")
    config = SetConfig(phantoms=2, plant=("A1",), slices=3, degrade="clinical")
    return config, cache, list(experiment_cases([config], cache=cache))


def planted(bids, **changes):
    return SetConfig(**({"folder": str(bids), "plant": ("h50", "A1"), "repetitions": 4} | changes))


def made(*configs, **settings):
    return list(experiment_cases(configs, **settings))


# ---------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "folder or phantoms"),
        ({"folder": "a", "phantoms": 3}, "one of them"),
        ({"phantoms": 3, "table": "t.csv"}, "table"),
        ({"phantoms": 3, "kind": "varied"}, "kind = 'varied'"),
        ({"phantoms": 3, "plant": ["h99"]}, "h99.*the kinds are A1"),
        ({"phantoms": 3, "degrade": "old"}, "degrade = 'old'"),
        ({"phantoms": 3, "slices": "some"}, "'middle'"),
        ({"phantoms": 3, "share": 1.5, "repetitions": 0}, "share = 1.5.*repetitions = 0"),
        ({"folder": "a", "find": True}, "region_model"),
        ({"folder": "phantom"}, "what phantoms are called"),
    ],
)
def test_what_no_set_can_be(values, named):
    with pytest.raises(UsageError, match=named):
        from_dict(SetConfig, values)


def test_lists_of_a_file_become_tuples():
    config = from_dict(SetConfig, json.loads('{"phantoms": 2, "plant": ["A1", "h25"], "people": []}'))
    assert config.plant == ("A1", "h25")
    assert hash(config) == hash(SetConfig(phantoms=2, plant=("A1", "h25")))


# ------------------------------------------------------------------------------------------------------- annotations


def test_annotated_images(bids, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("participant_id,segment,hyperintensity\nsub-02,C4-5,1\nsub-02,C5-6,0\nsub-03,,0\n")
    config = SetConfig(folder=str(bids), table=str(table), name="A clinic")
    found = made(config)
    assert [case.id for case in found] == ["A-clinic_sub-02_T2w", "A-clinic_sub-03_T2w"]
    assert [case.person for case in found] == ["A-clinic_sub-02", "A-clinic_sub-03"]
    assert [case.patient for case in found] == [True, False]
    assert found[0].segments == {"C4-5": True, "C5-6": False}
    assert found[1].segments == dict.fromkeys(SEGMENT_NAMES.values(), False)
    one = found[0]
    assert one.lesions is None
    assert one.original is None
    assert one.images.shape == one.cords.shape == (1, 256, 256)
    assert one.images.dtype == np.float32
    assert one.slices == (3,)  # the middle of the five that show cord
    assert one.spacing_mm == pytest.approx(3.3)
    assert not one.found
    assert anomalous_segments(one).tolist() == [[n == 5 for n in range(9)]]
    assert people_of([config], "test") == {"A-clinic_sub-02": True, "A-clinic_sub-03": False}
    slices = training_slices([replace(config, slices="all")], "target", labels=True)
    assert len(slices) == 10
    assert slices.anomalous[:5, 5].all()
    assert slices.anomalous.sum() == 5
    assert set(np.unique(slices.segments)) == {0, *SEGMENT_NAMES}
    assert (slices.segments[~slices.cords] == 0).all()


def test_people_are_chosen_by_name_and_by_pathology(bids):
    def names(**settings):
        return [
            name.removeprefix("clinic_") for name in people_of([SetConfig(str(bids), healthy=True, **settings)], "test")
        ]

    assert names() == list(PEOPLE)
    assert names(people=["sub-02"]) == ["sub-02"]
    assert names(without="sub-02") == ["sub-01", "sub-03"]
    assert names(pathology=["HC"], without=["sub-03"]) == ["sub-01"]
    with pytest.raises(InputError, match=r"There is no sub-9 in clinic: people are sub-01, sub-02"):
        names(people=["sub-9"])
    with pytest.raises(InputError, match="No image is left"):
        names(pathology=["MS"])


def test_one_clear_message(bids, tmp_path):
    with pytest.raises(InputError, match="There is no folder"):
        people_of([SetConfig(folder=str(tmp_path / "none"), healthy=True)], "test")
    with pytest.raises(InputError, match="Nobody says who has a hyperintensity in clinic"):
        made(SetConfig(folder=str(bids)))
    assert len(training_slices([SetConfig(folder=str(bids))], "source")) == 3  # where nobody asks
    with pytest.raises(InputError, match="cannot be read"):
        made(SetConfig(folder=str(bids), table=str(tmp_path / "none.csv")))
    with pytest.raises(InputError, match="set is empty"):
        made()
    with pytest.raises(UsageError, match="used as source, target, test"):
        image_count([SetConfig(phantoms=1)], "testing")
    write_person(tmp_path / "bare", "sub-01", discs=False)
    write_person(tmp_path / "bare", "sub-02", cord=False, discs=False)
    bare = SetConfig(folder=str(tmp_path / "bare"), healthy=True)
    with pytest.raises(InputError, match=r"No cord mask and disc labels beside sub-01_T2w, sub-02_T2w in bare"):
        people_of([bare], "test")
    assert training_slices([replace(bare, without=("sub-02",))], "source").segments is None
    other = tmp_path / "other" / "clinic"
    write_person(other, "sub-01")
    with pytest.raises(InputError, match="are called clinic"):
        people_of([SetConfig(folder=str(folder), healthy=True) for folder in (bids, other)], "test")


def test_images_that_cannot_be_used_are_named(bids, monkeypatch):
    read, said = cases.read_volume, []

    def fails(path):
        if "sub-02_T2w.nii" in path.name:
            raise InputError("cut off")
        return read(path)

    monkeypatch.setattr(cases, "read_volume", fails)
    found = made(SetConfig(folder=str(bids), healthy=True), say=said.append)
    assert [case.person for case in found] == ["clinic_sub-01", "clinic_sub-03"]
    assert said == ["clinic_sub-02_T2w is left out: cut off"]
    with pytest.raises(InputError, match="None of the images"):
        made(SetConfig(folder=str(bids), healthy=True, people=("sub-02",)), say=said.append)


# ---------------------------------------------------------------------------------------------------- planted lesions


def test_lesions_are_dealt_evenly(bids):
    plans = sets.planned_images([planted(bids)], "test", labelled=True)
    assert image_count([planted(bids)], "test") == len(plans) == 12
    for name in PEOPLE:
        assert sum(one.kind is not None for one in plans if one.person == f"clinic_{name}") == 2
    assert sorted(one.kind for one in plans if one.kind) == ["A1"] * 3 + ["h50"] * 3
    assert len({tuple(one.seed) for one in plans}) == len({one.id for one in plans}) == 12
    fewer = sets.planned_images([planted(bids, without=("sub-03",))], "test", labelled=True)
    assert [one.key() for one in fewer] == [one.key() for one in plans[:8]]
    third = sets.planned_images([planted(bids, share=1 / 3)], "test", labelled=True)
    assert sum(one.positive for one in third) == 4
    assert not any(one.positive for one in sets.planned_images([planted(bids, share=0)], "test", labelled=True))


def test_planted_lesions_are_the_truth(bids):
    found = made(planted(bids, slices=3, repetitions=2, share=1.0))
    assert len(found) == 6
    for case in found:
        assert case.patient
        assert case.lesions.shape == case.original.shape == case.images.shape == (3, 256, 256)
        lesion = case.lesions > 0
        assert lesion.any(axis=(1, 2)).sum() == 1  # of three slices
        assert not (lesion & ~case.cords).any()
        assert case.lesions.max() == len(case.kinds)
        assert len(set(case.kinds)) == 1
        sizes = np.bincount(case.lesions.ravel())[1:]
        assert (sizes >= 3).all()
        near = np.array([binary_dilation(one, iterations=4) for one in lesion])
        np.testing.assert_allclose(case.images[~near], case.original[~near], atol=2e-3)
        assert (case.images - case.original)[lesion].mean() > 0.05
        labels = case.region.segment_labels()[list(case.slices)]
        counts = {name: int((lesion & (labels == n)).sum()) for n, name in SEGMENT_NAMES.items()}
        assert case.segments == {name: n >= 3 for name, n in counts.items() if n == 0 or n >= 3}
        assert any(case.segments.values())
        anomalous = anomalous_segments(case)
        assert {SEGMENT_NAMES[n] for n in np.flatnonzero(anomalous.any(0))} == {
            n for n, v in case.segments.items() if v
        }
        assert (anomalous.any(1) == lesion.any(axis=(1, 2))).all()


def test_images_without_a_lesion_have_an_original_too(bids):
    (case,) = made(planted(bids, people=("sub-01",), repetitions=1, share=0.0))
    assert not case.patient
    assert (case.images == case.original).all()
    assert not case.lesions.any()
    assert case.kinds == ()
    assert not anomalous_segments(case).any()


def test_seeds_decide(bids):
    one, again, other = (made(planted(bids, repetitions=1, share=1.0, seed=seed))[0] for seed in (0, 0, 1))
    assert (one.images == again.images).all()
    assert (one.lesions == again.lesions).all()
    assert one.record == again.record
    assert (one.lesions != other.lesions).any()
    (renamed,) = made(planted(bids, people=("sub-01",), repetitions=1, share=1.0, name="other"))
    assert (one.images == renamed.images).all()
    assert one.record["seed"][0] == 0
    assert one.record["lesions"][0]["kind"] == one.kinds[0]


def test_degraded_images(bids):
    config = planted(bids, people=("sub-01",), repetitions=6, share=0.5, slices=3, degrade="clinical")
    clean, errors = made(replace(config, degrade="clean"))[0], set()
    for case in made(config):
        assert case.images.min() >= 0
        assert case.images.max() == pytest.approx(1)
        # The same noise with the lesion and without, another in each slice.
        near = np.array([binary_dilation(one, iterations=6) for one in case.lesions > 0])
        np.testing.assert_allclose(case.images[~near], case.original[~near], atol=0.02)
        assert (case.original[0] != case.original[1]).any()
        moved = case.cords ^ clean.cords
        around = np.array([binary_dilation(one) for one in clean.cords])
        assert not (case.cords & ~around).any()
        assert np.count_nonzero(moved) < 0.7 * clean.cords.sum()
        errors.add(case.record["degradation"][-1]["error"])
        visible = (case.lesions > 0) & case.cords & (case.region.segment_labels()[list(case.slices)] > 0)
        assert visible.sum() >= 3 or not case.patient
        assert [change["change"] for change in case.record["degradation"]] == ["Blur", "Drift", "Noise", "MaskError"]
    assert len(errors) > 1


def test_thin_slices_become_thick_where_they_are_degraded():
    """Slices 1 mm apart with brightness 0, 1, 2, …: each is the mean of three, itself."""

    class Stack:
        images = np.arange(7.0)[:, None, None] * np.ones((7, 4, 4))

        class grid:
            slice_spacing_mm = 1.0

    assert planting._thick(Stack, (1, 3))[:, 0, 0].tolist() == [1, 3]
    Stack.images[3] += 3
    assert planting._thick(Stack, (2, 3))[:, 0, 0].tolist() == [3, 4]
    Stack.grid.slice_spacing_mm = 3.3
    assert planting._thick(Stack, (2, 3))[:, 0, 0].tolist() == [2, 6]


def test_fragments_of_a_lesion_belong_to_its_largest_part():
    mask = np.zeros((20, 20), bool)
    mask[2:5, 2:5], mask[8:12, 8:12], mask[15, 15] = True, True, True
    numbers = planting._numbered(mask)
    assert (numbers[3, 3], numbers[9, 9], numbers[15, 15], numbers.max()) == (1, 2, 2, 2)
    tiny = np.zeros((5, 5), bool)
    tiny[2, 2] = True
    assert planting._numbered(tiny)[2, 2] == 1


# ------------------------------------------------------------------------------------------------------------ phantoms


def test_phantoms_are_those_of_their_use(phantom_cases):
    config, _, found = phantom_cases
    assert [case.person for case in found] == ["phantom-9000000", "phantom-9000001"]
    assert [case.group for case in found] == ["phantom"] * 2
    assert [case.patient for case in found] == [False, True]
    assert list(people_of([config], "target")) == ["phantom-8000000", "phantom-8000001"]
    assert list(people_of([replace(config, first=5)], "source")) == ["phantom-7000005", "phantom-7000006"]
    ranges = [set(people_of([replace(config, phantoms=50)], use)) for use in sets.SEEDS]
    assert len(set.union(*ranges)) == 200
    assert found[0].segments == dict.fromkeys(SEGMENT_NAMES.values(), False)
    assert all(len(case.images) == 3 for case in found)
    with pytest.raises(InputError, match="two kinds"):
        people_of([SetConfig(phantoms=3), SetConfig(phantoms=3, kind="space", first=2)], "test")


def test_what_is_kept_is_what_was_made(phantom_cases, monkeypatch):
    config, cache, found = phantom_cases
    monkeypatch.setattr(cases, "random_phantom", None)  # nothing is simulated again
    ticks = []
    again = list(experiment_cases([config], cache=cache, progress=lambda *tick: ticks.append(tick)))
    assert ticks == [("Cases", 0, 2), ("Cases", 1, 2), ("Cases", 2, 2)]
    for one, other in zip(found, again, strict=True):
        for name in ("images", "cords", "lesions", "original"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).dtype == getattr(other, name).dtype
        for name in (
            "id",
            "person",
            "group",
            "slices",
            "spacing_mm",
            "patient",
            "segments",
            "found",
            "kinds",
            "record",
        ):
            assert getattr(one, name) == getattr(other, name)
        assert one.region.segments == other.region.segments
        assert (one.region.missing, one.region.notes) == (other.region.missing, other.region.notes)
        np.testing.assert_array_equal(one.region.cord, other.region.cord)
        np.testing.assert_array_equal(one.region.centreline.points, other.region.centreline.points)
    slices = training_slices([config], "test", labels=True, cache=cache)
    np.testing.assert_array_equal(slices.images, np.concatenate([case.images for case in found]))
    assert slices.people.tolist() == ["phantom-9000000"] * 3 + ["phantom-9000001"] * 3
    assert (slices.anomalous.any(1) == np.concatenate([c.lesions.any(axis=(1, 2)) for c in found])).all()
    only = training_slices([config], "test", people={"phantom-9000001"}, cache=cache)
    assert set(only.people) == {"phantom-9000001"}
    assert only.anomalous is None


def test_what_is_kept_depends_on_what_matters(bids, tmp_path):
    config = planted(bids, people=("sub-01",), repetitions=2, share=1.0)
    made(config, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    made(replace(config, repetitions=1), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    made(replace(config, share=0.0), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    keys = {set_key([replace(config, **change)], "test") for change in (
        {}, {"seed": 1}, {"slices": 3}, {"degrade": "clinical"}, {"plant": ("A1",)}, {"people": ("sub-02",)},
    )}  # fmt: skip
    assert len(keys) == 6
    moved = tmp_path / "elsewhere" / "clinic"
    moved.parent.mkdir()
    moved.symlink_to(bids)
    assert set_key([replace(config, folder=str(moved), name="clinic")], "test") == set_key([config], "test")


def test_a_damaged_file_is_made_again(bids, tmp_path):
    config = planted(bids, people=("sub-01",), repetitions=1, share=1.0)
    (first,) = made(config, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    (again,) = made(config, cache=tmp_path)
    np.testing.assert_array_equal(first.images, again.images)
    assert path.stat().st_size > 1000


def test_several_processes_make_the_same(bids, tmp_path):
    config = planted(bids, repetitions=1, share=1.0, without=("sub-03",))
    alone, together = made(config), made(config, cache=tmp_path, workers=2)
    for one, other in zip(alone, together, strict=True):
        assert one.id == other.id
        np.testing.assert_array_equal(one.images, other.images)


# ------------------------------------------------------------------------------------------------ nobody in two sets


def test_nobody_is_learnt_from_and_judged(bids, tmp_path):
    def some(*people):
        return [SetConfig(folder=str(bids), people=people, healthy=True), SetConfig(phantoms=3)]

    refuse_shared(some("sub-01", "sub-02"), "source", some("sub-03"))
    refuse_shared([], "target", some("sub-03"))
    with pytest.raises(InputError, match="Target and test share sub-02"):
        refuse_shared(some("sub-01", "sub-02"), "target", some("sub-02", "sub-03"))
    # Another name does not make others of them, another folder does.
    with pytest.raises(InputError, match="share"):
        refuse_shared(some("sub-01"), "source", [SetConfig(folder=str(bids), name="other", healthy=True)])
    write_person(tmp_path / "other", "sub-01")
    refuse_shared(some("sub-01"), "source", [SetConfig(folder=str(tmp_path / "other"), healthy=True)])


def test_phantoms_of_different_uses_are_never_shared():
    """Unless so many are asked for that they reach into the next range."""
    for use in ("source", "target", "validation"):
        refuse_shared([SetConfig(phantoms=9)], use, [SetConfig(phantoms=9)])
    with pytest.raises(InputError, match="Target and test share phantom-9000000"):
        refuse_shared([SetConfig(phantoms=2, first=999_999)], "target", [SetConfig(phantoms=1)])
    with pytest.raises(InputError, match="Validation and test share phantom-10000000"):
        refuse_shared([SetConfig(phantoms=1)], "validation", [SetConfig(phantoms=1, first=1_000_000)])


def test_a_found_cord_is_said_to_be_found(bids, monkeypatch):
    """The region model stands beside: what it finds is the mask, less nothing."""
    _, mask, labels = made_volumes()

    class Model:
        sha256 = "0"

    def finds(volume, *, cord, discs, region_model, device):
        assert cord is None
        assert discs is None
        prepared = prepare(volume, cord=mask, discs=read_discs(labels), region_model=None)
        return replace(prepared, record=prepared.record | {"cord": cases.FOUND})

    monkeypatch.setattr(sets, "load_region_model", lambda name: Model())
    sets.region_model_of.cache_clear()
    monkeypatch.setattr(cases, "prepare", finds)
    config = SetConfig(folder=str(bids), people=("sub-01",), healthy=True, region_model="default", find=True)
    assert made(config)[0].found
    sets.region_model_of.cache_clear()

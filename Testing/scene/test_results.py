"""A run as nodes: where they lie, whose they are, what becomes of them."""

import json
import tempfile

import numpy as np
import pytest
import slicer
import vtk
from made_scene import LESION, LESION_SLICE, THRESHOLDS, made_analysis, node_volume, turn, volume_node

from U2ADLib.analysis import relabelled, with_thresholds
from U2ADLib.errors import InputError
from U2ADLib.roi.labels import Discs, renumbered
from U2ADLib.volume import Volume, volume_hash
from U2ADScene import display, results, runs

SEGMENTS = ["C2-3", "C3-4", "C4-5", "C5-6", "C6-7", "C7-T1"]
MOVED = np.array([[1, 0, 0, 30], [0, 0.8, -0.6, -12], [0, 0.6, 0.8, 7], [0, 0, 0, 1]], float)
GRIDS = [("LIP", 0.0, None), ("RAS", 0.0, None), ("PSR", 25.0, None), ("SAL", 40.0, MOVED)]


@pytest.fixture
def analysis(monkeypatch):
    return made_analysis(monkeypatch)


def scene_nodes():
    nodes = slicer.mrmlScene.GetNodes()
    return {nodes.GetItemAsObject(k).GetID() for k in range(nodes.GetNumberOfItems())}


def items():
    """Names of all items of the subject hierarchy."""
    hierarchy, ids = results._hierarchy(), vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), ids, True)
    return [hierarchy.GetItemName(ids.GetId(k)) for k in range(ids.GetNumberOfIds())]


def array(node):
    return slicer.util.arrayFromVolume(node).transpose()


def marked_ras(node, mask):
    """RAS of the marked voxels, in the world."""
    points = node_volume(node).to_ras(np.argwhere(mask))
    out = np.zeros(3)
    for point in points:
        node.TransformPointToWorld(tuple(point), out)
        point[:] = out
    return points


# --- where things lie ---


@pytest.mark.parametrize(("codes", "degrees", "transform"), GRIDS)
def test_overlay_lies_on_the_planted_lesion(host, monkeypatch, codes, degrees, transform):
    analysis = made_analysis(monkeypatch, codes, degrees)
    node = volume_node(analysis.volume, transform=transform)
    nodes = results.show(analysis, node)

    # The planted voxels from the numbers of the made-up case, through the canonical affine alone.
    affine = turn(degrees) @ np.array([[-3.3, 0, 0, 12], [0, 0, -1, 40], [0, -1, 0, 90], [0, 0, 0, 1]], float)
    affine = (np.eye(4) if transform is None else transform) @ affine
    planted = [(LESION_SLICE, row, column) for row in range(75, 80) for column in range(56, 64)]
    planted = np.array(planted) @ affine[:3, :3].T + affine[:3, 3]

    error = nodes.maps["error"]
    found = marked_ras(error, array(error) > 0.2)
    assert len(found) == len(planted) == 40
    distance = np.linalg.norm(found[:, None] - planted, axis=2)
    assert distance.min(axis=0).max() < 1e-3
    anomaly = nodes.maps["anomaly"]
    strongest = marked_ras(anomaly, array(anomaly) == array(anomaly).max())
    assert np.linalg.norm(strongest[:, None] - planted, axis=2).min(axis=1).max() < 1e-3


@pytest.mark.parametrize(("codes", "degrees", "transform"), GRIDS)
def test_everything_shares_the_input_s_grid_and_transform(host, monkeypatch, codes, degrees, transform):
    analysis = made_analysis(monkeypatch, codes, degrees)
    node = volume_node(analysis.volume, transform=transform)
    nodes = results.show(analysis, node)
    for name in results.MAPS:
        one = nodes.maps[name]
        np.testing.assert_array_equal(node_volume(one).affine, node_volume(node).affine)
        np.testing.assert_array_equal(array(one), analysis.on_input(name))
    for one in (*nodes.maps.values(), nodes.segmentation, nodes.discs):
        assert one.GetTransformNodeID() == node.GetTransformNodeID()

    segmentation = nodes.segmentation.GetSegmentation()
    assert list(segmentation.GetSegmentIDs()) == ["cord", *SEGMENTS]
    labels = analysis.on_input("segments")
    for number, name in enumerate(SEGMENTS, 3):
        marked = slicer.util.arrayFromSegmentBinaryLabelmap(nodes.segmentation, name, node).transpose()
        np.testing.assert_array_equal(marked > 0, labels == number)
    cord = slicer.util.arrayFromSegmentBinaryLabelmap(nodes.segmentation, "cord", node).transpose()
    np.testing.assert_array_equal(cord > 0, analysis.on_input("cord") > 0)
    assert segmentation.GetNumberOfLayers() == 2  # the cord, and the segments in one image


@pytest.mark.parametrize("transform", [None, MOVED])
def test_discs_lie_at_the_labels(host, monkeypatch, transform):
    analysis = made_analysis(monkeypatch, "PSR", 25.0)
    nodes = results.show(analysis, volume_node(analysis.volume, transform=transform))
    discs = nodes.discs
    names = [discs.GetNthControlPointLabel(k) for k in range(discs.GetNumberOfControlPoints())]
    assert names == ["C2/3", "C3/4", "C4/5", "C5/6", "C6/7", "C7/T1"]
    # C4/5 is the label in slice 3, row 80, column 52 of the made-up case: 12 − 3.3 · 3, 40 − 52, 90 − 80 mm.
    expected = (np.eye(4) if transform is None else transform) @ turn(25.0) @ np.array([2.1, -12, 10, 1])
    np.testing.assert_allclose(discs.GetNthControlPointPositionWorld(2), expected[:3], atol=1e-3)


def test_input_is_untouched(host, analysis):
    node = volume_node(analysis.volume, transform=MOVED)
    display_node = node.GetDisplayNode()
    before = array(node).tobytes(), node_volume(node).affine.tobytes(), node.GetTransformNodeID()
    times = node.GetMTime(), node.GetImageData().GetMTime(), display_node.GetMTime()
    nodes = results.show(analysis, node)
    results.update_flags(nodes, with_thresholds(analysis, 0.9, 0.9))
    assert before == (array(node).tobytes(), node_volume(node).affine.tobytes(), node.GetTransformNodeID())
    assert times == (node.GetMTime(), node.GetImageData().GetMTime(), display_node.GetMTime())


# --- what they hold ---


def test_segments_carry_terminology_for_dicom(host, analysis):
    segmentation = results.show(analysis, volume_node(analysis.volume)).segmentation.GetSegmentation()
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    for name in segmentation.GetSegmentIDs():
        entry = slicer.vtkSlicerTerminologyEntry()
        text = vtk.mutable("")
        assert segmentation.GetSegment(name).GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), text)
        assert logic.DeserializeTerminologyEntry(str(text), entry)
        category, kind = entry.GetCategoryObject(), entry.GetTypeObject()
        codes = [
            (one.GetCodingSchemeDesignator(), one.GetCodeValue(), one.GetCodeMeaning()) for one in (category, kind)
        ]
        assert codes == [("SCT", "123037004", "Anatomical Structure"), ("SCT", "2748008", "Spinal cord")]
        assert logic.SerializeTerminologyEntry(entry) == results.TERMINOLOGY


def test_flagged_segment_has_the_warm_colour(host, analysis):
    nodes = results.show(analysis, volume_node(analysis.volume))
    segmentation = nodes.segmentation.GetSegmentation()
    colours = {name: segmentation.GetSegment(name).GetColor() for name in SEGMENTS}
    assert {name for name, colour in colours.items() if colour == display.segment_colour(True)} == {"C4-5"}
    assert all(colours[n] == display.segment_colour(False) for n in SEGMENTS if n != "C4-5")


def test_table_of_segments(host, analysis):
    table = results.show(analysis, volume_node(analysis.volume)).segments_table.GetTable()
    columns = [table.GetColumn(k).GetName() for k in range(table.GetNumberOfColumns())]
    assert columns == ["segment", "score", "threshold", "flagged", "position_mm", "slice", "score_in_use"]
    assert table.GetValueByName(2, "score_in_use").ToString() == "paper"
    rows = [[table.GetValue(r, c).ToString() for c in (0, 3)] for r in range(table.GetNumberOfRows())]
    assert rows == [[name, "yes" if name == "C4-5" else "no"] for name in SEGMENTS]
    assert table.GetValueByName(2, "threshold").ToDouble() == THRESHOLDS.segment
    # Rows 75 … 79 of the lesion are 65 … 69 mm below the cord's upper end; its slice is one left of the middle.
    assert 64 <= table.GetValueByName(2, "position_mm").ToDouble() <= 70
    assert table.GetValueByName(2, "slice").ToString() == "slice 4, 3.3 mm left"


def test_no_thresholds_and_no_discs(host, monkeypatch):
    analysis = made_analysis(monkeypatch, discs=(), thresholds=None)
    nodes = results.show(analysis, volume_node(analysis.volume))
    assert nodes.segments_table.GetNumberOfRows() == 0
    assert nodes.findings_table.GetNumberOfRows() == 0
    assert nodes.discs.GetNumberOfControlPoints() == 0
    assert list(nodes.segmentation.GetSegmentation().GetSegmentIDs()) == ["cord"]
    assert nodes.chart.GetNumberOfPlotSeriesNodes() == 2  # curve and marker


def test_new_thresholds_touch_only_what_shows_them(host, analysis):
    nodes = results.show(analysis, volume_node(analysis.volume))
    times = {name: one.GetImageData().GetMTime() for name, one in nodes.maps.items()}
    discs, state = nodes.discs.GetMTime(), nodes.state.GetMTime()
    higher = with_thresholds(analysis, 0.9, 0.9)
    results.update_flags(nodes, higher)
    assert times == {name: one.GetImageData().GetMTime() for name, one in nodes.maps.items()}
    assert (discs, state) == (nodes.discs.GetMTime(), nodes.state.GetMTime())
    segmentation = nodes.segmentation.GetSegmentation()
    assert segmentation.GetSegment("C4-5").GetColor() == display.segment_colour(False)
    assert nodes.segments_table.GetTable().GetValueByName(2, "flagged").ToString() == "no"
    assert nodes.findings_table.GetNumberOfRows() == 0
    assert results.restore(nodes, nodes.input).thresholds == higher.thresholds


def test_flags_where_the_user_deleted_a_node(host, analysis):
    nodes = results.show(analysis, volume_node(analysis.volume))
    for one in list(nodes):
        if one is not nodes.segments_table:
            slicer.mrmlScene.RemoveNode(one)
    results.update_flags(nodes, with_thresholds(analysis, 0.9, 0.9))
    assert nodes.segments_table.GetTable().GetValueByName(2, "flagged").ToString() == "no"


# --- whose they are ---


def test_nodes_lie_in_a_folder_beside_the_input(host, analysis):
    node = volume_node(analysis.volume)
    hierarchy = results._hierarchy()
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)
    nodes = results.show(analysis, node)
    assert hierarchy.GetItemParent(nodes.folder_item) == study
    assert hierarchy.GetItemName(nodes.folder_item) == "neck U2AD"
    tables = [nodes.segments_table, nodes.findings_table]
    shown = [*nodes.maps.values(), nodes.segmentation, nodes.discs, *tables, nodes.chart]
    assert {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(one)) for one in shown} == {nodes.folder_item}
    assert not hierarchy.GetItemByDataNode(nodes.record)
    assert {one.GetAttribute(results.RUN) for one in nodes} == {nodes.run}


def test_update_keeps_the_nodes_and_touches_no_others(host, analysis):
    node = volume_node(analysis.volume)
    other = results.show(analysis, node)
    mine = results.show(analysis, node)
    ids, before = [one.GetID() for one in mine], scene_nodes()
    times = {one.GetID(): one.GetMTime() for one in other}
    again = results.show(with_thresholds(analysis, 0.9, 0.9), node, into=mine)
    assert [one.GetID() for one in again] == ids
    assert scene_nodes() == before
    assert {one.GetID(): one.GetMTime() for one in other} == times
    assert again.run == mine.run != other.run
    assert items().count("neck U2AD") == 2


def test_update_follows_other_levels(host, analysis):
    node = volume_node(analysis.volume)
    nodes = results.show(analysis, node)
    grid = analysis.stack.grid
    points = {n: grid.stack_to_ras(p.reshape(1, 3))[0] for n, p in analysis.region.discs.items()}
    lower = relabelled(analysis, renumbered(Discs(points, "sct"), 1))
    results.show(lower, node, into=nodes)
    names = [nodes.discs.GetNthControlPointLabel(k) for k in range(nodes.discs.GetNumberOfControlPoints())]
    assert names == ["C3/4", "C4/5", "C5/6", "C6/7", "C7/T1"]
    assert list(nodes.segmentation.GetSegmentation().GetSegmentIDs()) == ["cord", *SEGMENTS[1:]]
    assert results.restore(nodes, node).flagged == lower.flagged == ("C5-6",)


def test_update_keeps_what_the_user_added_and_chose(host, analysis):
    node = volume_node(analysis.volume)
    nodes = results.show(analysis, node)
    nodes.segmentation.GetSegmentation().AddEmptySegment("mine", "mine")
    nodes.segmentation.GetDisplayNode().SetVisibility(False)
    nodes.maps["error"].GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeRainbow")
    nodes.discs.SetNthControlPointLocked(0, True)
    results.show(analysis, node, into=nodes)
    assert nodes.segmentation.GetSegmentation().GetSegment("mine")
    assert not nodes.segmentation.GetDisplayNode().GetVisibility()
    assert nodes.maps["error"].GetDisplayNode().GetColorNodeID() == "vtkMRMLColorTableNodeRainbow"
    assert nodes.discs.GetNthControlPointLocked(0)


def painted(nodes, name="cord"):
    """Add a block beside the cord to a segment, as with the Segment Editor's brush; (I, J, K) bool of it all."""
    label = slicer.util.arrayFromSegmentBinaryLabelmap(nodes.segmentation, name, nodes.input).copy()
    label[:3, :3, :3] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(label, nodes.segmentation, name, nodes.input)
    return label.transpose() > 0


def segment(node, name, volume):
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, name, volume).transpose() > 0


def place(nodes, number):
    return np.array(nodes.discs.GetNthControlPointPosition(number))


def lift(nodes, number):
    """Move a disc's point up by 3 mm, as with the mouse; (3,) where it lies then."""
    nodes.discs.SetNthControlPointPosition(number, *(place(nodes, number) + np.array([0, 0, 3])))
    return place(nodes, number)


def test_other_levels_leave_the_corrected_cord_and_discs(host, analysis):
    node = volume_node(analysis.volume)
    nodes, kept = results.show(analysis, node), runs.Analyses()
    cord, lifted = painted(nodes), lift(nodes, 2)
    nodes.discs.RemoveNthControlPoint(0)
    lower = kept.shift_levels(nodes, 1)
    np.testing.assert_array_equal(segment(nodes.segmentation, "cord", node), cord)
    assert [nodes.discs.GetNthControlPointLabel(k) for k in range(4)] == ["C4/5", "C5/6", "C6/7", "C7/T1"]
    np.testing.assert_allclose(place(nodes, 1), lifted, atol=1e-3)
    assert any(note == "Placed by hand: C4/5." for note in lower.region.notes)
    assert nodes.segmentation.GetSegmentation().GetNthSegmentID(0) == "cord"


def test_other_levels_of_unmoved_discs_name_no_hand(host, analysis):
    nodes = results.show(analysis, volume_node(analysis.volume))
    assert not [note for note in runs.Analyses().shift_levels(nodes, 1).region.notes if "by hand" in note]


def test_corrections_are_kept_when_results_are_replaced(host, analysis):
    node = volume_node(analysis.volume, transform=MOVED)
    nodes = results.show(analysis, node)
    assert results.keep_corrections(nodes, analysis, node) == []
    slicer.util.updateSegmentBinaryLabelmapFromArray(  # as painting the cord does
        np.zeros(node.GetImageData().GetDimensions()[::-1], np.uint8), nodes.segmentation, "C4-5", node
    )
    assert results.keep_corrections(nodes, analysis, node) == []
    cord = painted(nodes)
    lift(nodes, 2)
    moved = np.zeros(3)
    nodes.discs.GetNthControlPointPositionWorld(2, moved)
    kept = results.keep_corrections(nodes, analysis, node)
    results.show(analysis, node, into=nodes)
    assert [one.GetName() for one in kept] == ["neck segmentation corrected", "neck discs corrected"]
    np.testing.assert_array_equal(segment(kept[0], "cord", node), cord)
    assert list(kept[0].GetSegmentation().GetSegmentIDs()) == ["cord"]
    again = np.zeros(3)
    kept[1].GetNthControlPointPositionWorld(2, again)
    np.testing.assert_allclose(again, moved)
    assert kept[1].GetNthControlPointLabel(2) == "C4/5"
    hierarchy = results._hierarchy()
    assert {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(one)) for one in kept} == {nodes.folder_item}
    results.remove(nodes)
    assert all(slicer.mrmlScene.IsNodePresent(one) for one in kept)


def test_corrections_are_kept_where_the_old_run_is_not_known(host, analysis):
    node = volume_node(analysis.volume)
    nodes = results.show(analysis, node)
    slicer.mrmlScene.RemoveNode(nodes.state)
    assert results.keep_corrections(nodes, analysis, node) == []
    painted(nodes, "C2-3")
    (kept,) = results.keep_corrections(nodes, analysis, node)
    assert list(kept.GetSegmentation().GetSegmentIDs()) == ["C2-3"]


@pytest.mark.parametrize("role", ["anomaly", "segmentation", "chart", "record", "series.curve", "colours.heat"])
def test_deleted_nodes_are_made_again(host, analysis, role):
    node = volume_node(analysis.volume)
    nodes = results.show(analysis, node)
    kept = {one.GetID() for one in nodes if one is not nodes[role]}
    slicer.mrmlScene.RemoveNode(nodes[role])
    assert nodes[role] is None
    again = results.show(analysis, node, into=nodes)
    assert again.run == nodes.run
    assert again[role] is not None
    assert {one.GetID() for one in again} >= kept
    assert [found.run for found in results.find(node)] == [nodes.run]


def test_find_tells_volumes_and_runs_apart(host, analysis):
    first, second = volume_node(analysis.volume, "first"), volume_node(analysis.volume, "second")
    assert results.find(first) == []
    runs = [results.show(analysis, first).run for _ in range(2)]
    results.show(analysis, second)
    assert [nodes.run for nodes in results.find(first)] == runs
    assert len(results.find(second)) == 1


def test_a_run_is_not_updated_with_another_volume(host, analysis):
    first, second = volume_node(analysis.volume, "first"), volume_node(analysis.volume, "second")
    with pytest.raises(ValueError, match="not one of second"):
        results.show(analysis, second, into=results.show(analysis, first))


def test_deleted_display_is_made_again(host, analysis):
    nodes = results.show(analysis, volume_node(analysis.volume))
    for one in (nodes.maps["anomaly"], nodes.segmentation, nodes.discs):
        slicer.mrmlScene.RemoveNode(one.GetDisplayNode())
    results.update_flags(nodes, with_thresholds(analysis, 0.9, 0.9))
    again = results.show(analysis, nodes.input, into=nodes)
    assert again.maps["anomaly"].GetDisplayNode().GetColorNodeID() == again["colours.heat"].GetID()
    assert again.segmentation.GetDisplayNode()
    assert again.discs.GetDisplayNode()


def test_remove_leaves_what_is_not_of_the_run(host, analysis):
    node = volume_node(analysis.volume)
    before = scene_nodes()
    results.remove(results.show(analysis, node))
    assert scene_nodes() == before
    assert items() == ["neck"]

    nodes = results.show(analysis, node)
    display.show_map(nodes, "anomaly")  # brings a legend
    users = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "user's")
    hierarchy = results._hierarchy()
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(users), nodes.folder_item)
    results.remove(nodes)
    assert scene_nodes() - before == {users.GetID()}
    assert sorted(items()) == ["neck", "neck U2AD", "user's"]


@pytest.mark.parametrize("where", ["_fill_map", "_fill_segmentation", "_fill_segments_table"])
def test_nothing_stays_of_what_failed(host, analysis, monkeypatch, where):
    node = volume_node(analysis.volume)
    before = scene_nodes()

    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(results, where, fail)
    with pytest.raises(MemoryError):
        results.show(analysis, node)
    assert scene_nodes() == before
    assert items() == ["neck"]


def test_results_of_another_grid_are_refused(host, analysis, monkeypatch):
    other = made_analysis(monkeypatch, "RAS").volume
    before = scene_nodes()
    node = volume_node(other)
    with pytest.raises(InputError, match="neck is not the volume that was analysed"):
        results.show(analysis, node)
    assert len(scene_nodes() - before) == 2  # the volume and its display


# --- scene files ---


def saved_and_loaded(host, path):
    if path.suffix == ".mrb":
        assert host.scene.WriteToMRB(str(path))
    else:
        path.parent.mkdir()
        host.applicationLogic.SaveSceneToSlicerDataBundleDirectory(str(path.parent), None)
        path = next(path.parent.glob("*.mrml"))
    host.scene.Clear(0)
    if path.suffix == ".mrb":
        assert host.scene.ReadFromMRB(str(path), True)
    else:
        host.scene.SetURL(str(path))
        assert host.scene.Connect()
    return host.scene.GetFirstNodeByName("neck")


@pytest.mark.parametrize(("name", "codes"), [("scene.mrb", "LIP"), ("scene.mrb", "PSR"), ("folder/scene.mrml", "PSR")])
def test_a_saved_scene_gives_the_analysis_back(host, monkeypatch, tmp_path, name, codes):
    """PSR is left-handed: Slicer flips an axis of such a volume when it loads it."""
    analysis = made_analysis(monkeypatch, codes, 25.0)
    node = volume_node(analysis.volume, transform=MOVED)
    first = results.show(analysis, node)
    run = results.show(with_thresholds(analysis, 0.3, 0.3), node).run

    node = saved_and_loaded(host, tmp_path / name)
    found = results.find(node)
    assert [nodes.run for nodes in found] == [first.run, run]
    nodes = found[1]
    assert all(nodes[role] is not None for role in nodes.by_role)
    assert results._hierarchy().GetItemName(nodes.folder_item) == "neck U2AD"
    again = results.restore(nodes, node)
    assert (again.thresholds.segment, again.flagged) == (0.3, ("C4-5",))
    np.testing.assert_array_equal(again.anomaly, analysis.anomaly)
    np.testing.assert_array_equal(array(nodes.maps["anomaly"]), again.on_input("anomaly"))
    error = nodes.maps["error"]
    assert (array(error) > 0.2).sum() == 40
    np.testing.assert_array_equal(array(node)[array(error) > 0.2], LESION)
    assert again.provenance == analysis.provenance
    assert with_thresholds(again, 0.9, 0.9).flagged == ()

    ids = [one.GetID() for one in nodes]
    results.show(with_thresholds(again, 0.9, 0.9), node, into=nodes)
    assert [one.GetID() for one in results.find(node)[1]] == ids
    tag = nodes.segmentation.GetSegmentation().GetSegment("C4-5")
    assert tag.GetColor() == pytest.approx(display.segment_colour(False))
    table = nodes.curve_table.GetTable()
    np.testing.assert_allclose(
        [table.GetValueByName(k, "maximum").ToDouble() for k in (100, 130)], analysis.curve.maximum[[100, 130]]
    )


def test_a_scene_that_was_loaded_twice(host, analysis, tmp_path):
    results.show(analysis, volume_node(analysis.volume))
    assert host.scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    host.scene.SetURL("")
    assert host.scene.ReadFromMRB(str(tmp_path / "scene.mrb"), False)
    first, second = [n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if n.GetName().endswith("neck")][
        :2
    ]
    (mine,), (other,) = results.find(first), results.find(second)
    assert not {node.GetID() for node in mine} & {node.GetID() for node in other}
    assert mine.folder_item != other.folder_item
    results.remove(other)
    assert len(list(mine)) == len(mine.by_role)
    assert items().count("neck U2AD") == 1


def test_last_digits_of_the_geometry_do_not_matter(host, analysis):
    """Files round them; an image whose checksum changes by that is still the same image."""
    node = volume_node(analysis.volume)
    nodes = results.show(analysis, node)
    affine = analysis.volume.affine.copy()
    affine[:3, 3] += 6e-4
    assert volume_hash(Volume(analysis.volume.array, affine)) != volume_hash(analysis.volume)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    assert results.restore(nodes, node).flagged == ("C4-5",)
    affine[:3, 3] += 1
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    with pytest.raises(InputError, match="another image"):
        results.restore(nodes, node)


def test_restore_refuses_a_changed_volume_and_a_lost_state(host, analysis):
    node = volume_node(analysis.volume)
    nodes = results.show(analysis, node)
    changed = slicer.util.arrayFromVolume(node)
    changed[changed == LESION] -= 1
    with pytest.raises(InputError, match="another image"):
        results.restore(nodes, node)
    changed[changed == LESION - 1] += 1
    assert results.restore(nodes, node).flagged == ("C4-5",)

    text = nodes.state.GetText()
    nodes.state.SetText(text[:-8])
    with pytest.raises(InputError, match="missing or damaged"):
        results.restore(nodes, node)
    nodes.record.SetText("{}")
    with pytest.raises(InputError, match="cannot be read"):
        results.restore(nodes, node)
    slicer.mrmlScene.RemoveNode(nodes.state)
    with pytest.raises(InputError, match="was deleted"):
        results.restore(nodes, node)


def test_record_is_the_report_s(host, analysis):
    nodes = results.show(analysis, volume_node(analysis.volume))
    record = json.loads(nodes.record.GetText())
    assert [s["name"] for s in record["segments"] if s["flagged"]] == ["C4-5"]
    assert record["provenance"] == json.loads(json.dumps(analysis.provenance))


def test_scene_close(host, analysis):
    nodes = results.show(analysis, volume_node(analysis.volume))
    host.scene.Clear(0)
    assert list(nodes) == []
    assert nodes.input is None
    node = volume_node(analysis.volume)
    again = results.show(analysis, node, into=nodes)
    assert all(again[role] is not None for role in again.by_role)
    assert len(results.find(node)) == 1


def test_no_file_is_left(host, analysis, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    node = volume_node(analysis.volume)
    nodes = results.show(analysis, node)
    results.restore(nodes, node)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("U2AD")]

from itertools import permutations, product

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from made_scene import turn, volume_node

from U2ADLib.errors import InputError
from U2ADLib.io import read_volume
from U2ADLib.roi.labels import DISC_NAMES, read_cord, read_discs
from U2ADLib.volume import Volume, volume_hash
from U2ADScene.inputs import Inputs, disc_number, discs_from_markups, volume_of, write_inputs

# 3 × 1 × 0.5 mm, turned by 20°; the tips lie on a slanted line in the middle slice, 20 mm apart
AFFINE = turn(20) @ np.array([[-3, 0, 0, 10], [0, 0, -1, 30], [0, -0.5, 0, 70], [0, 0, 0, 1]], float)
SHAPE = (7, 320, 60)
TIPS = {number: np.array([3, 60 + 40 * k, 20 + 2 * k]) for k, number in enumerate(DISC_NAMES)}
MOVED = turn(-70) @ np.array([[1, 0, 0, 5], [0, 1, 0, -60], [0, 0, 1, 33], [0, 0, 0, 1]], float)
ORIENTATIONS = ["".join(c) for order in permutations(("LR", "PA", "IS")) for c in product(*order)]


def random_volume(affine=AFFINE, shape=SHAPE, dtype=np.int16):
    values = np.random.default_rng(3).integers(0, 900, shape)
    return Volume(values.astype(dtype), affine, "Surname^Name")


def transform_node(matrix):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def bending_node():
    """A transform that moves points by up to 8 mm along x."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for point in ((0, 0, 0), (90, 0, 0), (0, 90, 0), (0, 0, 90), (40, 40, 40)):
        source.InsertNextPoint(point)
        target.InsertNextPoint(point[0] + 8 * (point == (40, 40, 40)), *point[1:])
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    node.SetAndObserveTransformToParent(spline)
    return node


def below(node, transform):
    node.SetAndObserveTransformNodeID(transform.GetID())
    return node


def apply(matrix, point):
    return (matrix @ [*point, 1])[:3]


def markups(points, name="discs"):
    """Markups node; points: (label, RAS mm) pairs."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for label, point in points:
        node.AddControlPoint(vtk.vtkVector3d(*point), label)
    return node


def tips(names="345678", matrix=None):
    """The discs' tips under the given names, moved by a matrix."""
    matrix = np.eye(4) if matrix is None else matrix
    grid = random_volume()
    return [(n, apply(matrix, grid.to_ras(t))) for n, t in zip(names, TIPS.values(), strict=False)]


def segmentation(array, reference, names=("Spinal cord",)):
    """Segmentation node whose first segment is an array (I, J, K) on the reference node's grid; the others are one
    voxel."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    for k, name in enumerate(names):
        identifier = node.GetSegmentation().AddEmptySegment(name, name)
        other = np.zeros_like(array)
        other[0, 0, k] = 1
        values = array if k == 0 else other
        slicer.util.updateSegmentBinaryLabelmapFromArray(
            np.ascontiguousarray(values.transpose()), node, identifier, reference
        )
    return node


def label_map(volume, name="labels"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(volume.affine))
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(volume.array.transpose()))
    return node


def blob():
    """A cord-like block in a corner of its own: no flip or transposition maps it onto itself."""
    array = np.zeros(SHAPE, np.uint8)
    array[2:4, 50:290, 9:17] = 1
    array[1, 60:70, 11:14] = 1
    return array


# --- the volume


def test_the_file_is_the_node_in_every_orientation(host, tmp_path):
    assert len(ORIENTATIONS) == 48  # 24 of them left-handed
    for codes in ORIENTATIONS:
        columns = {
            code: sign * np.eye(3)[axis]
            for axis, pair in enumerate(("LR", "PA", "IS"))
            for code, sign in zip(pair, (-1, 1), strict=True)
        }
        affine = np.eye(4)
        affine[:3, :3] = np.stack([columns[c] for c in codes], axis=1) * (3.3, 1.25, 0.5)
        affine[:3, 3] = (12.345, -67.8, 9.01)
        for oblique in (np.eye(4), turn(17)):
            made = random_volume(oblique @ affine, (3, 4, 5))
            node = volume_node(made)
            found = volume_of(node)
            assert np.array_equal(found.array, made.array)
            np.testing.assert_allclose(found.affine, made.affine, atol=1e-9)
            inputs = write_inputs(node, tmp_path)
            assert volume_hash(read_volume(inputs.volume)) == volume_hash(found)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_the_type_is_kept(host, tmp_path, dtype):
    node = volume_node(random_volume(dtype=dtype))
    read = read_volume(write_inputs(node, tmp_path).volume)
    assert read.array.dtype == dtype
    assert volume_hash(read) == volume_hash(volume_of(node))


def test_nothing_tells_whose_the_volume_is(host, tmp_path):
    node = volume_node(random_volume(), name="Surname^Name")
    assert volume_of(node).name == "volume"
    inputs = write_inputs(node, tmp_path)
    assert inputs == Inputs(tmp_path / "volume.nrrd")
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".nrrd"] == ["volume.nrrd"]
    assert b"Surname" not in inputs.volume.read_bytes()


def test_the_volume_is_a_copy_in_the_nodes_own_frame(host):
    node = volume_node(random_volume(), transform=MOVED)
    volume = volume_of(node)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-9)
    before = volume.array.copy()
    slicer.util.arrayFromVolume(node)[:] = 0
    assert np.array_equal(volume.array, before)


def test_what_is_no_grey_image_is_refused(host):
    with pytest.raises(InputError, match="no image"):
        volume_of(None)
    with pytest.raises(InputError, match="no image"):
        volume_of(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"))
    colour = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    slicer.util.updateVolumeFromArray(colour, np.zeros((3, 4, 5, 3), np.uint8))
    with pytest.raises(InputError, match="photo holds 3 values per voxel"):
        volume_of(colour)
    two = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "complex")
    image = vtk.vtkImageData()
    image.SetDimensions(3, 4, 5)
    image.AllocateScalars(vtk.VTK_FLOAT, 2)
    two.SetAndObserveImageData(image)
    with pytest.raises(InputError, match="complex holds 2 values per voxel"):
        volume_of(two)


# --- the cord


@pytest.mark.parametrize("names", [("mask",), ("Spinal Cord", "canal", "lesion")])
def test_a_segment_lands_on_its_voxels(host, tmp_path, names):
    node = volume_node(random_volume())
    inputs = write_inputs(node, tmp_path, cord=segmentation(blob(), node, names))
    volume, mask = read_volume(inputs.volume), read_volume(inputs.cord)
    assert mask.same_grid(volume)
    assert np.array_equal(mask.array, blob())
    assert np.array_equal(read_cord(volume, mask).array, blob() > 0)


def test_a_segment_may_be_named(host, tmp_path):
    node = volume_node(random_volume())
    drawn = segmentation(blob(), node, ("first cord", "second cord"))
    inputs = write_inputs(node, tmp_path, cord=drawn, segment_id="second cord")
    assert np.argwhere(read_volume(inputs.cord).array).tolist() == [[0, 0, 1]]


def test_a_segment_drawn_on_a_finer_grid_comes_out_on_the_volumes(host, tmp_path):
    fine = Volume(np.zeros((7, 320, 120), np.int16), AFFINE @ np.diag([1, 1, 0.5, 1]))
    array = np.zeros(fine.array.shape, np.uint8)
    array[2:4, 50:290, 18:35] = 1  # voxels 9 … 17 of the coarse grid
    node = volume_node(random_volume())
    inputs = write_inputs(node, tmp_path, cord=segmentation(array, volume_node(fine)))
    expected = np.zeros(SHAPE, np.uint8)
    expected[2:4, 50:290, 9:18] = 1
    assert np.array_equal(read_volume(inputs.cord).array, expected)


@pytest.mark.parametrize("who", ["both", "volume", "segmentation"])
def test_a_segment_is_where_it_lies_in_the_world(host, tmp_path, who):
    """The volume's voxels and the segment's keep their places in the world, whichever of them is below a transform."""
    transform = transform_node(MOVED)
    to_segments = {"both": np.eye(4), "volume": MOVED, "segmentation": np.linalg.inv(MOVED)}[who]
    node = volume_node(random_volume())
    drawn = segmentation(blob(), volume_node(random_volume(to_segments @ AFFINE)))
    for moved in {"both": (node, drawn), "volume": (node,), "segmentation": (drawn,)}[who]:
        below(moved, transform)
    inputs = write_inputs(node, tmp_path, cord=drawn)
    assert np.array_equal(read_volume(inputs.cord).array, blob())


def test_a_label_map_keeps_its_values_and_place(host, tmp_path):
    node = below(volume_node(random_volume()), transform_node(MOVED))
    labels = Volume(blob() * 60, MOVED @ AFFINE)  # in the world where the blob is in the moved volume
    inputs = write_inputs(node, tmp_path, cord=label_map(labels))
    volume, mask = read_volume(inputs.volume), read_volume(inputs.cord)
    assert mask.same_grid(volume)
    assert np.array_equal(mask.array, labels.array)


def test_what_shows_no_cord_is_refused(host, tmp_path):
    node = volume_node(random_volume(), name="neck")
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    with pytest.raises(InputError, match="drawn has no segments"):
        write_inputs(node, tmp_path, cord=empty)
    with pytest.raises(InputError, match='None of the segments in drawn has "cord" in its name: a, b'):
        write_inputs(node, tmp_path, cord=segmentation(blob(), node, ("a", "b")))
    with pytest.raises(InputError, match='"cord" in their names: the cord, Cord 2'):
        write_inputs(node, tmp_path, cord=segmentation(blob(), node, ("the cord", "b", "Cord 2")))
    empty.GetSegmentation().AddEmptySegment("cord", "cord")
    with pytest.raises(InputError, match="cord in drawn is empty, or lies outside neck"):
        write_inputs(node, tmp_path, cord=empty)
    with pytest.raises(InputError, match="empty, or lies outside"):
        write_inputs(node, tmp_path, cord=segmentation(blob(), node), segment_id="no such")
    bent = below(label_map(Volume(blob(), AFFINE), "bent"), bending_node())
    with pytest.raises(InputError, match="bent lies below a transform that bends it"):
        write_inputs(node, tmp_path, cord=bent)
    assert list(tmp_path.glob("*.nrrd")) == []


# --- the discs


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *[("C2/3", 3), ("C2-3", 3), ("C2/C3", 3), ("c4–c5", 5), (" C6 / 7 ", 7), ("C7/T1", 8), ("3", 3), ("8", 8)],
        *[(name, None) for name in ("", "C2", "C3/2", "C7/8", "T1", "F-1", "1", "9", "C1/2", "C2/T3", "23", "-3")],
    ],
)
def test_names_of_discs(name, number):
    assert disc_number(name) == number


@pytest.mark.parametrize(
    "names",
    [DISC_NAMES.values(), "345678", ("C2-3", "C3-C4", "c4/5", "C5/C6", "C6–7", "C7-T1")],
    ids=["own", "numbers", "mixed"],
)
def test_discs_come_out_to_the_millimetre(host, tmp_path, names):
    node = volume_node(random_volume())
    inputs = write_inputs(node, tmp_path, discs=markups(tips(names)))
    volume, labels = read_volume(inputs.volume), read_volume(inputs.discs)
    assert labels.same_grid(volume)
    found = read_discs(labels)
    assert found.convention == "sct"
    for number, tip in TIPS.items():
        assert labels.array[tuple(tip)] == number
        np.testing.assert_allclose(found.points[number], volume.to_ras(tip), atol=1e-3)


@pytest.mark.parametrize("who", ["both", "volume", "discs"])
def test_discs_are_where_they_lie_in_the_world(host, tmp_path, who):
    transform = transform_node(MOVED)
    node = volume_node(random_volume())
    points = markups(tips(matrix={"both": None, "volume": MOVED, "discs": np.linalg.inv(MOVED)}[who]))
    for moved in {"both": (node, points), "volume": (node,), "discs": (points,)}[who]:
        below(moved, transform)
    found = discs_from_markups(points, node).points
    for number, tip in TIPS.items():
        np.testing.assert_allclose(found[number], random_volume().to_ras(tip), atol=1e-6)
    labels = read_volume(write_inputs(node, tmp_path, discs=points).discs)
    assert {n: np.argwhere(labels.array == n).tolist() for n in TIPS} == {n: [t.tolist()] for n, t in TIPS.items()}


def test_discs_below_a_bending_transform(host):
    bend = bending_node()
    node, points = volume_node(random_volume()), below(markups([("C4/5", (40, 40, 40))]), bend)
    np.testing.assert_allclose(discs_from_markups(points, node).points[5], (48, 40, 40), atol=1e-3)
    both = below(volume_node(random_volume()), bend)
    np.testing.assert_allclose(discs_from_markups(points, both).points[5], (40, 40, 40), atol=1e-2)


def test_a_point_without_a_position_is_left_out(host):
    points = markups(tips())
    points.SetNthControlPointPositionMissing(0)
    assert list(discs_from_markups(points, volume_node(random_volume())).points) == [4, 5, 6, 7, 8]


def test_a_label_map_of_discs_keeps_its_values_and_place(host, tmp_path):
    node = below(volume_node(random_volume()), transform_node(MOVED))
    array = np.zeros(SHAPE, np.int16)
    for number, tip in TIPS.items():
        array[tuple(tip)] = number
    inputs = write_inputs(node, tmp_path, discs=label_map(Volume(array, MOVED @ AFFINE)))
    found = read_discs(read_volume(inputs.discs)).points
    for number, tip in TIPS.items():
        np.testing.assert_allclose(found[number], random_volume().to_ras(tip), atol=1e-3)


@pytest.mark.parametrize("name", ["F-1", " ", "C2", "2"])
def test_a_point_without_a_discs_name_is_refused(host, name):
    points = markups([*tips()[:3], (name, (0, 0, 0))])
    with pytest.raises(InputError, match=f'The point "{name}" in discs names no disc: .* C2/3, .* C7/T1'):
        discs_from_markups(points, volume_node(random_volume()))


def test_discs_that_cannot_be_are_refused(host, tmp_path):
    node = volume_node(random_volume(), name="neck")
    with pytest.raises(InputError, match="The disc C2/3 is marked twice in discs"):
        discs_from_markups(markups([("C2/3", (0, 0, 0)), ("3", (0, 0, 9))]), node)
    with pytest.raises(InputError, match="discs holds no point"):
        discs_from_markups(markups([]), node)
    with pytest.raises(InputError, match="out of order"):
        discs_from_markups(markups([("C2/3", (0, 0, 0)), ("C3/4", (0, 0, 20))]), node)
    far = [*tips()[:-1], ("C7/T1", random_volume().to_ras(TIPS[8] + (9, 0, 0)))]
    with pytest.raises(InputError, match="C7/T1 in discs lie outside neck"):
        write_inputs(node, tmp_path, discs=markups(far))
    assert list(tmp_path.glob("*.nrrd")) == []

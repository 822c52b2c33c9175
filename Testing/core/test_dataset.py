from pathlib import Path

import pytest

from U2ADLib.dataset import EXTENSIONS, Case, find_cases, labels_beside, stem
from U2ADLib.errors import InputError
from U2ADLib.io import SUFFIXES

DICOM = bytes(128) + b"DICM"


def tree(root: Path, *names: str) -> Path:
    """Files with these names; those that end in .dcm look like DICOM inside."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DICOM if name.endswith(".dcm") else b"")
    return root


def found(root: Path) -> dict[str, tuple]:
    """id → (person, session, image, cord, discs), paths relative to the folder."""
    return {
        case.id: (
            case.person,
            case.session,
            *(path and path.relative_to(root).as_posix() for path in (case.image, case.cord, case.discs)),
        )
        for case in find_cases(root)
    }


def test_bids_with_masks_beside_the_image(tmp_path):
    tree(
        tmp_path,
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-01/anat/sub-01_T2w_label-SC_seg.nii.gz",
        "sub-01/anat/sub-01_T2w_label-discs_dlabel.nii.gz",
        "sub-01/anat/sub-01_T2w_label-lesion_seg.nii.gz",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T2w.json",
        "sub-02/ses-b/anat/sub-02_ses-b_acq-sag_T2w.nii",
        "sub-02/ses-a/anat/sub-02_ses-a_T2w.nii.gz",
        "sub-02/ses-a/dwi/sub-02_ses-a_T2w.nii.gz",
        "sourcedata/sub-01/anat/sub-01_T2w.nii.gz",
        "README",
    )
    anat = "sub-01/anat/sub-01_T2w"
    assert found(tmp_path) == {
        "sub-01_T2w": (
            "sub-01", None,
            f"{anat}.nii.gz", f"{anat}_label-SC_seg.nii.gz", f"{anat}_label-discs_dlabel.nii.gz",
        ),
        "sub-02_ses-a_T2w": ("sub-02", "ses-a", "sub-02/ses-a/anat/sub-02_ses-a_T2w.nii.gz", None, None),
        "sub-02_ses-b_acq-sag_T2w": (
            "sub-02", "ses-b", "sub-02/ses-b/anat/sub-02_ses-b_acq-sag_T2w.nii", None, None,
        ),
    }  # fmt: skip
    assert [case.id for case in find_cases(tmp_path)] == sorted(found(tmp_path))


@pytest.mark.parametrize(
    ("cord", "discs"),
    [
        ("_label-SC_seg", "_label-discs_dlabel"),  # since 2023
        ("_seg-manual", "_labels-disc-manual"),  # before
    ],
)
def test_bids_with_masks_in_derivatives(tmp_path, cord, discs):
    labels = "derivatives/labels/sub-x/anat/sub-x_T2w"
    tree(
        tmp_path,
        "sub-x/anat/sub-x_T2w.nii.gz",
        f"{labels}{cord}.nii.gz",
        f"{labels}{discs}.nii.gz",
        "derivatives/labels/sub-x/anat/sub-x_T1w_label-SC_seg.nii.gz",
        "derivatives/u2ad/sub-x/anat/sub-x_T2w_label-SC_seg.nii.gz",
    )
    assert found(tmp_path)["sub-x_T2w"][3:] == (f"{labels}{cord}.nii.gz", f"{labels}{discs}.nii.gz")


def test_own_derivatives_are_not_taken_for_labels(tmp_path):
    tree(
        tmp_path,
        "sub-x/anat/sub-x_T2w.nii.gz",
        "derivatives/u2ad/sub-x/anat/sub-x_T2w_label-SC_seg.nii.gz",
    )
    assert found(tmp_path)["sub-x_T2w"][3] is None


def test_corrected_masks_come_before_automatic_ones(tmp_path):
    tree(tmp_path, "a.nii.gz", "a_seg.nii.gz", "a_seg-manual.nii.gz")
    assert found(tmp_path)["a"][3] == "a_seg-manual.nii.gz"


def test_content_that_was_not_fetched_is_found(tmp_path):
    anat = tree(tmp_path, "sub-1/anat/sub-1_T2w.json") / "sub-1" / "anat"
    for name in ("sub-1_T2w.nii.gz", "sub-1_T2w_label-SC_seg.nii.gz"):
        (anat / name).symlink_to("../../.git/annex/objects/gone")
    assert found(tmp_path)["sub-1_T2w"][2:4] == (
        "sub-1/anat/sub-1_T2w.nii.gz",
        "sub-1/anat/sub-1_T2w_label-SC_seg.nii.gz",
    )


def test_pathologies(tmp_path):
    tree(tmp_path, "sub-1/anat/sub-1_T2w.nii", "sub-2/anat/sub-2_T2w.nii", "sub-3/anat/sub-3_T2w.nii")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\tpathology\nsub-1\t40\tDCM\nsub-2\t50\tn/a\n", encoding="utf-8-sig"
    )
    assert [case.pathology for case in find_cases(tmp_path)] == ["DCM", None, None]


@pytest.mark.parametrize("cord", ["_seg", "_seg-manual", "_label-SC_seg", "_cord", "_sc_seg"])
@pytest.mark.parametrize("discs", ["_discs", "_label-discs_dlabel", "_labels-disc-manual"])
@pytest.mark.parametrize(("image", "label"), [(".nii.gz", ".nii.gz"), (".nrrd", ".nii"), (".mha", ".mha")])
def test_flat_folder(tmp_path, cord, discs, image, label):
    tree(
        tmp_path,
        f"neck 7{image}",
        f"neck 7{cord}{label}",
        f"neck 7{discs}{label}",
        f"neck{image}",
        "neck_lesion.nii.gz",
        "neck_label-lesion_seg.nii.gz",
        "notes.txt",
        ".hidden.nii.gz",
    )
    assert found(tmp_path) == {
        "neck": ("neck", None, f"neck{image}", None, None),
        "neck 7": ("neck 7", None, f"neck 7{image}", f"neck 7{cord}{label}", f"neck 7{discs}{label}"),
    }


@pytest.mark.parametrize(
    "name",
    ["p_seg", "p_lesion_seg", "p_lesion", "labels", "p_labels-disc-manual", "p_seg-manual_labeled",
     "p_centerline-manual", "p_labeled_center_manual", "p_discs", "p_cord", "p_levels", "p_label-landmarks_C2mid",
     "p-mask"],
)  # fmt: skip
def test_label_files_are_not_images(tmp_path, name):
    tree(tmp_path, f"{name}.nii.gz")
    with pytest.raises(InputError, match="No image was found"):
        find_cases(tmp_path)


@pytest.mark.parametrize("name", ["p", "cervical_cord_01", "segovia_3", "unlabelled", "masked-man", "t2"])
def test_names_that_only_look_like_labels(tmp_path, name):
    tree(tmp_path, f"{name}.nii.gz")
    assert list(found(tmp_path)) == [name]


def test_bids_names_in_a_flat_folder(tmp_path):
    tree(tmp_path, "sub-7_ses-2_T2w.nii.gz", "sub-7_T2w.nii.gz")
    assert {case[:2] for case in found(tmp_path).values()} == {("sub-7", "ses-2"), ("sub-7", None)}


def test_dicom_series_in_sub_folders(tmp_path):
    tree(tmp_path, "anna/1.dcm", "anna/2.dcm", "anna_seg.nii.gz", "bert/study/IM0.dcm", "empty/readme.txt", "c.nii.gz")
    (tmp_path / "bert" / "study" / "IM0.dcm").rename(tmp_path / "bert" / "study" / "IM0")
    tree(tmp_path, "sourcedata/1.dcm", "derivatives/1.dcm")
    assert found(tmp_path) == {
        "anna": ("anna", None, "anna", "anna_seg.nii.gz", None),
        "bert": ("bert", None, "bert", None, None),
        "c": ("c", None, "c.nii.gz", None, None),
    }


def test_a_folder_that_is_a_dicom_series(tmp_path):
    folder = tree(tmp_path / "anna", "1.dcm", "2.dcm")
    assert find_cases(folder) == [Case("anna", "anna", None, folder)]


def test_one_name_in_two_formats(tmp_path):
    tree(tmp_path, "a.nii.gz", "A.nrrd", "b.mha", "a_seg.nii.gz")
    assert {name: case[3] for name, case in found(tmp_path).items()} == {
        "a.nii.gz": "a_seg.nii.gz",
        "A.nrrd": None,
        "b": None,
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["readme.txt"], "No image was found.*nii.gz"),
        (["sub-1/anat/sub-1_T1w.nii.gz"], "expected are sub-"),
        (["sub-1/anat/sub-1_T2w.nii.gz", "sub-2/anat/sub-1_T2w.nii.gz"], "same name"),
    ],
)
def test_refused_folders(tmp_path, names, message):
    with pytest.raises(InputError, match=message):
        find_cases(tree(tmp_path, *names))


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="There is no folder"):
        find_cases(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "expected"), [("a.b.nii.gz", "a.b"), ("A.NII", "A"), ("x.nrrd", "x"), ("folder.dcm", "folder.dcm")]
)
def test_stem(name, expected):
    assert stem(Path(name)) == expected


def test_extensions_are_those_that_can_be_read():
    assert set(EXTENSIONS) == set(SUFFIXES)


def test_the_real_folder(shared_data):
    cases = {case.person: case for case in find_cases(shared_data / "errsm")}
    assert sorted(cases) == ["sub-errsm11", "sub-errsm20", "sub-errsm21", "sub-errsm24", "sub-sctexample"]
    assert {person for person, case in cases.items() if case.cord} == {"sub-errsm11", "sub-errsm21", "sub-errsm24"}
    assert all(case.discs for case in cases.values())
    flat = {case.id: case for case in find_cases(shared_data / "sct_testing_data")}
    assert flat["t2"].cord.name == "t2_seg-manual.nii.gz"
    [scan] = find_cases(shared_data / "clinical_tse")
    assert scan.image == shared_data / "clinical_tse"


def test_labels_beside_an_image(tmp_path):
    """The Toolbox's own names, TotalSpineSeg's output folder, and nothing."""
    names = ("a.nii.gz", "a_seg.nii.gz", "a_seg_labeled_discs.nii.gz", "b.nii.gz", "tss/step2_output/b.nii.gz", "c.nii")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    spine = tmp_path / "tss" / "step2_output" / "b.nii.gz"
    assert labels_beside(tmp_path / "a.nii.gz") == (tmp_path / names[1], tmp_path / names[2])
    assert labels_beside(tmp_path / "b.nii.gz") == (spine, spine)
    assert labels_beside(tmp_path / "c.nii") == (None, None)
    assert labels_beside(tmp_path / "nowhere" / "c.nii") == (None, None)
    cases = {case.id: case for case in find_cases(tmp_path)}
    assert set(cases) == {"a", "b", "c"}
    assert cases["b"].cord == cases["b"].discs == spine
    assert cases["a"].discs == tmp_path / names[2]

"""An adaptation under way: started, stopped, continued, left alone by everything else, and asked about at the end."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
import slicer.util
from made_scene import made_analysis, volume_node

from slicer_bench.adapting_worker import write_program
from U2ADLib.dataset import labels_beside
from U2ADLib.errors import InputError, ModelError, U2ADError, UsageError
from U2ADLib.io import read_volume
from U2ADLib.package import find_model, list_models, read_card
from U2ADLib.training.adapt_recipe import _cases
from U2ADLib.training.checkpoint import resume, save_state
from U2ADScene import adapting, results
from U2ADScene.adapting import Adaptation, Request, unfinished
from U2ADScene.job import CANCELLED, CANCELLING, DONE, FAILED, RUNNING, STARTING


@pytest.fixture
def models(app, tmp_path, monkeypatch):
    """The folder of the user's models, empty."""
    folder = tmp_path / "models"
    monkeypatch.setenv("U2AD_MODELS", str(folder))
    return folder


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """The stand-in for the worker; its log is `log(tmp_path)`."""
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    return write_program(tmp_path / "python")


def log(tmp_path):
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    return str(tmp_path / "images")


@pytest.fixture
def volumes(app):
    """Two images, a label map and a result."""
    made = [slicer.util.addVolumeFromArray(np.zeros((3, 8, 8), np.int16), name=f"patient {k}") for k in range(3)]
    made[2].SetAttribute("U2AD.run", "0")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    return made[:2]


def until(condition):
    """Let Slicer work until something is so."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        slicer.app.processEvents()


def copies():
    return list(Path(slicer.app.temporaryPath).glob("U2AD-*"))


# --- from beginning to end


def test_a_model_is_made(models, worker, images, tmp_path):
    states, progress, curves = [], [], []
    request = Request("ours", folder=images, epochs=4, few=True)
    adaptation = Adaptation(
        request, on_progress=lambda *now: progress.append(now), on_state=states.append, on_curves=curves.append
    )
    adaptation.start(worker)
    assert adaptation.wait() == "ours"
    assert states == [STARTING, RUNNING, DONE]
    assert read_card(models / "ours")["lineage"][-1]["name"] == "u2ad-t2w"
    shares = [share for _stage, share, _left in progress]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert progress[0][0] == "Reading images"
    assert progress[0][2] is None  # nothing can be said yet
    assert progress[-2][2] > 0
    assert curves[-1]["epoch"] == [0, 1, 2, 3, 4]
    (call,) = log(tmp_path)
    assert call["--model"] == "u2ad-t2w"
    assert call["--out"] == str(models / "ours")
    assert (call["--epochs"], call["--device"], call["flags"]) == ("4", "auto", ["--few"])
    assert call["images"][0][0] == "images"
    assert adapting.remembered("ours") is None
    assert unfinished() == []


def test_volumes_of_the_scene_are_copied_and_the_copies_removed(models, worker, volumes, tmp_path):
    adaptation = Adaptation(Request("ours", volumes=tuple(node.GetID() for node in volumes), epochs=2))
    adaptation.start(worker)
    assert adaptation.state == STARTING
    assert not copies() or not list(copies()[0].iterdir())  # nothing is written before Slicer had its turn
    assert adaptation.wait() == "ours"
    (call,) = log(tmp_path)
    assert [name for name, size in call["images"] if size > 0] == ["volume-001.nrrd", "volume-002.nrrd"]
    assert copies() == []


def test_volumes_of_one_patient_are_one_person(models, worker, volumes, monkeypatch, tmp_path):
    """… to the worker, which hears nothing else of the patient; a volume without a patient is a person of its own."""
    hierarchy, uid = results._hierarchy(), slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMUIDName()
    series = [slicer.util.addVolumeFromArray(np.zeros((3, 8, 8), np.int16), name=f"series {k}") for k in range(6)]

    def patient(number, *nodes):
        """Patient, study and series, as the DICOM module files them."""
        item = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), f"Doe^Jane{number}")
        hierarchy.SetItemUID(item, uid, f"PAT-77{number}")
        study = hierarchy.CreateStudyItem(item, "neck")
        for node in nodes:
            hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)

    patient(1, series[2])
    patient(2, series[0], series[3], series[4])
    patient(1, series[5])  # the same patient once more, as of a second scene
    written, write, seen = [], adapting.write_volume, []

    def watched(path, volume):
        write(path, volume)
        written.append(path.name)
        seen.append(_cases([path], "T2w")[0].person)

    monkeypatch.setattr(adapting, "write_volume", watched)
    adaptation = Adaptation(Request("ours", volumes=tuple(node.GetID() for node in (*series, volumes[0])), epochs=2))
    adaptation.start(worker)
    adaptation.wait()
    people = ["sub-person1", "volume-002", "sub-person2", "sub-person1", "sub-person1", "sub-person2", "volume-007"]
    assert seen == people
    assert len(set(seen)) == 4
    assert written[0] == "sub-person1_volume-001.nrrd"
    said = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(word in text for text in said for word in (b"Doe", b"PAT-77"))
    assert not any(word in str(adapting.remembered("ours")) for word in ("Doe", "PAT-77"))


def cords_written(monkeypatch, worker, *nodes, cords=(), name="ours"):
    """Adapt to volume nodes; the cords that the worker finds beside their copies, as arrays by the copies' names."""
    seen, write = {}, adapting.write_volume

    def watched(path, volume):
        write(path, volume)
        if path.stem.endswith("_cord"):
            image = path.with_name(path.name.replace("_cord", ""))
            assert labels_beside(image)[0] == path
            seen[image.name] = read_volume(path).array

    monkeypatch.setattr(adapting, "write_volume", watched)
    request = Request(name, volumes=tuple(node.GetID() for node in nodes), cords=dict(cords), epochs=2)
    adaptation = Adaptation(request)
    adaptation.start(worker)
    adaptation.wait()
    return seen


def test_a_chosen_cord_goes_with_its_volume(models, worker, volumes, monkeypatch):
    drawn = np.zeros((3, 8, 8), np.uint8)
    drawn[1, 2:6, 3:5] = 1
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumes[1])
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        drawn, node, node.GetSegmentation().AddEmptySegment("cord", "cord"), volumes[1]
    )
    found = cords_written(monkeypatch, worker, *volumes, cords={volumes[1].GetID(): node.GetID()})
    assert list(found) == ["volume-002.nrrd"]
    np.testing.assert_array_equal(found["volume-002.nrrd"], drawn.transpose())


@pytest.mark.parametrize("given", [True, False])
def test_the_cord_of_an_analysis_is_used_where_the_user_gave_it(models, worker, monkeypatch, given):
    analysis = made_analysis(monkeypatch)
    if not given:
        configuration = analysis.provenance["configuration"] | {"cord_convention": "found"}
        analysis = replace(analysis, provenance=analysis.provenance | {"configuration": configuration})
    node = volume_node(analysis.volume)
    results.show(analysis, node)
    found = cords_written(monkeypatch, worker, node)
    assert list(found) == (["volume-001.nrrd"] if given else [])
    for array in found.values():
        np.testing.assert_array_equal(array > 0, analysis.on_input("cord") > 0)


def found_in(monkeypatch):
    """A volume node with an analysis that found the cord itself; the analysis and its nodes."""
    analysis = made_analysis(monkeypatch)
    configuration = analysis.provenance["configuration"] | {"cord_convention": "found"}
    analysis = replace(analysis, provenance=analysis.provenance | {"configuration": configuration})
    node = volume_node(analysis.volume)
    return node, analysis, results.show(analysis, node)


def test_a_cord_that_was_corrected_by_hand_is_used(models, worker, monkeypatch):
    node, analysis, nodes = found_in(monkeypatch)
    drawn = (analysis.on_input("cord") > 0).astype(np.uint8)
    drawn[tuple(np.argwhere(drawn)[0])] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        np.ascontiguousarray(drawn.transpose()), nodes.segmentation, results.CORD_ID, node
    )
    found = cords_written(monkeypatch, worker, node)
    np.testing.assert_array_equal(found["volume-001.nrrd"] > 0, drawn > 0)


@pytest.mark.parametrize("deleted", [True, False])
def test_without_the_segment_of_a_given_cord_it_is_found(models, worker, monkeypatch, deleted):
    """Deleted or emptied: the other segments of the run are no cord, and the other volumes are not to suffer."""
    analysis = made_analysis(monkeypatch)
    node = volume_node(analysis.volume)
    segmentation = results.show(analysis, node).segmentation
    if deleted:
        segmentation.GetSegmentation().RemoveSegment(results.CORD_ID)
    else:
        empty = np.zeros(analysis.volume.array.shape[::-1], np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(empty, segmentation, results.CORD_ID, node)
    assert cords_written(monkeypatch, worker, node) == {}


def test_it_tells_with_which_cords_it_was_started(models, worker, volumes, monkeypatch):
    """So that it can be continued with the same ones, whatever was analysed in between."""
    node, _analysis, nodes = found_in(monkeypatch)
    monkeypatch.setattr(results, "cord_was_given", lambda nodes: True)
    used = {node.GetID(): nodes.segmentation.GetID(), volumes[0].GetID(): ""}
    adaptation = Adaptation(Request("ours", volumes=tuple(used), epochs=2))
    adaptation.start(worker)
    adaptation.wait()
    assert adaptation.cords == used
    assert cords_written(monkeypatch, worker, node, cords={node.GetID(): ""}, name="again") == {}


def test_volumes_that_were_left_out_are_told_by_name(models, worker, volumes, tmp_path):
    """… and only told: no file gets the names of the scene's nodes."""
    said = {"message": "volume-002.nrrd is left out: volume-002 shows the chest, not the neck.", "level": "note"}
    text = Path(worker).read_text().replace("write(done)\n", f"say(**{said})\nwrite(done)\n", 1)
    Path(worker).write_text(text)
    adaptation = Adaptation(Request("ours", volumes=tuple(node.GetID() for node in volumes), epochs=2))
    adaptation.start(worker)
    adaptation.wait()
    assert adaptation.left_out == [("patient 1", "patient 1 shows the chest, not the neck.")]
    names = [path for path in tmp_path.rglob("*") if path.is_file() and b"patient 1" in path.read_bytes()]
    assert names == []


def test_a_cord_that_was_deleted_is_missed(models, worker, volumes):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    chosen = {volumes[0].GetID(): node.GetID()}
    slicer.mrmlScene.RemoveNode(node)
    adaptation = Adaptation(Request("ours", volumes=(volumes[0].GetID(),), cords=chosen))
    adaptation.start(worker)
    with pytest.raises(U2ADError, match="cord of patient 0 was deleted"):
        adaptation.wait()
    assert copies() == []


def test_only_images_of_the_scene_are_offered(models, volumes):
    assert adapting.images_in_scene() == volumes


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"name": "../x"}, UsageError, "letters"),
        ({"name": ""}, UsageError, "letters"),
        ({"name": "u2ad-t2w"}, UsageError, "already"),
        ({"folder": "/nowhere"}, InputError, "/nowhere"),
        ({"folder": ""}, InputError, "Choose the folder"),
        ({"folder": "."}, InputError, "Choose the folder"),  # what a directory button tells that nobody has used
        ({"folder": None}, InputError, "Choose the images"),
        ({"model": "unknown"}, U2ADError, "unknown"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(models, images, changes, error, said):
    with pytest.raises(error, match=said):
        Adaptation(Request(**({"name": "ours", "folder": images} | changes)))
    assert not models.exists()


def test_the_worker_s_refusal_is_told_and_nothing_is_left(models, worker, images, monkeypatch):
    monkeypatch.setenv("STAND_IN_ERROR", "6 slices of 2 people can be used, and at least 20 are needed.")
    adaptation = Adaptation(Request("ours", folder=images))
    adaptation.start(worker)
    with pytest.raises(U2ADError, match="at least 20"):
        adaptation.wait()
    assert adaptation.state == FAILED
    assert not (models / "ours").exists()
    assert adapting.remembered("ours") is None


@pytest.mark.parametrize("from_scene", [True, False])
def test_what_cannot_be_continued_says_what_to_choose(models, worker, images, volumes, monkeypatch, from_scene):
    """In the words of the panel: nobody gives an --out folder there."""
    save_state(models / "other", {}, {"epoch": 1, "recipe": {}})
    with pytest.raises(ModelError) as refusal:
        resume(models / "other", {"data": "others"}, None, None)
    monkeypatch.setenv("STAND_IN_ERROR", str(refusal.value))
    chosen = {"volumes": (volumes[0].GetID(),)} if from_scene else {"folder": images}
    adaptation = Adaptation(Request("ours", **chosen))
    adaptation.start(worker)
    with pytest.raises(U2ADError, match=f"the same {'volumes and cords' if from_scene else 'folder'}") as told:
        adaptation.wait()
    assert "--" not in str(told.value)
    assert adaptation.has_other_data


@pytest.mark.parametrize("delete", [True, False])
def test_volumes_that_cannot_be_written(models, worker, volumes, delete, tmp_path):
    """Deleted before their turn, or without an image."""
    if not delete:
        volumes[1].SetAndObserveImageData(None)
    adaptation = Adaptation(Request("ours", volumes=tuple(node.GetID() for node in volumes)))
    adaptation.start(worker)
    if delete:
        slicer.mrmlScene.RemoveNode(volumes[1])
    with pytest.raises(U2ADError, match="deleted" if delete else "no image"):
        adaptation.wait()
    assert adaptation.state == FAILED
    assert copies() == []
    assert not (tmp_path / "log").exists()


# --- stopped and continued


def started(worker, images, epochs=10, **more):
    """An adaptation that has done two epochs."""
    adaptation = Adaptation(Request("ours", folder=images, epochs=epochs), **more)
    adaptation.start(worker)
    until(lambda: any((one.epoch or 0) >= 2 for one in unfinished()))
    return adaptation


def test_stopped_and_continued(models, worker, images, monkeypatch, tmp_path):
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0.05")
    states = []
    adaptation = started(worker, images, on_state=states.append)
    adaptation.stop()
    adaptation.stop()  # impatient users press twice
    with pytest.raises(U2ADError, match=r"up to epoch \d of 10 is kept"):
        adaptation.wait()
    assert states == [STARTING, RUNNING, CANCELLING, CANCELLED]
    (left,) = unfinished()
    assert (left.name, left.epochs) == ("ours", 10)
    assert 2 <= left.epoch < 10
    assert adapting.remembered("ours") == Request("ours", "u2ad-t2w", images, epochs=10)
    assert "ours" not in [entry.name for entry in list_models()]
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0")
    again = Adaptation(adapting.remembered("ours"))
    again.start(worker)
    assert again.wait() == "ours"
    assert unfinished() == []
    first, second = log(tmp_path)
    assert first == second  # the same command


def test_stopped_before_anything_was_learnt(models, worker, images, volumes):
    for request in (Request("ours", folder=images), Request("ours", volumes=(volumes[0].GetID(),))):
        adaptation = Adaptation(request)
        adaptation.start(worker)
        adaptation.stop()
        with pytest.raises(U2ADError, match="nothing was learnt"):
            adaptation.wait()
        assert adaptation.state == CANCELLED
        assert not (models / "ours").exists()
        assert copies() == []


def test_a_worker_that_does_not_listen_is_ended(models, worker, images, monkeypatch):
    from U2ADScene import job

    monkeypatch.setattr(adapting, "PATIENCE_MS", 50)
    monkeypatch.setattr(job, "KILL_AFTER_MS", 50)
    monkeypatch.setenv("STAND_IN_DEAF", "1")
    adaptation = started(worker, images, epochs=10_000)
    adaptation.stop()
    with pytest.raises(U2ADError, match="is kept"):
        adaptation.wait()


def test_it_has_longer_to_stop_than_an_analysis(models, worker, images, monkeypatch):
    """It has to finish a step and save; an analysis only has to end."""
    from U2ADScene import job

    monkeypatch.setattr(job, "TERMINATE_AFTER_MS", 1)
    monkeypatch.setattr(job, "KILL_AFTER_MS", 1)
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0.3")
    adaptation = started(worker, images)
    adaptation.stop()
    with pytest.raises(U2ADError, match="is kept"):
        adaptation.wait()
    assert adaptation._job.error == "Cancelled. Nothing was changed."  # it ended by itself, not by force


def test_a_closed_scene_does_not_end_it(models, worker, images, monkeypatch):
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0.02")
    adaptation = started(worker, images)
    slicer.mrmlScene.Clear(0)
    assert adaptation.wait() == "ours"


def test_other_folders_are_no_unfinished_adaptations(models):
    for name, text in (
        (".hidden", "{}"), ("broken", "no json"), ("pretrained", json.dumps({"epoch": 3, "recipe": {"config": {}}})),
    ):  # fmt: skip
        (models / name / "training").mkdir(parents=True)
        (models / name / "training" / "state.json").write_text(text)
    (models / "done" / "training").mkdir(parents=True)
    (models / "done" / "training" / "state.json").write_text("{}")
    (models / "done" / "model.json").write_text("{}")
    assert [(one.name, one.epoch) for one in unfinished()] == [("broken", None)]


def test_discarding(models, worker, images, monkeypatch):
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0.05")
    adaptation = started(worker, images)
    adaptation.stop()
    until(lambda: adaptation.ended)
    adapting.discard("ours")
    assert unfinished() == []
    assert not (models / "ours").exists()
    with pytest.raises(UsageError, match="no unfinished"):
        adapting.discard("u2ad-t2w")
    assert find_model("u2ad-t2w").is_dir()


def test_free_names(models, worker, images, monkeypatch):
    assert adapting.free_name("u2ad-t2w") == "u2ad-t2w-adapted"
    adaptation = Adaptation(Request("u2ad-t2w-adapted", folder=images, epochs=1))
    adaptation.start(worker)
    assert adaptation.wait() in [entry.name for entry in list_models()]
    assert adapting.free_name("u2ad-t2w") == "u2ad-t2w-adapted-2"


# --- the end of Slicer


@pytest.fixture
def window(app):
    """Slicer's main window."""
    made = qt.QMainWindow()
    made.setObjectName("qSlicerMainWindow")
    made.show()
    yield made
    made.delete()


@pytest.fixture
def asked(app, monkeypatch):
    """The questions that were asked; the answers are the items of `.answers`."""

    class Asked(list):
        answers = ()

    questions = Asked()

    def answer(text, *args, **kwargs):
        questions.append(text)
        return questions.answers[len(questions) - 1]

    monkeypatch.setattr(type(slicer.app), "testingEnabled", lambda self: False)
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", answer)
    return questions


def test_it_asks_before_slicer_quits_and_stops_in_good_order(models, worker, images, window, asked, monkeypatch):
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0.05")
    asked.answers = (False, True)
    adaptation = started(worker, images, epochs=500)
    assert not window.close()
    assert window.visible
    assert adaptation.state == RUNNING  # the user wants it to go on
    assert not window.close()
    assert adaptation.state == CANCELLING
    assert not window.close()  # asked only once
    assert window.visible
    until(lambda: not window.visible)  # closes by itself, once all is saved
    assert adaptation.state == CANCELLED
    assert len(unfinished()) == 1
    assert len(asked) == 2
    assert "can be continued" in asked[0]


def test_nothing_is_asked_after_it_has_ended(models, worker, images, window, asked):
    adaptation = Adaptation(Request("ours", folder=images, epochs=1))
    adaptation.start(worker)
    adaptation.wait()
    assert window.close()
    assert asked == []


def test_where_nobody_can_be_asked_it_stops_by_itself(models, worker, images, monkeypatch):
    """`slicer.app.quit()`, scripts without a window, the end of the session."""
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0.05")
    adaptation = started(worker, images, epochs=500)
    number = adaptation._job._process.processId()
    slicer.app.aboutToQuit.emit()
    assert adaptation.state == CANCELLED
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    assert len(unfinished()) == 1
    slicer.app.aboutToQuit.emit()  # it no longer listens


def test_long_runs_keep_their_copies(models, worker, volumes, monkeypatch):
    """The next analysis clears away what an earlier Slicer has left over a day before; this is not left over."""
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0.05")
    monkeypatch.setattr(adapting, "LOOK_EVERY_S", 0.0)
    adaptation = Adaptation(Request("ours", volumes=(volumes[0].GetID(),), epochs=100))
    adaptation.start(worker)
    until(lambda: any((one.epoch or 0) >= 1 for one in unfinished()))
    (folder,) = copies()
    os.utime(folder, (0, 0))
    until(lambda: folder.stat().st_mtime > 0)
    adaptation.stop()
    until(lambda: adaptation.ended)


def test_the_score_has_its_part_of_the_progress():
    """The parts follow each other without a gap, with and without discriminators."""
    for stages in (adapting.STAGES, adapting.STAGES_WITH_SCORE):
        ends = [0.0, *(high for _, high in stages.values())]
        assert [low for low, _ in stages.values()] == pytest.approx(ends[:-1])
        assert ends[-1] == 1

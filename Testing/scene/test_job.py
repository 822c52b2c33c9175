"""The worker process: real runs, and a stand-in for every way it can end."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import slicer

from U2ADScene import job as module
from U2ADScene.job import CANCELLED, CANCELLING, DONE, FAILED, READY, RUNNING, STARTING, Job


@pytest.fixture
def stand_in(tmp_path):
    """Function: Python code → a program that runs it in place of the worker."""

    def made(code):
        path = tmp_path / "python"
        path.write_text(f"#!{sys.executable}\nimport sys, json, os, time\n{code}\n")
        path.chmod(0o755)
        return str(path)

    return made


def line(**values):
    return f"print({json.dumps(json.dumps(values))}, flush=True)\n"


def run(program, arguments=()):
    states, progress = [], []
    job = Job(on_progress=lambda *now: progress.append(now), on_state=states.append)
    job.start(list(arguments), program)
    job.wait()
    return job, states, progress


def test_the_real_worker(app, tmp_path):
    job, states, progress = run(sys.executable, ["simulate", "--out", str(tmp_path / "out")])
    assert job.state == DONE
    assert job.error == ""
    assert states == [STARTING, RUNNING, DONE]
    assert (tmp_path / "out" / "phantom_T2w.nii.gz").is_file()
    assert job.result["result"].endswith("phantom_T2w.nii.gz")
    assert progress[-1][1] == 1.0


def test_its_own_errors_are_told_as_they_are(app, tmp_path):
    job, _, _ = run(sys.executable, ["locate", str(tmp_path / "nothing.nrrd"), "--out", str(tmp_path / "out")])
    assert job.state == FAILED
    assert "nothing.nrrd" in job.error
    assert not (tmp_path / "out").exists()


def test_lines_may_come_in_pieces(app, stand_in):
    code = (
        line(stage="Reading", done=1, total=1, seconds_left=None)
        + "print('a library says something')\n"
        + 'sys.stdout.write(\'{"message": "caf\'); sys.stdout.flush(); time.sleep(0.05)\n'
        + 'sys.stdout.write(\'e", "level": "note"}\\n\'); sys.stdout.flush()\n'
        + line(stage="Reconstruction", done=1, total=2, seconds_left=4.0)
        + line(result="/x", summary="done")
    )
    job, states, progress = run(stand_in(code))
    assert states == [STARTING, RUNNING, DONE]
    assert job.notes == ["cafe"]
    assert progress[0] == ("Reading", pytest.approx(0.03), None)
    assert progress[1] == ("Reconstruction", pytest.approx(0.525), 4.0)
    assert job.result["result"] == "/x"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.kill(os.getpid(), 9)", "memory ran out"),
        ("print('MemoryError', file=sys.stderr); sys.exit(1)", "memory ran out"),
        ("print('OSError: [Errno 28] No space left on device', file=sys.stderr); sys.exit(1)", "disk is full"),
        ("print(\"ModuleNotFoundError: No module named 'torch'\", file=sys.stderr); sys.exit(1)", "torch"),
        ("print('Traceback', file=sys.stderr); print('ZeroDivisionError: x', file=sys.stderr); sys.exit(7)", "Zero"),
        ("sys.exit(5)", "exit code 5"),
        ("sys.exit(0)", "unexpectedly"),  # without a result it did not do what it was asked to
    ],
)
def test_every_other_end_says_what_to_do(app, stand_in, code, said):
    job, _, _ = run(stand_in(code))
    assert job.state == FAILED
    assert said in job.error


def test_what_cannot_be_started(app, monkeypatch, tmp_path):
    job, states, _ = run(str(tmp_path / "absent"))
    assert states == [STARTING, FAILED]
    assert "absent" in job.error
    monkeypatch.setattr(module, "interpreter", lambda: None)
    job = Job()
    assert job.state == READY
    job.start([])
    assert job.state == FAILED
    assert "PythonSlicer" in job.error


COOPERATIVE = line(stage="Reading", done=1, total=1) + "sys.stdin.read(); sys.exit(130)"
DEAF = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    + line(stage="Reading", done=1, total=1)
    + "time.sleep(600)"
)


@pytest.mark.parametrize("code", [COOPERATIVE, DEAF])
def test_cancelling(app, stand_in, code, monkeypatch):
    monkeypatch.setattr(module, "TERMINATE_AFTER_MS", 50)
    monkeypatch.setattr(module, "KILL_AFTER_MS", 50)
    states = []
    job = Job(on_state=states.append)
    job.start([], stand_in(code))
    while job.state != RUNNING:
        slicer.app.processEvents()
    job.cancel()
    job.cancel()  # impatient users press twice
    assert job.wait() == CANCELLED
    assert states == [STARTING, RUNNING, CANCELLING, CANCELLED]
    assert job.error == "Cancelled. Nothing was changed."


def test_cancelling_with_a_reason_and_the_real_worker(app, tmp_path):
    job = Job()
    job.start(["simulate", "--out", str(tmp_path / "out")], sys.executable)
    while job.state != RUNNING:
        slicer.app.processEvents()
    job.cancel("The volume was deleted.")
    assert job.wait() == CANCELLED
    assert job.error == "The volume was deleted."
    assert not (tmp_path / "out").exists()


def test_no_orphan_is_left(app, stand_in):
    """When Slicer dies, the worker's standard input closes, and it ends."""
    job = Job()
    job.start([], stand_in(COOPERATIVE))
    while job.state != RUNNING:
        slicer.app.processEvents()
    number = job._process.processId()
    os.kill(number, 0)  # it lives
    job._process.closeWriteChannel()  # what the end of the parent does
    job.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(number, signal.SIGCONT)


def test_a_launcher_is_ended_with_the_python_it_started(app, stand_in, monkeypatch, tmp_path):
    """PythonSlicer may be a launcher: its child tells its own number, and does not outlive a kill."""
    monkeypatch.setattr(module, "TERMINATE_AFTER_MS", 50)
    monkeypatch.setattr(module, "KILL_AFTER_MS", 50)
    child = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('{\"pid\": %d}' % os.getpid(), flush=True); "
        'print(\'{"stage": "Reading", "done": 1, "total": 1}\', flush=True); time.sleep(600)'
    )
    launcher = (
        "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"subprocess.run([sys.executable, '-c', {child!r}])"
    )
    job = Job()
    job.start([], stand_in(launcher))
    while job.state != RUNNING:
        slicer.app.processEvents()
    number = job._pid
    assert number not in (None, job._process.processId())
    job.cancel()
    assert job.wait() == CANCELLED
    while lives(number):  # it is gone as soon as its new parent has taken note
        slicer.app.processEvents()


def lives(number):
    """Whether a process runs; one that only waits for its parent to take note does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_what_the_worker_says_is_told_as_it_is(app, stand_in):
    said = "The GPU ran out of memory (CUDA out of memory): close other programs."
    job, _, _ = run(stand_in(line(error=said, exit_code=4) + "print('MemoryError', file=sys.stderr); sys.exit(4)"))
    assert job.error == said


OPTIONS = {  # said by: what is said → what the panel says
    "device": ("No GPU can be used: choose --device cpu.", "No GPU can be used: choose the CPU as device."),
    "few": ("Add images, or --few if you want it.", 'Add images, or tick "Few images will do" if you want it.'),
    "out": ("It is a finished model already: choose another --out folder.", "already: give another name."),
    "batch": ("It cannot lie there: choose another --out.", "choose another folder for the results."),
    "cord": ("If it is, give a mask of the cord with --cord.", 'a segmentation of the cord under "Region".'),
    "discs": ("if it is one, give --discs.", 'if it is one, choose points on the discs under "Region".'),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_told_as_what_stands_for_them_in_the_panel(app, stand_in, name):
    said, meant = OPTIONS[name]
    job, _, _ = run(stand_in(line(message=said, level="note") + line(error=said, exit_code=3) + "sys.exit(3)"))
    assert job.error.endswith(meant)
    assert job.notes == [job.error]


def test_the_worker_still_says_it_so():
    sources = [path.read_text(encoding="utf-8") for path in Path(module.U2ADLib.__file__).parent.rglob("*.py")]
    assert len(module.panel_words()) == len(OPTIONS)
    for said in module.panel_words():
        assert any(said in source for source in sources), said


@pytest.mark.parametrize("user", ["Jürgen", "user"])
def test_copies_are_named_from_where_they_lie(app, stand_in, tmp_path, monkeypatch, user):
    """ITK on Windows opens no path with letters beyond ASCII; without such letters all stays as it is."""
    place = tmp_path / user / "Temp"
    (place / "U2AD-x").mkdir(parents=True)
    (place / "U2AD-x" / "volume.nrrd").write_text("voxels")
    monkeypatch.setattr(slicer.app, "_folder", place)
    code = "print(json.dumps(dict(result=[sys.argv[4], sys.argv[6], open(sys.argv[4]).read()], summary='')))"
    given = [str(place / "U2AD-x" / "volume.nrrd"), "--out", str(tmp_path / user / "models")]
    job, _, _ = run(stand_in(code), ["adapt", *given])
    image = "U2AD-x/volume.nrrd" if user == "Jürgen" else given[0]
    assert job.result["result"] == [image, given[2], "voxels"]


def test_other_paths_are_as_they_were_given(app, stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(slicer.app, "_folder", tmp_path / "Jürgen")
    (tmp_path / "Jürgen").mkdir()
    job, _, _ = run(stand_in("print(json.dumps(dict(result=[os.getcwd(), sys.argv[4]], summary='')))"), ["batch", "in"])
    assert job.result["result"] == [os.getcwd(), "in"]


def test_a_job_is_started_once(app, stand_in):
    job, _, _ = run(stand_in("sys.exit(5)"))
    with pytest.raises(RuntimeError):
        job.start([])

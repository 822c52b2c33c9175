"""The worker: U2AD's command line in a process of its own, so that Slicer never freezes and never loses a scene.

It is started as `PythonSlicer -m U2ADLib … --progress json --cancel-on-stdin-close`, reports in JSON lines, and stops
at the next step when its standard input closes: by Cancel, and also when Slicer itself ends.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

import U2ADLib

READY, STARTING, RUNNING, CANCELLING, DONE, CANCELLED, FAILED = (
    "ready", "starting", "running", "cancelling", "done", "cancelled", "failed",
)  # fmt: skip
ENDED = (DONE, CANCELLED, FAILED)

TERMINATE_AFTER_MS, KILL_AFTER_MS = 4000, 3000  # after Cancel, where the worker does not stop by itself
POLL_MS = 20  # of `wait`
LAST_LINES = 20  # of standard error that are kept

# Where in the whole each stage begins and ends, 0–1: roughly its share of the time. Others fill the bar by themselves.
STAGES = {
    "Reading": (0.0, 0.03),
    "Preparing": (0.03, 0.05),
    "Finding the cord": (0.05, 0.16),
    "Outlining the cord": (0.16, 0.2),
    "Finding the cord with nnU-Net": (0.05, 0.2),
    "Reconstruction": (0.2, 0.85),
    "Scoring": (0.85, 0.88),
    "Writing": (0.88, 1.0),
}
_MEMORY_SIGNS = ("MemoryError", "DefaultCPUAllocator", "out of memory", "Cannot allocate memory")
_DISK_SIGNS = ("No space left on device", "ENOSPC", "Disk quota exceeded")
_EXIT_CANCELLED = 130
_EXIT_WITH_RESULT = (0, 1, 3)  # 1, 3: a batch with cases that failed or were refused; its table says which
_SIGKILL = 9


def interpreter() -> str | None:
    """Path of PythonSlicer, found as Slicer finds it; None where there is none."""
    beside = [Path(sys.executable).with_name(name) for name in ("PythonSlicer", "PythonSlicer.exe")]
    found = (str(path) for path in beside if path.is_file())
    return shutil.which("PythonSlicer") or next(found, None)


def panel_words() -> dict[str, str]:
    """What the worker says of the command line's options → what the panel has in their place."""
    return {
        "or --few if": _('or tick "Few images will do" if'),
        "choose --device cpu": _("choose the CPU as device"),
        "give a mask of the cord with --cord": _('choose a segmentation of the cord under "Region"'),
        "give --discs": _('choose points on the discs under "Region"'),
        "choose another --out folder": _("give another name"),
        "choose another --out.": _("choose another folder for the results."),
    }


def _in_panel_words(text):
    for said, meant in panel_words().items():
        text = text.replace(said, meant)
    return text


class Job:
    """One run of the worker.

    :ivar state: READY, STARTING, RUNNING, CANCELLING, and in the end DONE, CANCELLED or FAILED.
    :ivar error: what the user is told in the end; "" where all went well.
    :ivar result: the worker's last line of results, {"result": path, "summary": text}.
    :ivar notes: what the worker said on the way.
    """

    def __init__(
        self,
        on_progress: Callable[[str, float, float | None], None] | None = None,
        on_state: Callable[[str], None] | None = None,
        on_note: Callable[[str], None] | None = None,
        *,
        stages: Mapping[str, tuple[float, float]] = STAGES,
        patience_ms: int | None = None,
    ):
        """:param on_progress: called with the stage, 0–1 of the whole, and the seconds that the stage still takes.
        :param stages: where in the whole each stage begins and ends, 0–1.
        :param patience_ms: how long the worker may take to stop by itself after Cancel; None: seconds.
        """
        self._on_progress, self._on_state, self._on_note = on_progress, on_state, on_note
        self._stages, self._patience_ms = stages, patience_ms
        self.state, self.error, self.result, self.notes = READY, "", {}, []
        self._process = None
        self._buffer, self._said = b"", []
        self._cancel_reason = ""
        self._fraction, self._pid = 0.0, None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def start(self, arguments: list[str], program: str | None = None) -> None:
        """Start `-m U2ADLib ARGUMENTS`; a job is started once. Failure to start is a state, not an exception.

        :param program: the Python to run it with, for tests; None: PythonSlicer.
        """
        if self.state != READY:
            raise RuntimeError("A job is started once.")
        program = program or interpreter()
        if program is None:
            self._end(FAILED, _("PythonSlicer was not found beside Slicer: the installation of Slicer is incomplete."))
            return
        self._process = process = qt.QProcess()
        environment = qt.QProcessEnvironment.systemEnvironment()
        paths = [str(Path(U2ADLib.__file__).resolve().parents[1]), environment.value("PYTHONPATH", "")]
        environment.insert("PYTHONPATH", os.pathsep.join(path for path in paths if path))
        environment.insert("PYTHONIOENCODING", "utf-8")
        environment.insert("PYTHONSAFEPATH", "1")  # nothing is imported from the working directory
        process.setProcessEnvironment(environment)
        place = Path(slicer.app.temporaryPath)
        from_there = [str(Path(one).relative_to(place)) if place in Path(one).parents else one for one in arguments]
        if from_there != arguments and not str(place).isascii():
            # On Windows, the worker's ITK opens no path with such letters; the names of our own files have none.
            process.setWorkingDirectory(str(place))
            arguments = from_there
        process.connect("readyReadStandardOutput()", self._read)
        process.connect("readyReadStandardError()", self._read_errors)
        process.connect("finished(int,QProcess::ExitStatus)", self._finished)
        process.connect("errorOccurred(QProcess::ProcessError)", self._failed_to_start)
        self._set_state(STARTING)
        process.start(program, ["-m", "U2ADLib", *arguments, "--progress", "json", "--cancel-on-stdin-close"])

    def cancel(self, reason: str = "") -> None:
        """Ask the worker to stop; it is ended by force where it does not within seconds.

        :param reason: what the user is told instead of that the run was cancelled.
        """
        if self.ended or self.state == CANCELLING or self._process is None:
            return
        self._cancel_reason = reason
        self._set_state(CANCELLING)
        self._process.closeWriteChannel()
        qt.QTimer.singleShot(TERMINATE_AFTER_MS if self._patience_ms is None else self._patience_ms, self._terminate)

    def wait(self) -> str:
        """Wait for the end while Slicer goes on working; returns the state."""
        while not self.ended:
            slicer.app.processEvents()
            if not self.ended:
                time.sleep(POLL_MS / 1000)
        return self.state

    def wait_at_exit(self, longest_ms: int) -> None:
        """Wait for the end without Slicer's event loop, when Slicer itself ends."""
        if not self.ended and self._process is not None:
            self._process.waitForFinished(longest_ms)

    # --- what the process tells

    def _read(self):
        self._buffer += _bytes(self._process.readAllStandardOutput())
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self._take(line.decode("utf-8", "replace").strip())

    def _take(self, line):
        """One line of the worker's. What is no JSON was written by a library, and is none of the user's business."""
        try:
            values = json.loads(line)
        except ValueError:
            return
        if not isinstance(values, dict):
            return
        if "stage" in values:
            if self.state == STARTING:
                self._set_state(RUNNING)
            self._tell_progress(values)
        elif "pid" in values:
            self._pid = values["pid"]
        elif "error" in values:
            self.error = _in_panel_words(values["error"])
        elif "message" in values:
            self.notes.append(_in_panel_words(values["message"]))
            if self._on_note:
                self._on_note(self.notes[-1])
        elif "result" in values:
            self.result = values

    def _tell_progress(self, values):
        low, high = self._stages.get(values["stage"], (0.0, 1.0))
        share = values["done"] / max(values["total"], 1)
        # A stage may be reported again after another one; the bar does not go back.
        self._fraction = max(self._fraction, low + (high - low) * share)
        if self._on_progress and self.state == RUNNING:
            self._on_progress(values["stage"], self._fraction, values.get("seconds_left"))

    def _read_errors(self):
        text = _bytes(self._process.readAllStandardError()).decode("utf-8", "replace")
        self._said = [*self._said, *(line.strip() for line in text.splitlines() if line.strip())][-LAST_LINES:]

    def _failed_to_start(self, error):
        if error == qt.QProcess.FailedToStart and not self.ended:
            self._end(FAILED, _("The worker could not be started: {program}").format(program=self._process.program()))

    def _finished(self, code, status):
        self._read()
        self._take(self._buffer.decode("utf-8", "replace"))  # a last line that was cut off
        self._read_errors()
        if self.ended:
            return
        crashed = status == qt.QProcess.CrashExit
        if self.state == CANCELLING or (code == _EXIT_CANCELLED and not crashed):
            self._end(CANCELLED, self._cancel_reason or _("Cancelled. Nothing was changed."))
        elif self.result and not crashed and code in _EXIT_WITH_RESULT:
            self._end(DONE, "")
        else:
            self._end(FAILED, self._explained(code, crashed))

    def _explained(self, code, crashed):
        """Why it ended, and what to do. What the worker says itself is told in its words."""
        if self.error:
            return self.error
        said = " ".join(self._said)
        if any(sign in said for sign in _DISK_SIGNS):
            return _("The disk is full: free some space in {folder} and try again.").format(
                folder=slicer.app.temporaryPath
            )
        if any(sign in said for sign in _MEMORY_SIGNS) or (crashed and code in (0, _SIGKILL)) or code == 128 + _SIGKILL:
            return _(
                "The worker was ended, most likely because memory ran out: close other programs, choose the CPU as "
                "device, or analyse fewer slices."
            )
        if "ModuleNotFoundError" in said:
            return _("A Python package is missing; press Apply again. {line}").format(line=self._said[-1])
        last = self._said[-1] if self._said else _("it said nothing")
        return _("The worker ended unexpectedly (exit code {code}): {last}").format(code=code, last=last)

    # --- the end

    def _terminate(self):
        if not self.ended and self._process is not None:
            self._process.terminate()
            qt.QTimer.singleShot(KILL_AFTER_MS, self._kill)

    def _kill(self):
        if self.ended or self._process is None:
            return
        self._process.kill()
        if self._pid is not None and self._pid != self._process.processId():
            # PythonSlicer is a launcher there: the Python that it started has to be ended, too.
            with contextlib.suppress(OSError):
                os.kill(self._pid, getattr(signal, "SIGKILL", signal.SIGTERM))

    def _end(self, state, error):
        self.error = error
        self._set_state(state)

    def _set_state(self, state):
        self.state = state
        if self._on_state:
            self._on_state(state)


def _bytes(data) -> bytes:
    """Of a QByteArray. PythonQt gives bytes, or a str of them, by its version."""
    found = data.data()
    return found.encode("latin-1") if isinstance(found, str) else bytes(found)

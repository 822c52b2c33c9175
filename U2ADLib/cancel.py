"""How a running command is asked to stop: Ctrl-C, SIGTERM, or a closed standard input.

The request only sets a flag; the computation looks at it whenever it reports progress and ends there by `Cancelled`, so
that everything tidies up behind itself.
"""

import os
import signal
import threading
from contextlib import contextmanager

from .errors import Cancelled

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Cancellation:
    """A request to stop that can come from a signal or another thread."""

    def __init__(self, message: str | None = None):
        """:param message: what the user is told in the end, where it is not that nothing was written."""
        self._requested = threading.Event()
        self._message = message

    def request(self) -> None:
        """Ask to stop."""
        self._requested.set()

    def check(self) -> None:
        """:raises Cancelled: stopping was asked for."""
        if self._requested.is_set():
            raise Cancelled(self._message) if self._message else Cancelled()

    @contextmanager
    def on_signals(self):
        """Within this context the first SIGINT or SIGTERM is a request; the second ends the process at once."""

        def handle(number, frame):
            if self._requested.is_set():
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            self.request()

        before = {number: signal.signal(number, handle) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_end_of_file(self, descriptor: int = 0) -> None:
        """Take the end of standard input for a request. Whatever is written there is ignored."""

        def watch():
            # os.read instead of sys.stdin: a thread that waits inside sys.stdin's lock breaks Python's shutdown.
            try:
                while os.read(descriptor, 4096):
                    pass
            except OSError:
                pass  # no standard input at all
            self.request()

        threading.Thread(target=watch, name="standard input", daemon=True).start()

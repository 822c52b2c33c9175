"""Processes that share a computer's cores, for images and for trainings."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process

from ...errors import Cancelled, U2ADError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


@contextmanager
def worker_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """So many processes, each with its share of the cores' threads, or with OMP_NUM_THREADS if the user has set it.

    :raises U2ADError: one of them died.
    """
    # They must be born with these settings: libraries read them when they are loaded, and what a process runs first
    # loads them already.
    added = [name for name in THREADS if name not in os.environ]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    os.environ.update(dict.fromkeys(added, threads))
    try:
        # Fresh processes, not forks: torch's threads do not survive a fork.
        with ProcessPoolExecutor(count, get_context("spawn"), _start) as executor:
            yield executor
    except BrokenProcessPool:
        raise U2ADError(
            "A process died, most likely because memory ran out. What is complete is kept: run the same command again "
            "with fewer --workers."
        ) from None
    finally:
        for name in added:
            os.environ.pop(name, None)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides what happens
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on for nobody. What is on disk is replaced whole."""
    parent_process().join()
    os._exit(Cancelled.exit_code)

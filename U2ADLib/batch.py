"""One analysis from files to files, and a folder of them: what `u2ad analyse` and `u2ad batch` do.

A case is done when its results were made from the same files with the same options, model and version of U2AD; a batch
that is started again does only what is left. Workers are processes or those of a Dask cluster; both run `run_case`,
which writes a case's results itself, so that nothing but a row of the summary travels back.
"""

import csv
import json
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from hashlib import sha256
from multiprocessing import get_context, parent_process
from pathlib import Path
from uuid import uuid4

from . import __version__
from .config import SEGMENT_NAMES, MonteCarloConfig
from .dataset import Case
from .errors import Cancelled, InputError, InstallationError, U2ADError, UsageError
from .files import file_sha256
from .package import CARD, NO_REGION_MODEL, absolute_model, card_score, find_model, verify_model
from .progress import Progress, no_progress
from .roi.nnunet import NNUNET, check_nnunet, check_nnunet_starts, cord_by_nnunet, nnunet_checksum, nnunet_notes

Say = Callable[[str], None]

SUMMARY = "summary.csv"
COLUMNS = (
    "id", "person", "session", "pathology", "status", "patient_score", "patient_flagged",
    *SEGMENT_NAMES.values(), "flagged", "seconds", "message",
)  # fmt: skip
DONE, REFUSED, FAILED = "done", "refused", "failed"  # failed: not the input's fault

POLL_SECONDS = 0.2  # between two looks at whether the user wants to stop


@dataclass(frozen=True)
class Options:
    """How to analyse: what `analysis.analyse` takes, and the series of a DICOM folder."""

    series: str | None = None
    cord_convention: str = "auto"
    disc_convention: str = "auto"
    shift_levels: int = 0
    slices: str = "all"
    model: str = "default"
    region_model: str = "default"  # "none": cord and discs that are not given are not looked for
    nnunet: str | None = None  # folder of an nnU-Net v2 that finds the cord where it is not given
    device: str = "auto"
    score: str | None = None
    k: int | None = None
    scheme: str | None = None
    seed: int = 0


def check_options(options: Options, find_region: bool = True) -> None:
    """Find out before an hour is spent. :raises UsageError, ModelError: an option or a model cannot be used.

    :param find_region: whether cord or discs will have to be found.
    """
    from .analysis import slice_rule

    slice_rule(options.slices)
    replace(MonteCarloConfig(), **{n: v for n in ("k", "scheme") if (v := getattr(options, n)) is not None})
    card_score(verify_model(find_model(options.model)), options.score)
    if find_region and options.region_model != NO_REGION_MODEL:
        verify_model(find_model(options.region_model, "region"))
    if find_region and options.nnunet is not None:
        check_nnunet(options.nnunet)


def analyse_files(
    image: Path,
    cord: Path | None,
    discs: Path | None,
    options: Options,
    progress: Progress = no_progress,
    say: Say = lambda message: None,
) -> "Analysis":  # noqa: F821  (imported only to compute)
    """Read an image and its labels and analyse them. The provenance also holds the `request`: checksums and options."""
    from .analysis import analyse
    from .io import read_volume

    progress("Reading", 0, 1)
    volume = read_volume(image, series=options.series)
    labels = {name: path and read_volume(path) for name, path in (("cord", cord), ("discs", discs))}
    progress("Reading", 1, 1)
    request = _request(image, cord, discs, options)
    settings = asdict(options) | {"model": _loaded_model(options.model, request["model"])}
    by_nnunet = cord is None and options.nnunet is not None
    if by_nnunet:
        labels["cord"] = cord_by_nnunet(volume, options.nnunet, device=options.device, progress=progress, say=say)
        settings["cord_convention"] = "auto"  # the one that was asked for is about masks that are given
    settings["region_model"] = None
    if "region_model" in request:
        settings["region_model"] = _loaded_region_model(options.region_model, request["region_model"])
    del settings["series"], settings["nnunet"]
    result = analyse(volume, **labels, **settings, progress=progress, say=say)
    provenance = result.provenance | {"request": request}
    if by_nnunet:
        provenance["configuration"] = provenance["configuration"] | {"cord_convention": NNUNET}
        result = replace(result, notes=nnunet_notes(result.notes, options.nnunet))
    return replace(result, provenance=provenance)


def run_batch(
    cases: list[Case],
    out: Path,
    options: Options,
    *,
    workers: int = 1,
    dask: str | None = None,
    derivatives: bool = False,
    progress: Progress = no_progress,
    say: Say = lambda message: None,
) -> list[dict]:
    """Analyse all cases, each into its own folder `out/<id>`, and write `out/summary.csv` after every one.

    :param workers: processes that share the cores.
    :param dask: address of a Dask scheduler whose workers see the same folders; then `workers` means nothing.
    :param derivatives: also write `out/derivatives/u2ad` (see `derivatives.py`).
    :param progress: called with the number of cases; may raise `Cancelled`, which keeps the cases that are done.
    :returns: the rows of the summary, keys `COLUMNS`.
    """
    check_options(options, find_region=any(case.cord is None or case.discs is None for case in cases))
    if derivatives:
        from .derivatives import check_names

        check_names(cases)
    out = Path(out).absolute()
    _refuse_out_in_series(cases, out)
    options = _for_other_folders(options)  # workers may run in one
    rows = {case.id: row for case in cases if (row := _row_if_done(case, out, options, derivatives))}
    todo = [case for case in cases if case.id not in rows]
    if rows:
        say(f"{len(rows)} of {len(cases)} cases are done already.")

    def tick(*_):
        progress("Cases", len(rows) - before, len(todo))

    before = len(rows)
    tick()
    if options.nnunet is not None and any(case.cord is None for case in todo):
        check_nnunet_starts()  # or every case would be refused, one slow start after the other
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    task = (out, options, derivatives)
    if dask:
        outcomes = _on_dask(todo, task, dask, tick)
    elif workers > 1:
        outcomes = _in_processes(todo, task, workers, tick)
    else:
        outcomes = ((case, run_case(case, *task, progress=tick)) for case in todo)
    try:
        with closing(outcomes):
            for case, row in outcomes:
                rows[case.id] = row
                if row["status"] != DONE:
                    say(f"{case.id}: {row['message']}")
                _write_summary(out / SUMMARY, [rows[c.id] for c in cases if c.id in rows])
                tick()
    finally:
        if new and not any(out.iterdir()):
            out.rmdir()
    _write_summary(out / SUMMARY, [rows[case.id] for case in cases])
    return [rows[case.id] for case in cases]


def _refuse_out_in_series(cases: list[Case], out: Path) -> None:
    """:raises UsageError: the results would lie among the files of a DICOM folder, whose checksum they would change."""
    for case in cases:
        if case.image.is_dir() and out.resolve().is_relative_to(case.image.resolve()):
            raise UsageError(f"The results cannot lie in the DICOM folder {case.image.name}: choose another --out.")


def _for_other_folders(options: Options) -> Options:
    """The same options with absolute paths; names of packages stay names."""
    models = {name: absolute_model(getattr(options, name)) for name in ("model", "region_model")}
    return replace(options, **models, nnunet=options.nnunet and str(Path(options.nnunet).absolute()))


def run_case(case: Case, out: Path, options: Options, derivatives: bool, progress: Progress = no_progress) -> dict:
    """Analyse one case, write its results, return its row. A case that cannot be analysed is a row that says why.

    :raises Cancelled: by `progress`. :raises ModelError, InstallationError: what would stop every other case as well.
    """
    said: list[str] = []
    try:
        if case.cord is None and options.region_model == NO_REGION_MODEL and options.nnunet is None:
            raise InputError(
                f"No cord mask was found: expected is {case.id}_label-SC_seg.nii.gz or {case.id}_seg.nii.gz."
            )
        from .report import check_output, write_results

        check_output(out / case.id, overwrite=True)
        analysis = analyse_files(case.image, case.cord, case.discs, options, progress, said.append)
        write_results(analysis, out / case.id, overwrite=True, progress=progress)
        if derivatives:
            from .derivatives import write_derivatives

            write_derivatives(analysis, case, out / "derivatives" / "u2ad")
    except (InputError, UsageError) as error:
        return _row(case, REFUSED, message=str(error))
    except U2ADError:
        raise
    except Exception as error:  # one case's misfortune must not end the others; the row keeps what is needed to mend it
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        return _row(case, FAILED, message=f"Unexpected {type(error).__name__} at {place}: {error}")
    return _row_of_result(case, out / case.id / "analysis.json", said)


# ----------------------------------------------------------------------------------------------------------------------
# workers; both kinds yield (case, row) in the order of completion


def _in_processes(todo: list[Case], task: tuple, workers: int, tick) -> Iterator[tuple[Case, dict]]:
    queue, alone = deque(todo), deque()
    while queue or alone:
        source, size = (alone, 1) if alone else (queue, min(workers, len(queue)))
        threads = max(1, (os.cpu_count() or 1) // size)
        running: dict[Future, Case] = {}
        # Fresh processes, not forks: torch's threads do not survive a fork.
        with ProcessPoolExecutor(size, get_context("spawn"), _start_worker, (threads,)) as pool:
            try:
                yield from _completed(pool, source, size, task, running, tick)
            except BrokenProcessPool:
                # A process died, and nobody can tell whose case it was: those that were running are tried again alone.
                suspects = list(running.values())
                if size > 1:
                    alone.extend(suspects)
                    continue
                for case in suspects:
                    yield case, _row(case, FAILED, message="The process died, most likely because memory ran out.")


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """The cluster of a Dask scheduler as an executor. :raises InstallationError: no Dask, or no scheduler there."""
    try:
        from distributed import Client
    except ImportError:
        raise InstallationError("Dask is not installed: run `pip install u2ad[dask]`.") from None
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise InstallationError(f"The Dask scheduler at {address} cannot be reached: {error}.") from None
    with client:
        yield client.get_executor(pure=False)


def _on_dask(todo: list[Case], task: tuple, address: str, tick) -> Iterator[tuple[Case, dict]]:
    with dask_executor(address) as pool:
        yield from _completed(pool, deque(todo), len(todo), task, {}, tick)


def _completed(pool: Executor, source: deque, limit: int, task: tuple, running: dict, tick):
    """Keep `limit` cases in `running` until `source` is empty. However this ends, no case is running any more."""
    # A file is the one signal that reaches processes on other computers, too.
    stop = task[0] / f".stop-{uuid4().hex}"
    try:
        while source or running:
            while source and len(running) < limit:
                running[pool.submit(_run_in_worker, stop, source[0], *task)] = source[0]
                source.popleft()
            for future in wait(running, POLL_SECONDS, FIRST_COMPLETED).done:
                try:
                    row = future.result()
                except (U2ADError, BrokenProcessPool):
                    raise
                except Exception as error:
                    row = _row(running[future], FAILED, message=f"The worker failed: {error}")
                yield running.pop(future), row
            tick()
    except BaseException:
        stop.touch()
        wait(running)
        raise
    finally:
        stop.unlink(missing_ok=True)


_busy = threading.Lock()
_orphaned = threading.Event()


def _start_worker(threads: int) -> None:
    """Initialise a process before it imports anything that computes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides what happens
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[name] = str(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent_process().join()
    _orphaned.set()
    with _busy:  # the running case tidies up first
        os._exit(Cancelled.exit_code)


def _run_in_worker(stop: Path, case: Case, *task) -> dict:
    def check(*_):
        if stop.exists() or _orphaned.is_set():
            raise Cancelled

    with _busy:  # one case at a time in a process: each uses all threads of it
        return run_case(case, *task, progress=check)


# ----------------------------------------------------------------------------------------------------------------------
# what is done, and the summary


@lru_cache(maxsize=1)
def _loaded_model(name: str, checksum: str):
    """A process analyses many cases with one model; `checksum` tells whether it is still the same."""
    from .package import load_model

    return load_model(name)


@lru_cache(maxsize=1)
def _loaded_region_model(name: str, checksum: str):
    from .package import load_region_model

    return load_region_model(name)


def _request(image: Path, cord: Path | None, discs: Path | None, options: Options) -> dict:
    """What results depend on besides the program: checksums of files and model, and options that change a result."""
    files = {name: path and _checksum(path) for name, path in (("image", image), ("cord", cord), ("discs", discs))}
    settings = asdict(options)
    del settings["device"], settings["model"], settings["region_model"], settings["nnunet"]
    if options.series is not None:  # a UID can hold the date and the scanner's serial number
        settings["series"] = sha256(options.series.encode()).hexdigest()[:16]
    # A card holds the weights' checksum, and thresholds that may be set anew.
    request = {"files": files, "model": file_sha256(find_model(options.model) / CARD), "options": settings}
    if options.region_model != NO_REGION_MODEL and None in (cord, discs):
        request["region_model"] = file_sha256(find_model(options.region_model, "region") / CARD)
    if options.nnunet is not None and cord is None:
        request["nnunet"] = nnunet_checksum(options.nnunet)
    return request


def _checksum(path: Path) -> str:
    """SHA-256 of a file, or of the files of a DICOM folder."""
    if not path.is_dir():
        return file_sha256(path)
    parts = sorted(file_sha256(part) for part in path.rglob("*") if part.is_file())
    return sha256("".join(parts).encode()).hexdigest()


def _row_if_done(case: Case, out: Path, options: Options, derivatives: bool) -> dict | None:
    """The row of a case that was analysed before from the same files in the same way."""
    results = [out / case.id / "analysis.json"]
    if derivatives:
        from .derivatives import record_of

        results.append(record_of(case, out / "derivatives" / "u2ad"))
    try:
        provenances = [json.loads(path.read_text(encoding="utf-8"))["provenance"] for path in results]
        wanted = (_request(case.image, case.cord, case.discs, options), __version__)
        if all((p["request"], p["versions"]["U2AD"]) == wanted for p in provenances):
            return _row_of_result(case, results[0])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or not ours: the case is analysed, which says what is wrong
    return None


def _row(case: Case, status: str, **values) -> dict:
    """A row of the summary; None where there is nothing to say."""
    known = {name: getattr(case, name) for name in ("id", "person", "session", "pathology")}
    return dict.fromkeys(COLUMNS) | known | {"status": status} | values


def _row_of_result(case: Case, path: Path, said=()) -> dict:
    record = json.loads(path.read_text(encoding="utf-8"))
    return _row(
        case,
        DONE,
        patient_score=record["patient"]["score"],
        patient_flagged=record["patient"]["flagged"],
        **{segment["name"]: segment["score"] for segment in record["segments"]},
        flagged=" ".join(segment["name"] for segment in record["segments"] if segment["flagged"]),
        seconds=record["provenance"]["seconds"],
        message=" ".join([*said, *record["notes"]]),
    )


def _write_summary(path: Path, rows: list[dict]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: str(v).lower() if isinstance(v, bool) else v for k, v in row.items()})
    os.replace(temporary, path)

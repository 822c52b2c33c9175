"""The results of a run as files: the report of the command line, and a page to look through and rate it."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from slicer.i18n import tr as _

from U2ADLib.errors import InputError, U2ADError

if TYPE_CHECKING:
    from U2ADLib.analysis import Analysis


def export_report(analysis: "Analysis", folder: Path | str, overwrite: bool = False) -> list[Path]:
    """Write the report (see `U2ADLib.report`) and qc.html to a folder, or nothing at all; their paths.

    :param folder: a new or empty one; one with earlier results where `overwrite` is set, which are replaced. Files in
        it that are not ours stay.
    :raises InputError: the folder cannot be used. :raises U2ADError: writing failed.
    """
    from U2ADLib.qc_page import write_qc_page
    from U2ADLib.report import QC_PAGE, check_output, write_results

    folder = Path(folder)
    check_output(folder, overwrite)
    page = folder / QC_PAGE
    if page.is_dir():
        raise InputError(
            _("{name} in {folder} is a folder: choose another folder.").format(name=QC_PAGE, folder=folder.name)
        )
    # The page is made on the same disk first: once the report stands, only its name has to change.
    place = None
    try:
        place = Path(tempfile.mkdtemp(prefix=".u2ad-", dir=_nearest_folder(folder)))
        write_qc_page(place / QC_PAGE, analysis)
        written = write_results(analysis, folder, overwrite)
        try:
            os.replace(place / QC_PAGE, page)
        except OSError:
            _take_back(written, folder)
            raise
    except OSError as error:
        raise U2ADError(
            _("The report could not be written to {folder}: {reason}.").format(
                folder=folder, reason=error.strerror or type(error).__name__
            )
        ) from error
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
    return [*written, page]


def _nearest_folder(folder):
    """The first folder above that exists."""
    return next(parent for parent in folder.resolve().parents if parent.is_dir())


def _take_back(written, folder):
    """Remove files, and their folder where nothing else is in it."""
    for path in written:
        path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()

"""The command line: `u2ad` and `python -m U2ADLib`.

Exit codes: 0 done, 1 something unexpected (in a batch: in at least one case), 2 usage, 3 input refused (in a batch: at
least one case), 4 model or installation, 130 cancelled. What the user must know goes to standard error, results to
standard output; with `--progress json` both are JSON lines on standard output.

Nothing heavy is imported before a command needs it.
"""

import argparse
import json
import math
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

from . import __version__
from .cancel import Cancellation
from .config import SEGMENT_NAMES
from .errors import Cancelled, InputError, InstallationError, U2ADError, UsageError
from .progress import JsonProgress, Progress, ProgressBar, no_progress

CONVENTIONS = ("auto", "sct", "sct-levels", "totalspineseg", "spineps")
# Import name → name for pip, of everything a command may find missing.
PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy",
    "SimpleITK": "SimpleITK",
    "skimage": "scikit-image",
    "PIL": "Pillow",
    "safetensors": "safetensors",
}
RESEARCH_USE = "For research only; not a medical device."
MASKLESS = "finds the cord of people without a mask; none leaves them out (%(default)s)"
TRAINING_KEPT = "Cancelled. The training so far is kept; the same command goes on from there."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a console without "×" must not stop a run
    options = build_parser().parse_args(arguments)
    console = Console(getattr(options, "progress", "none"))
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")  # the libraries' own; ours are notes
            code = options.run(options, console) or 0
            sys.stdout.flush()
            return code
    except U2ADError as error:
        return console.error(error)
    except KeyboardInterrupt:
        return console.error(Cancelled())
    except ModuleNotFoundError as error:
        package = PACKAGES.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        return console.error(InstallationError(f"The package {package} is not installed: run `pip install {package}`."))
    except BrokenPipeError:
        # Whoever read the output is gone. Python flushes at exit and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Cancelled.exit_code


class Console:
    """Where progress, notes, results and errors go."""

    def __init__(self, kind: str):
        """:param kind: "bar", "json" or "none"."""
        self._json = kind == "json"
        self.progress: Progress = {"bar": ProgressBar, "json": JsonProgress}.get(kind, lambda: no_progress)()
        # A bar may stand unfinished in the line.
        self._clear = "\r\x1b[K" if kind == "bar" and sys.stderr.isatty() else ""

    def say(self, message: str) -> None:
        """Something the user should know."""
        if self._json:
            self._line(message=message, level="note")
        else:
            print(f"{self._clear}u2ad: {message}", file=sys.stderr, flush=True)

    def identify(self) -> None:
        """Tell a program, which may have started us through a launcher, what to end if all else fails."""
        if self._json:
            self._line(pid=os.getpid())

    def result(self, text: str, **values) -> None:
        """What the command was for; `values` are for programs."""
        if self._json:
            self._line(**values, summary=text)
        else:
            print(text, flush=True)

    def error(self, error: U2ADError) -> int:
        """Tell why the command ends; returns its exit code."""
        text = " ".join(str(error).split())
        if self._json:
            self._line(error=text, exit_code=error.exit_code)
        print(f"{self._clear}u2ad: error: {text}", file=sys.stderr, flush=True)
        return error.exit_code

    def _line(self, **values):
        print(json.dumps(values), flush=True)


# ----------------------------------------------------------------------------------------------------------------------
# commands; each takes the parsed options and returns an exit code, None for 0


def analyse(options, console: Console) -> None:
    """`u2ad analyse`"""
    with _cancellable(options, console) as progress:
        progress("Reading", 0, 1)
        from .batch import Options, analyse_files, check_options
        from .report import check_output, summary_text, write_results

        wanted = _pick(Options, options)
        cord, discs = _labels_of(options, console)
        check_options(wanted, find_region=cord is None or discs is None)
        check_output(options.out, options.overwrite)
        analysis = analyse_files(options.image, cord, discs, wanted, progress, console.say)
        write_results(analysis, options.out, options.overwrite, progress)
    console.result(summary_text(analysis, options.out), result=str(options.out))


def _labels_of(options, console):
    """Cord and discs: those that are named, else those that lie beside the image, unless told not to look."""
    from .dataset import labels_beside

    cord, discs = options.cord, options.discs
    if options.labels_beside:
        found = labels_beside(options.image)
        taken = {kind: path for kind, path in zip(("cord", "discs"), found, strict=True) if path}
        for kind, path in taken.items():
            if getattr(options, kind) is None:
                console.say(f"Labels of the {kind}: {path.name}, which lies beside the image.")
        cord, discs = cord or taken.get("cord"), discs or taken.get("discs")
    return cord, discs


def locate(options, console: Console) -> None:
    """`u2ad locate`"""
    with _cancellable(options, console) as progress:
        progress("Reading", 0, 1)
        from .files import refuse_existing
        from .io import read_volume
        from .report import REGION_FILES, region_text, write_region
        from .roi.nnunet import NNUNET, check_nnunet, cord_by_nnunet, nnunet_notes
        from .roi.source import prepare

        if options.nnunet is not None:
            check_nnunet(options.nnunet)
        refuse_existing(options.out, REGION_FILES, options.overwrite)
        volume = read_volume(options.image, options.series)
        given = zip(("cord", "discs"), _labels_of(options, console), strict=True)
        labels = {name: path and read_volume(path) for name, path in given}
        progress("Reading", 1, 1)
        by_nnunet = labels["cord"] is None and options.nnunet is not None
        if by_nnunet:
            labels["cord"] = cord_by_nnunet(
                volume, options.nnunet, device=options.device, progress=progress, say=console.say
            )
        prepared = prepare(
            volume,
            **labels,
            cord_convention="auto" if by_nnunet else options.cord_convention,
            disc_convention=options.disc_convention,
            shift_levels=options.shift_levels,
            region_model=options.region_model,
            device=options.device,
            progress=progress,
            say=console.say,
        )
        if by_nnunet:
            notes = nnunet_notes(prepared.notes, options.nnunet)
            prepared = replace(prepared, notes=notes, record=prepared.record | {"cord": NNUNET})
        write_region(volume, prepared, options.out, options.overwrite)
    console.result(region_text(prepared, options.out), result=str(options.out))


def relabel(options, console: Console) -> None:
    """`u2ad relabel`"""
    with _cancellable(options, console) as progress:
        progress("Reading", 0, 1)
        from .analysis import relabelled, with_thresholds
        from .io import read_volume
        from .report import check_output, read_results, summary_text, write_results
        from .roi.labels import Discs, moved, read_discs, renumbered

        thresholds = (options.segment_threshold, options.patient_threshold)
        discs_change = options.discs or options.shift_levels or options.disc
        if not discs_change and thresholds == (None, None):
            raise UsageError("Say what to change: --discs, --shift-levels, --disc or a threshold.")
        check_output(options.out, options.overwrite)
        volume = read_volume(options.image, options.series)
        analysis = read_results(options.results, volume)
        progress("Reading", 1, 1)
        if discs_change:
            if options.discs:
                cord = volume.with_array(analysis.on_input("cord"))
                discs = read_discs(read_volume(options.discs), options.disc_convention, options.shift_levels, cord)
            else:
                region = analysis.region
                points = {n: analysis.stack.grid.stack_to_ras(p) for n, p in (region.discs or {}).items()}
                discs = renumbered(Discs(points, region.disc_convention or "by hand"), options.shift_levels)
            discs = moved(discs, dict(options.disc))
            if not discs.points:
                raise UsageError("No disc from C2/3 to C7/T1 is known or would be left: add some by --discs or --disc.")
            analysis = relabelled(analysis, discs)
        if thresholds != (None, None):
            known = analysis.thresholds
            if known is None and None in thresholds:
                raise UsageError("The results have no thresholds: give --segment-threshold and --patient-threshold.")
            segment, patient = (
                getattr(known, kind) if value is None else value
                for kind, value in zip(("segment", "patient"), thresholds, strict=True)
            )
            analysis = with_thresholds(analysis, segment, patient)
        write_results(analysis, options.out, options.overwrite, progress)
    console.result(summary_text(analysis, options.out), result=str(options.out))


def batch(options, console: Console) -> int:
    """`u2ad batch`"""
    from .dataset import find_cases
    from .package import card_purpose, find_model, read_card

    cases = find_cases(options.folder, card_purpose(read_card(find_model(options.model))).contrast)
    kept = "Cancelled. The cases that are done are kept; the same command goes on from there."
    with _cancellable(options, console, kept) as progress:
        from .batch import DONE, FAILED, SUMMARY, Options, run_batch

        rows = run_batch(
            cases,
            options.out,
            _pick(Options, options),
            workers=options.workers,
            dask=options.dask,
            derivatives=options.derivatives,
            progress=progress,
            say=console.say,
        )
    states = [row["status"] for row in rows]
    flagged = sum(row["patient_flagged"] is True for row in rows)
    console.result(
        f"{states.count(DONE)} of {len(rows)} cases done, {flagged} of them flagged. Table: {options.out / SUMMARY}\n"
        f"{RESEARCH_USE}",
        result=str(options.out / SUMMARY),
    )
    if FAILED in states:
        return U2ADError.exit_code
    return 0 if states.count(DONE) == len(states) else InputError.exit_code


def simulate(options, console: Console) -> None:
    """`u2ad simulate`"""
    with _cancellable(options, console) as progress:
        progress("Simulation", 0, 1)
        from .simulation.labelled import labelled_phantom, write_labelled
        from .simulation.phantom import phantom_config, simulate_phantom

        config = phantom_config(options.kind, options.seed, options.lesion, options.bulge)
        made = labelled_phantom(simulate_phantom(config, options.seed))
        progress("Simulation", 1, 1)
        paths = write_labelled(made, options.out, options.name, options.overwrite)
    console.result(f"Image: {paths[0]}\nPicture: {paths[-1]}", result=str(paths[0]))


def plant(options, console: Console) -> None:
    """`u2ad plant`"""
    with _cancellable(options, console) as progress:
        progress("Planting", 0, 1)
        from .analysis import slice_rule
        from .dataset import stem
        from .io import read_volume
        from .roi.labels import read_cord, read_discs
        from .simulation.labelled import planted, write_labelled

        if not options.lesion and options.kind is None:
            raise UsageError("Say what to plant: --lesion SEGMENT:CONTRAST:SIZE or --kind KIND.")
        volume = read_volume(options.image, options.series)
        cord = read_cord(volume, read_volume(options.cord), options.cord_convention).array
        discs = None
        if options.discs:
            given, where = read_volume(options.discs), volume.with_array(cord)
            discs = read_discs(given, options.disc_convention, options.shift_levels, where)
        made = planted(
            volume, cord, discs, lesions=options.lesion, kind=options.kind, slices=slice_rule(options.slices),
            seed=options.seed,
        )  # fmt: skip
        progress("Planting", 1, 1)
        name = options.name or stem(options.image).removesuffix("_T2w") + "-planted"
        paths = write_labelled(made, options.out, name, options.overwrite)
    console.result(f"Image: {paths[0]}\nPicture: {paths[-1]}", result=str(paths[0]))


def pretrain(options, console: Console) -> None:
    """`u2ad pretrain`"""
    with _cancellable(options, console, TRAINING_KEPT) as progress:
        from .config import Architecture, Purpose
        from .training.recipe import config_with, pretrain_from_folder

        config = config_with(epochs=options.epochs, batch=options.batch, seed=options.seed)
        purpose = Purpose(options.contrast, options.region)
        folder = pretrain_from_folder(
            options.data,
            options.out,
            people=options.people,
            validation=options.validation,
            phantoms=options.phantoms,
            threshold_phantoms=_phantoms(options.threshold_phantoms, 100, purpose),
            region_model=options.region_model,
            purpose=purpose,
            architecture=Architecture(outside=options.outside, context=options.context),
            config=config,
            device=options.device,
            progress=progress,
            say=console.say,
        )
    console.result(f"Model: {folder}\nCurves: {folder / 'training' / 'curves.png'}", result=str(folder))


def _phantoms(wanted: int | None, usual: int, purpose) -> int:
    """So many by default, and none where there are none of the contrast."""
    from .config import Purpose

    return (usual if purpose == Purpose() else 0) if wanted is None else wanted


def train_discriminator(options, console: Console) -> None:
    """`u2ad train-discriminator`"""
    with _cancellable(options, console, TRAINING_KEPT) as progress:
        from .package import card_purpose, find_model, read_card
        from .training.discriminator import DiscriminatorConfig
        from .training.discriminator_recipe import discriminators_from_folder

        purpose = card_purpose(read_card(find_model(options.model)))
        folder = discriminators_from_folder(
            options.data,
            options.out,
            model=options.model,
            held_out=options.held_out,
            phantoms=_phantoms(options.phantoms, 300, purpose),
            region_model=options.region_model,
            count=options.count,
            config=DiscriminatorConfig(rounds=options.rounds, seed=options.seed),
            device=options.device,
            progress=progress,
            say=console.say,
        )
    console.result(f"Model: {folder}\nCurves: {folder / 'training'}", result=str(folder))


def adapt(options, console: Console) -> None:
    """`u2ad adapt`"""
    if int(os.environ.get("RANK", 0)):
        console = Console("none")  # of several processes under torchrun, the first reports
    with _cancellable(options, console) as progress:
        progress("Reading images", 0, 1)
        from .training.adapt import AdaptConfig
        from .training.adapt_recipe import adapt_from_folder

        words = {"default": options.epochs * 3 // 4, "none": None}
        folder = adapt_from_folder(
            options.data,
            options.out,
            model=options.model,
            people=options.people,
            region_model=options.region_model,
            few=options.few,
            discriminator_steps=options.discriminator_steps,
            config=AdaptConfig(
                epochs=options.epochs,
                au_from=words.get(options.au_from, options.au_from),
                tau=options.tau,
                eu_weight=options.eu_weight,
                schedule=options.schedule,
                refresh=options.refresh,
                batch=options.batch,
                slices_per_epoch=options.slices_per_epoch,
                seed=options.seed,
            ),
            device=options.device,
            progress=progress,
            say=console.say,
        )
    if not int(os.environ.get("RANK", 0)):
        console.result(f"Model: {folder}\nCurves: {folder / 'training' / 'curves.png'}", result=str(folder))


def thresholds(options, console: Console) -> None:
    """`u2ad thresholds`"""
    with _cancellable(options, console, "Cancelled: the model keeps the thresholds it had.") as progress:
        from dataclasses import asdict

        from .training.thresholds import set_thresholds

        folder, setting = set_thresholds(
            options.model,
            table=options.table,
            data=options.data,
            healthy=options.healthy,
            phantoms=options.phantoms,
            rate=options.false_positive_rate,
            out=options.out,
            region_model=options.region_model,
            device=options.device,
            progress=progress,
            say=console.say,
        )
    entries = [asdict(one) for one in setting.thresholds]
    lines = [f"Model: {folder}", *_threshold_lines(entries), *setting.text(), RESEARCH_USE]
    console.result("\n".join(lines), result=str(folder), thresholds=entries, figures=setting.records())


def _threshold_lines(entries: list[dict]) -> list[str]:
    """A table of a card's thresholds, and how they were set."""
    if not entries:
        return ["No thresholds are set: scores are given, nothing is flagged. See `u2ad thresholds --help`."]
    lines = [f"{'score':<9} {'slices':<8} {'patient >':>10} {'segment >':>10}"]
    for entry in sorted(entries, key=lambda e: (e.get("score", "paper"), e["slices"])):
        score, slices = entry.get("score", "paper"), entry["slices"]
        lines.append(f"{score:<9} {slices:<8} {entry['patient']:>10.4f} {entry['segment']:>10.4f}")
    return lines + [f"Origin: {origin}." for origin in dict.fromkeys(entry["origin"] for entry in entries)]


def train_region(options, console: Console) -> None:
    """`u2ad train-region`"""
    with _cancellable(options, console, TRAINING_KEPT) as progress:
        from .training.axial import AxialTrainConfig
        from .training.region import RegionTrainConfig
        from .training.region_recipe import train_region_from_folder

        folder = train_region_from_folder(
            options.data,
            options.out,
            held_out=options.held_out,
            phantoms=options.phantoms,
            contrast=options.contrast,
            config=RegionTrainConfig(steps=options.steps, batch=options.batch, seed=options.seed),
            outline=AxialTrainConfig(steps=options.outline_steps, seed=options.seed),
            region_models=options.region_models,
            device=options.device,
            progress=progress,
            say=console.say,
        )
    console.result(f"Model: {folder}\nCurves: {folder / 'training' / 'curves.png'}", result=str(folder))


def evaluate(options, console: Console) -> None:
    """`u2ad evaluate`"""
    if int(os.environ.get("RANK", 0)):
        console = Console("none")  # of several processes under torchrun, the first reports
    kept = "Cancelled. What is complete is kept; the same command goes on from there."
    with _cancellable(options, console, kept) as progress:
        from .evaluation.experiments.run import evaluate as compare

        report = compare(
            options.config,
            options.out,
            workers=options.workers,
            dask=options.dask,
            only=options.only,
            dry_run=options.dry_run,
            device=options.device,
            progress=progress,
            say=console.say,
        )
    if report is not None:
        console.result(f"Report: {report}\nTables: {report.parent / 'tables'}\n{RESEARCH_USE}", result=str(report))


def devices(options, console: Console) -> None:
    """`u2ad devices`"""
    from .device import available

    found = available()
    memory = {d["device"]: f", {d['free_gb']} of {d['total_gb']} GB free" for d in found if "free_gb" in d}
    lines = [f"{d['device']:<8} {d['name']}{memory.get(d['device'], '')}" for d in found]
    console.result("\n".join(lines), result="devices", devices=found)


def models_list(options, console: Console) -> None:
    """`u2ad models list`"""
    from .package import BUNDLED_DEFAULT, list_models

    for entry in list_models():
        origin = "bundled" if entry.bundled else "yours"
        default = ", default" if entry.name in BUNDLED_DEFAULT.values() else ""
        problem = f": {entry.problem}" if entry.problem else ""
        print(f"{entry.name:<24} {entry.kind:<9} {origin}{default}{problem}")


def models_show(options, console: Console) -> None:
    """`u2ad models show`"""
    from .package import card_kind, find_model, read_card

    card = read_card(find_model(options.name, kind=None))
    print(json.dumps(card, indent=1, ensure_ascii=False))
    if card_kind(card) == "analysis":  # beside the card, which programs read
        sys.stdout.flush()
        print("\n".join(_threshold_lines(card.get("thresholds", []))), file=sys.stderr)


def models_verify(options, console: Console) -> None:
    """`u2ad models verify`"""
    from .package import find_model, verify_model

    card = verify_model(find_model(options.name, kind=None))
    print(f"{card.get('name', options.name)}: the weights match their checksum {card['weights']['sha256'][:16]}…")


def models_install(options, console: Console) -> None:
    """`u2ad models install`"""
    from .package import install_model

    entry = install_model(options.source, options.name)
    print(f"Installed {entry.name} in {entry.folder}")


def models_remove(options, console: Console) -> None:
    """`u2ad models remove`"""
    from .package import remove_model

    print(f"Removed {remove_model(options.name)}")


# ----------------------------------------------------------------------------------------------------------------------
# arguments


def build_parser() -> argparse.ArgumentParser:
    """The whole tree of commands."""
    parser = argparse.ArgumentParser(
        prog="u2ad",
        description="Find what does not look like a spinal cord in sagittal T2-weighted MR of the neck.",
        epilog=f"{RESEARCH_USE} Exit codes: 0 done, 2 usage, 3 input refused, 4 model or installation, 130 cancelled.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"u2ad {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    running = argparse.ArgumentParser(add_help=False)
    group = running.add_argument_group("running")
    group.add_argument(
        "--progress", choices=("bar", "json", "none"), default="bar", help="bar for people, JSON lines for programs"
    )
    group.add_argument(
        "--cancel-on-stdin-close", action="store_true", help="stop when standard input ends (else it is never read)"
    )
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", default="auto", metavar="auto|cpu|cuda|mps", help="where to compute (%(default)s)")
    labels, settings, making = _label_arguments(), _analysis_arguments(), _making_arguments()
    from_folders, from_images = _source_arguments()

    def command(parent, function, name, summary, parents=()):
        made = parent.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", parents=parents, allow_abbrev=False
        )
        made.set_defaults(run=function)
        return made

    one = command(commands, analyse, "analyse", "analyse one image", [labels, from_images, settings, device, running])
    one.add_argument("image", type=Path, metavar="IMAGE", help="NIfTI, NRRD, MetaImage, DICOM file or folder")
    one.add_argument("--series", metavar="UID", help="series of a DICOM folder, where it holds several")
    one.add_argument("--cord", type=Path, metavar="MASK", help="mask of the spinal cord; else it is found")
    one.add_argument("--discs", type=Path, metavar="LABELS", help="labels of the discs; else they are found")
    one.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="folder for the results")
    one.add_argument("--overwrite", action="store_true", help="replace results that are there")

    find = command(commands, locate, "locate", "find the cord and the discs", [labels, from_images, device, running])
    find.add_argument("image", type=Path, metavar="IMAGE", help="NIfTI, NRRD, MetaImage, DICOM file or folder")
    find.add_argument("--series", metavar="UID", help="series of a DICOM folder, where it holds several")
    find.add_argument("--cord", type=Path, metavar="MASK", help="mask of the spinal cord; then only discs are found")
    find.add_argument("--discs", type=Path, metavar="LABELS", help="labels of the discs; then only the cord is found")
    find.add_argument("--region-model", default="default", metavar="NAME|FOLDER", help="see `u2ad models list`")
    find.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="folder for masks and picture")
    find.add_argument("--overwrite", action="store_true", help="replace files of the same names")

    again = command(
        commands, relabel, "relabel", "name the levels or set the thresholds of results anew, without computing again",
        [running],
    )  # fmt: skip
    again.add_argument("results", type=Path, metavar="RESULTS", help="folder that `u2ad analyse` wrote")
    again.add_argument("image", type=Path, metavar="IMAGE", help="the image that was analysed")
    again.add_argument("--series", metavar="UID", help="series of a DICOM folder, where it holds several")
    again.add_argument("--discs", type=Path, metavar="LABELS", help="other disc labels")
    again.add_argument(
        "--disc-convention", choices=CONVENTIONS, default="auto", help="how they are numbered (%(default)s)"
    )
    again.add_argument("--shift-levels", type=int, default=0, metavar="N", help="added to every disc's number")
    again.add_argument(
        "--disc", type=_disc, action="append", default=[], metavar="NAME:R,A,S",
        help="a disc's posterior tip in RAS mm, to move or add it: C4/5:0.5,-12,33",
    )  # fmt: skip
    again.add_argument("--segment-threshold", type=_threshold, metavar="X", help="segments above it are flagged")
    again.add_argument("--patient-threshold", type=_threshold, metavar="X", help="patients above it are flagged")
    again.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="folder for the results")
    again.add_argument("--overwrite", action="store_true", help="replace results that are there")

    many = command(
        commands, batch, "batch", "analyse all images of a folder", [labels, from_folders, settings, device, running]
    )
    many.add_argument("folder", type=Path, metavar="FOLDER", help="BIDS dataset, or images or DICOM folders with masks")
    many.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="folder for results and summary.csv")
    many.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes that share the cores (1)")
    many.add_argument("--dask", metavar="ADDRESS", help="run on the Dask cluster of this scheduler (tcp://…)")
    many.add_argument("--derivatives", action="store_true", help="also write BIDS derivatives")

    neck = command(commands, simulate, "simulate", "simulate a labelled neck", [making, running])
    neck.add_argument(
        "--kind", choices=("average", "clinical", "space"), default="average",
        help="the average neck, or one drawn with the seed: a clinical scan, or a 3D one of 1 mm (%(default)s)",
    )  # fmt: skip
    neck.add_argument("--name", default="phantom", help="beginning of the files' names (%(default)s)")
    neck.add_argument(
        "--bulge", type=_bulge, action="append", default=[], metavar="SEGMENT:MM", help="a disc that bulges: C5-6:1.5"
    )

    wound = command(commands, plant, "plant", "plant lesions in the cord of a real image", [labels, making, running])
    wound.add_argument("image", type=Path, metavar="IMAGE", help="NIfTI, NRRD, MetaImage, DICOM file or folder")
    wound.add_argument("--series", metavar="UID", help="series of a DICOM folder, where it holds several")
    wound.add_argument("--cord", type=Path, metavar="MASK", required=True, help="mask of the spinal cord")
    wound.add_argument("--discs", type=Path, metavar="LABELS", help="labels of the discs, for --lesion")
    wound.add_argument(
        "--kind", metavar="KIND",
        help="a lesion drawn at random in a slice: A1 (the paper's), h08 … h75 (per cent of the contrast), small25, "
        "small50, long08 … long50, border",
    )  # fmt: skip
    wound.add_argument("--slices", default="middle", metavar="all|middle|N", help="slices for --kind (%(default)s)")
    wound.add_argument("--name", help="beginning of the files' names (that of the image, and -planted)")

    train = command(commands, pretrain, "pretrain", "train a model on healthy images", [device, running])
    train.add_argument("data", type=Path, metavar="DATA", help="folder of images with cord masks, BIDS or flat")
    train.add_argument("--out", type=Path, metavar="MODEL", required=True, help="folder for the model package")
    train.add_argument("--people", nargs="+", default=(), metavar="PERSON", help="train on these only")
    train.add_argument(
        "--validation", nargs="+", default=(), metavar="PERSON|IMAGE", help="choose the best epoch on these"
    )
    train.add_argument("--phantoms", type=int, default=0, metavar="N", help="simulated necks to learn from as well (0)")
    train.add_argument(
        "--threshold-phantoms", type=int, metavar="N",
        help="lesion-free simulated necks that set the thresholds (100; none for another contrast)",
    )  # fmt: skip
    train.add_argument("--region-model", default="none", metavar="NAME|FOLDER|none", help=MASKLESS)
    train.add_argument(
        "--contrast", default="T2w",
        help="of the images: the end of their BIDS names, or what acq- says there, for instance STIR (%(default)s)",
    )  # fmt: skip
    train.add_argument("--region", default="cervical spinal cord", help="what the masks show, in words (%(default)s)")
    train.add_argument(
        "--outside", choices=("zero", "keep"), default="zero", help="what patches show outside the cord (%(default)s)"
    )
    train.add_argument(
        "--context", type=int, default=0, metavar="N", help="rings of always visible patches around the cord (0)"
    )
    train.add_argument("--epochs", type=_positive, metavar="N")
    train.add_argument("--batch", type=_positive, metavar="N", help="slices in a batch")
    train.add_argument("--seed", type=_seed, default=0)

    tell = command(
        commands, train_discriminator, "train-discriminator", "train the default score of a model", [device, running]
    )
    tell.add_argument(
        "data", type=Path, nargs="?", metavar="DATA",
        help="folder of healthy images with cord masks, BIDS or flat; without it, simulated necks alone",
    )  # fmt: skip
    tell.add_argument("--model", default="default", metavar="NAME|FOLDER", help="gets the default score (%(default)s)")
    tell.add_argument("--out", type=Path, metavar="MODEL", required=True, help="folder for the model package")
    tell.add_argument("--held-out", nargs="+", default=(), metavar="PERSON", help="do not learn from these")
    tell.add_argument(
        "--phantoms", type=int, metavar="N", help="simulated necks besides (300; none for another contrast)"
    )
    tell.add_argument("--region-model", default="none", metavar="NAME|FOLDER|none", help=MASKLESS)
    tell.add_argument("--count", type=_positive, default=3, metavar="N", help="trainings to average (%(default)s)")
    tell.add_argument("--rounds", type=_positive, default=1, metavar="N", help="rounds of new examples (%(default)s)")
    tell.add_argument("--seed", type=_seed, default=0)

    suit = command(commands, adapt, "adapt", "adapt a model to your own unlabelled images", [device, running])
    suit.add_argument("data", type=Path, nargs="+", metavar="FOLDER|IMAGE", help="BIDS or flat folder, or images")
    suit.add_argument("--model", default="default", metavar="NAME|FOLDER", help="the model to adapt (%(default)s)")
    suit.add_argument("--out", type=Path, metavar="MODEL", required=True, help="folder for the model package")
    suit.add_argument("--people", nargs="+", default=(), metavar="PERSON", help="adapt to these only")
    suit.add_argument(
        "--region-model", default="default", metavar="NAME|FOLDER|none", help="finds the cord where there is no mask"
    )
    suit.add_argument("--few", action="store_true", help="go on with fewer than 20 slices or 3 people")
    suit.add_argument("--epochs", type=_positive, default=200, metavar="N", help="(%(default)s)")
    suit.add_argument(
        "--au-from", type=_epoch_or_word, default="default", metavar="N|none",
        help="epochs before likely anomalies are left alone; none never does (three quarters of the epochs)",
    )  # fmt: skip
    suit.add_argument("--tau", type=float, default=1.0, metavar="T", help="temperature of the EU stage (%(default)s)")
    suit.add_argument(
        "--eu-weight", choices=("text", "raw", "printed", "uniform"), default="text",
        help="how unsure patches are preferred: as the paper's text says, with undivided EU, by the printed formula, "
        "or not at all (%(default)s)",
    )  # fmt: skip
    suit.add_argument(
        "--schedule", choices=("per-stage", "paper"), default="per-stage", help="of the learning rate (%(default)s)"
    )
    suit.add_argument(
        "--refresh", type=_positive, default=10, metavar="Q", help="epochs between two looks at the maps (%(default)s)"
    )
    suit.add_argument("--batch", type=_positive, default=32, metavar="N", help="slices in a batch (%(default)s)")
    suit.add_argument(
        "--discriminator-steps", type=int, default=600, metavar="N",
        help="of the default score's own adaptation, after the network's; 0 keeps that of the source (%(default)s)",
    )  # fmt: skip
    suit.add_argument(
        "--slices-per-epoch", type=int, default=0, metavar="N", help="slices drawn for an epoch (as many as there are)"
    )
    suit.add_argument("--seed", type=_seed, default=0)

    level = command(commands, thresholds, "thresholds", "set the thresholds of a model", [device, running])
    level.add_argument("model", metavar="MODEL", help="name or folder of a model")
    level.add_argument(
        "--table", type=Path, metavar="CSV",
        help="who has a hyperintensity: columns participant_id, segment (empty: the patient), hyperintensity (1 or 0); "
        "thresholds for a sensitivity of 0.9 (patients) and the best F1 (segments)",
    )  # fmt: skip
    level.add_argument(
        "--healthy", type=Path, metavar="FOLDER", help="images of lesion-free people, BIDS or flat; bounds false alarms"
    )
    level.add_argument(
        "--phantoms", type=_positive, metavar="N",
        help="lesion-free simulated necks; bounds false alarms (the default, with 100); beside --healthy the higher "
        "limit holds",
    )  # fmt: skip
    level.add_argument("--data", type=Path, metavar="FOLDER", help="the images that --table is about, BIDS or flat")
    level.add_argument(
        "--false-positive-rate", type=float, metavar="X",
        help="share of lesion-free people who may be flagged, and of those with any segment flagged (0.05)",
    )  # fmt: skip
    level.add_argument(
        "--region-model", default="default", metavar="NAME|FOLDER|none", help="finds cord and discs that are not given"
    )
    level.add_argument("--out", metavar="NAME", help="leave MODEL alone and install a copy of it with the thresholds")

    region = command(
        commands, train_region, "train-region", "train a model that finds cord and discs", [device, running]
    )
    region.add_argument("data", type=Path, metavar="DATA", help="folder of images with cord masks or disc labels")
    region.add_argument("--out", type=Path, metavar="MODEL", required=True, help="folder for the model package")
    region.add_argument("--held-out", nargs="+", default=(), metavar="PERSON", help="only watch these")
    region.add_argument(
        "--region-models",
        metavar="PATTERN",
        help="find the cord of people without a mask; {person} in it is the person: models trained without them",
    )
    region.add_argument("--contrast", default="T2w", help="of the images, as for `u2ad pretrain` (%(default)s)")
    region.add_argument("--phantoms", type=int, default=500, metavar="N", help="simulated necks (%(default)s)")
    region.add_argument("--steps", type=_positive, default=3000, metavar="N", help="batches (%(default)s)")
    region.add_argument("--batch", type=_positive, default=8, metavar="N", help="slices in a batch (%(default)s)")
    region.add_argument(
        "--outline-steps", type=_positive, default=3000, metavar="N", help="batches for the outline (%(default)s)"
    )
    region.add_argument("--seed", type=_seed, default=0)

    rivals = command(commands, evaluate, "evaluate", "compare U2AD with other methods: tables and a report", [running])
    rivals.add_argument("config", metavar="CONFIG", help="a TOML file, or smoke, two-cores or full")
    rivals.add_argument("--out", type=Path, metavar="DIR", required=True, help="empty, or of the same configuration")
    rivals.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes that share the cores (1)")
    rivals.add_argument("--dask", metavar="ADDRESS", help="run on the Dask cluster of this scheduler (tcp://…)")
    rivals.add_argument("--only", nargs="+", default=(), metavar="EXPERIMENT", help="table1, robustness …")
    rivals.add_argument("--dry-run", action="store_true", help="say how much there is to do, and do nothing")
    rivals.add_argument("--device", metavar="auto|cpu|cuda|mps", help="where to compute (as the configuration says)")

    command(commands, devices, "devices", "list what --device can be on this computer", [running])

    models = commands.add_parser("models", help="list, check, install and remove models", allow_abbrev=False)
    verbs = models.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command(verbs, models_list, "list", "list all models")
    for function, name, summary in (
        (models_show, "show", "print the card of a model"),
        (models_verify, "verify", "check that a model is undamaged"),
        (models_remove, "remove", "delete an installed model"),
    ):
        verb = command(verbs, function, name, summary)
        verb.add_argument("name", metavar="NAME", help="name of a model" + (" or folder" * (name != "remove")))
    install = command(verbs, models_install, "install", "install a model from a folder or .zip file")
    install.add_argument("source", type=Path, metavar="FOLDER|ZIP")
    install.add_argument("--name", help="name to install it under")
    return parser


def _label_arguments() -> argparse.ArgumentParser:
    """How labels are to be read."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("labels")
    for kind in ("cord", "disc"):
        group.add_argument(
            f"--{kind}-convention", choices=CONVENTIONS, default="auto", help=f"how to read the {kind} labels (auto)"
        )
    group.add_argument(
        "--shift-levels", type=int, default=0, metavar="±N", help="add to every disc's number: +1 is one level down"
    )
    return parser


def _source_arguments() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Where labels come from that are not given: for folders (their own labels are always looked for), for images."""
    folders = argparse.ArgumentParser(add_help=False)
    folders.add_argument(
        "--nnunet", metavar="FOLDER",
        help="an nnU-Net v2 model that finds the cord where no mask is given; its weights are pickles, which can hold "
        "any program: name only what you trust",
    )  # fmt: skip
    images = argparse.ArgumentParser(add_help=False, parents=[folders])
    images.add_argument(
        "--no-labels-beside", dest="labels_beside", action="store_false",
        help="do not use masks and labels that lie beside the image (IMAGE_seg, IMAGE_discs, TotalSpineSeg's …)",
    )  # fmt: skip
    return folders, images


def _analysis_arguments() -> argparse.ArgumentParser:
    """Those that `analyse` and `batch` share; with the labels' and the device, their names are the fields of
    `batch.Options`."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("method")
    group.add_argument("--slices", default="all", metavar="all|middle|N", help="slices to analyse (%(default)s)")
    group.add_argument("--model", default="default", metavar="NAME|FOLDER", help="see `u2ad models list`")
    group.add_argument(
        "--region-model", default="default", metavar="NAME|FOLDER|none", help="finds cord and discs that are not given"
    )
    group.add_argument("--k", type=int, metavar="K", help="reconstructions of every patch (as the model says, else 10)")
    group.add_argument(
        "--score", choices=("default", "paper"), help="paper: the published AnoMap (the default where the model has it)"
    )
    group.add_argument("--scheme", choices=("balanced", "random"), help="Monte Carlo masks")
    group.add_argument("--seed", type=_seed, default=0, help="the same seed gives the same result (%(default)s)")
    return parser


def _making_arguments() -> argparse.ArgumentParser:
    """Those that `simulate` and `plant` share."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="folder for image and labels")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same names")
    parser.add_argument("--seed", type=_seed, default=0, help="the same seed gives the same files (%(default)s)")
    parser.add_argument(
        "--lesion", type=_lesion, action="append", default=[], metavar="SEGMENT:CONTRAST:SIZE",
        help="a lesion at a disc, such as C4-5:0.5:4x12: its brightness as part of the way from cord to CSF, its size "
        "front to back and along the cord in mm, and, if it is not 4x12x4, right to left; may be repeated",
    )  # fmt: skip
    return parser


def _lesion(text: str) -> "Lesion":  # noqa: F821  (imported only where it is needed)
    """A lesion from `C4-5:0.5:4x12` or `C4-5:0.5:4x12x6`."""
    segment, contrast, size = _parts(text, 3, "C4-5:0.5:4x12")
    try:
        contrast, sizes = float(contrast), [float(value) for value in size.split("x")]
    except ValueError:
        sizes = []
    if segment not in SEGMENT_NAMES.values() or len(sizes) not in (2, 3) or not all(0 < mm < 200 for mm in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is not a lesion such as C4-5:0.5:4x12")
    from .simulation.phantom import Lesion

    return Lesion(segment, contrast, sizes[0], sizes[1], sizes[-1] if len(sizes) == 3 else sizes[0])


def _bulge(text: str) -> "Bulge":  # noqa: F821
    """A bulging disc from `C5-6:1.5`."""
    segment, depth = _parts(text, 2, "C5-6:1.5")
    try:
        depth = float(depth)
    except ValueError:
        depth = 0
    if segment not in SEGMENT_NAMES.values() or not 0 < depth < 20:
        raise argparse.ArgumentTypeError(f"{text!r} is not a bulging disc such as C5-6:1.5")
    from .simulation.phantom import Bulge

    return Bulge(segment, depth)


def _disc(text: str) -> tuple[int, tuple[float, ...]]:
    """A disc's number and its place in RAS mm from `C4/5:0.5,-12,33`."""
    name, place = _parts(text, 2, "C4/5:0.5,-12,33")
    number = next((n for n, segment in SEGMENT_NAMES.items() if segment.replace("-", "/") == name), None)
    try:
        point = tuple(float(part) for part in place.split(","))
    except ValueError:
        point = ()
    if number is None or len(point) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not a place of a disc such as C4/5:0.5,-12,33")
    return number, point


def _parts(text: str, count: int, example: str) -> list[str]:
    parts = text.split(":")
    if len(parts) != count:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form {example}")
    return parts


def _epoch_or_word(text: str) -> int | str:
    return text if text in ("default", "none") else int(text)


def _threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a threshold: give a number above 0")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed: give a whole number, 0 or above, below 2^63")
    return int(text)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


# ----------------------------------------------------------------------------------------------------------------------


@contextmanager
def _cancellable(options, console: Console, message: str | None = None):
    """Watch for the wish to stop; gives the progress callback that raises `Cancelled` then."""
    cancellation = Cancellation(message)
    if options.cancel_on_stdin_close:
        cancellation.on_end_of_file()
        console.identify()
    shown = None

    def progress(*stage):
        nonlocal shown
        cancellation.check()
        if stage != shown:  # some callers tick only to hear of a cancellation
            console.progress(*stage)
        shown = stage

    with cancellation.on_signals():
        yield progress


def _pick(kind, options):
    """A dataclass from the options of the same names."""
    return kind(**{f.name: getattr(options, f.name) for f in fields(kind) if hasattr(options, f.name)})

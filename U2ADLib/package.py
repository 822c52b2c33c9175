"""Model packages: a folder with `model.json`, `weights.safetensors` and nothing that could run code. With them lie, for
the default score, `discriminators.safetensors`, and for a second look at the cord's outline, `axial.safetensors`.

`model.json` (the card) holds the architecture, preprocessing and scoring, what the model was trained on and how, the
thresholds and how they were set, figures on data that did not train it, the licence, and the SHA-256 of the weights.
Bundled packages come with U2AD; a user's own lie in a folder of theirs (`U2AD_MODELS`, or the platform's place for
application data). Nothing is ever unpickled or downloaded.
"""

import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .config import Architecture, MonteCarloConfig, Preprocessing, Purpose, ScoreConfig, from_dict
from .errors import InstallationError, ModelError, UsageError
from .files import file_sha256, write_json
from .resources import resource

FORMAT = 1
CARD, WEIGHTS = "model.json", "weights.safetensors"
DISCRIMINATORS, AXIAL = "discriminators.safetensors", "axial.safetensors"
FURTHER = {"discriminators": DISCRIMINATORS, "axial": AXIAL}  # entry of the card → its file, where the package has them
DEFAULT_MODEL = "default"
NO_REGION_MODEL = "none"  # nothing is found; cord and discs must be given
# What a package is for → the bundled one that is taken for "default".
BUNDLED_DEFAULT = {"analysis": "u2ad-t2w", "region": "u2ad-region"}
MAX_PACKAGE_BYTES = 1 << 30  # an archive that unpacks to more is refused
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Thresholds:
    """Scores above these are flagged. They hold only for the choice of slices and the score they were set with."""

    segment: float
    patient: float
    slices: str  # the slice rule: "all", "middle" or a number
    origin: str  # how and on what they were set, in words
    score: str = "paper"  # the score's name


@dataclass(frozen=True)
class ModelEntry:
    """A package in the list. `problem` says why it cannot be used."""

    name: str
    folder: Path
    bundled: bool
    card: dict
    problem: str | None = None

    @property
    def kind(self) -> str:
        """What it is for, see `card_kind`."""
        return card_kind(self.card)


@dataclass(frozen=True)
class Model:
    """A loaded package."""

    name: str
    network: "EdgeMAE"  # noqa: F821  (torch is imported only when a model is loaded)
    card: dict
    preprocessing: Preprocessing
    monte_carlo: MonteCarloConfig
    scores: dict[str, ScoreConfig]  # by name: always "paper", and "default" where there are discriminators
    thresholds: tuple[Thresholds, ...]
    sha256: str  # see `weights_sha256`
    discriminators: tuple["Discriminator", ...] = ()  # noqa: F821  (same training, other seeds)
    purpose: Purpose = field(default_factory=Purpose)

    def score_name(self, wanted: str | None = None) -> str:
        """The name of the score to use: the wanted one, or "default" where the package has it, or else "paper".

        :raises UsageError: the package has no such score.
        """
        return card_score({"name": self.name, "scores": self.scores}, wanted)

    def thresholds_for(self, slices: str, score: str | None = None) -> Thresholds | None:
        """The thresholds that hold for a slice rule and a score, if any were set."""
        name = self.score_name(score)
        return next((t for t in self.thresholds if t.slices == str(slices) and t.score == name), None)


@dataclass(frozen=True)
class RegionModel:
    """A loaded package that finds cord and discs."""

    name: str
    network: "RegionNet"  # noqa: F821
    card: dict
    sha256: str  # see `weights_sha256`
    axial: "AxialNet | None" = None  # noqa: F821  (outlines the cord in axial planes)


def user_models_folder() -> Path:
    """Where a user's own packages are kept."""
    if chosen := os.environ.get("U2AD_MODELS"):
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return base / "U2AD" / "models"


def list_models() -> list[ModelEntry]:
    """Bundled packages, then the user's, by name. Damaged ones are listed with their problem."""
    entries = []
    for folder, bundled in ((resource("Models"), True), (user_models_folder(), False)):
        for path in _folders_in(folder):
            if _holds_card(path):
                try:
                    entries.append(ModelEntry(path.name, path, bundled, read_card(path)))
                except ModelError as error:
                    entries.append(ModelEntry(path.name, path, bundled, {}, str(error)))
    return entries


def _folders_in(folder):
    """What lies in a folder, sorted, less what is hidden; nothing where there is none, or none that may be read."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _holds_card(folder):
    """Whether a folder is a package, or may not be looked into: reading its card then says why."""
    try:
        return (folder / CARD).is_file()
    except PermissionError:
        return True


def find_model(name_or_folder: str | Path = DEFAULT_MODEL, kind: str | None = "analysis") -> Path:
    """Folder of a package given by its name or its path.

    :param kind: what it must be for, "analysis" or "region"; None takes any.
    :raises ModelError: there is none, or it is for something else.
    """
    if str(name_or_folder) == DEFAULT_MODEL:
        name_or_folder = BUNDLED_DEFAULT[kind or "analysis"]
    folder = Path(name_or_folder)
    if not _holds_card(folder):
        entries = list_models()
        folder = next((entry.folder for entry in entries if entry.name == str(name_or_folder)), None)
        if folder is None:
            names = ", ".join(entry.name for entry in entries if entry.kind == (kind or entry.kind)) or "none"
            raise ModelError(f"There is no model {str(name_or_folder)!r}. Installed: {names}. See `u2ad models list`.")
    if kind is not None and (found := card_kind(read_card(folder))) != kind:
        raise ModelError(f"Model {folder.name!r} is for {found}, not for {kind}. See `u2ad models list`.")
    return folder


def absolute_model(name_or_folder: str | Path) -> str:
    """What names the same package for a process in another folder: an absolute path; a name stays as it is."""
    is_folder = str(name_or_folder) not in (DEFAULT_MODEL, NO_REGION_MODEL) and _holds_card(Path(name_or_folder))
    return str(Path(name_or_folder).absolute() if is_folder else name_or_folder)


def card_kind(card: dict) -> str:
    """What a package is for: "analysis" (an EdgeMAE) or "region" (a RegionNet)."""
    return card.get("kind", "analysis")


def card_purpose(card: dict) -> Purpose:
    """Contrast and region that a package is for."""
    return from_dict(Purpose, card.get("purpose", {}))


def card_score(card: dict, wanted: str | None = None) -> str:
    """The name of the score that is taken, see `Model.score_name`. :raises UsageError: the package has no such
    score."""
    scores = card.get("scores", {"paper": {}})
    name = wanted or ("default" if "default" in scores else "paper")
    if name not in scores:
        raise UsageError(f"The model {card.get('name')} has no score {name!r}. It has: {', '.join(scores)}.")
    return name


def read_card(folder: Path) -> dict:
    """The card, checked for its form but not against the weights. :raises ModelError: it cannot be used."""
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a model package: it holds no {CARD}.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"The card {path.name} of model {folder.name!r} cannot be read: {error}.") from None
    if not isinstance(card, dict) or not isinstance(card.get("weights"), dict) or "architecture" not in card:
        raise ModelError(f"The card of model {folder.name!r} lacks its architecture or weights entry.")
    if card.get("format") != FORMAT:
        raise ModelError(
            f"Model {folder.name!r} has format {card.get('format')!r}, this version reads {FORMAT}: update U2AD."
        )
    return card


def verify_model(folder: Path) -> dict:
    """The card of a package whose weights match their checksum. :raises ModelError: they do not."""
    card = read_card(folder)
    for name, entry in _weight_files(card).items():
        if not (folder / name).is_file():
            raise ModelError(f"Model {folder.name!r} has no {name}: install it again.")
        if file_sha256(folder / name) != entry.get("sha256"):
            raise ModelError(f"The weights of model {folder.name!r} do not match their checksum: install it again.")
    return card


def weights_sha256(card: dict) -> str:
    """Checksum of the weights; where there are several files, of all of them, joined by "+"."""
    return "+".join(str(entry.get("sha256")) for entry in _weight_files(card).values())


def package_files(card: dict) -> tuple[str, ...]:
    """Names of the files that make a package."""
    return (CARD, *_weight_files(card))


def _weight_files(card):
    """The package's files of weights, and what the card says of each."""
    return {WEIGHTS: card["weights"]} | {file: card[entry] for entry, file in FURTHER.items() if card.get(entry)}


def load_model(name_or_folder: str | Path = DEFAULT_MODEL) -> Model:
    """Load a package for analyses.

    :raises ModelError: unknown, damaged, or made for another architecture.
    :raises InstallationError: torch or safetensors is not installed.
    """
    folder, card = _verified(name_or_folder, "analysis")
    from .mae import EdgeMAE
    from .scoring.discriminator import Discriminator, DiscriminatorArchitecture

    discriminators = ()
    if entry := card.get("discriminators"):
        architecture = from_dict(DiscriminatorArchitecture, {k: tuple(v) for k, v in entry["architecture"].items()})
        discriminators = tuple(
            _with_weights(Discriminator(architecture), folder / DISCRIMINATORS, f"{i}.") for i in range(entry["count"])
        )
    return Model(
        name=card.get("name", folder.name),
        network=_with_weights(EdgeMAE(from_dict(Architecture, card["architecture"])), folder / WEIGHTS),
        card=card,
        preprocessing=from_dict(Preprocessing, card.get("preprocessing", {})),
        monte_carlo=from_dict(MonteCarloConfig, card.get("monte_carlo", {})),
        scores={name: from_dict(ScoreConfig, values) for name, values in card.get("scores", {"paper": {}}).items()},
        thresholds=tuple(from_dict(Thresholds, t) for t in card.get("thresholds", [])),
        sha256=weights_sha256(card),
        discriminators=discriminators,
        purpose=card_purpose(card),
    )


def load_region_model(name_or_folder: str | Path = DEFAULT_MODEL) -> RegionModel:
    """Load a package that finds cord and discs. :raises ModelError, InstallationError: as `load_model`."""
    folder, card = _verified(name_or_folder, "region")
    from .roi.axial import AxialArchitecture, AxialNet
    from .roi.network import RegionArchitecture, RegionNet

    def built(network, architecture, values, file):
        values = values | {"widths": tuple(values["widths"])}
        return _with_weights(network(from_dict(architecture, values)), folder / file)

    entry = card.get("axial")
    return RegionModel(
        name=card.get("name", folder.name),
        network=built(RegionNet, RegionArchitecture, card["architecture"], WEIGHTS),
        card=card,
        sha256=weights_sha256(card),
        axial=built(AxialNet, AxialArchitecture, entry["architecture"], AXIAL) if entry else None,
    )


def _verified(name_or_folder, kind):
    """Folder and card of an undamaged package, where torch can be used."""
    folder = find_model(name_or_folder, kind)
    card = verify_model(folder)
    try:
        import safetensors.torch  # noqa: F401
    except ImportError as error:
        raise InstallationError(
            f"The package {error.name} is not installed: run `pip install torch safetensors`."
        ) from error
    return folder, card


def _with_weights(network, path, prefix=""):
    """The network with the weights of a file, stored as float16 or float32 and always computed in float32.

    :param prefix: of its tensors' names, where the file holds several networks.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = {n.removeprefix(prefix): t.float() for n, t in load_file(path).items() if n.startswith(prefix)}
        counters = {n: v for n, v in network.state_dict().items() if n.endswith("num_batches_tracked")}
        network.load_state_dict(stored | counters)  # the counters are not stored: nothing computes with them
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"The weights of model {path.parent.name!r} do not fit its card: {error}") from None
    return network.eval()


def save_model(folder: Path, network, card: dict, dtype: str = "float16", discriminators=(), axial=None) -> None:
    """Write a package; the folder appears whole or not at all. An existing package there is replaced.

    :param card: what `model.json` shall say besides format, architecture and the checksum of the weights.
    :param discriminators: of one architecture, for the default score.
    :param axial: outlines the cord in axial planes, for a package that finds it.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        record = {"format": FORMAT, "name": folder.name, **card}
        record["architecture"] = asdict(network.architecture)
        record["weights"] = _save_weights(temporary / WEIGHTS, {"": network}, dtype)
        if discriminators:
            parts = {f"{i}.": one for i, one in enumerate(discriminators)}
            record["discriminators"] = {
                "count": len(parts),
                "architecture": asdict(discriminators[0].architecture),
                **_save_weights(temporary / DISCRIMINATORS, parts, dtype),
            }
        if axial is not None:
            record["axial"] = {
                "architecture": asdict(axial.architecture),
                **_save_weights(temporary / AXIAL, {"": axial}, dtype),
            }
        write_json(temporary / CARD, record)
        _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save_weights(path, networks, dtype):
    """Write the networks' weights, each under its prefix; what the card says of the file."""
    import torch
    from safetensors.torch import save_file

    state = {
        prefix + name: values.detach().cpu().to(getattr(torch, dtype)).contiguous()
        for prefix, network in networks.items()
        for name, values in network.state_dict().items()
        if values.is_floating_point()
    }
    save_file(state, path)
    os.chmod(path, 0o644)  # safetensors makes it private; a shared installation must be readable
    return {"file": path.name, "dtype": dtype, "sha256": file_sha256(path)}


def update_card(folder: Path, **entries) -> None:
    """Replace top-level entries of a card, for instance thresholds that were set after training."""
    write_json(Path(folder) / CARD, read_card(Path(folder)) | entries)


def install_model(source: Path, name: str | None = None) -> ModelEntry:
    """Copy a package (folder or .zip) to the user's models after checking it.

    :raises ModelError: not a valid package, or the name is taken.
    """
    source = Path(source)
    target_folder = user_models_folder()
    target_folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".install-", dir=target_folder))
    try:
        if source.is_dir():
            for part in package_files(read_card(source)):
                if not (source / part).is_file():
                    raise ModelError(f"{source} is not a model package: it holds no {part}.")
                shutil.copyfile(source / part, temporary / part)
        else:
            _unpack(source, temporary)
        card = verify_model(temporary)
        name = name or card.get("name") or source.stem
        check_new_name(name)
        write_json(temporary / CARD, card | {"name": name})
        os.chmod(temporary, 0o755)  # others may use the same folder of models
        os.replace(temporary, target_folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ModelEntry(name, target_folder / name, False, read_card(target_folder / name))


def is_name(name: str) -> bool:
    """Whether it is made of what a model's name may hold."""
    return _NAME.fullmatch(name) is not None


def check_new_name(name: str) -> None:
    """:raises ModelError: no model of the user's can have this name, or one has it."""
    if not is_name(name) or name == DEFAULT_MODEL:
        raise ModelError(f"{name!r} cannot be the name of a model: use letters, digits, '.', '_' and '-'.")
    if any(entry.name == name for entry in list_models()):
        raise ModelError(f"There is a model {name!r} already: remove it first, or give another name.")


def remove_model(name: str) -> Path:
    """Delete one of the user's packages; returns where it was. :raises ModelError: bundled or unknown."""
    for entry in list_models():
        if entry.name == name:
            if entry.bundled:
                raise ModelError(f"Model {name!r} is part of U2AD and cannot be removed.")
            shutil.rmtree(entry.folder)
            return entry.folder
    raise ModelError(f"There is no model {name!r} to remove. See `u2ad models list`.")


def _unpack(archive: Path, folder: Path) -> None:
    """Take a package's files out of a zip, whatever folder they are in; nothing else is written."""
    try:
        with zipfile.ZipFile(archive) as packed:
            for part in (CARD, WEIGHTS, *FURTHER.values()):
                found = [m for m in packed.infolist() if m.filename.rsplit("/", 1)[-1] == part]
                if part in FURTHER.values() and not found:
                    continue
                if len(found) != 1:
                    raise ModelError(f"{archive.name} is not a model package: it must hold one {part}.")
                if found[0].file_size > MAX_PACKAGE_BYTES:
                    raise ModelError(f"{part} in {archive.name} is larger than a model can be.")
                with packed.open(found[0]) as source, open(folder / part, "wb") as target:
                    shutil.copyfileobj(source, target)
    except FileNotFoundError:
        raise ModelError(f"There is no file {archive}.") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelError(f"{archive.name} is neither a model folder nor a readable zip file: {error}.") from None


def _publish(temporary: Path, folder: Path) -> None:
    """Move the files of a finished package into place, the card last, keeping what else the folder holds."""
    os.chmod(temporary, 0o755)
    if not folder.exists():
        os.replace(temporary, folder)
        return
    (folder / CARD).unlink(missing_ok=True)  # without a card the folder is no package while it is half replaced
    for part in FURTHER.values():
        (folder / part).unlink(missing_ok=True)
    for part in (WEIGHTS, *FURTHER.values(), CARD):
        if (temporary / part).exists():
            os.replace(temporary / part, folder / part)

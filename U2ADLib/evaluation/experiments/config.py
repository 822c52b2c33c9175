"""The configuration of a comparison: a TOML file, read and checked before anything is computed.

Paths in it are meant from the folder of the file, or, where nothing is there, from the folder in which the command
runs. A set with `optional = true` whose folder is absent is left out, and `notes` says so. Methods of which a library
is missing are left out in the same way. `like = "u2ad"` among a method's settings means: as those of u2ad.
"""

import json
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ...config import Preprocessing, ScoreConfig
from ...errors import InstallationError, U2ADError, UsageError
from ...resources import resource
from ...rivals import RIVALS, make
from ...rivals.detector import SOURCE, TARGET, Budget
from .sets import SetConfig

SUFFIX = ".toml"
# Keys that decide on what is shown and not on what is computed.
SHOWN = ("name", "description", "experiments", "options", "pictures_of", "paper_data", "device", "resamples")
ONCE, FROM_SOURCE, FROM_TARGET, FROM_BOTH = 0, 1, 2, 3  # strategies: 0 is that of methods that learn nothing
PAPER_METHODS = ("vae", "dae", "vae-gan", "f-anogan", "anoddpm", "u2ad")  # of Table 1, in its order
DETECTORS = ("yolov8", "mask-rcnn", "detr")
SIGNAL = ("z-scoring", "slic", "dbscan")
RULES = ("all-positive", "maximum-intensity", "global-robust-z", "global-difference", "local-robust-z")
ABLATION = ("mae", "mae-mc", "mae-mc-signed", "eu-guided")  # what is left of U²AD; the signed residual is a rule, too
OURS = ("u2ad", "u2ad-default")
TITLES = {
    "vae": "VAE",
    "dae": "DAE",
    "vae-gan": "VAE-GAN",
    "f-anogan": "f-AnoGAN",
    "anoddpm": "AnoDDPM",
    "yolov8": "YOLOv8",
    "mask-rcnn": "Mask R-CNN",
    "detr": "DETR",
    "z-scoring": "Z-scoring",
    "slic": "SLIC",
    "dbscan": "DBSCAN",
    "all-positive": "All positive",
    "maximum-intensity": "Maximum intensity",
    "global-robust-z": "Global robust z",
    "global-difference": "Global |x − median|",
    "local-robust-z": "Local robust z",
    "mae": "MAE, one pass",
    "mae-mc": "Baseline (Monte Carlo)",
    "mae-mc-signed": "Signed residual",
    "eu-guided": "EU-guided",
    "u2ad": "U²AD (paper)",
    "u2ad-default": "U²AD, default score",
}


# ------------------------------------------------------------------------------------------------- what is asked for


@dataclass(frozen=True)
class Folds:
    """count: of people, in the paper's protocol and wherever training must not see the people of a test. repeats: of
    the reliability. transductive: the target stage learns from the test images themselves, without labels, as the
    paper's does."""

    count: int = 5
    repeats: int = 20
    seed: int = 0
    transductive: bool = False


@dataclass(frozen=True)
class Table1:
    """Methods × strategies (paper, Table 1)."""

    methods: tuple[str, ...] = (*PAPER_METHODS, "mae-mc-signed", "u2ad-default")


@dataclass(frozen=True)
class Table2:
    """Detectors, signal analysis and simple rules, beside U²AD (paper, Table 2)."""

    methods: tuple[str, ...] = (*DETECTORS, *SIGNAL, *RULES, "mae-mc-signed", *OURS)


@dataclass(frozen=True)
class Table3:
    """Ablation (paper, Table 3)."""

    methods: tuple[str, ...] = (*ABLATION, "u2ad")


@dataclass(frozen=True)
class Table4:
    """Hyper-parameters (paper, Table 4 and Fig. A5). tau is of the adaptation, mask_ratio of adaptation and maps, k of
    the maps alone. An empty list leaves one out."""

    method: str = "u2ad"
    k: tuple[int, ...] = (3, 5, 10, 15, 20)
    mask_ratio: tuple[float, ...] = (0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
    tau: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Robustness:
    """Fig. 7. variances: of the noise; downsampling: factors."""

    methods: tuple[str, ...] = ("z-scoring", "dae", "vae", "u2ad", "u2ad-default")
    variances: tuple[float, ...] = (0.0, 0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.4)
    downsampling: tuple[int, ...] = (1, 2, 4)


@dataclass(frozen=True)
class PseudoAnomalies:
    """Fig. 6 and A2."""

    methods: tuple[str, ...] = PAPER_METHODS


@dataclass(frozen=True)
class Curves:
    """Fig. A4. shares: of the target stage's budget; 0 is the source stage."""

    methods: tuple[str, ...] = ("mae-mc", "eu-guided", "u2ad")
    shares: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Reliability:
    """Fig. A6. inference_seeds: how many of the repeats have maps of their own; they are taken in turn."""

    methods: tuple[str, ...] = ("mae-mc", "eu-guided", "u2ad")
    inference_seeds: int = 20


@dataclass(frozen=True)
class AdaptationMaps:
    """Fig. 5 and 8. compared: rebuilt and mapped at their end; followed: the maps at each share; cases: how many."""

    compared: tuple[str, ...] = PAPER_METHODS
    followed: tuple[str, ...] = ("dae", "vae", "u2ad")
    guided: tuple[str, ...] = ("mae-mc", "eu-guided", "u2ad")
    shares: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    cases: int = 2


@dataclass(frozen=True)
class Strategies:
    """Fig. A3."""

    methods: tuple[str, ...] = PAPER_METHODS


@dataclass(frozen=True)
class PseudoDataset:
    """The images with lesions as files. images: at most so many."""

    images: int = 50


@dataclass(frozen=True)
class NoOptions:
    """An experiment that has none."""


OPTIONS = {
    "table1": Table1,
    "table2": Table2,
    "table3": Table3,
    "table4": Table4,
    "robustness": Robustness,
    "pseudo_anomalies": PseudoAnomalies,
    "curves": Curves,
    "reliability": Reliability,
    "adaptation_maps": AdaptationMaps,
    "hyperparameters": NoOptions,  # those of table4
    "strategies": Strategies,
    "making": NoOptions,
    "histograms": NoOptions,
    "pseudo_dataset": PseudoDataset,
}


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything a comparison depends on. Methods and their settings are in the order of the tables.

    paper_data: "renji" or "ruijin" where the test set is the paper's own: only then its values stand beside ours.
    pictures_of: "phantoms", or "all" where the report may show real people.
    budget: of the stages "source" and "target", for each method the same. score: of all methods; scores: of those whose
    maps are probabilities and need other steps, by name. seeds: of the trainings.
    """

    name: str
    description: str = ""
    test: tuple[SetConfig, ...] = ()
    source: tuple[SetConfig, ...] = ()
    target: tuple[SetConfig, ...] = ()
    validation: tuple[SetConfig, ...] = ()
    methods: Mapping[str, dict] = field(default_factory=lambda: {name: {} for name in RIVALS})
    strategies: tuple[int, ...] = (FROM_SOURCE, FROM_TARGET, FROM_BOTH)
    folds: Folds = field(default_factory=Folds)
    budget: Mapping[str, Budget] = field(default_factory=lambda: dict.fromkeys((SOURCE, TARGET), Budget(minutes=3.0)))
    score: ScoreConfig = field(default_factory=ScoreConfig)
    scores: Mapping[str, ScoreConfig] = field(default_factory=dict)
    experiments: tuple[str, ...] = tuple(OPTIONS)
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    resamples: int = 1000
    device: str = "cpu"
    paper_data: str = ""
    pictures_of: str = "phantoms"
    notes: tuple[str, ...] = ()

    def option(self, experiment: str):
        """The options of an experiment."""
        return self.options.get(experiment) or OPTIONS[experiment]()

    def known(self, methods: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the methods that take part."""
        return tuple(name for name in methods if name in self.methods)

    def score_of(self, method: str) -> ScoreConfig:
        """The steps from a method's maps to its scores."""
        return self.scores.get(method, self.score)

    @property
    def target_sets(self) -> tuple[tuple[SetConfig, ...], str]:
        """What the target stage learns from, and the use that its seeds belong to."""
        return (self.test, "test") if self.folds.transductive else (self.target, TARGET)

    def record(self, people: bool = True) -> dict:
        """JSON-able. Folders are named, their paths left out. people: name them, too, not only how many are chosen."""
        values = asdict(replace(self, notes=()))
        for use in ("test", "source", "target", "validation"):
            values[use] = [_set_record(one, people) for one in getattr(self, use)]
        values["options"] = {name: asdict(self.option(name)) for name in self.experiments}
        return json.loads(json.dumps(values))

    def key(self) -> str:
        """Of what must be the same for results to stand in one folder: all but what is shown of them (`SHOWN`)."""
        values = self.record()
        return digest({name: value for name, value in values.items() if name not in SHOWN})


def digest(value, length: int = 10) -> str:
    """The beginning of a hash of anything that is JSON-able, whatever the order of its keys."""
    return sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:length]


def _set_record(one: SetConfig, people: bool) -> dict:
    """What differs from the defaults; of paths the last part."""
    values = {f.name: getattr(one, f.name) for f in fields(one) if getattr(one, f.name) != f.default}
    if not people:
        values |= {name: len(values[name]) for name in ("people", "without") if name in values}
    return values | {name: Path(values[name]).name for name in ("folder", "table") if values.get(name)}


# ----------------------------------------------------------------------------------------------------------- reading


def find_config(name: str | Path) -> Path:
    """The file of a configuration: a path, or the name of a bundled one. :raises UsageError: there is none."""
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix in ("", SUFFIX) and path.name == str(name):
        try:
            return resource("Experiments", path.stem + SUFFIX)
        except InstallationError:
            pass
    raise UsageError(f"There is no configuration {name}: give a TOML file, or one of {', '.join(bundled())}.")


def bundled() -> list[str]:
    """Names of the configurations that come with U²AD."""
    try:
        return sorted(path.stem for path in resource("Experiments").glob(f"*{SUFFIX}"))
    except InstallationError:
        return []


def read_config(name: str | Path) -> ExperimentConfig:
    """Read and check. :raises UsageError: what is wrong, and in which key of which file."""
    path = find_config(name)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path.name} cannot be read: {error}") from None
    return _Reader(path).read(values)


class _Reader:
    """Turns the tables of one file into dataclasses, and knows where it is for messages."""

    def __init__(self, path: Path):
        self.path, self.notes = path, []

    def wrong(self, key: str, what: str) -> UsageError:
        return UsageError(f"{self.path.name}: {key}: {what}")

    def read(self, values: dict) -> ExperimentConfig:
        special = {
            "methods": self._methods, "budget": self._budget, "options": self._options, "scores": self._scores,
            **dict.fromkeys(("test", "source", "target", "validation"), self._sets),
        }  # fmt: skip
        made = {key: special[key](values.pop(key), key) for key in special if key in values}
        values.setdefault("name", self.path.stem)
        if "notes" in values:
            raise self.wrong("notes", "there is no such key.")
        config = self.build(ExperimentConfig, values, "", made)
        config = self._without_missing(config)
        self._check(config)
        return replace(config, notes=tuple(self.notes))

    def build(self, kind, values, key: str, made: dict | None = None):
        """A dataclass from a table, every value of the type that its field wants."""
        if not isinstance(values, dict):
            raise self.wrong(key, "must be a table.")
        made, hints = made or {}, get_type_hints(kind)
        names = [one.name for one in fields(kind)]
        for name in values:
            if name not in names:
                raise self.wrong(_joined(key, name), f"there is no such key. Known are {', '.join(names)}.")
        ready = {name: self.value(hints[name], value, _joined(key, name)) for name, value in values.items()}
        lacking = [
            one.name for one in fields(kind)
            if one.default is MISSING and one.default_factory is MISSING and one.name not in {**ready, **made}
        ]  # fmt: skip
        if lacking:
            raise self.wrong(_joined(key, lacking[0]), "is missing.")
        try:
            return kind(**ready, **made)
        except U2ADError as error:
            raise self.wrong(key or kind.__name__, str(error)) from None

    def value(self, hint, value, key: str):
        """A value as its field wants it: lists become tuples, whole numbers numbers."""
        if is_dataclass(hint):
            return self.build(hint, value, key)
        origin, inner = get_origin(hint), get_args(hint)
        if origin is tuple:
            if not isinstance(value, list):
                raise self.wrong(key, f"must be a list, not {value!r}.")
            return tuple(self.value(inner[0], one, f"{key}[{n}]") for n, one in enumerate(value))
        if origin is types.UnionType:
            for kind in inner:
                if kind is not type(None) and _fits(kind, value):
                    return self.value(kind, value, key)
            raise self.wrong(key, f"cannot be {value!r}.")
        if not _fits(hint, value):
            raise self.wrong(key, f"must be {_NAMES.get(hint, hint.__name__)}, not {value!r}.")
        return hint(value)

    def _sets(self, values, key):
        values = [values] if isinstance(values, dict) else values
        if not isinstance(values, list):
            raise self.wrong(key, "must be one or several tables ([[" + key + "]]).")
        sets = []
        for number, one in enumerate(values):
            where = f"{key}[{number}]"
            one = dict(one) if isinstance(one, dict) else one
            optional = isinstance(one, dict) and self.value(bool, one.pop("optional", False), f"{where}.optional")
            made = self.build(SetConfig, one, where)
            if (made.folder is None) == (made.phantoms == 0):
                raise self.wrong(where, "needs either folder or phantoms.")
            for name in ("folder", "table"):
                if (path := getattr(made, name)) is not None:
                    made = replace(made, **{name: str(self._place(path))})
            if made.folder is not None and not Path(made.folder).is_dir():
                if not optional:
                    raise self.wrong(f"{where}.folder", f"there is no folder {one['folder']}.")
                self.notes.append(
                    f"The folder {Path(made.folder).name} of the {key} set is not there: the comparison runs without "
                    "its people."
                )
                continue
            sets.append(made)
        return tuple(sets)

    def _place(self, path):
        beside = self.path.parent / path
        return (beside if beside.exists() else Path(path)).absolute()

    def _methods(self, values, key):
        if not isinstance(values, dict):
            raise self.wrong(key, "must be tables [methods.NAME].")
        for name, settings in values.items():
            if name not in RIVALS:
                raise self.wrong(f"{key}.{name}", f"there is no such method. Known are {', '.join(RIVALS)}.")
            if not isinstance(settings, dict):
                raise self.wrong(f"{key}.{name}", "must be a table of settings.")
        return {name: self._alike(name, values, key) for name in values}

    def _alike(self, name, values, key):
        """Settings of a method; `like` names one whose settings it has, too, but for those that it says itself."""
        settings = dict(values[name])
        like = settings.pop("like", None)
        if like is None:
            return settings
        if like not in values or "like" in values[like]:
            raise self.wrong(f"{key}.{name}.like", f"{like!r} is no method whose settings are written out here.")
        return values[like] | settings

    def _scores(self, values, key):
        if not isinstance(values, dict):
            raise self.wrong(key, "must be tables [scores.NAME].")
        for name in values:
            if name not in RIVALS:
                raise self.wrong(f"{key}.{name}", f"there is no such method. Known are {', '.join(RIVALS)}.")
        return {name: self.build(ScoreConfig, one, f"{key}.{name}") for name, one in values.items()}

    def _budget(self, values, key):
        if not isinstance(values, dict):
            raise self.wrong(key, "must be a table with minutes or steps.")
        if not set(values) & {SOURCE, TARGET}:
            values = {SOURCE: values, TARGET: values}
        if unknown := set(values) - {SOURCE, TARGET}:
            raise self.wrong(f"{key}.{min(unknown)}", "there is no such stage: source and target are.")
        budgets = {stage: self.build(Budget, values.get(stage, {}), f"{key}.{stage}") for stage in (SOURCE, TARGET)}
        for stage, budget in budgets.items():
            if not any(limit is not None and limit > 0 for limit in (budget.minutes, budget.steps)):
                raise self.wrong(f"{key}.{stage}", "needs minutes or steps, more than 0.")
        return budgets

    def _options(self, values, key):
        if not isinstance(values, dict):
            raise self.wrong(key, "must be tables [options.EXPERIMENT].")
        for name in values:
            if name not in OPTIONS:
                raise self.wrong(f"{key}.{name}", f"there is no such experiment. Known are {', '.join(OPTIONS)}.")
        return {name: self.build(OPTIONS[name], one, f"{key}.{name}") for name, one in values.items()}

    def _without_missing(self, config):
        """Leave out what cannot be imported here; find wrong settings now and not after an hour."""
        kept = {}
        for name, settings in config.methods.items():
            try:
                make(name, **tupled(settings))
                kept[name] = settings
            except InstallationError as error:
                self.notes.append(f"{name} is left out: {error}")
            except (U2ADError, TypeError, ValueError) as error:
                raise self.wrong(f"methods.{name}", str(error)) from None
        return replace(config, methods=kept)

    def _check(self, config):
        choices = {
            "paper_data": (config.paper_data, ("", "renji", "ruijin")),
            "pictures_of": (config.pictures_of, ("phantoms", "all")),
        }
        for key, (value, allowed) in choices.items():
            if value not in allowed:
                raise self.wrong(key, f"must be one of {', '.join(map(repr, allowed))}, not {value!r}.")
        if not config.test:
            raise self.wrong("test", "there is nothing to test on.")
        if not config.methods:
            raise self.wrong("methods", "none of them can run here.")
        for name in config.experiments:
            if name not in OPTIONS:
                raise self.wrong("experiments", f"there is no {name!r}. Known are {', '.join(OPTIONS)}.")
        for strategy in config.strategies:
            if strategy not in (FROM_SOURCE, FROM_TARGET, FROM_BOTH):
                raise self.wrong("strategies", f"are 1, 2 and 3, not {strategy}.")
        if not config.strategies:
            raise self.wrong("strategies", "there must be at least one.")
        for experiment, option in config.options.items():
            self._check_option(f"options.{experiment}", option, config)
        if config.folds.count < 2:
            raise self.wrong("folds.count", "there must be at least 2 folds.")
        if config.folds.repeats < 1 or config.resamples < 1 or not config.seeds:
            raise self.wrong("folds.repeats, resamples or seeds", "there must be at least one.")
        if (FROM_SOURCE in config.strategies or FROM_BOTH in config.strategies) and not config.source:
            raise self.wrong("source", "strategies 1 and 3 need a source set.")
        if (FROM_TARGET in config.strategies or FROM_BOTH in config.strategies) and not config.target_sets[0]:
            raise self.wrong("target", "strategies 2 and 3 need a target set, or folds.transductive = true.")

    def _check_option(self, key, option, config):
        """Before the plan is made of it, or an hour later a method refuses it."""
        for one in fields(option):
            value = getattr(option, one.name)
            for item in value if isinstance(value, tuple) else (value,):
                if one.name in ("method", "methods", "compared", "followed", "guided"):
                    if item not in RIVALS:
                        raise self.wrong(f"{key}.{one.name}", f"there is no method {item!r}.")
                elif one.name in _LIMITS and not _LIMITS[one.name][0](item):
                    raise self.wrong(f"{key}.{one.name}", f"must {_LIMITS[one.name][1]}, not {item:g}.")
        if isinstance(option, Table4) and option.method in config.methods:
            for name in ("k", "mask_ratio", "tau"):
                for value in getattr(option, name):
                    try:
                        make(option.method, **tupled(config.methods[option.method]) | {name: value})
                    except (U2ADError, TypeError, ValueError) as error:
                        raise self.wrong(f"{key}.{name}", str(error)) from None


_SIZE = Preprocessing.size
_LIMITS = {  # of numbers among the options: what holds for them, and in words
    "variances": (lambda variance: variance >= 0, "be at least 0"),
    "downsampling": (lambda factor: factor >= 1 and _SIZE % factor == 0, f"divide {_SIZE}, the width of a slice"),
    "shares": (lambda share: 0 <= share <= 1, "lie between 0 and 1"),
    "inference_seeds": (lambda count: count >= 1, "be at least 1"),
    "cases": (lambda count: count >= 1, "be at least 1"),
}
_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _fits(kind, value) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _joined(key, name):
    return f"{key}.{name}" if key else name


def tupled(value):
    """Lists inside become tuples, as constructors of methods want them."""
    if isinstance(value, list | tuple):
        return tuple(map(tupled, value))
    return {name: tupled(one) for name, one in value.items()} if isinstance(value, dict) else value

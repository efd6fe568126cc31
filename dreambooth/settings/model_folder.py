"""Layout of a model's folder on disk, and reading and writing of its db_config.json."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import expand_user, numbered_names, read_json, recover_folder, write_json
from dreambooth.paths import clean_path
from dreambooth.settings.concept import Concept, concept_values, parse_concepts, read_concepts
from dreambooth.settings.declare import parse
from dreambooth.settings.legacy import REMOVED, upgrade
from dreambooth.settings.names import require_name
from dreambooth.settings.old_extension import OLD_KEYS, is_old_file
from dreambooth.settings.other_names import unknown_key
from dreambooth.settings.run import SETTINGS, Settings
from dreambooth.text import count, nearest

log = logging.getLogger("dreambooth.settings")

_PARTS = (
    "working",
    "source",
    "snapshots",
    "abandoned",
    "samples",
    "logging",
    "cache",
    "backups",
    "embeddings",
    "images",
)
_IN_MODELS = Path()  # stands for the folder of that purpose in ``models``


@dataclass(frozen=True)
class Folders:
    """The WebUI's model folders. ``more_checkpoints``, ``text_encoders`` and ``vaes`` are further ones to read from;
    the last two always include those in ``models``.
    """

    models: Path
    dreambooth: Path = _IN_MODELS
    checkpoints: Path = _IN_MODELS
    loras: Path = _IN_MODELS
    more_checkpoints: tuple[Path, ...] = ()
    text_encoders: tuple[Path, ...] = ()
    vaes: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        models = expand_user(self.models)
        object.__setattr__(self, "models", models)
        for name, default in (("dreambooth", "dreambooth"), ("checkpoints", "Stable-diffusion"), ("loras", "Lora")):
            folder = getattr(self, name)
            object.__setattr__(self, name, expand_user(models / default if folder is _IN_MODELS else folder))
        for name, default in (("text_encoders", "text_encoder"), ("vaes", "VAE")):
            folders = (models / default, *map(expand_user, getattr(self, name)))
            object.__setattr__(self, name, tuple(dict.fromkeys(folders)))

    @property
    def image_metadata_cache(self) -> Path:
        """Cache of image metadata, shared by all models: see :mod:`dreambooth.images.metadata_cache`."""
        return self.dreambooth / ".cache" / "pictures.sqlite"

    @property
    def presets(self) -> Path:
        """The user's own presets. The dot keeps the name free for a model, whose names can't begin with one."""
        return self.dreambooth / ".presets"

    @property
    def queue(self) -> Path:
        """The queue of training runs."""
        return self.dreambooth / ".queue"

    def model_names(self) -> list[str]:
        """Names of the existing models."""
        if not os.path.isdir(self.dreambooth):
            return []
        return sorted(p.parent.name for p in self.dreambooth.glob("*/db_config.json"))


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """State of a model that is not a user's choice. Stored in db_config.json together with the settings."""

    model_type: str = ""
    src: str = ""
    prediction_type: str = "epsilon"
    recognized: str = ""  # family and prediction type, and what says so, for users
    source_warnings: str = ""  # what users should know about the source before they train, in lines
    has_ema: bool = False
    revision: int = 0  # optimizer steps over the model's lifetime
    epoch: int = 0
    run: str = ""  # id of the last run; only its snapshots can be resumed from the current weights


MODEL_KEYS = frozenset({"model_name", *(field.name for field in dataclasses.fields(ModelInfo))})


@dataclass(frozen=True)
class ModelConfig:
    """Contents of db_config.json. ``unknown`` holds keys of other programs and versions, so that saving keeps them."""

    name: str
    settings: Settings = field(default_factory=Settings)
    concepts: tuple[Concept, ...] = ()
    info: ModelInfo = field(default_factory=ModelInfo)
    unknown: dict[str, Any] = field(default_factory=dict)
    is_of_old_extension: bool = False

    @property
    def output_name(self) -> str:
        return self.settings.custom_model_name or self.name


@dataclass(frozen=True)
class ModelFolder:
    """``models/dreambooth/NAME``."""

    folders: Folders
    name: str

    def __post_init__(self) -> None:
        require_name(self.name, "a model's name")

    @property
    def root(self) -> Path:
        return self.folders.dreambooth / self.name

    @property
    def config_path(self) -> Path:
        return self.root / "db_config.json"

    def __getattr__(self, part: str) -> Path:
        if part in _PARTS:
            return self.root / part
        raise AttributeError(part)

    def exists(self) -> bool:
        return os.path.exists(self.config_path)  # False without permission to look, too

    def has_manifest(self) -> bool:
        """Whether it has what exporting needs, as every model that was created or adopted here."""
        return (self.source / "manifest.json").is_file()

    def occupied(self) -> bool:
        """Whether the folder holds anything other than temporary files of an interrupted creation."""
        return os.path.isdir(self.root) and any(not path.name.startswith(".") for path in self.root.iterdir())

    def require(self) -> ModelFolder:
        """This folder; a UserError that lists the existing models if it doesn't exist."""
        if not self.exists():
            names = self.folders.model_names()
            hint = nearest(self.name, names) or (f" Existing models: {', '.join(names)}." if names else "")
            raise UserError(f"There is no model {self.name!r} in {self.folders.dreambooth}. Create it first.{hint}")
        for folder in (self.working, self.source):
            recover_folder(folder)
        return self

    def load(self) -> ModelConfig:
        """Read db_config.json, including that of the old extension."""
        try:
            values = read_json(self.config_path, by_hand=True)
            if not isinstance(values, dict):
                raise UserError(f"{self.config_path} contains no settings: it must be a JSON object.")
            return config_from(self.name, values)
        except UserError as error:
            raise UserError(f"{error}{self._backup_hint()}") from error.__cause__
        except Exception as error:  # values of types that no check expects
            raise UserError(f"{self.config_path} is damaged ({error}): correct it.{self._backup_hint()}") from error

    def _backup_hint(self) -> str:
        """Where older versions of db_config.json are, if there are any."""
        has_backups = any(self.backups.glob("db_config_*.json"))
        return f" Or restore it from a backup in {self.backups}." if has_backups and self.exists() else ""

    def save(self, config: ModelConfig) -> None:
        write_json(self.config_path, values_of(config))

    def snapshot_steps(self) -> list[int]:
        """Revisions with a complete snapshot, oldest first."""
        complete = [path.parent.name for path in self.snapshots.glob("*/snapshot.json")]
        return sorted(int(name) for name in complete if name.isdigit())

    def back_up(self, revision: int) -> None:
        """Copy db_config.json as it is at the start of a run. Other copies of this revision stay."""
        self.backups.mkdir(parents=True, exist_ok=True)
        content = self.config_path.read_bytes()
        for copy in numbered_names(self.backups / f"db_config_{revision}.json"):
            if not copy.exists():
                shutil.copyfile(self.config_path, copy)
            if copy.read_bytes() == content:
                return


@functools.cache
def _warn_once(text: str) -> None:
    """Log a warning once per process: the page reads the same file every second."""
    log.warning(text)


def values_of(config: ModelConfig) -> dict[str, Any]:
    """``config`` as the flat object of db_config.json."""
    return {
        "model_name": config.name,
        **dataclasses.asdict(config.info),
        **dataclasses.asdict(config.settings),
        "concepts_list": [concept_values(concept) for concept in config.concepts],
        **config.unknown,
    }


def config_from(name: str, values: dict[str, Any]) -> ModelConfig:
    """A config from the object of db_config.json, including those of other versions and of the old extension.

    Unknown keys are kept, invalid values are replaced by their defaults, and both are logged as warnings, so that no
    file makes a model unusable.
    """
    is_old = is_old_file(values)
    values, notices = upgrade(dict(values))
    values.pop("model_name", None)
    concepts, concept_notices = take_concepts(values, is_old)
    notices += concept_notices
    info, info_notices = _info_from(values)
    notices += info_notices
    chosen = {}
    for key in [key for key in values if key in SETTINGS]:
        try:
            chosen[key] = SETTINGS[key].parse(values.pop(key))
        except ValueError as error:
            notices.append(f"{key}: {error}; the default {SETTINGS[key].default!r} is used instead")
    ignored = sorted(values.keys() - OLD_KEYS - REMOVED.keys())  # upgrade() reports those that have another effect
    advice = {key: unknown_key(key, SETTINGS) for key in ignored}
    notices += [f"{key} of db_config.json has no effect{text}" for key, text in advice.items() if text]
    if unknown := [key for key, text in advice.items() if not text]:
        notices.append(f"these keys of db_config.json have no effect: {', '.join(unknown)}")
    for notice in notices:
        _warn_once(f"{name}: {notice}")
    return ModelConfig(name, parse(Settings, chosen), concepts, info, values, is_old)


def _info_from(values: dict[str, Any]) -> tuple[ModelInfo, list[str]]:
    """The state of the model, which is removed from ``values``. Values of the wrong type become the defaults."""
    chosen, notices = {}, []
    for info in dataclasses.fields(ModelInfo):
        value = values.pop(info.name, None)
        if value is None:
            continue
        try:
            chosen[info.name] = _info_value(value, info.default)
        except (TypeError, ValueError, OverflowError):
            notices.append(f"{info.name}: {str(value)[:60]!r} is not valid; {info.default!r} is used instead")
    return ModelInfo(**chosen), notices


def _info_value(value: Any, default: Any) -> Any:
    """``value`` as the type of ``default``; ValueError if it can't be that."""
    if isinstance(default, bool):
        return value.lower() == "true" if isinstance(value, str) else bool(value)
    if isinstance(default, int):
        return int(value)
    if not isinstance(value, str):
        raise ValueError
    return value


def take_concepts(
    values: dict[str, Any], is_old: bool, base_dir: Path | None = None
) -> tuple[tuple[Concept, ...], list[str]]:
    """The concepts, which are removed from ``values``, and notices. The old extension could have them in a file.

    ``base_dir``: the folder that relative paths refer to.
    """
    listed, path = values.pop("concepts_list", None) or [], str(values.get("concepts_path") or "").strip()
    in_file = is_old and path and str(values.get("use_concepts")).lower() == "true"
    problems: list[str] = []
    if in_file:
        try:
            is_text = path.startswith(("[", "{"))
            concepts, notices = read_concepts(path if is_text or base_dir is None else clean_path(path, base_dir))
            return concepts, [f"concepts_path: {count(len(concepts), 'concept')} taken from {path[:200]}", *notices]
        except UserError as error:
            problems = [f"concepts_path: {problem}" for problem in error.problems]
    concepts, notices = parse_concepts(listed, base_dir, strict=False)
    return concepts, [*problems, *notices]

"""Where a model lies on disk, and its db_config.json. Nothing else in the package knows this layout."""

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
from dreambooth.files import expand, read_json, recover_folder, write_json
from dreambooth.settings.concept import Concept, concept_values, parse_concepts
from dreambooth.settings.declare import nearest, parse
from dreambooth.settings.legacy import REMOVED, upgrade
from dreambooth.settings.run import SETTINGS, Settings

log = logging.getLogger("dreambooth.settings")

LONGEST_NAME = 100  # bytes: a step number and an ending follow, and file systems stop at 255
RESERVED_NAMES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}


@dataclass(frozen=True)
class Folders:
    """The WebUI's folders: models and what they are for."""

    models: Path
    dreambooth: Path = None  # type: ignore[assignment]
    checkpoints: Path = None  # type: ignore[assignment]
    loras: Path = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        models = expand(self.models)
        object.__setattr__(self, "models", models)
        for name, default in (("dreambooth", "dreambooth"), ("checkpoints", "Stable-diffusion"), ("loras", "Lora")):
            object.__setattr__(self, name, expand(getattr(self, name) or models / default))

    @property
    def image_metadata_cache(self) -> Path:
        """What was read of pictures, for all models: see :mod:`dreambooth.images.metadata_cache`."""
        return self.dreambooth / ".cache" / "pictures.sqlite"

    def model_names(self) -> list[str]:
        """Models that were created, by name."""
        if not os.path.isdir(self.dreambooth):
            return []
        return sorted(p.parent.name for p in self.dreambooth.glob("*/db_config.json"))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is so about a model, as opposed to what someone chose. Lives in db_config.json beside the settings."""

    model_type: str = ""
    src: str = ""
    prediction_type: str = "epsilon"
    has_ema: bool = False
    revision: int = 0  # optimizer steps in the model's whole life
    epoch: int = 0
    run: str = ""  # the run that trained it last: only its snapshots go on from what is there


@dataclass(frozen=True)
class ModelConfig:
    """All of db_config.json. ``unknown`` keeps keys of other programs and versions, so that saving loses none."""

    name: str
    settings: Settings = field(default_factory=Settings)
    concepts: tuple[Concept, ...] = ()
    facts: Facts = field(default_factory=Facts)
    unknown: dict[str, Any] = field(default_factory=dict)

    @property
    def output_name(self) -> str:
        return self.settings.custom_model_name or self.name


def require_name(name: str, what: str) -> str:
    """``name``, if every system takes it for a file or folder; UserError else, which calls it ``what``."""
    if not name or name != name.strip(" .") or any(c in '/\\:*?"<>|' or not c.isprintable() for c in name):
        raise UserError(f"{name[:60]!r} cannot be {what}: use letters, digits, spaces, - and _.")
    if len(name.encode()) > LONGEST_NAME:
        raise UserError(f"{name[:60]}... is too long for {what}: use {LONGEST_NAME} letters at most.")
    if name.partition(".")[0].upper() in RESERVED_NAMES:
        raise UserError(f"{name!r} cannot be {what}: Windows keeps it for a device.")
    return name


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
        if part in ("working", "source", "snapshots", "samples", "logging", "cache", "backups", "embeddings"):
            return self.root / part
        raise AttributeError(part)

    def exists(self) -> bool:
        return os.path.exists(self.config_path)  # False also where looking is not allowed

    def occupied(self) -> bool:
        """Whether something lies here already, other than what a killed creation left beside its targets."""
        return os.path.isdir(self.root) and any(not path.name.startswith(".") for path in self.root.iterdir())

    def require(self) -> ModelFolder:
        """This folder, or a UserError that names the models there are."""
        if not self.exists():
            names = self.folders.model_names()
            hint = nearest(self.name, names) or (f" Models there: {', '.join(names)}." if names else "")
            raise UserError(f"There is no model {self.name!r} in {self.folders.dreambooth}: create it first.{hint}")
        for folder in (self.working, self.source):
            recover_folder(folder)
        return self

    def load(self) -> ModelConfig:
        """Read db_config.json, also that of the old extension. Wrong values are all named at once."""
        values = read_json(self.config_path)
        if not isinstance(values, dict):
            raise UserError(f"{self.config_path} does not hold settings.")
        return config_from(self.name, values)

    def save(self, config: ModelConfig) -> None:
        write_json(self.config_path, values_of(config))

    def snapshot_steps(self) -> list[int]:
        """The revisions of which there is a whole snapshot, oldest first."""
        whole = [path.parent.name for path in self.snapshots.glob("*/snapshot.json")]
        return sorted(int(name) for name in whole if name.isdigit())

    def back_up(self, revision: int) -> None:
        """Keep the settings that a run starts with."""
        self.backups.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.config_path, self.backups / f"db_config_{revision}.json")


@functools.cache
def _say_once(text: str) -> None:
    """A page looks at the same file every second; its oddities are news only once."""
    log.warning(text)


def values_of(config: ModelConfig) -> dict[str, Any]:
    """``config`` as the flat object that db_config.json is."""
    return {
        "model_name": config.name,
        **dataclasses.asdict(config.facts),
        **dataclasses.asdict(config.settings),
        "concepts_list": [concept_values(concept) for concept in config.concepts],
        **config.unknown,
    }


def config_from(name: str, values: dict[str, Any]) -> ModelConfig:
    """A config from db_config.json's object, also one of another version or of the old extension.

    What has no effect here is kept and said in the log; a value that cannot be used is said there too and replaced by
    the default, so that no file makes a model unusable.
    """
    values, notes = upgrade(dict(values))
    values.pop("model_name", None)
    concepts, ignored = parse_concepts(values.pop("concepts_list", None) or [], strict=False)
    facts_known = {f.name for f in dataclasses.fields(Facts)}
    facts = Facts(**{key: values.pop(key) for key in list(values) if key in facts_known})
    chosen = {}
    for key in [key for key in values if key in SETTINGS]:
        try:
            chosen[key] = SETTINGS[key].parse(values.pop(key))
        except ValueError as error:
            notes.append(f"{key}: {error}; {SETTINGS[key].default!r} is used instead")
    ignored += sorted(set(values) - set(REMOVED))  # upgrade has named those that were switched on
    if ignored:
        notes.append(f"these keys of db_config.json have no effect here: {', '.join(ignored)}")
    for note in notes:
        _say_once(f"{name}: {note}")
    return ModelConfig(name, parse(Settings, chosen), concepts, facts, values)

"""Models distilled for few steps (Turbo, Lightning, Hyper, LCM, DMD): their tensors don't show it, only names do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.files import read_bounded
from dreambooth.tensor_files import Tensors

_KINDS = {"turbo": "Turbo", "lightning": "Lightning", "hyper": "Hyper-SD", "hypersd": "Hyper-SD", "lcm": "LCM",
          "dmd": "DMD2", "tcd": "TCD", "pcm": "PCM", "sdxs": "SDXS", "instaflow": "InstaFlow"}  # fmt: skip
_INSIDE_WORDS = ("turbo", "lightning")  # found in longer words too: "sdxlturbo"
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_STEPS = re.compile(r"(?<![0-9])[1-8][-_ ]?steps?(?![a-z])", re.IGNORECASE)
_NEGATIONS = {"non", "no", "not", "without"}

_METADATA_KEYS = ("modelspec.title", "modelspec.architecture", "modelspec.description", "modelspec.tags")
# Files that download managers write beside a model, with the key of its base model.
_SIDECARS = ((".civitai.info", "baseModel"), (".cm-info.json", "BaseModel"), (".metadata.json", "base_model"))
# In diffusers folders: where the model came from, and the sampler it is meant for.
_FOLDER_FILES = (("model_index.json", "_name_or_path"), ("unet/config.json", "_name_or_path"),
                 ("transformer/config.json", "_name_or_path"),
                 ("scheduler/scheduler_config.json", "_class_name"))  # fmt: skip
_MAX_BYTES = 2_000_000


def distillation_of(file: Tensors) -> str:
    """Why the model is probably distilled, as one line; "" if nothing says so."""
    for place, text in descriptions(file):
        kind = kind_in(text)
        if kind:
            return (
                f"{place} says that it is distilled for few steps ({kind}). Training it as a normal model undoes that: "
                "the result needs more steps. Train on the model it was made from instead; a LoRA of that also works "
                "with this one."
            )
    return ""


def kind_in(text: str) -> str:
    """The kind of distillation that a name mentions, "" if none."""
    words = [word.lower() for word in _WORD.findall(text)]
    for number, word in enumerate(words):
        match = next((part for part in _INSIDE_WORDS if part in word), word if word in _KINDS else "")
        if match and not (number and words[number - 1] in _NEGATIONS):
            return _KINDS[match]
    steps = _STEPS.search(text)
    return steps[0] if steps else ""


def descriptions(file: Tensors) -> Iterator[tuple[str, str]]:
    """Texts about a model, each with the place where it is: its name, metadata, and what is beside it."""
    if file.path.is_dir():
        yield from _texts_of_folder(file.path)
        return
    yield f"The name {file.path.name}", file.path.stem
    for key in _METADATA_KEYS:
        yield f"Its metadata ({key})", file.metadata.get(key, "")[:500]
    for ending, key in _SIDECARS:
        path = file.path.with_suffix(ending)
        yield f"{path.name} beside it", _value(path, key)


def _texts_of_folder(path: Path) -> Iterator[tuple[str, str]]:
    in_cache = path.parent.name == "snapshots"  # of the hub, where the folder above has the model's name
    name = path.parents[1].name if in_cache else path.name
    yield f"The name {name}", name
    for file, key in _FOLDER_FILES:
        yield f"{file} ({key})", _value(path / file, key)


def _value(path: Path, key: str) -> str:
    """A text in a JSON file; "" if there is no such file."""
    try:
        values = json.loads(read_bounded(path, _MAX_BYTES))
    except (OSError, ValueError, UserError, RecursionError):
        return ""
    value = values.get(key) if isinstance(values, dict) else None
    return value if isinstance(value, str) else ""

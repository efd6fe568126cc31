"""Which kind of model a folder holds, by the names of its files and by what its config.json says."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.files import read_json

ONNX, TIMM, BLIP, GIT, VISION_LANGUAGE = KINDS = ("WD14 tagger (.onnx)", "WD14 tagger (timm)", "BLIP", "GIT",
                                                  "vision-language model")  # fmt: skip
TAGS = "selected_tags.csv"
CONFIG = "config.json"
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".h5", ".msgpack")
TAKEN = "a WD14 tagger (model.onnx or model.safetensors, with selected_tags.csv), BLIP, GIT or a vision-language model"
_NEEDS = {ONNX: "onnxruntime", TIMM: "timm"}
_CAPTIONERS = {"BlipForConditionalGeneration": BLIP, "GitForCausalLM": GIT}  # as config.json names their classes
# What a processor leaves in a folder: without one, a model with eyes is a part of something else.
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def kind_of(folder: Path) -> str:
    """One of KINDS. UserError says what is missing, of files or of libraries."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} can't be read ({error.strerror or error}).") from error
    kinds = tagger_kinds(names)
    if kinds:
        return usable(kinds, str(folder))
    kind = _described(folder) if CONFIG in names else ""
    if not kind:
        raise UserError(_what_it_is(folder, names))
    if not has_safetensors(names):
        raise UserError(f"{folder} has no weights as .safetensors{pickles(names)}. Take those of the same model.")
    return kind


def is_one(folder: Path) -> bool:
    """Whether it looks like a model of any kind, whatever libraries are there."""
    try:
        names = [path.name for path in folder.iterdir()]
        return bool(tagger_kinds(names) or (CONFIG in names and has_safetensors(names) and _described(folder)))
    except (OSError, UserError):
        return False


def tagger_kinds(names: Iterable[str]) -> list[str]:
    """As what a WD14 tagger can be read by its files' names; [] when it is none."""
    names = set(names)
    if TAGS not in names:
        return []
    files = {ONNX: onnx_file(names), TIMM: {CONFIG, "model.safetensors"} <= names}
    return [kind for kind, there in files.items() if there]


def onnx_file(names: Iterable[str]) -> str:
    """The one that holds the model; "" without one."""
    found = sorted(name for name in names if name.endswith(".onnx"))
    return "model.onnx" if "model.onnx" in found else next(iter(found), "")


def usable(kinds: Iterable[str], what: str) -> str:
    """The first kind whose library is there. UserError names what to install."""
    kinds = list(kinds)
    there = [kind for kind in kinds if importlib.util.find_spec(_NEEDS[kind])]
    if there:
        return there[0]
    needed = [_NEEDS[kind] for kind in kinds]
    raise UserError(
        f"{what} needs {' or '.join(needed)}, which is not installed. In the environment that runs this: "
        f"pip install {needed[0]}"
    )


def has_safetensors(names: Iterable[str]) -> bool:
    return any(name.endswith(".safetensors") for name in names)


def pickles(names: Iterable[str]) -> str:
    """A remark on weights that are there and are not read; "" where there are none."""
    found = [name for name in sorted(names) if name.endswith(PICKLES)]
    return f" (pickles like {found[0]} are not loaded: they could run any program)" if found else ""


def _described(folder: Path) -> str:
    """The kind that config.json speaks of; "" for others."""
    config = read_json(folder / CONFIG)
    if not isinstance(config, Mapping):
        return ""
    classes = [str(name) for name in config.get("architectures") or ()]
    for model_class, kind in _CAPTIONERS.items():
        if model_class in classes:
            return kind
    has_eyes = isinstance(config.get("vision_config"), Mapping)
    reads = any((folder / name).is_file() for name in _PROCESSORS)
    speaks = any("Generation" in name or "CausalLM" in name for name in classes)
    return VISION_LANGUAGE if has_eyes and reads and speaks else ""


def _what_it_is(folder: Path, names: list[str]) -> str:
    if onnx_file(names):
        return f"{folder} has {onnx_file(names)} but no {TAGS}: put the one that belongs to the model beside it."
    return f"{folder} holds no model that writes captions: it must be {TAKEN}."

"""The kind of model in a folder, by its file names and config.json."""

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
SUPPORTED = (
    "a WD14 tagger (model.onnx or model.safetensors, with selected_tags.csv), BLIP, GIT or a vision-language model"
)
_NEEDS = {ONNX: "onnxruntime", TIMM: "timm"}
_CAPTIONERS = {"BlipForConditionalGeneration": BLIP, "GitForCausalLM": GIT}  # by the architectures in config.json
# Files of a processor; a vision model without them is a component of something else.
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def model_kind_of(folder: Path) -> str:
    """One of KINDS. UserError names the missing file or library."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror or error}).") from error
    kinds = tagger_kinds(names)
    if kinds:
        return first_installed(kinds, str(folder))
    kind = _kind_in_config(folder) if CONFIG in names else ""
    if not kind:
        raise UserError(_not_a_model(folder, names))
    if not has_safetensors(names):
        raise UserError(
            f"{folder} has no .safetensors weights{pickle_hint(names)}. Download the .safetensors version of the model."
        )
    return kind


def is_model(folder: Path) -> bool:
    """Whether a folder looks like a captioning model, whichever libraries are installed."""
    try:
        names = [path.name for path in folder.iterdir()]
        return bool(tagger_kinds(names) or (CONFIG in names and has_safetensors(names) and _kind_in_config(folder)))
    except (OSError, UserError):
        return False


def tagger_kinds(names: Iterable[str]) -> list[str]:
    """The kinds as which a WD14 tagger can be loaded, by file names; [] if it is none."""
    names = set(names)
    if TAGS not in names:
        return []
    files = {ONNX: onnx_file(names), TIMM: {CONFIG, "model.safetensors"} <= names}
    return [kind for kind, there in files.items() if there]


def onnx_file(names: Iterable[str]) -> str:
    """The .onnx file of the model; "" if there is none."""
    found = sorted(name for name in names if name.endswith(".onnx"))
    return "model.onnx" if "model.onnx" in found else next(iter(found), "")


def first_installed(kinds: Iterable[str], what: str) -> str:
    """The first kind whose library is installed. UserError names what to install."""
    kinds = list(kinds)
    installed = [kind for kind in kinds if importlib.util.find_spec(_NEEDS[kind])]
    if installed:
        return installed[0]
    needed = [_NEEDS[kind] for kind in kinds]
    raise UserError(
        f"{what} needs {' or '.join(needed)}, which is not installed. Install it in this Python environment: "
        f"pip install {needed[0]}"
    )


def has_safetensors(names: Iterable[str]) -> bool:
    return any(name.endswith(".safetensors") for name in names)


def pickle_hint(names: Iterable[str]) -> str:
    """A hint that pickled weights are not loaded; "" if there are none."""
    found = [name for name in sorted(names) if name.endswith(PICKLES)]
    return f" (pickle files such as {found[0]} are not loaded: they can execute code)" if found else ""


def _kind_in_config(folder: Path) -> str:
    """The kind by config.json; "" for others."""
    config = read_json(folder / CONFIG)
    if not isinstance(config, Mapping):
        return ""
    classes = [str(name) for name in config.get("architectures") or ()]
    for model_class, kind in _CAPTIONERS.items():
        if model_class in classes:
            return kind
    has_vision = isinstance(config.get("vision_config"), Mapping)
    has_processor = any((folder / name).is_file() for name in _PROCESSORS)
    generates_text = any("Generation" in name or "CausalLM" in name for name in classes)
    return VISION_LANGUAGE if has_vision and has_processor and generates_text else ""


def _not_a_model(folder: Path, names: list[str]) -> str:
    if onnx_file(names):
        return f"{folder} has {onnx_file(names)} but no {TAGS}: put the file of the same model next to it."
    return f"{folder} is not a captioning model: it must be {SUPPORTED}."

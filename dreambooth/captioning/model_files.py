"""Models that write captions: those in the host's folders and the hub's cache, and those of the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from dreambooth.captioning.model_kind import (
    CONFIG,
    ONNX,
    TAGS,
    TAKEN,
    has_safetensors,
    is_one,
    onnx_file,
    pickles,
    tagger_kinds,
    usable,
)
from dreambooth.checkpoints.hub import download_files, hub_id
from dreambooth.errors import UserError
from dreambooth.files import expand_user
from dreambooth.types import ProgressCallback

# Below the models folder: ours, those of the tagger extensions, those of the WebUI's own interrogator.
FOLDERS = ("taggers", "TaggerOnnx", "interrogators", "captioners", "BLIP")
_DEPTH = 4  # folders below these; the hub's library keeps a model in models--org--name/snapshots/COMMIT
_CACHED = re.compile(r"models--(?P<org>.+?)--(?P<name>.+)")
_TEXTS = (".json", ".txt", ".model", ".jinja")
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


def models_in(models: Path) -> dict[str, Path]:
    """Title and folder of each model that lies here: by its place below ``models``, or by its id in the hub's cache."""
    found = {}
    for name in FOLDERS:
        for folder in _models_below(models / name):
            found[_title(folder, models)] = folder
    for folder in _models_below(hub_cache()):
        found.setdefault(_title(folder, hub_cache()), folder)
    return found


def hub_cache() -> Path:
    """Where the hub's library keeps what it loaded."""
    from huggingface_hub import constants

    return Path(getattr(constants, "HF_HUB_CACHE", None) or constants.HUGGINGFACE_HUB_CACHE)


def located(source: str, models: Path, token: str = "", progress: ProgressCallback | None = None) -> Path:
    """What a person named: a model's folder, its .onnx file, one of :func:`models_in`, or an id of the hub.

    UserError for what is none of these, and for what is out of reach.
    """
    source = source.strip()
    if not source:
        raise UserError(_nothing(models))
    path = expand_user(source)
    if os.path.isfile(path):
        return path if path.suffix == ".onnx" else path.parent
    if os.path.isdir(path):
        return path
    known = models_in(models).get(source)
    if known:
        return known
    found = hub_id(source)
    if not found:
        raise UserError(f"There is no model {source} here: {_how(models)}")
    return download_files(found[0], lambda names: wanted(found[0], names), (TAGS, CONFIG), token, progress)


def wanted(repo: str, names: list[str]) -> list[str]:
    """Of a repository's files those that are needed here. UserError where it is no model of any kind.

    What the model is recognised by comes last, so that one that did not come whole is none.
    """
    top = [name for name in names if "/" not in name]
    kinds = tagger_kinds(top)
    if kinds and usable(kinds, repo) == ONNX:
        model = onnx_file(top)
        return [*(name for name in top if name.startswith(model) and name != model), model, TAGS]
    if kinds:
        return ["model.safetensors", CONFIG, TAGS]
    if CONFIG not in top:
        raise UserError(f"{repo} is no model that writes captions: it must be {TAKEN}.")
    weights = [name for name in top if _WEIGHTS.fullmatch(name)]
    if not has_safetensors(weights):
        raise UserError(f"{repo} has no weights as .safetensors{pickles(top)}.")
    texts = [name for name in top if name.endswith(_TEXTS) and name not in (*weights, CONFIG)]
    return [*weights, *texts, CONFIG]


def _nothing(models: Path) -> str:
    here = "those of the list are here" if models_in(models) else "none is here yet"
    return f"Choose a tagger or captioner; {here}. To have another one, {_how(models)}"


def _how(models: Path) -> str:
    return (
        f"put a model's folder (such as SmilingWolf/wd-vit-tagger-v3 with model.onnx and {TAGS}) into "
        f"{models / FOLDERS[0]}, name a folder, or, while online, an id of the hub (org/name)."
    )


def _models_below(folder: Path) -> Iterator[Path]:
    """Depth first, by name; a model's own folders are not looked into. Links in a circle end with the depth."""
    for here, folders, _ in os.walk(folder, followlinks=True):
        path = Path(here)
        depth = len(path.relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if name not in ("blobs", "refs") and not name.startswith("."))
        is_model = depth > 0 and is_one(path)
        if is_model:
            yield path
        if is_model or depth >= _DEPTH:
            folders.clear()


def _title(folder: Path, root: Path) -> str:
    for part in folder.relative_to(root).parts:
        cached = _CACHED.fullmatch(part)
        if cached:
            return f"{cached['org']}/{cached['name']}"
    return folder.relative_to(root).as_posix()

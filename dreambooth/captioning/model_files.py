"""Captioning models: in the host's folders, in the hub's cache, and on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from dreambooth.captioning.model_kind import (
    CONFIG,
    ONNX,
    SUPPORTED,
    TAGS,
    first_installed,
    has_safetensors,
    is_model,
    onnx_file,
    pickle_hint,
    tagger_kinds,
)
from dreambooth.checkpoints.hub import download_files, hub_id
from dreambooth.errors import UserError
from dreambooth.paths import clean_path
from dreambooth.types import ProgressCallback

# Below the models folder: ours, those of tagger extensions, those of the WebUI's interrogator.
FOLDERS = ("taggers", "TaggerOnnx", "interrogators", "captioners", "BLIP")
_DEPTH = 4  # folders below these; the hub's library keeps a model in models--org--name/snapshots/COMMIT
_CACHED = re.compile(r"models--(?P<org>.+?)--(?P<name>.+)")
_TEXTS = (".json", ".txt", ".model", ".jinja")
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


def available_models(models: Path) -> dict[str, Path]:
    """Title and folder of each local model: by its path below ``models``, or by its id in the hub's cache."""
    found = {}
    for name in FOLDERS:
        for folder in _models_below(models / name):
            found[_title(folder, models)] = folder
    for folder in _models_below(hub_cache()):
        found.setdefault(_title(folder, hub_cache()), folder)
    return found


def hub_cache() -> Path:
    """The cache folder of huggingface_hub."""
    from huggingface_hub import constants

    return Path(getattr(constants, "HF_HUB_CACHE", None) or constants.HUGGINGFACE_HUB_CACHE)


def find_model(source: str, models: Path, token: str = "", progress: ProgressCallback | None = None) -> Path:
    """The path of a model: its folder, its .onnx file, a title of :func:`available_models`, or a hub id.

    UserError if it is none of these, or cannot be downloaded.
    """
    source = source.strip()
    if not source:
        raise UserError(_no_model_chosen(models))
    path = clean_path(source)
    if os.path.isfile(path):
        return path if path.suffix == ".onnx" else path.parent
    if os.path.isdir(path):
        return path
    local = available_models(models).get(source)
    if local:
        return local
    found = hub_id(source)
    if not found:
        raise UserError(f"Model {source} not found: {_how_to_add(models)}")
    return download_files(found[0], lambda names: required_files(found[0], names), (TAGS, CONFIG), token, progress)


def required_files(repo: str, names: list[str]) -> list[str]:
    """The files of a repository that are needed. UserError if it is no captioning model.

    The files by which a model is recognized come last, so that an incomplete download is not recognized.
    """
    top = [name for name in names if "/" not in name]
    kinds = tagger_kinds(top)
    if kinds and first_installed(kinds, repo) == ONNX:
        model = onnx_file(top)
        return [*(name for name in top if name.startswith(model) and name != model), model, TAGS]
    if kinds:
        return ["model.safetensors", CONFIG, TAGS]
    if CONFIG not in top:
        raise UserError(f"{repo} is not a captioning model: it must be {SUPPORTED}.")
    weights = [name for name in top if _WEIGHTS.fullmatch(name)]
    if not has_safetensors(weights):
        raise UserError(f"{repo} has no .safetensors weights{pickle_hint(top)}.")
    texts = [name for name in top if name.endswith(_TEXTS) and name not in (*weights, CONFIG)]
    return [*weights, *texts, CONFIG]


def _no_model_chosen(models: Path) -> str:
    installed = "" if available_models(models) else " None is installed yet."
    return f"Choose a tagger or captioner.{installed} To add one, {_how_to_add(models)}"


def _how_to_add(models: Path) -> str:
    return (
        f"put a model's folder (such as SmilingWolf/wd-vit-tagger-v3 with model.onnx and {TAGS}) into "
        f"{models / FOLDERS[0]}, enter a folder, or, while online, a hub id (org/name)."
    )


def _models_below(folder: Path) -> Iterator[Path]:
    """Depth first, by name, not into the folders of models. The depth limit ends cycles of links."""
    for here, folders, _ in os.walk(folder, followlinks=True):
        path = Path(here)
        depth = len(path.relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if name not in ("blobs", "refs") and not name.startswith("."))
        found = depth > 0 and is_model(path)
        if found:
            yield path
        if found or depth >= _DEPTH:
            folders.clear()


def _title(folder: Path, root: Path) -> str:
    for part in folder.relative_to(root).parts:
        cached = _CACHED.fullmatch(part)
        if cached:
            return f"{cached['org']}/{cached['name']}"
    return folder.relative_to(root).as_posix()

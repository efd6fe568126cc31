"""Adoption of model folders of the old extension: a diffusers folder ``working``, without the manifest in ``source``.

Both folders are made again from the weights in ``working``, as Create makes them from a file. What a single file has
and a diffusers folder lacks (the order of tensors, tensors without a module) comes from the checkpoint that the model
was created from, if it is still there. The folder's own files are kept: ``working`` is moved aside, and db_config.json
is copied to ``backups``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import shutil
import time
from pathlib import Path, PureWindowsPath

import torch

from dreambooth.checkpoints.adopted_source import AdoptedSource
from dreambooth.checkpoints.extract import TensorCopy, extract_tensors
from dreambooth.checkpoints.folder_source import FolderSource
from dreambooth.checkpoints.manifest import Manifest
from dreambooth.checkpoints.modules import load_scheduler_config
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.recognition import recognize
from dreambooth.errors import UserError
from dreambooth.files import as_user_error, numbered_names
from dreambooth.models.registry import with_original_names
from dreambooth.settings import ModelConfig, ModelFolder, ModelInfo
from dreambooth.settings.creation import AUTO
from dreambooth.tensor_files import Tensors
from dreambooth.text import count, format_bytes
from dreambooth.types import ProgressCallback

log = logging.getLogger("dreambooth.checkpoints")

KEPT, KEPT_SOURCE = "working_before_adoption", "source_before_adoption"
_WAIT_SECONDS = 3600  # of other processes of a distributed run, while the main one copies


def adopt(model: ModelFolder, progress: ProgressCallback | None = None) -> ModelFolder:
    """``model``, made usable if it is a folder of the old extension or has lost its ``source``.

    UserError, with nothing changed, when ``working`` is incomplete or of an unsupported family, or the disk is full.
    """
    if model.has_manifest():
        _complete_info(model)
        return model
    if not _is_main_process():
        _wait_for_main_process(model)
        return model
    config = model.load()
    who = "was created by the old extension" if config.is_of_old_extension else "has lost its folder source"
    try:
        notes = _adopt(model, config, progress)
    except OSError as error:
        raise UserError(f"{model.name} {who}. {as_user_error(error, model.root)} Nothing was changed.") from error
    except UserError as error:
        raise UserError(
            f"{model.name} {who}, and can't be used as it is: {error} Nothing was changed. If its folder working is "
            "damaged or incomplete, copy it again, or create a new model from a checkpoint that was saved from it"
            f"{f' or from its source, {config.info.src}' if config.info.src else ''}."
        ) from error
    log.warning("%s %s and was adopted. %s", model.name, who, " ".join(notes))
    return model


def _adopt(model: ModelFolder, config: ModelConfig, progress: ProgressCallback | None) -> list[str]:
    """Returns what the user should know, in sentences."""
    folder, is_own = _weights_folder(model, config)
    kept = _unused(model.root / KEPT) if is_own else None
    with contextlib.ExitStack() as stack:
        working = FolderSource(folder, working=True)
        stack.enter_context(working)
        tensors = AdoptedSource(working, *_open_original(model, config, stack))
        tensors.correct_metadata()
        found = recognize(tensors, AUTO, _stated_prediction(config))
        _back_up_config(model)
        copies = extract_tensors(
            tensors, model, found, source=tensors.original_path or kept or folder, extract_ema=tensors.has_own_ema(),
            keep_working_as=kept, keep_source_as=_unused(model.root / KEPT_SOURCE), progress=progress,
        )  # fmt: skip
        notes = [*found.warnings, *_notes(tensors, copies, config)]
    has_ema = any(copy.component == found.family.denoiser.ema_name for copy in copies)
    info = dataclasses.replace(
        config.info,
        model_type=found.family.model_type,
        prediction_type=found.prediction,
        has_ema=has_ema,
        recognized=found.reason,
        source_warnings="\n".join(found.warnings),
    )
    model.save(dataclasses.replace(config, info=info))
    if kept is not None:
        size = sum(file.stat().st_size for file in kept.rglob("*") if file.is_file())
        notes.append(f"The old folder is now {kept} ({format_bytes(size)}): delete it when you no longer need it.")
    return notes


def _notes(tensors: AdoptedSource, copies: list[TensorCopy], config: ModelConfig) -> list[str]:
    """What cannot be restored bit for bit."""
    notes = []
    if tensors.original_path is None:
        problem = tensors.problem or "it was not found"
        source = f"Its source {config.info.src} was not used, since {problem}" if config.info.src else (
            "db_config.json names no source"
        )  # fmt: skip
        notes.append(
            f"{source}: exported checkpoints have the weights of working in the standard order, without further "
            "tensors of the source."
        )
    else:
        notes.append(f"Order and further tensors of exported checkpoints are those of {tensors.original_path}.")
        changed = {
            (tensors.original_dtype(copy.key), tensors.dtype(copy.key))
            for copy in copies
            if copy.key in tensors and tensors.original_dtype(copy.key) and tensors.dtype(copy.key).is_floating_point
        }
        texts = sorted(f"{_short(a)} became {_short(b)}" for a, b in changed if a is not None and a != b)
        if texts:
            notes.append(f"Precision is that of working, not of the source: {', '.join(texts)}.")
    if tensors.left_out:
        notes.append(
            f"{count(tensors.left_out, 'EMA tensor')} of the source left out: they don't belong to the trained weights."
        )
    if config.info.has_ema and not any(copy.component == "ema_unet" for copy in copies):
        notes.append("db_config.json names EMA weights (has_ema), but working has none.")
    return notes


def _short(dtype: torch.dtype | None) -> str:
    return {torch.float16: "fp16", torch.float32: "fp32", torch.bfloat16: "bf16"}.get(
        dtype or torch.float32, str(dtype).removeprefix("torch.")
    )


def _weights_folder(model: ModelFolder, config: ModelConfig) -> tuple[Path, bool]:
    """The folder with the weights, and whether it is the model's own: LoRA models could share one."""
    if (model.working / "unet").is_dir():
        return model.working, True
    for key in ("shared_diffusers_path", "pretrained_model_name_or_path"):
        shared = str(config.unknown.get(key) or "").strip()
        if shared and os.path.isdir(os.path.join(shared, "unet")):
            return Path(shared), False
    if not model.working.is_dir():
        raise UserError(f"{model.working} does not exist.")
    raise UserError(f"{model.working} has no unet.")


def _open_original(model: ModelFolder, config: ModelConfig, stack: contextlib.ExitStack) -> tuple[Tensors | None, str]:
    """The checkpoint that the model was created from, and why it can't be used."""
    path = _original_path(model, config.info.src)
    if path is None:
        return None, ""
    try:
        return stack.enter_context(with_original_names(open_tensors(path))), ""
    except UserError as error:
        return None, str(error).removesuffix(".")


def _original_path(model: ModelFolder, src: str) -> Path | None:
    """``src`` as the old extension saved it: a path, possibly of another machine, or a title, "name.ckpt [hash]"."""
    name = re.sub(r"\s*\[\w+\]$", "", str(src).strip())
    if not name:
        return None
    checkpoints = model.folders.checkpoints
    for path in (Path(name), checkpoints / name, checkpoints / PureWindowsPath(name).name):
        if path.is_absolute() and os.path.isfile(path):
            return path
    return None


def _stated_prediction(config: ModelConfig) -> str:
    """The prediction type that later versions of the old extension saved with a Stable Diffusion 2 model."""
    return {"v2x": "v_prediction", "v2x-512": "epsilon"}.get(config.info.model_type, AUTO)


def _back_up_config(model: ModelFolder) -> None:
    model.backups.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model.config_path, _unused(model.backups / "db_config_before_adoption.json"))


def _unused(path: Path) -> Path:
    return next(name for name in numbered_names(path) if not os.path.lexists(name))


def _complete_info(model: ModelFolder) -> None:
    """Save the family of an adopted model in its db_config.json, if the adoption was interrupted before that."""
    config = model.load()
    if not config.is_of_old_extension:
        return
    manifest = Manifest.load(model.source)
    prediction = load_scheduler_config(model.working).get("prediction_type", ModelInfo.prediction_type)
    info = dataclasses.replace(config.info, model_type=manifest.family, prediction_type=prediction)
    model.save(dataclasses.replace(config, info=info))


def _is_main_process() -> bool:
    """Of a distributed run on this machine, before its process group exists."""
    return os.environ.get("LOCAL_RANK", "0") in ("", "0")


def _wait_for_main_process(model: ModelFolder) -> None:
    started = time.monotonic()
    while not model.has_manifest():
        if time.monotonic() - started > _WAIT_SECONDS:
            raise UserError(f"{model.name} was not adopted by the main process: see its error.")
        time.sleep(0.5)

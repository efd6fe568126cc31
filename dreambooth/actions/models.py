"""Create a model, change its parameters, and write it as a checkpoint."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.errors import UserError
from dreambooth.paths import clean_path, clean_text
from dreambooth.settings import Concept, CreateOptions, Folders, ModelConfig, ModelFolder, Settings, parse
from dreambooth.settings.creation import AS_IS
from dreambooth.types import ProgressCallback, dtype_of

if TYPE_CHECKING:
    import torch

    from dreambooth.checkpoints.verify import Verification
    from dreambooth.models.family import Family


def create(
    folders: Folders,
    name: str,
    source: str | Path,
    options: CreateOptions | None = None,
    *,
    replace: bool = False,
    progress: ProgressCallback | None = None,
) -> ModelConfig:
    """Extract a checkpoint into ``models/dreambooth/NAME``. An existing model is left alone unless ``replace``.

    ``source``: a file, a diffusers folder, or a model of the Hugging Face hub ("org/name").
    """
    from dreambooth.checkpoints.extract import extract
    from dreambooth.checkpoints.hub import download, hub_id

    model, options, source = ModelFolder(folders, name), options or CreateOptions(), clean_text(str(source))
    if not str(source).strip():
        raise UserError("The source is empty: enter a checkpoint file, a diffusers folder, or a model id of the hub.")
    if model.occupied() and not replace:
        raise UserError(f"{model.root} already exists: choose another name, or use --replace to recreate it.")
    on_hub = hub_id(source)
    facts = extract(
        download(source, options.token, progress) if on_hub else clean_path(source),
        model,
        model_type=options.model_type,
        prediction_type=options.prediction_type,
        vae=clean_path(options.vae) if options.vae.strip() else None,
        text_encoders=[clean_path(path) for path in (options.text_encoder, options.text_encoder_2) if path.strip()],
        copy_source=options.copy_source,
        extract_ema=options.extract_ema,
        dtype=_dtype(options.precision),
        origin=source if on_hub else "",
        progress=progress,
    )
    for folder in (model.snapshots, model.abandoned):  # of the model that was replaced
        shutil.rmtree(folder, ignore_errors=True)
    config = ModelConfig(name, _default_settings(model), (), facts)
    model.save(config)
    return config


def _dtype(precision: str) -> torch.dtype | None:
    """None: the dtypes of the source are kept."""
    return None if precision == AS_IS else dtype_of(precision)


def native_resolution(model: ModelFolder) -> int:
    """The image size that the model was trained at, in pixels."""
    family, configs = _family_and_configs(model)
    return family.native_resolution(configs) or Settings().resolution


def _default_settings(model: ModelFolder) -> Settings:
    """The settings of a new model: the declared defaults, and those of its family."""
    family, configs = _family_and_configs(model)
    return parse(Settings, family.default_settings(configs))


def _family_and_configs(model: ModelFolder) -> tuple[Family, dict[str, dict[str, Any]]]:
    from dreambooth.checkpoints.modules import load_configs, load_family

    family = load_family(model.working)
    return family, load_configs(model.working, family)


def opened(model: ModelFolder, progress: ProgressCallback | None = None) -> ModelFolder:
    """The model, if it exists; a model folder of the old extension is adopted first.

    UserError when there is no such model, or when it can't be adopted.
    """
    if model.require().has_manifest() and not model.load().is_of_old_extension:
        return model
    from dreambooth.checkpoints.adoption import adopt

    return adopt(model, progress)


def configure(
    model: ModelFolder, overrides: Mapping[str, Any] | None = None, concepts: Sequence[Concept] | None = None
) -> ModelConfig:
    """The model's saved parameters with changes laid over them; nothing is written."""
    config = opened(model).load()
    if overrides:
        config = dataclasses.replace(config, settings=parse(Settings, overrides, base=config.settings))
    return config if concepts is None else dataclasses.replace(config, concepts=tuple(concepts))


def generate_checkpoint(
    model: ModelFolder,
    *,
    loras: Sequence[Path] = (),
    lora_weights: Sequence[float] = (),
    lora_text_weights: Sequence[float] = (),
    precision: str | None = None,
    out: Path | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[Path, Verification]:
    """Write the model as one file in its original layout, with LoRAs merged in if given, and check it.

    Returns the path and its :class:`dreambooth.checkpoints.verify.Verification`. What is not given (``None``, no
    weights at all) is taken from the model's settings; weights as for :func:`sample`.
    """
    from dreambooth.checkpoints.lora import weighted_loras
    from dreambooth.checkpoints.single_file import write_checkpoint
    from dreambooth.checkpoints.verify import verify_checkpoint
    from dreambooth.training.metadata import checkpoint_metadata
    from dreambooth.training.results import checkpoint_path, ema_choice, unused_path

    config = opened(model, progress).load()
    precision = precision or ("fp16" if config.settings.half_model else AS_IS)
    own_weights = config.settings.lora_weight, config.settings.lora_txt_weight
    uses = weighted_loras(loras, lora_weights, lora_text_weights, own_weights)
    path = unused_path(out) if out else checkpoint_path(model, config, "_lora" if uses else "")
    metadata = checkpoint_metadata(model, config, path.stem, [use.path for use in uses])
    write_checkpoint(
        model, path, loras=uses, dtype=_dtype(precision), ema=ema_choice(config), metadata=metadata, progress=progress
    )
    verification = verify_checkpoint(path, model)
    if not verification.ok:
        raise UserError(f"{path} was written but did not pass its check: {verification.summary()}.")
    return path, verification

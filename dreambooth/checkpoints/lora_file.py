"""Reading and writing adapter files (LoRA and the other kinds in ``adapters/``).

They are read in the formats of kohya, LyCORIS, diffusers, peft, OneTrainer, ComfyUI, and in those of one model family
alone. Embeddings of pivotal tuning in the same file (``bundle_emb.*``) are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.adapters import IA3, Adapter, Difference, make_adapter
from dreambooth.checkpoints.adapters.dora import could_be_magnitude
from dreambooth.checkpoints.adapters.names import (
    BIAS_TENSORS,
    UNSUPPORTED,
    Key,
    is_adapter_key,
    normalize_shape,
    parse_key,
    peft_alpha,
    written_tensor_name,
)
from dreambooth.checkpoints.lora_hashes import data_hash, legacy_hash
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.writing import cast, is_finite
from dreambooth.errors import UserError
from dreambooth.files import atomic_write
from dreambooth.models.family import Family
from dreambooth.models.layout import Shape
from dreambooth.models.registry import FAMILIES, adapter_family, adapter_title
from dreambooth.tensor_files import Tensors, write_tensors
from dreambooth.text import count

Adapters = Mapping[str, Adapter]

UNKNOWN_FAMILY = "another model"


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file: the adapters of weights and of biases by module name (with underscores for dots).

    ``names``: the modules' names as in the file, by those with underscores, where they differ.
    """

    path: Path
    weights: Adapters
    metadata: dict[str, str] = field(default_factory=dict)
    biases: Adapters = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def no_effect(self) -> str:
        """Why it changes nothing in any model, in one line; empty when it does change something."""
        adapters = [*self.weights.values(), *self.biases.values()]
        if not all(adapter.changes_nothing for adapter in adapters):
            return ""
        only_alpha = all(adapter.scaling == 0 for adapter in adapters)
        reason = "alpha is 0" if only_alpha else "alpha or a matrix is all zeros, as before the first step,"
        return (
            f"{self.path} changes nothing: {reason} in all of its {count(len(adapters), 'module')}. Use another LoRA."
        )

    @property
    def family(self) -> Family | None:
        """The model family that it was made for, from its metadata or its modules' names and sizes; None if unknown."""
        return adapter_family(self._version, self._sizes)

    @property
    def made_for(self) -> str:
        """The title of that family, also of one that is not supported."""
        return adapter_title(self._version, self._sizes) or UNKNOWN_FAMILY

    @property
    def _version(self) -> str:
        return self.metadata.get("ss_base_model_version", "")

    @property
    def _sizes(self) -> dict[str, tuple[int, int] | None]:
        return {name: adapter.size for name, adapter in self.weights.items()}


def write_lora(path: Path, weights: Adapters, metadata: Mapping[str, str], dtype: torch.dtype = torch.float16) -> None:
    """Write a file, atomically: in kohya's format, or modules whose names have dots with peft's names of tensors.

    ``metadata`` (ss_*, modelspec.*) is extended by the hashes that WebUIs display and compare. Scalars and DoRA
    magnitudes stay float32, since rounding them could change a weight more than the adapter itself. UserError when a
    value is out of the range of ``dtype``.
    """
    tensors = {}
    for name, adapter in sorted(weights.items()):
        for tensor_name, tensor in sorted(adapter.state_dict().items()):
            values = tensor.detach().to("cpu")
            needs_fp32 = tensor_name == "dora_scale" or values.dim() == 0
            key = f"{name}.{written_tensor_name(name, tensor_name)}"
            tensors[key] = values.float() if needs_fp32 else cast(values, dtype, f"{path}: {name}")
    model_hash = data_hash(tensors)
    with atomic_write(Path(path)) as temporary:
        # The legacy hash is defined for the file with only the ss_ metadata.
        write_tensors(temporary, tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
        hashes = {
            "sshs_model_hash": model_hash,
            "sshs_legacy_hash": legacy_hash(temporary),
            "modelspec.hash_sha256": f"0x{model_hash}",
        }
        write_tensors(temporary, tensors, {**metadata, **hashes})


def is_adapter_file(shapes: Mapping[str, Shape]) -> bool:
    """Whether a file with these tensors is a LoRA or another adapter file, of any naming scheme."""
    if _family_of_format(shapes):
        return True
    parsed = [parse_key(key) for key in shapes if is_adapter_key(key)]
    return any(key is not None and key.tensor not in ("weight", "alpha", "scale", "magnitude") for key in parsed)


def read_lora(path: Path) -> LoraFile:
    """Read an adapter file of any kind and naming scheme. UserError when it is something else or not supported."""
    with open_tensors(path) as file:
        tensors: dict[str, dict[str, torch.Tensor]] = {}
        keys = _parse_keys(file)
        for key, parsed in keys.items():
            tensors.setdefault(parsed.module, {})[parsed.tensor] = normalize_shape(key, file.get(key))
        _require_finite(file.path, tensors)
        config = _peft_config(file)
        biases = {
            module: Difference({"diff": own.pop(name)})
            for module, own in tensors.items()
            for name in BIAS_TENSORS
            if name in own
        }
        weights = {module: _adapter(file.path, module, own, config) for module, own in tensors.items() if own}
        names = {key.module: key.name for key in keys.values() if key.name != key.module}
        return LoraFile(file.path, weights, file.metadata, biases, names)


def _family_of_format(shapes: Mapping[str, Shape]) -> Family | None:
    """The family whose own format of adapter files this is."""
    return next((family for family in FAMILIES if family.is_adapter_file(shapes)), None)


def _parse_keys(file: Tensors) -> dict[str, Key]:
    """Every key as module and tensor name. UserError when the file is no LoRA, or of an unsupported kind."""
    shapes = {key: file.shape(key) for key in file}
    if family := _family_of_format(shapes):
        return {key: Key(*names) for key, names in family.adapter_keys(file.path, shapes).items()}
    keys = {key: parse_key(key) for key in file if is_adapter_key(key)}
    names = {key.tensor for key in keys.values() if key}
    if not names - {"weight", "alpha", "scale"}:  # any model has a "weight"
        raise UserError(f"{file.path} is not a LoRA: choose one in the format of kohya, LyCORIS or diffusers.")
    if unsupported := sorted({UNSUPPORTED[name] for name in names if name in UNSUPPORTED}):
        raise UserError(
            f"{file.path} is {' and '.join(unsupported)}, which is not supported: use LoRA, LoHa, LoKr or DoRA."
        )
    if unknown := [key for key, parsed in keys.items() if parsed is None]:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise UserError(
            f"{file.path} is a LoRA of an unsupported kind (it has {unknown[0]}{more}): use LoRA, LoHa, LoKr or DoRA."
        )
    return {key: parsed for key, parsed in keys.items() if parsed}


def _adapter(path: Path, module: str, tensors: dict[str, torch.Tensor], config: Mapping[str, Any]) -> Adapter:
    adapter = make_adapter(tensors) if all(map(_has_valid_size, tensors, tensors.values())) else None
    if adapter is None:
        names = ", ".join(tensors)
        raise UserError(f"{path} is damaged or a LoRA of an unsupported kind: {module} has {names}. Use another file.")
    if adapter.size is None and not isinstance(adapter, IA3):
        raise UserError(f"{path} is damaged: the shapes of {module} don't match. Download or copy it again.")
    if adapter.size and adapter.dora_scale is not None and not could_be_magnitude(adapter.dora_scale, adapter.size):
        rows, columns = adapter.size
        raise UserError(
            f"{path} is damaged: the DoRA magnitudes of {module} have the shape {tuple(adapter.dora_scale.shape)}, "
            f"which fits neither its {rows} rows nor its {columns} columns. Download or copy it again."
        )
    if adapter.alpha is None and adapter.rank:
        try:
            adapter.alpha = peft_alpha(config, module, adapter.rank)
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{path} has invalid lora_adapter_metadata ({error}). Use another file.") from error
    return adapter


def _require_finite(path: Path, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    broken = [module for module, own in tensors.items() if not all(map(is_finite, own.values()))]
    if broken:
        raise UserError(
            f"{path} is damaged: it has NaN or infinite values in {len(broken)} of {count(len(tensors), 'module')} "
            f"({broken[0]}{', ...' if len(broken) > 1 else ''}), as after a training that diverged. Use an earlier "
            "save of it, or another file."
        )


def _has_valid_size(name: str, tensor: torch.Tensor) -> bool:
    return tensor.numel() == 1 if name in ("alpha", "scale", "on_input") else tensor.dim() > 0 and tensor.numel() > 0


def _peft_config(file: Tensors) -> Mapping[str, Any]:
    """peft's LoraConfig as stored by diffusers, by ``component.setting``; {} when there is none."""
    try:
        config = json.loads(file.metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file.path} has metadata (lora_adapter_metadata) that is not JSON ({error}). Use another file."
        ) from error
    return config if isinstance(config, dict) else {}

"""Models in transformers' folder layout. Only files of the folder are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dreambooth.errors import UserError
from dreambooth.text import count


def load_from_folder(folder: Path, model_class: str, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """(processor, model) from the folder's .safetensors. No code of the folder is executed, no pickle read.

    ``model_class``: its class in transformers. UserError names the folder and the fix.
    """
    import transformers

    if not hasattr(transformers, model_class):
        raise UserError(f"{folder}: transformers {transformers.__version__} is too old for this model. Update it.")
    dtype_argument = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    offline = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = transformers.AutoProcessor.from_pretrained(str(folder), **offline)
        model, info = getattr(transformers, model_class).from_pretrained(
            str(folder), **{dtype_argument: dtype}, use_safetensors=True, output_loading_info=True, **offline
        )
    except Exception as error:  # transformers raises many kinds of errors for damaged files
        raise UserError(_explain(folder, error)) from error
    missing = _without_weights(model, set(info["missing_keys"]))
    if missing:
        tensors = f"{count(len(missing), 'tensor')} (such as {missing[0]})"
        raise UserError(f"{folder}: the weights lack {tensors}. Download the files again.")
    return processor, model.to(device).eval()


def _without_weights(model: torch.nn.Module, missing: set[str]) -> list[str]:
    """Parameters that no file contains, under any of their shared names."""
    shared: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(name)
    return sorted(names[0] for names in shared.values() if missing.issuperset(names))


def _explain(folder: Path, error: Exception) -> str:
    import transformers

    text, version = " ".join(str(error).split()), f"transformers {transformers.__version__}"
    if "trust_remote_code" in text:
        return f"{folder} requires custom code, which is never executed. Use a model that transformers supports itself."
    if "torchvision" in text.lower():
        return f"{folder} needs torchvision: pip install torchvision, in the version that matches your torch."
    if "does not recognize this architecture" in text:
        return f"{folder} is not supported by {version}. Update it, or use another model."
    return f"{folder} cannot be loaded by {version} ({text[:300] or type(error).__name__})."

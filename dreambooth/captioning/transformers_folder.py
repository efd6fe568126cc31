"""Models as transformers keeps them: a folder becomes a processor and a model. Nothing else than its files is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dreambooth.errors import UserError


def loaded(folder: Path, model_class: str, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """(processor, model) from the folder's .safetensors. No code that lies in it is run, no pickle read.

    ``model_class``: what transformers calls it. UserError names the folder and the way out.
    """
    import transformers

    if not hasattr(transformers, model_class):
        raise UserError(f"{folder}: transformers {transformers.__version__} is too old for such models. Update it.")
    named = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    only_here = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = transformers.AutoProcessor.from_pretrained(str(folder), **only_here)
        model, told = getattr(transformers, model_class).from_pretrained(
            str(folder), **{named: dtype}, use_safetensors=True, output_loading_info=True, **only_here
        )
    except Exception as error:  # of any kind, whatever in the files is not as it should be
        raise UserError(_why(folder, error)) from error
    missing = _without_weights(model, set(told["missing_keys"]))
    if missing:
        lacking = f"{len(missing)} of the model's weights (first {missing[0]})"
        raise UserError(f"{folder}: its files lack {lacking}. Take all of them again.")
    return processor, model.to(device).eval()


def _without_weights(model: torch.nn.Module, missing: set[str]) -> list[str]:
    """Parameters that no file fills; one that is shared has other names."""
    shared: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(name)
    return sorted(names[0] for names in shared.values() if missing.issuperset(names))


def _why(folder: Path, error: Exception) -> str:
    import transformers

    said, here = " ".join(str(error).split()), f"transformers {transformers.__version__}"
    if "trust_remote_code" in said:
        return f"{folder} has code of its own, which is never run. Take a model that transformers knows by itself."
    if "torchvision" in said.lower():
        return f"{folder} needs torchvision: pip install torchvision, in the version that goes with your torch."
    if "does not recognize this architecture" in said:
        return f"{folder} is of a kind that {here} does not know. Update it, or take another model."
    return f"{folder} can't be loaded by {here} ({said[:300] or type(error).__name__})."

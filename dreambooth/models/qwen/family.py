"""What families with a Qwen3 text encoder have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dreambooth.models.family import Configs
from dreambooth.models.flow_family import FlowFamily
from dreambooth.models.qwen.qwen3 import current_qwen3_name, rotary_frequencies
from dreambooth.models.qwen.tokenizer import shipped_tokenizer, write_tokenizer


class QwenFamily(FlowFamily):
    """Its component "text_encoder" is Qwen3. All sizes have the same tokenizer."""

    def rebuild_buffer(self, name: str, buffer: torch.Tensor) -> torch.Tensor:
        return rotary_frequencies(buffer) if name.endswith("inv_freq") else super().rebuild_buffer(name, buffer)

    def load_tokenizer(self, folder: Path) -> Any:
        """The files in the folder are for other programs."""
        return shipped_tokenizer()

    def write_tokenizers(self, working: Path, configs: Configs) -> None:
        write_tokenizer(working / "tokenizer")

    def current_name(self, component: str, name: str) -> str:
        return current_qwen3_name(name) if component == "text_encoder" else super().current_name(component, name)

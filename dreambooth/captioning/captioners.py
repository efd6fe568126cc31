"""BLIP and GIT: one sentence per image, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dreambooth.captioning.base import Prediction
from dreambooth.captioning.transformers_folder import load_from_folder
from dreambooth.settings.tagging import TagOptions

if TYPE_CHECKING:
    from PIL import Image


class _Captioner:
    """A processor and a model that continues a prompt."""

    model_class: str

    def __init__(self, folder: Path, options: TagOptions, device: torch.device, dtype: torch.dtype) -> None:
        self.options, self.device, self.dtype = options, device, dtype
        self.notes: list[str] = []
        self.processor, self.model = load_from_folder(folder, self.model_class, dtype, device)

    def prepare(self, image: Image.Image) -> Image.Image:
        return image

    @torch.inference_mode()
    def predict(self, prepared: Sequence[Image.Image]) -> list[Prediction]:
        pixels = self.processor(images=list(prepared), return_tensors="pt")["pixel_values"]
        prompt = self.options.prompt.strip()
        generated = self.model.generate(
            pixel_values=pixels.to(self.device, self.dtype),
            **{name: ids.to(self.device) for name, ids in self.prompt_tokens(prompt, len(prepared)).items()},
            max_new_tokens=self.options.max_length,
            do_sample=False,
        )
        texts = self.processor.batch_decode(generated, skip_special_tokens=True)
        return [Prediction(sentence=text.strip()) for text in texts]

    def prompt_tokens(self, prompt: str, count: int) -> dict[str, Any]:
        """The prompt's tokens, repeated for ``count`` images."""
        raise NotImplementedError


class Blip(_Captioner):
    model_class = "BlipForConditionalGeneration"

    def prompt_tokens(self, prompt: str, count: int) -> dict[str, Any]:
        if not prompt:
            return {}
        tokens = self.processor.tokenizer([prompt] * count, return_tensors="pt")
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


class Git(_Captioner):
    model_class = "GitForCausalLM"

    def prompt_tokens(self, prompt: str, count: int) -> dict[str, Any]:
        """Without the end-of-sentence token that the tokenizer would append to the prompt."""
        tokenizer = self.processor.tokenizer
        ids = [tokenizer.cls_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        tokens = torch.tensor([ids] * count)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

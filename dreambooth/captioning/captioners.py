"""BLIP and GIT: one sentence for each picture, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dreambooth.captioning.base import Answer
from dreambooth.captioning.transformers_folder import loaded
from dreambooth.settings.tagging import TagOptions

if TYPE_CHECKING:
    from PIL import Image


class _Captioner:
    """What both have in common: a processor, and a model that writes on."""

    model_class: str

    def __init__(self, folder: Path, options: TagOptions, device: torch.device, dtype: torch.dtype) -> None:
        self.options, self.device, self.dtype = options, device, dtype
        self.notes: list[str] = []
        self.processor, self.model = loaded(folder, self.model_class, dtype, device)

    def prepare(self, picture: Image.Image) -> Image.Image:
        return picture

    @torch.inference_mode()
    def answer(self, prepared: Sequence[Image.Image]) -> list[Answer]:
        pixels = self.processor(images=list(prepared), return_tensors="pt")["pixel_values"]
        prompt = self.options.prompt.strip()
        written = self.model.generate(
            pixel_values=pixels.to(self.device, self.dtype),
            **{name: ids.to(self.device) for name, ids in self.beginning(prompt, len(prepared)).items()},
            max_new_tokens=self.options.max_length,
            do_sample=False,
        )
        texts = self.processor.batch_decode(written, skip_special_tokens=True)
        return [Answer(sentence=text.strip()) for text in texts]

    def beginning(self, prompt: str, count: int) -> dict[str, Any]:
        """The tokens that the model goes on from, the same for each of ``count`` pictures."""
        raise NotImplementedError


class Blip(_Captioner):
    model_class = "BlipForConditionalGeneration"

    def beginning(self, prompt: str, count: int) -> dict[str, Any]:
        if not prompt:
            return {}
        tokens = self.processor.tokenizer([prompt] * count, return_tensors="pt")
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


class Git(_Captioner):
    model_class = "GitForCausalLM"

    def beginning(self, prompt: str, count: int) -> dict[str, Any]:
        """Without the token that ends a sentence, which the tokenizer would put behind the prompt."""
        tokenizer = self.processor.tokenizer
        ids = [tokenizer.cls_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        tokens = torch.tensor([ids] * count)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

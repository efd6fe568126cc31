"""Vision-language models that answer a question about a picture (Qwen-VL, LLaVA and others), through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dreambooth.captioning.base import Answer
from dreambooth.captioning.transformers_folder import loaded
from dreambooth.errors import UserError
from dreambooth.settings.tagging import TagOptions

if TYPE_CHECKING:
    from PIL import Image

QUESTION = "Describe this picture in one sentence."
# Pixels of the longer side. Models that read pictures at their own size need memory by the square of it, and see what
# a caption says at this one.
LONGEST = 1536


class VisionLanguage:
    """Asked by the model's own chat template."""

    def __init__(self, folder: Path, options: TagOptions, device: torch.device, dtype: torch.dtype) -> None:
        self.options, self.device, self.dtype = options, device, dtype
        self.notes: list[str] = []
        self.processor, self.model = loaded(folder, "AutoModelForImageTextToText", dtype, device)
        if not getattr(self.processor, "chat_template", None):
            raise UserError(
                f"{folder} has no chat template, so nobody knows how to ask it. Take a model that is made to answer "
                "(Qwen2.5-VL, LLaVA), BLIP or GIT."
            )
        self.processor.tokenizer.padding_side = "left"  # what is written follows the question without a gap
        text = {"type": "text", "text": options.prompt.strip() or QUESTION}
        conversation = [{"role": "user", "content": [{"type": "image"}, text]}]
        self.question = self.processor.apply_chat_template(conversation, add_generation_prompt=True)

    def prepare(self, picture: Image.Image) -> Image.Image:
        from PIL import Image

        if max(picture.size) > LONGEST:
            picture.thumbnail((LONGEST, LONGEST), Image.Resampling.BICUBIC)
        return picture

    @torch.inference_mode()
    def answer(self, prepared: Sequence[Image.Image]) -> list[Answer]:
        inputs = self.processor(
            text=[self.question] * len(prepared),
            images=[[picture] for picture in prepared],
            padding=True,
            return_tensors="pt",
        ).to(self.device, self.dtype)
        written = self.model.generate(**inputs, max_new_tokens=self.options.max_length, do_sample=False)
        texts = self.processor.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [Answer(sentence=text.strip()) for text in texts]

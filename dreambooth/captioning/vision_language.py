"""Vision-language models (Qwen-VL, LLaVA and others), through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dreambooth.captioning.base import Prediction
from dreambooth.captioning.transformers_folder import load_from_folder
from dreambooth.errors import UserError
from dreambooth.settings.tagging import TagOptions

if TYPE_CHECKING:
    from PIL import Image

QUESTION = "Describe this image in one sentence."
# Pixels of the longer side. Memory grows with its square in models that take images at their native size, and this
# is enough for captions.
LONGEST = 1536


class VisionLanguage:
    """A model prompted through its own chat template."""

    def __init__(self, folder: Path, options: TagOptions, device: torch.device, dtype: torch.dtype) -> None:
        self.options, self.device, self.dtype = options, device, dtype
        self.notes: list[str] = []
        self.processor, self.model = load_from_folder(folder, "AutoModelForImageTextToText", dtype, device)
        if not getattr(self.processor, "chat_template", None):
            raise UserError(
                f"{folder} has no chat template. Use an instruction-tuned model (Qwen2.5-VL, LLaVA), BLIP or GIT."
            )
        self.processor.tokenizer.padding_side = "left"  # the generated text follows the prompt directly
        text = {"type": "text", "text": options.prompt.strip() or QUESTION}
        conversation = [{"role": "user", "content": [{"type": "image"}, text]}]
        self.question = self.processor.apply_chat_template(conversation, add_generation_prompt=True)

    def prepare(self, image: Image.Image) -> Image.Image:
        from PIL import Image

        if max(image.size) > LONGEST:
            image.thumbnail((LONGEST, LONGEST), Image.Resampling.BICUBIC)
        return image

    @torch.inference_mode()
    def predict(self, prepared: Sequence[Image.Image]) -> list[Prediction]:
        inputs = self.processor(
            text=[self.question] * len(prepared),
            images=[[image] for image in prepared],
            padding=True,
            return_tensors="pt",
        ).to(self.device, self.dtype)
        generated = self.model.generate(**inputs, max_new_tokens=self.options.max_length, do_sample=False)
        texts = self.processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [Prediction(sentence=text.strip()) for text in texts]

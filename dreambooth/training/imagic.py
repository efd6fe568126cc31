"""Imagic (arXiv:2210.09276): text-based editing of one image, such as "a sitting dog" for a standing one.

The embedding of the target text is optimized to reconstruct the image with the frozen denoiser (3.2 A). Then the
denoiser is fine-tuned on the image with the optimized embedding (B), by the usual training. Sampling with an
interpolation of both embeddings gives the edited image (C, eq. 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.dataset.plan import Batch, Plan
from dreambooth.errors import UserError
from dreambooth.files import atomic_write
from dreambooth.models.conditioning import Conditioning
from dreambooth.settings import ModelConfig, ModelFolder, Settings
from dreambooth.settings.components import trains_text_encoder
from dreambooth.tensor_files import write_tensors
from dreambooth.training.noise import generator_for
from dreambooth.training.objective import diffusion_losses

if TYPE_CHECKING:
    from dreambooth.training.prompts import CachedPromptEmbedder
    from dreambooth.training.session import Session

LOSS_SCALE = 1024.0  # keeps small gradients above fp16's minimum; Adam's updates do not depend on it
_TEXT = "text"  # key of the target text in a file's metadata


class Imagic:
    """A :class:`PromptEmbedder` that returns the optimized embedding for any prompt."""

    trainable = False  # the text encoders are frozen

    def __init__(self, text: str, target: Conditioning, optimized: Conditioning | None = None) -> None:
        self.text, self.target = text, target
        self.optimized = optimized or target.map(torch.clone)

    @classmethod
    def of(cls, plan: Plan, prompts: CachedPromptEmbedder) -> Imagic:
        text = plan.examples[0].caption
        return cls(text, prompts.batch([text]))

    def batch(self, prompts: Sequence[str]) -> Conditioning:
        return self.optimized.expand(len(prompts))

    def interpolate(self, strength: float) -> Conditioning:
        """Between the optimized embedding (0) and that of the target text (1), as in eq. 3."""
        ends = self.target.tensors
        mixed = {name: torch.lerp(part, ends[name], strength) for name, part in _floating(self.optimized).items()}
        return self.target.replace(**mixed)

    def prompt_embeddings(self, settings: Settings) -> dict[str, Conditioning]:
        """The interpolated embedding, by the prompt that it replaces in sampling."""
        return {self.text: self.interpolate(settings.imagic_strength)}

    def state(self) -> dict[str, torch.Tensor]:
        return self.optimized.state()

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        self.optimized = Conditioning.of_state(state, self.target.lengths).to(self.target.device)


def problems_of(config: ModelConfig, plan: Plan | None) -> list[str]:
    """Why Imagic can't be trained with these settings and images; empty if it is not chosen."""
    settings = config.settings
    if not settings.train_imagic:
        return []
    problems = []
    if not settings.train_unet:
        problems.append("train_imagic: the UNet is not trained. Switch on train_unet.")
    if trains_text_encoder(settings):
        problems.append(
            "train_imagic: the text embedding is optimized instead of the text encoder. Set stop_text_encoder to 0."
        )
    if plan and len(plan.examples) != 1:
        problems.append(
            f"train_imagic: it edits a single image, but there are {len(plan.examples)}. Remove all but one."
        )
    has_class_images = any(concept.num_class_images_per for concept in config.concepts)
    if has_class_images or (plan and (plan.class_examples or plan.validation)):
        problems.append("train_imagic: class and validation images are not supported. Remove them.")
    return problems


def optimize_embedding(session: Session, imagic: Imagic) -> None:
    """Optimize the embedding to reconstruct the image with the frozen denoiser. Nothing is saved if it is canceled."""
    settings, (example,) = session.settings, session.plan.examples
    session.events.phase("imagic")
    progress = session.controls.cancellable(session.events.progress)
    parameters = [part.requires_grad_() for part in _floating(imagic.optimized).values()]
    optimizer = torch.optim.Adam(parameters, lr=settings.imagic_learning_rate)
    frozen = [parameter for parameter in session.modules.denoiser.parameters() if parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for step in range(settings.imagic_steps):
            progress(step, settings.imagic_steps, "text embedding")
            generator = generator_for(settings.seed, "imagic", step)
            with session.accelerator.autocast():
                losses = diffusion_losses(
                    session.denoiser, session.process, session.latents, imagic, session.inpainting,
                    Batch((example,), ()), generator, settings, prior_weight=0.0, loss_masks=session.loss_masks,
                )  # fmt: skip
            (losses.total * LOSS_SCALE).backward()
            optimizer.step()
            optimizer.zero_grad()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    imagic.optimized = imagic.optimized.map(torch.detach)
    if not all(torch.isfinite(part).all() for part in parameters):
        raise UserError("The text embedding became NaN. Lower imagic_learning_rate.")


def save_embeddings(imagic: Imagic, path: Path) -> None:
    """Write both embeddings to a file, so that edits can be generated later."""
    tensors = {f"learnt.{name}": part for name, part in imagic.state().items()}
    tensors |= {f"target.{name}": part for name, part in imagic.target.state().items()}
    with atomic_write(path) as tmp:
        write_tensors(tmp, {name: part.cpu().contiguous() for name, part in tensors.items()}, {_TEXT: imagic.text})


def load_embeddings(model: ModelFolder) -> Imagic | None:
    """The newest file of :func:`save_embeddings` in a model's folder; None if there is none."""
    newest = max(model.embeddings.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is None:
        return None
    with open_tensors(newest) as file:
        target, optimized = (
            Conditioning.of_state({key.removeprefix(prefix): file.get(key) for key in file if key.startswith(prefix)})
            for prefix in ("target.", "learnt.")
        )
        return Imagic(file.metadata[_TEXT], target, optimized)


def _floating(embedding: Conditioning) -> dict[str, torch.Tensor]:
    """The tensors that can be optimized; token ids can't."""
    return {name: part for name, part in embedding.tensors.items() if part.is_floating_point()}

"""Imagic (arXiv:2210.09276): one picture is edited by a text, such as "a sitting dog" where it stands.

The text's embedding is moved until the untouched unet finds the picture in it (3.2 A). Then the unet learns the picture
with that embedding (B): the training as always. What lies between the two embeddings draws the edit (C, eq. 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.text_encoding import PromptEmbedding
from dreambooth.dataset.plan import Batch, Plan
from dreambooth.errors import UserError
from dreambooth.files import atomic_write
from dreambooth.settings import ModelConfig, ModelFolder, Settings
from dreambooth.tensor_files import write_tensors
from dreambooth.training.noise import generator_for
from dreambooth.training.objective import diffusion_losses

if TYPE_CHECKING:
    from dreambooth.training.prompts import CachedPromptEmbedder
    from dreambooth.training.session import Session

LOSS_SCALE = 1024.0  # of the loss: in fp16 small gradients would be lost; Adam's steps don't depend on it
_TEXT = "text"  # in a file's metadata


class Imagic:
    """Stands in for a session's prompts: whatever is asked for, what was learnt of the picture is the answer."""

    trainable = False  # the text encoders never are

    def __init__(self, text: str, target: PromptEmbedding, optimized: PromptEmbedding | None = None) -> None:
        self.text, self.target = text, target
        self.optimized = optimized or target.map(torch.clone)

    @classmethod
    def of(cls, plan: Plan, prompts: CachedPromptEmbedder) -> Imagic:
        text = plan.examples[0].caption
        return cls(text, prompts.batch([text]))

    def batch(self, prompts: Sequence[str]) -> PromptEmbedding:
        return self.optimized.map(lambda part: part.expand(len(prompts), *part.shape[1:]))

    def interpolate(self, strength: float) -> PromptEmbedding:
        """``strength`` of the way from the picture to the text."""
        (start, start_pooled), (end, end_pooled) = self.optimized, self.target
        pooled = None
        if start_pooled is not None and end_pooled is not None:
            pooled = torch.lerp(start_pooled, end_pooled, strength)
        return PromptEmbedding(torch.lerp(start, end, strength), pooled)

    def prompt_embeddings(self, settings: Settings) -> dict[str, PromptEmbedding]:
        """What the text stands for in pictures."""
        return {self.text: self.interpolate(settings.imagic_strength)}

    def state(self) -> dict[str, torch.Tensor]:
        return {name: part for name, part in self.optimized._asdict().items() if part is not None}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        self.optimized = PromptEmbedding(**state).to(self.target.states.device)


def problems_of(config: ModelConfig, plan: Plan | None) -> list[str]:
    """Why these settings and pictures are not for Imagic, where that is chosen."""
    settings = config.settings
    if not settings.train_imagic:
        return []
    problems = []
    if not settings.train_unet:
        problems.append("train_imagic: the unet has to learn the picture: switch on train_unet.")
    if settings.stop_text_encoder > 0:
        problems.append(
            "train_imagic: the embedding of the text learns in place of the text encoder: set stop_text_encoder to 0."
        )
    if plan and len(plan.examples) != 1:
        problems.append(f"train_imagic: it edits one picture, and there are {len(plan.examples)}: leave one.")
    wants_classes = any(concept.num_class_images_per for concept in config.concepts)
    if wants_classes or (plan and (plan.class_examples or plan.validation)):
        problems.append("train_imagic: it takes one picture alone: leave out class and validation pictures.")
    return problems


def optimize_embedding(session: Session, imagic: Imagic) -> None:
    """Move the embedding towards the picture; the unet stays as it is. Cancelled, nothing of it is kept."""
    settings, (example,) = session.settings, session.plan.examples
    session.events.phase("imagic")
    progress = session.controls.cancellable(session.events.progress)
    optimized = [part.requires_grad_() for part in imagic.optimized if part is not None]
    optimizer = torch.optim.Adam(optimized, lr=settings.imagic_learning_rate)
    resting = [parameter for parameter in session.modules.unet.parameters() if parameter.requires_grad]
    try:
        for parameter in resting:
            parameter.requires_grad_(False)
        for step in range(settings.imagic_steps):
            progress(step, settings.imagic_steps, "text embedding")
            generator = generator_for(settings.seed, "imagic", step)
            with session.accelerator.autocast():
                losses = diffusion_losses(
                    session.modules.unet, session.schedule, session.latents, imagic, session.inpainting,
                    Batch((example,), ()), generator, settings, prior_weight=0.0, loss_masks=session.loss_masks,
                )  # fmt: skip
            (losses.total * LOSS_SCALE).backward()
            optimizer.step()
            optimizer.zero_grad()
    finally:
        for parameter in resting:
            parameter.requires_grad_(True)
    imagic.optimized = imagic.optimized.map(torch.detach)
    if not all(torch.isfinite(part).all() for part in optimized):
        raise UserError("The text's embedding is not a number any more: lower imagic_learning_rate.")


def keep(imagic: Imagic, path: Path) -> None:
    """Write a file with both embeddings, for drawing the edit later."""
    tensors = {f"learnt.{name}": part for name, part in imagic.state().items()}
    tensors |= {f"target.{name}": part for name, part in imagic.target._asdict().items() if part is not None}
    with atomic_write(path) as beside:
        write_tensors(beside, {name: part.cpu().contiguous() for name, part in tensors.items()}, {_TEXT: imagic.text})


def kept(model: ModelFolder) -> Imagic | None:
    """The newest that :func:`keep` kept."""
    newest = max(model.embeddings.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is None:
        return None
    with open_tensors(newest) as file:
        ends = [
            PromptEmbedding(**{key.removeprefix(end): file.get(key) for key in file if key.startswith(end)})
            for end in ("target.", "learnt.")
        ]
        return Imagic(file.metadata[_TEXT], *ends)

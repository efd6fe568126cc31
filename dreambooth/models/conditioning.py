"""What a prediction depends on besides latents and timestep: encoded prompts and image sizes.

torch is imported where it is used: counting tokens does not need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    import torch

MASK = "mask"  # the name of the mask among stored tensors
GUIDANCE = "guidance"  # the guidance scale (B,) for denoisers that take it as an input; missing for training


class ImageSize(NamedTuple):
    """The size of an image before and after cropping, in pixels: (width, height), and (left, top) of the crop."""

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]


@dataclass(frozen=True)
class Conditioning:
    """Named tensors of B prompts, each (B, ...), as a family's denoiser takes them.

    ``mask`` (B, L) bool: which of L tokens belong to the prompt; None where the denoiser attends to all. ``lengths``:
    the number of tokens that each prompt takes, with its start and end tokens; () if unknown.
    """

    tensors: Mapping[str, torch.Tensor]
    mask: torch.Tensor | None = None
    lengths: tuple[int, ...] = ()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __len__(self) -> int:
        """The number of prompts."""
        return len(next(iter(self.tensors.values())))

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one prompt's tensors."""
        return {name: tuple(tensor.shape[1:]) for name, tensor in self.tensors.items()}

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Conditioning:
        """``function`` of each tensor, which keeps the order of the prompts. The mask stays as it is."""
        return replace(self, tensors={name: function(tensor) for name, tensor in self.tensors.items()})

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """On ``device``; ``dtype`` is for floating-point tensors."""
        moved = self.map(lambda tensor: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None))
        return replace(moved, mask=None if self.mask is None else self.mask.to(device=device))

    def replace(self, **tensors: torch.Tensor) -> Conditioning:
        """With these tensors, added or in place of those of the same name."""
        return replace(self, tensors={**self.tensors, **tensors})

    def select(self, rows: slice) -> Conditioning:
        """Some of the prompts."""
        mask = None if self.mask is None else self.mask[rows]
        return replace(self.map(lambda tensor: tensor[rows]), mask=mask, lengths=self.lengths[rows])

    def expand(self, n: int) -> Conditioning:
        """A single prompt ``n`` times, without copying it."""
        mask = None if self.mask is None else self.mask.expand(n, -1)
        repeated = self.map(lambda tensor: tensor.expand(n, *tensor.shape[1:]))
        return replace(repeated, mask=mask, lengths=self.lengths * n)

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors by name, for files; the mask as :data:`MASK`."""
        return dict(self.tensors) if self.mask is None else {**self.tensors, MASK: self.mask}

    @classmethod
    def of_state(cls, state: Mapping[str, torch.Tensor], lengths: tuple[int, ...] = ()) -> Conditioning:
        """The inverse of :meth:`state`."""
        return cls({name: tensor for name, tensor in state.items() if name != MASK}, state.get(MASK), lengths)


def concatenate(parts: Sequence[Conditioning]) -> Conditioning:
    """The prompts of all ``parts``, which have the same names and shapes, in one batch."""
    import torch

    masks = [part.mask for part in parts if part.mask is not None]
    return Conditioning(
        {name: torch.cat([part[name] for part in parts]) for name in parts[0].tensors},
        torch.cat(masks) if masks else None,
        tuple(length for part in parts for length in part.lengths),
    )


def pad(conditioning: Conditioning, length: int, names: Sequence[str]) -> Conditioning:
    """Padded with zeros to ``length`` tokens, and masked. ``names``: of the tensors (B, L, ...)."""
    import torch

    n, present = conditioning[names[0]].shape[:2]
    missing = length - present
    padded = {}
    for name in names:
        tensor = conditioning[name]
        padded[name] = torch.cat([tensor, tensor.new_zeros(n, missing, *tensor.shape[2:])], dim=1)
    mask = conditioning.mask
    if mask is None:
        mask = torch.ones(n, present, dtype=torch.bool, device=conditioning.device)
    return replace(conditioning.replace(**padded), mask=torch.cat([mask, mask.new_zeros(n, missing)], dim=1))


class Tokens(Protocol):
    """Tokenized prompts of a batch."""

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Any: ...


T = TypeVar("T", bound=Tokens)


class TextConditioner(Generic[T]):
    """Prompts to the conditioning of a family's denoiser. Without text encoders it still tokenizes and counts.

    Subclasses override what differs. Defaults are those of encoders whose padding is masked.
    """

    sequences: tuple[str, ...] = ()  # names of the tensors with a dimension of tokens, (B, L, ...)
    max_tokens: int  # of a prompt, without start and end tokens; longer ones are truncated
    max_token_choices: tuple[int, ...] = ()  # values of the setting max_token_length; () where it has no effect
    unit = "tokens"  # in messages: what prompts must have equally many of, to be in one batch
    pads_with_empty_prompt = False  # whether :meth:`collate` needs the empty prompt

    def tokenize(self, prompts: Sequence[str]) -> T:
        """The tokens of a batch, truncated, and padded to one length."""
        raise NotImplementedError

    def join(self, batches: Sequence[T]) -> T:
        """All prompts in one batch, padded to one length."""
        raise NotImplementedError

    def part(self, tokens: T, start: int, stop: int) -> T:
        """The prompts from ``start`` up to ``stop`` (exclusive)."""
        raise NotImplementedError

    def encode(self, tokens: T) -> Conditioning:
        """Run the text encoders. ``tokens`` are on their device. Gradients and autocast are up to the caller."""
        raise NotImplementedError

    def collate(self, prompts: Sequence[Conditioning], empty: Conditioning | None = None) -> Conditioning:
        """Prompts that were encoded one by one, (1, L, ...) each, in one batch, padded to one length.

        ``empty``: the empty prompt, where :attr:`pads_with_empty_prompt` is set.
        """
        longest = max(prompt[self.sequences[0]].shape[1] for prompt in prompts)
        return concatenate([pad(prompt, longest, self.sequences) for prompt in prompts])

    def trim(self, conditioning: Conditioning) -> Conditioning:
        """Without the padding that all prompts of the batch have, if the denoiser would attend to it."""
        return conditioning

    def unconditional(self, negative: Conditioning, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of negative ``prompts``, from their encoding, as classifier-free guidance needs it."""
        return negative

    def count(self, prompt: str) -> int:
        """The number of tokens of a prompt before truncation, without start and end tokens."""
        ((tokens, _),) = self.count_with_overflow([prompt])
        return tokens

    def count_with_overflow(self, prompts: Sequence[str]) -> list[tuple[int, str]]:
        """For each prompt :meth:`count`, and the text that truncation removes ("" if none)."""
        raise NotImplementedError

    def batch_length(self, prompt: str) -> int:
        """Prompts with the same number can be encoded in one batch without padding."""
        return min(self.count(prompt), self.max_tokens)

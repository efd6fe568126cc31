"""Full training with the spectral norms of the weights held where they were.

A layer can make no direction louder than its weight's largest singular value s; where training lets s grow, attention
collapses onto few tokens and what the model knew goes under. With W = s0 * V / s(V) (sigma reparametrisation,
arXiv:2303.06296, eq. 2, its gain fixed) only the rest of W can learn. Here V is W itself, scaled back after each step:
the same set of weights, and nothing about the modules or what is saved of them is special.

s comes of power iteration (arXiv:1802.05957, algorithm 1): one round a step, from the vector of the step before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from dreambooth.training.noise import generator_for

MOST_ROUNDS, EACH = 1000, 20  # at first; looked at after EACH
CLOSE = 1e-6  # the norm counts as found when it grows by no more of itself in EACH rounds
_NORMS, _VECTOR = "norms", "vector."

Tensors = list[torch.Tensor]


class SpectralNorms:
    """Of the weights of all linear layers and convolutions of ``modules`` that learn. A weight of zeros is left out."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        kinds = (torch.nn.Linear, torch.nn.Conv2d)
        layers = [layer for module in modules for layer in module.modules() if isinstance(layer, kinds)]
        learning = {id(w): w for w in (layer.weight for layer in layers) if w.requires_grad and w.any()}
        self.weights = list(learning.values())
        self.measure()

    @torch.no_grad()
    def measure(self) -> None:
        """Hold the norms that the weights have now."""
        self.vectors = [_start(weight, number) for number, weight in enumerate(self.weights)]
        before = None
        for number in range(MOST_ROUNDS):
            self.norms, self.vectors = _round(self.weights, self.vectors)
            if number % EACH:
                continue
            now = torch.stack(self.norms)
            if before is not None and bool((now - before <= CLOSE * now).all()):
                return
            before = now

    @torch.no_grad()
    def hold(self) -> None:
        """After a step: scale each weight that still learns back to its norm."""
        learning = [i for i, weight in enumerate(self.weights) if weight.requires_grad]
        weights = [self.weights[i] for i in learning]
        found, vectors = _round(weights, [self.vectors[i] for i in learning])
        for i, vector in zip(learning, vectors, strict=True):
            self.vectors[i] = vector
        torch._foreach_mul_(weights, torch._foreach_div([self.norms[i] for i in learning], found))

    def state(self) -> dict[str, torch.Tensor]:
        """All that decides how it goes on."""
        return {_NORMS: torch.stack(self.norms), **{f"{_VECTOR}{i}": v for i, v in enumerate(self.vectors)}}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        device = self.norms[0].device
        self.norms = list(state[_NORMS].to(device).unbind())
        self.vectors = [state[f"{_VECTOR}{i}"].to(device) for i in range(len(self.vectors))]


def _start(weight: torch.Tensor, number: int) -> torch.Tensor:
    lots = generator_for("spectral norm", number)
    return torch.nn.functional.normalize(torch.randn(weight[0].numel(), generator=lots), dim=0).to(weight)


def _round(weights: Sequence[torch.Tensor], vectors: Sequence[torch.Tensor]) -> tuple[Tensors, Tensors]:
    """One round of power iteration, from vectors (in * k * k,) near the weights' first right singular ones.

    Returns the norms of the weights (out, in[, k, k]), as far as they are known, and nearer vectors.
    """
    rows = [weight.flatten(1) for weight in weights]
    left = [row @ vector for row, vector in zip(rows, vectors, strict=True)]
    _to_length_one(left)
    right = [row.T @ vector for row, vector in zip(rows, left, strict=True)]
    return _to_length_one(right), right


def _to_length_one(vectors: Tensors) -> Tensors:
    """In place; returns their lengths."""
    lengths = [length.clamp(min=torch.finfo(length.dtype).tiny) for length in torch._foreach_norm(vectors)]
    torch._foreach_div_(vectors, lengths)
    return lengths

"""Token merging while pictures are drawn: what it merges, how many, and that nothing of it stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dreambooth.checkpoints.modules import load_modules
from dreambooth.sampling.draw import Shot, draw
from dreambooth.sampling.merging import Merge, merged_tokens

SHOTS = [Shot("a red star", seed=seed, steps=8, cfg=5.0, width=128, height=128) for seed in (1, 2)]


def _merged_by_hand(x: np.ndarray, stays: np.ndarray, share: float) -> np.ndarray:
    """(N, C) float64: every token, those that were merged as the mean of what went together."""
    kept, others = np.flatnonzero(stays), np.flatnonzero(~stays)
    directions = x / np.linalg.norm(x, axis=1, keepdims=True)
    likeness = directions[others] @ directions[kept].T
    going = np.argsort(-likeness.max(axis=1))[: int(len(x) * share)]
    result = x.copy()
    for place, of_kept in enumerate(kept):
        members = [others[i] for i in going if likeness[i].argmax() == place]
        mean = x[[of_kept, *members]].mean(axis=0)
        result[[of_kept, *members]] = mean
    return result


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_what_is_alike_becomes_its_mean_and_all_else_stays(share):
    x = torch.randn(2, 48, 5, generator=torch.Generator().manual_seed(0))
    stays = torch.arange(48) % 4 == 1
    merge = Merge(x, stays, share)
    assert merge.of(x).shape[1] == 48 - min(36, int(48 * share))
    found = merge.undo(merge.of(x))
    for of_one, whole in zip(found, x, strict=True):
        wanted = _merged_by_hand(whole.double().numpy(), stays.numpy(), share)
        assert np.abs(of_one.numpy() - wanted).max() < 1e-6


@pytest.fixture
def modules(mini):
    return load_modules(mini.working)


def _drawn(modules, **more):
    return [np.asarray(picture).astype(int) for picture in draw(modules, SHOTS, **more)]


def test_a_picture_changes_a_little_and_depends_on_its_shot_alone(modules):
    plain, merged = _drawn(modules), _drawn(modules, merge=0.5)
    for before, after in zip(plain, merged, strict=True):
        assert 0 < np.abs(before - after).mean() < 12
    together = _drawn(modules, merge=0.5, batch_size=2)
    assert all(np.abs(a - b).max() <= 1 for a, b in zip(merged, together, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(plain, _drawn(modules), strict=True)), "it was to be taken out"


def test_only_the_finest_self_attention_sees_fewer_tokens_and_all_is_put_back(modules):
    unet, seen = modules.unet, []
    before = dict(unet.attn_processors)

    hooks = [module.to_q.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[1]))
             for module in unet.modules() if hasattr(module, "to_q")]  # fmt: skip
    noise, text = torch.randn(1, 4, 9, 13), torch.randn(1, 77, unet.config.cross_attention_dim)
    with torch.no_grad(), merged_tokens(unet, 0.5, (9, 13)):
        unet(noise, torch.tensor([3]), text)
    for hook in hooks:
        hook.remove()
    assert seen.count(117 - 58) == seen.count(117) == 5  # of the finest, self- and cross-attention
    assert set(seen) == {59, 117, 35, 12, 4}
    assert unet.attn_processors == before
    with pytest.raises(ZeroDivisionError), merged_tokens(unet, 0.5, (9, 13)):
        raise ZeroDivisionError
    assert unet.attn_processors == before

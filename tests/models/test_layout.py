"""Transforms between original tensors and those of the modules lose nothing; a layout with all of them round-trips."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dreambooth.checkpoints.manifest import Manifest
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.errors import UserError
from dreambooth.models import registry
from dreambooth.models.layout import TensorRef
from dreambooth.models.transforms import (
    IDENTITY,
    RESHAPE,
    SWAP,
    TRANSPOSE,
    Chain,
    Chunk,
    Concat,
    Transform,
    transform_named,
)
from dreambooth.settings import ModelFolder
from dreambooth.tensor_files import DTYPES
from tests.made_up_family import BLOCK, INPUT, TENSORS, WIDTH, MadeUpFamily, create

Shape = tuple[int, ...]


def _matrix(rng: random.Random, rows: int = 1) -> Shape:
    return rows * rng.randint(1, 9), rng.randint(1, 9)


def _any(rng: random.Random, rows: int) -> Shape:
    return rows, *(rng.randint(1, 5) for _ in range(rng.randint(0, 3)))


def _chunk(rng: random.Random) -> tuple[Transform, Shape]:
    n = rng.randint(2, 4)
    return Chunk(n), _any(rng, n * rng.randint(1, 9))


def _concat(rng: random.Random) -> tuple[Transform, Shape]:
    sizes = tuple(rng.randint(1, 9) for _ in range(rng.randint(2, 4)))
    return Concat(sizes), _any(rng, sum(sizes))


def _chain(rng: random.Random) -> tuple[Transform, Shape]:
    n = rng.randint(2, 3)
    rows, columns = _matrix(rng)
    return rng.choice(
        [
            (Chain((TRANSPOSE, Chunk(n))), (columns, n * rows)),
            (Chain((SWAP, Concat((rows, rows)))), (2 * rows, columns)),
            (Chain((RESHAPE, TRANSPOSE)), (rows, columns, 1, 1)),
            (Chain((TRANSPOSE, SWAP, Concat((2, 2 * rows)))), (columns, 2 + 2 * rows)),
        ]
    )


KINDS: dict[str, Callable[[random.Random], tuple[Transform, Shape]]] = {
    "identity": lambda rng: (IDENTITY, _any(rng, rng.randint(1, 9))),
    "transpose": lambda rng: (TRANSPOSE, _matrix(rng)),
    "reshape": lambda rng: (RESHAPE, (*_matrix(rng), 1, 1)),
    "swap": lambda rng: (SWAP, _any(rng, 2 * rng.randint(1, 9))),
    "chunk": _chunk,
    "concat": _concat,
    "chain": _chain,
}


def _bits(shape: Shape, dtype: torch.dtype, rng: random.Random) -> torch.Tensor:
    """Random bits: also NaN and infinities must survive."""
    n_bytes = torch.Size(shape).numel() * dtype.itemsize
    if dtype is torch.bool:
        return torch.tensor([rng.random() < 0.5 for _ in range(n_bytes)]).reshape(shape)
    values = torch.frombuffer(bytearray(rng.randbytes(n_bytes)), dtype=torch.uint8)
    return values.view(dtype).reshape(shape)


def _is_same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    plain = [tensor.reshape(-1).clone(memory_format=torch.contiguous_format) for tensor in (a, b)]
    return torch.equal(*(tensor.view(torch.uint8) for tensor in plain))


@pytest.mark.parametrize("kind", KINDS)
def test_split_and_join_are_inverse_for_every_dtype_and_agree_with_the_shapes(kind):
    rng = random.Random(kind)
    for dtype in DTYPES.values():
        if dtype.itemsize > 8 or dtype.is_complex:
            continue
        for _ in range(8):
            transform, shape = KINDS[kind](rng)
            original = _bits(shape, dtype, rng)
            shapes = transform.part_shapes(shape)
            assert len(shapes) == transform.n_parts and transform.original_shape(shapes) == shape
            parts = transform.split(original, shapes)
            assert [tuple(part.shape) for part in parts] == shapes
            joined = transform.join(parts)
            assert joined.is_contiguous() and _is_same(joined, original)

            others = [_bits(part, dtype, rng) for part in shapes]
            again = transform.split(transform.join(others), shapes)
            assert all(_is_same(a, b) for a, b in zip(again, others, strict=True))
            assert transform_named(transform.name, transform.n_parts) == transform


def test_the_rows_are_where_the_names_say():
    x = torch.arange(12).reshape(6, 2)
    assert torch.equal(SWAP.join([x]), x[[3, 4, 5, 0, 1, 2]])
    assert [part[0, 0].item() for part in Concat((1, 2, 3)).split(x, [(1, 2), (2, 2), (3, 2)])] == [0, 2, 6]
    assert Chain((TRANSPOSE, Chunk(2))).name == "transpose|chunk"
    assert Concat((3072, 3072, 3072, 12288)).name == "concat:3072,3072,3072,12288"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: SWAP.part_shapes((3, 2)),
        lambda: SWAP.join([torch.zeros(3, 2)]),
        lambda: Chunk(3).split(torch.zeros(4, 2), [(1, 2)] * 3),
        lambda: Concat((1, 2)).split(torch.zeros(4, 2), [(1, 2), (2, 2)]),
        lambda: Chunk(2).join([torch.zeros(1)]),
        lambda: RESHAPE.part_shapes((4, 4, 3, 3)),
        lambda: Chain((Chunk(2), SWAP)),
        lambda: transform_named("rotate"),
        lambda: transform_named("concat:1,2", 3),
    ],
)
def test_what_a_transform_can_not_have_is_refused(wrong):
    with pytest.raises(ValueError):
        wrong()


@pytest.fixture
def made_up(monkeypatch, tmp_path) -> tuple[Path, ModelFolder]:
    """A file with a tensor under every transform, and the model created from it."""
    family = MadeUpFamily()
    monkeypatch.setattr(registry, "FAMILIES", [*registry.FAMILIES, family])
    return create(tmp_path, family)


def test_every_transform_goes_into_a_model_and_back_bit_for_bit(made_up, tmp_path):
    path, model = made_up
    with open_tensors(model.working / "transformer" / "diffusion_pytorch_model.safetensors") as working:
        assert {name for names, _ in TENSORS.values() for name in names} == set(working)
        assert working.shape(f"{BLOCK}mlp.weight") == (4 * WIDTH, INPUT)
    out = write_checkpoint(model, tmp_path / "out.safetensors")
    with open_tensors(path) as before, open_tensors(out) as after:
        assert before.keys() == after.keys()
        assert all(_is_same(before.get(key), after.get(key)) for key in before)


def test_manifests_name_what_older_versions_do_not_know_and_older_manifests_load(made_up):
    _, model = made_up
    path = model.source / "manifest.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    named = {entry["key"]: entry["transform"] for entry in values["entries"] if "transform" in entry}
    names = {"ada": "swap", "linear1": "concat:6,24", "both": "transpose|chunk"}
    assert named == {f"net.layers.0.{key}.weight": name for key, name in names.items()}
    shapes = Manifest.load(model.source).shapes()
    mlp, second = (TensorRef("transformer", f"{BLOCK}{name}.weight") for name in ("mlp", "second"))
    assert shapes[mlp] == (24, 7) and shapes[second] == (6, 7)

    oldest = {"key": "a", "dtype": "F16", "shape": [6, 2], "hash": "", "component": "transformer", "name": "a"}
    older = {**oldest, "key": "b", "names": ["q", "k", "v"], "transposed": False}
    turned = {**oldest, "key": "c", "names": ["c"], "transposed": True}
    del older["name"], turned["name"]
    values["entries"] = [oldest, older, turned]
    path.write_text(json.dumps(values), encoding="utf-8")
    assert [entry.transform for entry in Manifest.load(model.source).entries] == [IDENTITY, Chunk(3), TRANSPOSE]

    values["entries"] = [{**older, "transform": "rotate"}]
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(UserError, match=r"manifest.json is not a valid manifest .*rotate"):
        Manifest.load(model.source)

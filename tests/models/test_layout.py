"""Transforms between original tensors and those of the modules lose nothing; a layout with all of them round-trips."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dreambooth.checkpoints import extract as extraction
from dreambooth.checkpoints.manifest import Manifest
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.errors import UserError
from dreambooth.models import registry
from dreambooth.models.components import DENOISER, Component
from dreambooth.models.family import Configs, Family
from dreambooth.models.layout import ComponentLayout, Layout, Shapes, TensorRef
from dreambooth.models.recognition import Recognition
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
from dreambooth.settings import Folders, ModelFolder
from dreambooth.tensor_files import DTYPES, write_tensors

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


# -- a layout with every transform, from a file to a model and back ---------------------------------------------------

WIDTH = 6
FUSED: dict[str, tuple[tuple[str, ...], Transform]] = {
    "plain.weight": (("plain.weight",), IDENTITY),
    "turned.weight": (("turned.weight",), TRANSPOSE),
    "conv.weight": (("conv.weight",), RESHAPE),
    "ada.weight": (("ada.weight",), SWAP),
    "qkv.weight": (("to_q.weight", "to_k.weight", "to_v.weight"), Chunk(3)),
    "linear1.weight": (("q.weight", "mlp.weight"), Concat((WIDTH, 4 * WIDTH))),
    "both.weight": (("first.weight", "second.weight"), Chain((TRANSPOSE, Chunk(2)))),
}


class _Names:
    def to_modules(self, name: str) -> tuple[str, ...]:
        return FUSED[name][0] if name in FUSED else ()

    def to_original(self, name: str) -> str | None:
        return next((original for original, (names, _) in FUSED.items() if name in names), None)

    def transform(self, name: str) -> Transform:
        return FUSED[name][1]


class _Odd(Family):
    """A family of one component whose file has tensors under every transform."""

    model_type, title, base_model_version = "odd", "Odd", "odd"
    default_prediction = "epsilon"
    components = (Component("net", DENOISER, "net", "net."),)

    def matches(self, shapes: Shapes) -> bool:
        return "net.linear1.weight" in shapes

    def configs(self, shapes: Shapes, metadata: Any) -> dict[str, dict[str, Any]]:
        return {"net": {"width": shapes["net.plain.weight"][0]}}

    def make_module(self, name: str, config: Any) -> nn.Module:
        w = config["width"]
        rows = {"ada": 2 * w, "mlp": 4 * w}
        names = [part.removesuffix(".weight") for parts, _ in FUSED.values() for part in parts]
        return nn.ModuleDict({n: nn.Linear(w + 1, rows.get(n, w), bias=False, device="meta") for n in names})

    def layout(self, configs: Configs) -> Layout:
        return Layout([ComponentLayout(self.components[0], _Names())], "")

    def scheduler_config(self, prediction_type: str, shapes: Shapes, metadata: Any) -> dict[str, Any]:
        return {}

    def write_tokenizers(self, working: Path, configs: Configs) -> None:
        pass


@pytest.fixture
def odd(monkeypatch, tmp_path) -> tuple[Path, ModelFolder]:
    """A file of that family, and the model created from it."""
    family, rng = _Odd(), random.Random(0)
    monkeypatch.setattr(registry, "FAMILIES", [*registry.FAMILIES, family])
    shapes = {
        name: transform.original_shape([
            tuple(family.make_module("net", {"width": WIDTH}).get_parameter(part).shape) for part in names
        ])
        for name, (names, transform) in FUSED.items()
    }  # fmt: skip
    tensors = {f"net.{name}": torch.rand(shape, generator=torch.Generator().manual_seed(rng.randrange(99))).half()
               for name, shape in shapes.items()}  # fmt: skip
    path = tmp_path / "odd.safetensors"
    write_tensors(path, {**tensors, "extra": torch.ones(3)}, {})
    model = ModelFolder(Folders(tmp_path / "models"), "odd")
    with open_tensors(path) as file:
        recognition = Recognition(family, "epsilon", "test", notes=())
        extraction.extract_tensors(file, model, recognition, source=path, extract_ema=False)
    return path, model


def test_every_transform_goes_into_a_model_and_back_bit_for_bit(odd, tmp_path):
    path, model = odd
    with open_tensors(model.working / "net" / "diffusion_pytorch_model.safetensors") as working:
        assert {name for names, _ in FUSED.values() for name in names} == set(working)
        assert working.shape("mlp.weight") == (4 * WIDTH, WIDTH + 1)
    out = write_checkpoint(model, tmp_path / "out.safetensors")
    with open_tensors(path) as before, open_tensors(out) as after:
        assert before.keys() == after.keys()
        assert all(_is_same(before.get(key), after.get(key)) for key in before)


def test_manifests_name_what_older_versions_do_not_know_and_older_manifests_load(odd):
    _, model = odd
    path = model.source / "manifest.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    named = {entry["key"]: entry["transform"] for entry in values["entries"] if "transform" in entry}
    assert named == {
        "net.ada.weight": "swap",
        "net.linear1.weight": "concat:6,24",
        "net.both.weight": "transpose|chunk",
    }
    shapes = Manifest.load(model.source).shapes()
    assert shapes[TensorRef("net", "mlp.weight")] == (24, 7) and shapes[TensorRef("net", "second.weight")] == (6, 7)

    oldest = {"key": "a", "dtype": "F16", "shape": [6, 2], "hash": "", "component": "net", "name": "a"}
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

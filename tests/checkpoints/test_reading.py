"""Model files of every layout give the values that were put in, and no pickle gets to run anything."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
from pathlib import Path

import numpy
import pytest
import safetensors.torch
import torch

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.errors import UserError
from dreambooth.safetensors_header import ITEM_SIZES
from dreambooth.tensor_files import DTYPES, read_tensors, write_tensors

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """Every dtype of checkpoints, with sizes that would misalign a layout without sorting."""
    shared = torch.arange(24.0).reshape(4, 6)
    return {
        "z.last.by.name": torch.randn(3, 5).half(),
        "a.float": torch.randn(2, 3, 1, 1),
        "b.bfloat16": torch.randn(7).bfloat16(),
        "c.integers": torch.arange(77)[None],
        "d.byte": torch.tensor([1, 2, 3], dtype=torch.uint8),
        "e.bool": torch.tensor([True, False]),
        "f.scalar": torch.tensor(4.6),
        "g.empty": torch.zeros(0, 4),
        "h.transposed": shared.t(),
        "i.view": shared[1:3],
        "j.fp8": torch.randn(9).to(torch.float8_e4m3fn),
    }


def check(path: Path, expected: dict[str, torch.Tensor]) -> None:
    with open_tensors(path) as file:
        assert file.keys() == list(expected)
        for key, tensor in expected.items():
            read = file.get(key)
            assert file.shape(key) == tuple(tensor.shape) and file.dtype(key) == read.dtype == tensor.dtype
            assert read.is_contiguous() and torch.equal(read.float(), tensor.float()), key


def test_written_files_are_read_by_us_and_by_safetensors(tmp_path, tensors):
    path = tmp_path / "模型 one.safetensors"
    write_tensors(path, tensors, {"who": "us"})
    check(path, tensors)
    with safetensors.safe_open(path, "pt") as theirs:
        assert theirs.metadata() == {"who": "us"}
        for key, tensor in tensors.items():
            assert torch.equal(theirs.get_tensor(key).float(), tensor.float()), key


def test_item_sizes_of_all_dtypes():
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == {
        name: size for name, size in ITEM_SIZES.items() if name in DTYPES
    }


@pytest.mark.parametrize("length", [2**63 + 5, 10**15, 10**8 + 1])
def test_a_header_above_the_limit_is_refused_before_it_is_read(tmp_path, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{" + b" " * 100)
    with pytest.raises(UserError, match="header"):
        read_tensors(path)


def test_files_of_the_safetensors_library_are_read(tmp_path, tensors):
    path = tmp_path / "a.safetensors"
    whole = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
    safetensors.torch.save_file(whole, path, {"a": "b"})
    with open_tensors(path) as file:
        assert file.metadata == {"a": "b"}
        assert {key: file.get(key).tolist() for key in file} == {key: t.tolist() for key, t in whole.items()}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("nested", [True, False], ids=["state_dict", "bare"])
def test_pickled_checkpoints(tmp_path, tensors, is_zip, nested):
    if not is_zip or TORCH < (2, 2):
        tensors.pop("j.fp8")  # the legacy layout never had it, torch 2.1 can't pickle it
    named = collections.OrderedDict(tensors)
    named["k.parameter"] = torch.nn.Parameter(torch.randn(3))
    named["l.with.attribute"] = torch.nn.Parameter(torch.randn(3))
    named["l.with.attribute"].note = "put there by a trainer"
    value = {"epoch": 3, "state_dict": named, "optimizer": {"x": torch.zeros(2)}} if nested else named
    torch.save(value, tmp_path / "a.ckpt", _use_new_zipfile_serialization=is_zip)
    check(tmp_path / "a.ckpt", dict(named))


def test_objects_of_training_frameworks_are_ignored(tmp_path, monkeypatch):
    """Their classes need not be installed, and are not instantiated if they are."""
    lightning = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"})
    module = type(os)("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = lightning
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__):
        monkeypatch.setitem(__import__("sys").modules, name, module)
    extras = {
        "callbacks": {lightning: {"best": lightning(), "path": Path("somewhere")}},
        "loops": [numpy.float64(0.5), numpy.arange(3), {1, 2}, argparse.Namespace(lr=1), torch.device("cpu")],
        "defaults": collections.defaultdict(list, {"a": [1]}),
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
    }
    torch.save({"state_dict": {"w": torch.ones(2)}, **extras}, tmp_path / "a.ckpt")
    monkeypatch.undo()
    check(tmp_path / "a.ckpt", {"w": torch.ones(2)})


class Evil:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("how", ["zip", "legacy", "plain", "text", "deep"])
def test_no_pickle_runs_anything(tmp_path, how):
    marker, path = tmp_path / "was_run", tmp_path / "evil.ckpt"
    evil = Evil(marker)
    if how == "plain":
        path.write_bytes(pickle.dumps({"state_dict": evil}))
    elif how == "text":
        path.write_bytes(pickle.dumps(evil, protocol=0))
    else:
        value = {"state_dict": {"w": torch.ones(1)}, "callbacks": [{"a": evil}]} if how == "deep" else {"w": evil}
        torch.save(value, path, _use_new_zipfile_serialization=how != "legacy")
    with pytest.raises(UserError, match=r"evil.ckpt contains code \(os.system\) and was not loaded") as refusal:
        open_tensors(path)
    assert "\n" not in str(refusal.value) and not marker.exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt", "old.ckpt"])
def test_damaged_files_are_refused_and_never_crash(tmp_path, tensors, name):
    """Truncated anywhere, or with a byte changed in the description of the tensors."""
    path = tmp_path / name
    tensors.pop("j.fp8")
    if path.suffix == ".safetensors":
        write_tensors(path, tensors)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=name != "old.ckpt")
    whole = path.read_bytes()
    random = numpy.random.default_rng(0)
    for length in random.integers(0, len(whole) - 1, 60):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=name):
            open_tensors(path)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[random.integers(0, min(len(whole), 2000))] ^= 1 << random.integers(0, 8)
        path.write_bytes(damaged)
        try:
            with open_tensors(path) as file:
                for key in file:
                    file.get(key)
        except UserError as refusal:
            assert name in str(refusal) and "\n" not in str(refusal)

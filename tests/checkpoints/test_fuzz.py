"""Mutated files of every family: each is refused in one line, or the change was harmless. Never a crash."""

from __future__ import annotations

import json
import random
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from dreambooth.checkpoints.extract import extract
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.errors import UserError
from dreambooth.settings import Folders, ModelFolder
from tests.mini_models import make

KINDS = ("v1x", "v2x", "SDXL")
N_WORDS = 64  # of the vocabulary; the embedding is most of a mini model, and says nothing here

# -- what is done to the bytes of a safetensors file ------------------------------------------------------------------


def truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.choice([chance.randrange(len(data)), chance.randrange(200), len(data) - 1])]


def flipped(where: Callable[[int, int], range]):
    """Flip some bits of the file, in the header or in the data."""

    def change(data: bytes, chance: random.Random) -> bytes:
        changed, header = bytearray(data), 8 + struct.unpack("<Q", data[:8])[0]
        for _ in range(chance.choice([1, 1, 3, 40])):
            changed[chance.choice(where(header, len(data)))] ^= 1 << chance.randrange(8)
        return bytes(changed)

    return change


def rewritten(change: Callable[[dict, random.Random], dict | None]):
    """Change values of the header, but not the data."""

    def mutate(data: bytes, chance: random.Random) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        text = json.dumps(change(header, chance) or header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return mutate


def shuffled(header: dict, chance: random.Random) -> dict:
    names = list(header)
    chance.shuffle(names)
    return {name: header[name] for name in names}  # which is harmless


def entries(header: dict, chance: random.Random, n: int = 2) -> list[dict]:
    return chance.sample([value for name, value in header.items() if name != "__metadata__"], n)


def swapped(header: dict, chance: random.Random) -> None:
    first, second = chance.sample([name for name in header if name != "__metadata__"], 2)
    header[first], header[second] = header[second], header[first]


def renamed(header: dict, chance: random.Random) -> dict:
    victim = chance.choice([name for name in header if name != "__metadata__"])
    new = chance.choice(["", "x", victim + ".y", victim.upper(), "模型", "a" * 10_000, "__metadata__", "\ud800"])
    return {new if name == victim else name: value for name, value in header.items()}


def other_dtype(header: dict, chance: random.Random) -> None:
    for entry in entries(header, chance, chance.choice([1, 3])):
        entry["dtype"] = chance.choice(["F32", "BF16", "I8", "U16", "F8_E4M3", "BOOL", "F4", "", None, 7, [], "I16"])


def other_shape(header: dict, chance: random.Random) -> None:
    for entry in entries(header, chance, chance.choice([1, 3])):
        shape = entry["shape"]
        n = 1
        for size in shape:
            n *= size
        invalid = [[], [n], [1, *shape], [*shape, 1], shape[::-1], [0], [-1], [2**63], [2**31, 2**31], "x", None, [1.5]]
        entry["shape"] = chance.choice([*invalid, [True], [[3]], {}])


def other_offsets(header: dict, chance: random.Random) -> None:
    first, second = entries(header, chance)
    start, end = first["data_offsets"]
    invalid = [[0, 0], [start, end + 1], [end, start], [-8, end], [start, 2**62], second["data_offsets"], [start], None]
    first["data_offsets"] = chance.choice([*invalid, [2**70, 2**71], ["0", "8"], [start + 2, end + 2]])


def other_metadata(header: dict, chance: random.Random) -> None:
    config = chance.choice(["{", "[]", "null", '{"unet": 3}', '{"sample_size": "x"}', '{"vae": {"norm_num_groups": 0}}',
                          '{"unet": {"attention_head_dim": [0, 0]}}', '{"unet": {"attention_head_dim": 1000000007}}',
                          '{"unet": {"norm_num_groups": -3}}', '{"scheduler": {"num_train_timesteps": 0}}', "NaN",
                          '{"scheduler": {"num_train_timesteps": 1000000000000}}', '{"prediction_type": "x"}',
                          '{"text_encoder": {"num_attention_heads": 0}}', "[" * 5000])  # fmt: skip
    header["__metadata__"] = chance.choice(
        [{"dreambooth.config": config}, {"dreambooth.config": config}, [], 3, {"a": 3}]
    )


def dropped(header: dict, chance: random.Random) -> None:
    """Remove the data too, so that the file is valid but incomplete."""
    names = sorted((name for name in header if name != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    del header[names[-1]]


MUTATIONS = {
    "truncated": truncated,
    "header flipped": flipped(lambda header, end: range(8, header)),
    "length flipped": flipped(lambda header, end: range(8)),
    "data flipped": flipped(lambda header, end: range(header, end)),
    "shuffled": rewritten(shuffled),
    "swapped": rewritten(swapped),
    "renamed": rewritten(renamed),
    "dtype": rewritten(other_dtype),
    "shape": rewritten(other_shape),
    "offsets": rewritten(other_offsets),
    "metadata": rewritten(other_metadata),
    "dropped": rewritten(dropped),
}


def pickle_flipped(data: bytes, chance: random.Random) -> bytes:
    """In the description of the tensors: the pickle at the start, or the zip directory at the end."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 3, 40])):
        at = chance.choice([chance.randrange(60_000), len(data) - 1 - chance.randrange(60_000)])
        changed[at % len(data)] ^= 1 << chance.randrange(8)
    return bytes(changed)


PICKLE_MUTATIONS = {"truncated": truncated, "flipped": pickle_flipped}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, bytes]]]:
    """Valid files to start from, as (file extension, bytes), by the kind of mutation."""
    folder = tmp_path_factory.mktemp("fuzz")
    safe, pickled = [], []
    for kind in KINDS:
        with safetensors.safe_open(make(folder / "whole.safetensors", kind), "pt") as file:
            tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
        tensors = {key: value[:N_WORDS].clone() if "token_emb" in key else value for key, value in tensors.items()}
        safetensors.torch.save_file(tensors, folder / "small.safetensors", metadata)
        safe.append((".safetensors", (folder / "small.safetensors").read_bytes()))
        for is_zip in (True, False):
            torch.save({"state_dict": tensors, **metadata}, folder / "a", _use_new_zipfile_serialization=is_zip)
            pickled.append((".ckpt", (folder / "a").read_bytes()))
    return {"safetensors": safe, "pickle": pickled}


def run(n_files: int, seed: int, whole: dict[str, list[tuple[str, bytes]]], folder: Path) -> dict[str, int]:
    """Mutate and create; returns the numbers refused and created. AssertionError on anything else."""
    chance, counts = random.Random(seed), {"refused": 0, "created": 0}
    for number in range(n_files):
        kind = chance.choice(["safetensors", "safetensors", "pickle"])
        mutations = MUTATIONS if kind == "safetensors" else PICKLE_MUTATIONS
        what = chance.choice(list(mutations))
        extension, data = chance.choice(whole[kind])
        path = folder / f"mutated{extension}"
        path.write_bytes(mutations[what](data, chance))
        model = ModelFolder(Folders(folder / "models"), f"model {number}")
        about = f"seed {seed}, file {number}: {kind}, {what}"
        try:
            extract(path, model)
        except UserError as refusal:
            assert "\n" not in str(refusal) and path.name in str(refusal) and len(str(refusal)) < 12_000, about
            assert not model.root.exists(), about
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{about}: {error!r}") from error
        else:
            write_checkpoint(model, folder / "out.safetensors")
            counts["created"] += 1
            shutil.rmtree(model.root)
    return counts


@pytest.mark.parametrize(("n_files", "seed"), [(200, 0), pytest.param(2000, 1, marks=pytest.mark.nightly)])
def test_mutated_files_are_refused_or_harmless(n_files, seed, whole, tmp_path):
    before = peak_memory()
    counts = run(n_files, seed, whole, tmp_path)
    assert counts["refused"] > n_files / 3 and counts["created"] > n_files / 20, counts
    assert peak_memory() <= max(before, 1_000_000_000)


def peak_memory() -> int:
    """The peak memory of this process in bytes; 0 if unknown."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

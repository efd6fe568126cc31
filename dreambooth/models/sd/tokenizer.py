"""CLIP's tokenizer files for transformers, generated from the published BPE vocabulary that comes with the package."""

from __future__ import annotations

import functools
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

_VOCABULARY = Path(__file__).with_name("data") / "bpe_simple_vocab_16e6.txt.gz"
_N_MERGES = 49152 - 256 - 2  # OpenAI's vocabulary size, less the bytes and the two special tokens
_START, _END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path, model_max_length: int = 77, open_clip: bool = False) -> None:
    """Write vocab.json, merges.txt and the two config files into ``folder``, which is created.

    ``open_clip``: for encoders trained with open_clip, which pad with id 0 ("!") instead of the end token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in _vocabulary_files().items():
        (folder / name).write_bytes(data)
    special = {"bos_token": _START, "eos_token": _END, "pad_token": "!" if open_clip else _END, "unk_token": _END}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": model_max_length,
            "do_lower_case": True,
            "errors": "replace",
            "add_prefix_space": False,
            **special,
        },
    )


@functools.cache
def _vocabulary_files() -> dict[str, bytes]:
    """Contents of vocab.json and merges.txt."""
    merges = gzip.decompress(_VOCABULARY.read_bytes()).decode("utf-8").split("\n")[1 : _N_MERGES + 1]
    characters = byte_characters()
    pieces = [*characters, *(c + "</w>" for c in characters), *("".join(m.split()) for m in merges), _START, _END]
    vocabulary = json.dumps({piece: number for number, piece in enumerate(pieces)}, ensure_ascii=False)
    lines = "#version: 0.2\n" + "\n".join(merges) + "\n"
    return {"vocab.json": vocabulary.encode(), "merges.txt": lines.encode()}


def load_tokenizer(folder: Path) -> Any:
    """CLIPTokenizer from the files of a folder, without network access."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


@functools.cache
def shipped_tokenizer() -> Any:
    """The CLIPTokenizer of Stable Diffusion 1 and of the first text encoder of SDXL; needs no model folder."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return load_tokenizer(Path(folder))


def byte_characters() -> list[str]:
    """One visible character per byte, in CLIP's order: printable bytes as themselves, others from code point 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    n_others = 256 - len(printable)
    return [chr(number) for number in (*printable, *range(256, 256 + n_others))]


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")

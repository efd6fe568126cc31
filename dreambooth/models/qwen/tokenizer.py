"""Qwen's tokenizer, generated from the published merges that come with the package; no network is needed.

The vocabulary follows from them: the 256 bytes, and then the result of each merge.
"""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path
from typing import Any

_MERGES = Path(__file__).with_name("data") / "qwen_merges.txt.gz"
_END_OF_TEXT, _START, _END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# After the vocabulary, in the order of their ids.
_SPECIAL = (
    _END_OF_TEXT, _START, _END, "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
_ADDED = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
# Words, single digits, punctuation and white space are split before merges are applied.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PAD_ID = 151643  # <|endoftext|>
_NO_THOUGHTS = "<think>\n\n</think>\n\n"
# As Qwen3 formats messages.
_CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)


USER = f"{_START}user\n"  # before what a user says


def user_message(text: str, thinks: bool = True) -> str:
    """The start of a chat in which the user says ``text``, up to where the model answers.

    ``thinks``: with thinking enabled, so that it may think first.
    """
    return f"{USER}{text}{_END}\n{_START}assistant\n{'' if thinks else _NO_THOUGHTS}"


@functools.cache
def shipped_tokenizer() -> Any:
    """A tokenizers.Tokenizer. Encodings have ids, and offsets in the text."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    tokenizer: Any = Tokenizer(BPE(_vocabulary(), [(first, second) for first, second in _merges()]))
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.normalizer, tokenizer.decoder = normalizers.NFC(), decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in _SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in _ADDED])
    return tokenizer


def write_tokenizer(folder: Path) -> None:
    """Write the files of transformers' Qwen2Tokenizer into ``folder``, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in _files().items():
        (folder / name).write_bytes(data)


@functools.cache
def _files() -> dict[str, bytes]:
    merges = "#version: 0.2\n" + "".join(f"{first} {second}\n" for first, second in _merges())
    first_id = len(_vocabulary())
    added = {
        str(first_id + number): {
            "content": token, "special": token in _SPECIAL, "normalized": False, "lstrip": False, "rstrip": False,
            "single_word": False,
        }
        for number, token in enumerate((*_SPECIAL, *_ADDED))
    }  # fmt: skip
    config = {
        "tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "model_max_length": 131072, "errors": "replace",
        "bos_token": None, "eos_token": _END, "pad_token": _END_OF_TEXT, "unk_token": None,
        "added_tokens_decoder": added, "chat_template": _CHAT_TEMPLATE,
    }  # fmt: skip
    return {
        "vocab.json": json.dumps(_vocabulary(), ensure_ascii=False).encode(),
        "merges.txt": merges.encode(),
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False).encode(),
    }


@functools.cache
def _merges() -> tuple[tuple[str, str], ...]:
    lines = gzip.decompress(_MERGES.read_bytes()).decode("utf-8").splitlines()
    return tuple((first, second) for first, _, second in (line.partition(" ") for line in lines))


@functools.cache
def _vocabulary() -> dict[str, int]:
    tokens = (*_byte_characters(), *(first + second for first, second in _merges()))
    return {token: number for number, token in enumerate(tokens)}


def _byte_characters() -> list[str]:
    """The characters that stand for the bytes: printable ones for themselves, others from code point 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(number) for number in (*printable, *range(256, 512 - len(printable)))]

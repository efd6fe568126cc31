"""T5's tokenizer, generated from the published vocabulary that comes with the package; no network is needed."""

from __future__ import annotations

import base64
import functools
import gzip
import json
from pathlib import Path
from typing import Any

_PIECES = Path(__file__).with_name("data") / "t5_pieces.txt.gz"
_SPECIAL = ("<pad>", "</s>", "<unk>")  # before the pieces, in the order of their ids
_EXTRA = tuple(f"<extra_id_{number}>" for number in reversed(range(100)))  # after the pieces
PAD_ID, END_ID = 0, 1
_UNKNOWN_ID = 2
_MAX_LENGTH = 512


@functools.cache
def t5_tokenizer() -> Any:
    """A tokenizers.Tokenizer, which adds the end token. Encodings have ids, and offsets in the text."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram

    character_map, vocabulary = _vocabulary()
    tokenizer: Any = Tokenizer(Unigram(vocabulary, _UNKNOWN_ID, False))
    spaces = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(character_map), *spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    end = _SPECIAL[END_ID]
    tokenizer.post_processor = processors.TemplateProcessing(f"$A {end}", f"$A {end} $B {end}", [(end, END_ID)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (*_SPECIAL, *_EXTRA)])
    return tokenizer


def write_t5_tokenizer(folder: Path) -> None:
    """Write the files of transformers' T5TokenizerFast into ``folder``, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "T5TokenizerFast", "model_max_length": _MAX_LENGTH, "extra_ids": len(_EXTRA),
        "pad_token": _SPECIAL[PAD_ID], "eos_token": _SPECIAL[END_ID], "unk_token": _SPECIAL[_UNKNOWN_ID],
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text(t5_tokenizer().to_str(), encoding="utf-8")


def _vocabulary() -> tuple[bytes, list[tuple[str, float]]]:
    """The precompiled character map of the normalization, and the tokens with their scores, in the order of ids."""
    import numpy as np

    character_map, *lines = gzip.decompress(_PIECES.read_bytes()).decode("utf-8").split("\n")[:-1]
    pieces = [line.split("\t") for line in lines]
    scores = np.array([score for _, score in pieces], dtype=np.float32).tolist()
    unscored = [(token, 0.0) for token in _SPECIAL], [(token, 0.0) for token in _EXTRA]
    scored = [(piece, score) for (piece, _), score in zip(pieces, scores, strict=True)]
    return base64.b64decode(character_map), [*unscored[0], *scored, *unscored[1]]

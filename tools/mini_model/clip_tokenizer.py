"""OpenAI CLIP's tokenizer (49408 tokens), built from the byte-pair list that the repository ships."""

import gzip
import json
from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

BPE_FILE = Path(__file__).parents[2] / "dreambooth" / "models" / "sd" / "data" / "bpe_simple_vocab_16e6.txt.gz"
VOCABULARY = 49408
START, END = 49406, 49407
CONTEXT = 77
# Popular instance tokens: no training toy may share a token with them.
FREE_NAMES = ("zwx", "sks", "ohwx", "shs", "bnha", "olis", "xyz")


def _byte_letters():
    """A printable character for each byte, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def write_tokenizer(folder):
    """Writes vocab.json and merges.txt into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = gzip.decompress(BPE_FILE.read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : VOCABULARY - 2 * 256 - 2 + 1]
    letters = _byte_letters()
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(merge.split()) for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    if len(tokens) != VOCABULARY:
        raise ValueError(f"{BPE_FILE.name} gives {len(tokens)} tokens, not {VOCABULARY}")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")


def load_tokenizer(folder):
    """The tokenizer in `folder`, which is written first if it is missing."""
    if not (folder / "merges.txt").exists():
        write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder, model_max_length=CONTEXT, pad_token="<|endoftext|>")


def tokens_of(tokenizer, texts):
    """Token ids, [texts, 77]."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt").input_ids


def toy_names(tokenizer, count, seed=2026):
    """`count` rare names: words of one rare CLIP token, and every fourth an invented word of two tokens."""
    rng = np.random.default_rng(seed)
    taken = {token for name in FREE_NAMES for token in tokenizer(name).input_ids}
    late = [token.removesuffix("</w>") for token, index in tokenizer.get_vocab().items() if 30_000 < index < START]
    words = sorted(word for word in late if 3 <= len(word) <= 6 and word.isascii() and word.isalpha())
    names = []
    while len(names) < count:
        invented = "".join(rng.choice(list("bcdfghjklmnpqrstvwxyz"), 3))
        name = invented if len(names) % 4 == 3 else words[rng.integers(len(words))]
        tokens = tokenizer(name).input_ids[1:-1]
        if len(tokens) == 1 + (name == invented) and name not in names and not taken.intersection(tokens):
            names.append(name)
    return names

"""OpenAI CLIP's tokenizer (49408 tokens), built from the byte-pair list that the repository ships."""

import gzip
import json
from pathlib import Path

from transformers import CLIPTokenizer

BPE_FILE = Path(__file__).parents[2] / "dreambooth" / "checkpoints" / "data" / "bpe_simple_vocab_16e6.txt.gz"
VOCABULARY = 49408
START, END = 49406, 49407
CONTEXT = 77


def _byte_letters():
    """A printable letter for each byte, in the order of CLIP's vocabulary."""
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
    """The tokenizer in `folder`; writes it first where it is missing."""
    if not (folder / "merges.txt").exists():
        write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder, model_max_length=CONTEXT, pad_token="<|endoftext|>")


def tokens_of(tokenizer, texts):
    """Token ids, [texts, 77]."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt").input_ids

"""Token ids of captions as Z-Image encodes them, and names of toys, with Qwen's tokenizer, which the package ships."""

import re
from functools import cache

import numpy as np
import torch

from dreambooth.models.qwen.tokenizer import PAD_ID, shipped_tokenizer, user_message

from .clip_tokenizer import FREE_NAMES

FIRST_RARE = 40_000  # tokens are in the order of their frequency
CONTEXT = 32  # Z-Image pads texts to multiples of 32 tokens: all captions are shorter


def tokens_of(texts):
    """Token ids [texts, 32] of these messages of a user."""
    rows = [encoding.ids for encoding in shipped_tokenizer().encode_batch([user_message(text) for text in texts])]
    ids = torch.full((len(rows), CONTEXT), PAD_ID)
    for row, own in zip(ids, rows, strict=True):
        row[: len(own)] = torch.tensor(own)
    return ids


def word_tokens(word):
    """Token ids of a word within a text."""
    return shipped_tokenizer().encode(f" {word}").ids


@cache
def words_of_one_token():
    """Ids of the tokens that are a lower-case word of 3 to 6 letters, with the words."""
    texts = shipped_tokenizer().decode_batch([[index] for index in range(PAD_ID)])
    words = ((index, text[1:]) for index, text in enumerate(texts) if text.startswith(" "))
    return {index: word for index, word in words if re.fullmatch("[a-z]{3,6}", word)}


def toy_names(count, seed=2026):
    """`count` rare names: invented words of two tokens, as most instance tokens are, and every third a rare word."""
    rng = np.random.default_rng(seed)
    taken = {token for name in FREE_NAMES for token in word_tokens(name)}
    words = sorted(word for index, word in words_of_one_token().items() if index >= FIRST_RARE)
    names = []
    while len(names) < count:
        invented = "".join(rng.choice(list("bcdfghjklmnpqrstvwxyz"), 3))
        is_word = len(names) % 3 == 2
        name = words[rng.integers(len(words))] if is_word else invented
        tokens = word_tokens(name)
        if len(tokens) == 2 - is_word and name not in names and not taken.intersection(tokens):
            names.append(name)
    return names

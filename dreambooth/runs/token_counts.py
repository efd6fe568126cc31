"""How long the captions of a run are, in tokens, and which of them lose their end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dreambooth.checkpoints.tokenizer import shipped_tokenizer
from dreambooth.checkpoints.tokens import PromptEncoding, count_with_overflow
from dreambooth.dataset.plan import Plan
from dreambooth.dataset.table import Row, table
from dreambooth.settings import SETTINGS, ModelFolder

CUT_OFF = "cut-off"  # the kind of warning
_NAMED = 5  # pictures
_AT_ONCE = 1000  # captions, to keep what is in memory small


class Read(NamedTuple):
    """A caption as the text encoder gets it."""

    tokens: int  # beside the start and end of its chunks, before anything is cut off
    lost: str  # the words that are cut off


def tokenizer_of(model: ModelFolder | None) -> Any:
    """The model's own, else the one that comes with this package."""
    if model is None:
        return shipped_tokenizer()
    from dreambooth.checkpoints.modules import load_tokenizer

    return load_tokenizer(model.working)


def read_captions(tokenizer: Any, plan: Plan, prompt_encoding: PromptEncoding) -> dict[str, Read]:
    """Each caption of the plan, as it is read."""
    captions = sorted({caption for example in plan.everything() for caption in plan.captions_of(example)})
    read: dict[str, Read] = {}
    for start in range(0, len(captions), _AT_ONCE):
        some = captions[start : start + _AT_ONCE]
        read |= {caption: Read(*one) for caption, one in zip(some, count_with_overflow(tokenizer, some, prompt_encoding), strict=True)}
    return read


def rows(plan: Plan, read: Mapping[str, Read]) -> list[Row]:
    """The plan's table and what is read of captions: ``tokens`` of a picture's longest one, and its words that are
    ``cut_off``.
    """
    return [_with_tokens(row, read) for row in table(plan)]


def _with_tokens(row: Row, read: Mapping[str, Read]) -> Row:
    tokens, lost = max((read[caption] for caption in row["captions"]), key=lambda one: one.tokens)
    row |= {"tokens": tokens, "cut_off": lost}
    if lost:
        row["warnings"] = [*row["warnings"], f"its caption is too long ({tokens} tokens), this is lost: {lost}"]
        row["warning_kinds"] = [*row["warning_kinds"], CUT_OFF]
    return row


def too_long(plan: Plan, read: Mapping[str, Read], allowed: int) -> list[str]:
    """One warning that names the pictures whose captions are cut off, and by how many tokens, the longest first."""
    over = {e.path: max(read[caption].tokens for caption in plan.captions_of(e)) - allowed for e in plan.everything()}
    over = {path: n for path, n in sorted(over.items(), key=lambda item: -item[1]) if n > 0}
    if not over:
        return []
    named = [f"{path} by {n}" for path, n in list(over.items())[:_NAMED]]
    more = f" and {len(over) - _NAMED} more" if len(over) > _NAMED else ""
    most = SETTINGS["max_token_length"].choices[-1]
    raised = next((n for n in SETTINGS["max_token_length"].choices if n >= allowed + max(over.values())), most)
    mend = f"Raise max_token_length to {raised}, or shorten" if allowed < most else "Shorten"
    captions = "1 caption has" if len(over) == 1 else f"{len(over)} captions have"
    return [f"{captions} more than {allowed} tokens, what is beyond is lost: {', '.join(named)}{more}. {mend} them."]

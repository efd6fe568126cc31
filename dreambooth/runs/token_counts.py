"""Token counts of captions, and the words beyond the limit that are cut off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dreambooth.dataset.plan import Plan
from dreambooth.dataset.table import Row, table
from dreambooth.models.conditioning import TextConditioner
from dreambooth.models.sd.clip_conditioner import shipped_conditioner
from dreambooth.models.sd.tokens import PromptEncoding
from dreambooth.settings import ModelFolder, Settings

CUT_OFF = "cut-off"  # the kind of warning
_NAMED = 5  # images that a warning names
_BATCH = 1000  # captions tokenized at once, to bound memory


class TokenCount(NamedTuple):
    """The length of one caption."""

    tokens: int  # without begin and end tokens, before truncation
    lost: str  # the words that are cut off; "" if none


def conditioner_for_counting(model: ModelFolder | None, settings: Settings) -> TextConditioner[Any]:
    """Tokenizes captions as training does, without text encoders. Without a model: as Stable Diffusion 1 does."""
    if model is None:
        return shipped_conditioner(PromptEncoding.of(settings, training=True))
    from dreambooth.checkpoints.modules import load_family, load_tokenizers

    family = load_family(model.working)
    encoding = family.prompt_encoding(settings, training=True)
    return family.text_conditioner({}, load_tokenizers(model.working, family), encoding)


def count_tokens(conditioner: TextConditioner[Any], plan: Plan) -> dict[str, TokenCount]:
    """The token count of each caption of the plan."""
    captions = sorted({caption for example in plan.with_validation() for caption in plan.captions_of(example)})
    counts: dict[str, TokenCount] = {}
    for start in range(0, len(captions), _BATCH):
        batch = captions[start : start + _BATCH]
        counted = conditioner.count_with_overflow(batch)
        counts |= {caption: TokenCount(*count) for caption, count in zip(batch, counted, strict=True)}
    return counts


def rows_with_tokens(plan: Plan, counts: Mapping[str, TokenCount]) -> list[Row]:
    """The plan's table with ``tokens``, the count of an image's longest caption, and ``cut_off``, its lost words."""
    return [_with_tokens(row, counts) for row in table(plan)]


def _with_tokens(row: Row, counts: Mapping[str, TokenCount]) -> Row:
    tokens, lost = max((counts[caption] for caption in row["captions"]), key=lambda count: count.tokens)
    row |= {"tokens": tokens, "cut_off": lost}
    if lost:
        row["warnings"] = [*row["warnings"], f"the caption is too long ({tokens} tokens); this part is cut off: {lost}"]
        row["warning_kinds"] = [*row["warning_kinds"], CUT_OFF]
    return row


def too_long(plan: Plan, counts: Mapping[str, TokenCount], conditioner: TextConditioner[Any]) -> list[str]:
    """A warning that names the images whose captions are cut off, and by how many tokens, the longest first."""
    allowed, choices = conditioner.max_tokens, conditioner.max_token_choices
    over = {
        e.path: max(counts[caption].tokens for caption in plan.captions_of(e)) - allowed for e in plan.with_validation()
    }
    over = {path: n for path, n in sorted(over.items(), key=lambda item: -item[1]) if n > 0}
    if not over:
        return []
    named = [f"{path} by {n}" for path, n in list(over.items())[:_NAMED]]
    more = f" and {len(over) - _NAMED} more" if len(over) > _NAMED else ""
    most = max(choices, default=allowed)
    raised = next((n for n in choices if n >= allowed + max(over.values())), most)
    fix = f"Raise max_token_length to {raised}, or shorten" if allowed < most else "Shorten"
    captions = "1 caption exceeds" if len(over) == 1 else f"{len(over)} captions exceed"
    return [f"{captions} the limit of {allowed} tokens and will be cut off: {', '.join(named)}{more}. {fix} them."]

"""How long the captions of a run are, in tokens, and which of them lose their end."""

from __future__ import annotations

from collections.abc import Mapping

from dreambooth.checkpoints.modules import load_tokenizer
from dreambooth.checkpoints.tokens import Reading, count
from dreambooth.dataset.plan import Plan
from dreambooth.settings import SETTINGS, ModelFolder

_NAMED = 5  # pictures


def token_counts(model: ModelFolder, plan: Plan, reading: Reading) -> dict[str, int]:
    """Tokens of each caption, beside the start and end of its chunks."""
    tokenizer = load_tokenizer(model.working)
    return {
        caption: count(tokenizer, caption, reading)
        for caption in {caption for example in plan.everything() for caption in plan.captions_of(example)}
    }


def too_long(plan: Plan, counts: Mapping[str, int], allowed: int) -> list[str]:
    """One warning that names the pictures whose captions are cut off, and by how many tokens, the longest first."""
    longest = {e.path: max(counts[caption] for caption in plan.captions_of(e)) for e in plan.everything()}
    over = {path: n - allowed for path, n in longest.items()}
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

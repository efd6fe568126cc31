"""From an answer to the caption: every rule, on its own and with the others."""

from __future__ import annotations

import pytest

from dreambooth.captioning.base import Prediction, Tag
from dreambooth.captioning.caption_text import caption
from dreambooth.settings import parse
from dreambooth.settings.tagging import TagOptions

TAGS = Prediction((Tag("long_hair", 0.6), Tag("1girl", 0.9), Tag("^_^", 0.5), Tag("mika_(film)", 0.8)))
SAID = Prediction(sentence="a cat, on a mat,  a cat in 1,000 pieces")

ROWS = [  # answer, what is there, options, what comes
    (TAGS, "", {}, "1girl, mika (film), long hair, ^_^"),
    (TAGS, "", {"tag_order": "alphabet"}, "1girl, ^_^, long hair, mika (film)"),
    (TAGS, "", {"tag_order": "model"}, "long hair, 1girl, ^_^, mika (film)"),
    (TAGS, "", {"replace_underscores": False}, "1girl, mika_(film), long_hair, ^_^"),
    (TAGS, "", {"escape_brackets": True}, r"1girl, mika \(film\), long hair, ^_^"),
    (TAGS, "", {"excluded_tags": "Long Hair, ^_^"}, "1girl, mika (film)"),
    (TAGS, "", {"excluded_tags": "*hair, mika*,"}, "1girl, ^_^"),
    (TAGS, "", {"excluded_tags": "hair, girl, ?girl, .girl"}, "1girl, mika (film), long hair, ^_^"),
    (TAGS, "", {"excluded_tags": "*"}, ""),
    (TAGS, "", {"additional_tags": "photo ,, 1GIRL"}, "photo, 1GIRL, mika (film), long hair, ^_^"),
    (TAGS, "", {"additional_tags": "1girl", "excluded_tags": "1girl"}, "1girl, mika (film), long hair, ^_^"),
    (TAGS, "", {"trigger_word": "zwx"}, "zwx, 1girl, mika (film), long hair, ^_^"),
    (TAGS, "", {"trigger_word": "long hair"}, "long hair, 1girl, mika (film), ^_^"),
    (TAGS, "red, long_hair", {"existing": "append"}, "red, long_hair, 1girl, mika (film), ^_^"),
    (TAGS, "red, long_hair", {"existing": "prepend"}, "1girl, mika (film), long hair, ^_^, red"),
    (TAGS, "red, long_hair", {"existing": "replace"}, "1girl, mika (film), long hair, ^_^"),
    (TAGS, "red, zwx", {"existing": "append", "trigger_word": "zwx"}, "zwx, red, 1girl, mika (film), long hair, ^_^"),
    (TAGS, "red, red", {"existing": "append", "remove_duplicates": False, "excluded_tags": "* *, ^_^"},
     "red, red, 1girl"),
    (TAGS, "one\n\ntwo, 1girl\n", {"existing": "append", "excluded_tags": "*_*, ^_^"}, "one, 1girl\ntwo, 1girl"),
    (TAGS, r"mika_\(film\)", {"existing": "append", "excluded_tags": "*hair, ^_^"}, r"mika_\(film\), 1girl"),
    (SAID, "", {}, "a cat, on a mat, a cat in 1,000 pieces"),
    (SAID, "", {"excluded_tags": "*mat", "trigger_word": "zwx"}, "zwx, a cat, a cat in 1,000 pieces"),
    (SAID, "under 2,5 m", {"existing": "prepend"}, "a cat, on a mat, a cat in 1,000 pieces, under 2,5 m"),
    (SAID, "", {"escape_brackets": True, "additional_tags": "a_b"}, "a_b, a cat, on a mat, a cat in 1,000 pieces"),
    (Prediction(), "", {}, ""),
    (Prediction(), "as it is", {"existing": "append"}, "as it is"),
    (Prediction(), "as it is", {"existing": "append", "trigger_word": "zwx"}, "zwx, as it is"),
    (Prediction(), "", {"additional_tags": "photo"}, "photo"),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "existing", "options", "expected"), ROWS, ids=range(len(ROWS)))
def test_captions(prediction, existing, options, expected):
    assert caption(prediction, existing, parse(TagOptions, options)) == expected

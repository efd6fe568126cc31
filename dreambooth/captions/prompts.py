"""Training prompts from a template with [filewords], a caption, and the instance and class tokens."""

from __future__ import annotations

import functools
import re

FILEWORDS = "[filewords]"
TRIGGER = "[trigger]"  # in captions for ai-toolkit: stands for the trigger word
_FILEWORDS = re.compile(re.escape(FILEWORDS), re.IGNORECASE)

# A letter or digit of a script that separates words by spaces. Chinese, Japanese and Korean don't (or attach
# particles), so a token in them matches anywhere.
_WORD = r"[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_ARTICLE = r"(?:\b(?:an?|the)\s+)?"


def has_filewords(template: str) -> bool:
    """Whether the template contains [filewords], in any case."""
    return bool(_FILEWORDS.search(template))


def fill_filewords(template: str, caption: str) -> str:
    """The template with each [filewords], in any case, replaced by the caption."""
    return _FILEWORDS.sub(lambda _: caption, template)


def split_at_filewords(template: str, maxsplit: int = 0) -> list[str]:
    """The parts of the template around each [filewords], or around the first ``maxsplit``."""
    return _FILEWORDS.split(template, maxsplit)


def build_prompt(template: str, caption: str, instance_token: str, class_token: str, is_class: bool) -> str:
    """The prompt that an image is trained with.

    1. ``[filewords]`` in the template, in any case, is replaced by the caption. An empty template is "[filewords]".
    2. The prompt of an instance image contains the instance token exactly once. If it is missing, it is inserted
       before the first class token, which stays ("a dog runs" -> "a sks dog runs"), as in the DreamBooth paper's
       "a [V] [class noun]", so that the model's prior of the class is used. A token that contains the class word
       ("sks dog") replaces it; without a class token it is put in front ("runs" -> "sks, runs").
    3. The prompt of a class image never contains the instance token: it is removed where a class token is present
       elsewhere, else replaced by the class token. A class token that is still missing is put in front.
    4. A comma-separated part that only repeats the class token is removed.
    5. "[trigger]" stands for the instance token, if there is one.
    6. Extra white space and empty parts between commas are removed; backslashes stay ("name_\\(film\\)").

    Tokens match as whole words in any case, and literally. The class word inside an instance token
    ("sks dog") is part of that token, not a class token. An empty token has no rule.
    """
    instance_token, class_token = collapse_whitespace(instance_token), collapse_whitespace(class_token)
    prompt = fill_filewords(template.strip() or FILEWORDS, caption)
    if instance_token:
        prompt = prompt.replace(TRIGGER, instance_token)
    if is_class:
        prompt = _class_prompt(prompt, instance_token, class_token)
    elif instance_token:
        prompt = _instance_prompt(prompt, instance_token, class_token)
    return _clean_up(prompt, class_token)


def is_complete_class_prompt(template: str, caption: str, class_token: str) -> bool:
    """Whether a class image's caption already is its whole prompt, as saved next to generated class images.

    It then matches the template, with any text for [filewords], possibly with the class token in front.
    """
    parts = split_at_filewords(collapse_whitespace(template) or FILEWORDS)
    pattern = ".*".join(re.escape(part.strip(" ,")) for part in parts)
    without_token = caption.removeprefix(f"{collapse_whitespace(class_token)}, ") if class_token else caption
    return any(re.fullmatch(pattern, text, re.IGNORECASE) for text in (caption, without_token))


def contains_token(prompt: str, token: str) -> bool:
    """Whether the prompt contains the token, as whole words in any case."""
    return bool(_token_pattern(collapse_whitespace(token)).search(prompt))


def collapse_whitespace(text: str) -> str:
    """The text on one line, with single spaces."""
    return " ".join(text.split())


def _instance_prompt(prompt: str, instance_token: str, class_token: str) -> str:
    first = _token_pattern(instance_token).search(prompt)
    if first:
        return prompt[: first.end()] + _remove_token(instance_token, prompt[first.end() :])
    class_match = class_token and _token_pattern(class_token).search(prompt)
    if class_match:
        contains_class = _token_pattern(class_token).search(instance_token)
        after = prompt[class_match.end() :] if contains_class else " " + prompt[class_match.start() :]
        return prompt[: class_match.start()] + instance_token + after
    return f"{instance_token}, {prompt}"


def _class_prompt(prompt: str, instance_token: str, class_token: str) -> str:
    if instance_token:
        remaining = _remove_token(instance_token, prompt)
        has_class_elsewhere = class_token and _token_pattern(class_token).search(remaining)
        if has_class_elsewhere or not class_token:
            prompt = remaining
        else:
            prompt = _token_pattern(instance_token).sub(lambda _: class_token, prompt)
    if class_token and not _token_pattern(class_token).search(prompt):
        prompt = f"{class_token}, {prompt}"
    return prompt


def _remove_token(token: str, prompt: str) -> str:
    """The prompt without the token, and without its article if the article would stand alone."""
    word = _token_pattern(token).pattern
    return re.sub(rf"{_ARTICLE}{word}(?=\s*(?:,|$))|{word}", "", prompt, flags=re.IGNORECASE)


def _clean_up(prompt: str, class_token: str) -> str:
    parts = [collapse_whitespace(part) for part in prompt.split(",")]
    result: list[str] = []
    for part in filter(None, parts):
        is_class_token = class_token and part.casefold() == class_token.casefold()
        if not (is_class_token and _token_pattern(class_token).search(", ".join(result))):
            result.append(part)
    return ", ".join(result)


@functools.lru_cache(maxsize=64)
def _token_pattern(token: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in token.split())
    # Only an edge that is a letter or digit needs a boundary: "name_\(film\)" ends by itself.
    before = rf"(?<!{_WORD})" if re.match(_WORD, token) else ""
    after = rf"(?!{_WORD})" if re.match(_WORD, token[-1]) else ""
    return re.compile(f"{before}{words}{after}", re.IGNORECASE)

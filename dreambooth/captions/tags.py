"""The comma-separated tags of a caption."""

from __future__ import annotations

import re

_BRACES = re.compile(r"\{[^{}]*\}")


def split_tags(caption: str) -> list[str]:
    """The tags of a caption; commas inside brackets, as in "(red, soft:1.2)", do not split."""
    if "(" not in caption and "[" not in caption:
        return [tag.strip() for tag in caption.split(",") if tag.strip()]
    tags, depth, start, escaped = [], 0, 0, False
    for position, character in enumerate(caption):
        if character in "([" and not escaped:
            depth += 1
        elif character in ")]" and not escaped:
            depth = max(0, depth - 1)
        elif character == "," and not depth:
            tags.append(caption[start:position])
            start = position + 1
        escaped = character == "\\" and not escaped
    tags.append(caption[start:])
    if depth:  # an unclosed bracket
        tags = caption.split(",")
    return [tag.strip() for tag in tags if tag.strip()]


def split_tags_and_wildcards(line: str) -> list[str]:
    """As :func:`split_tags`; commas inside wildcards, as in "{red, soft|blue}", do not split either."""
    if not any(mark in line for mark in "([{\\"):
        return [tag for tag in map(str.strip, line.split(",")) if tag]
    protected = _BRACES.sub(lambda match: match[0].replace(",", "\0"), line)
    return [tag.replace("\0", ",") for tag in split_tags(protected)]

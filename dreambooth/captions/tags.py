"""The comma-separated tags of a caption."""

from __future__ import annotations


def tags_of(caption: str) -> list[str]:
    """The parts of a caption between commas; a comma inside brackets, as in "(red, soft:1.2)", parts nothing."""
    if "(" not in caption and "[" not in caption:
        return [tag.strip() for tag in caption.split(",") if tag.strip()]
    tags, depth, start, escaped = [], 0, 0, False
    for place, character in enumerate(caption):
        if character in "([" and not escaped:
            depth += 1
        elif character in ")]" and not escaped:
            depth = max(0, depth - 1)
        elif character == "," and not depth:
            tags.append(caption[start:place])
            start = place + 1
        escaped = character == "\\" and not escaped
    tags.append(caption[start:])
    if depth:  # a bracket that nobody closed
        tags = caption.split(",")
    return [tag.strip() for tag in tags if tag.strip()]

"""Recognizing that memory was exhausted."""

from __future__ import annotations

# torch (GPU and CPU allocators) and onnxruntime raise errors of different classes with these texts.
_MESSAGES = ("out of memory", "can't allocate memory", "failed to allocate")

OUT_OF_MEMORY = "out of memory"  # for users, in place of the allocator's text


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory of the GPU or of the machine was exhausted."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(message in text for message in _MESSAGES)

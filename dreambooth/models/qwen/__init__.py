"""Qwen's tokenizer and text encoder, which several families have in common."""

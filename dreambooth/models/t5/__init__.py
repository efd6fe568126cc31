"""T5: tokenizer and encoder."""

"""T5's tokenizer."""

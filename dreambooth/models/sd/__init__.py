"""Stable Diffusion 1, 2 and XL: names, sizes, tokenizer, recognition."""

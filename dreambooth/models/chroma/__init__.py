"""Chroma: FLUX.1's blocks with modulations from one small network, on hidden states of T5 alone."""

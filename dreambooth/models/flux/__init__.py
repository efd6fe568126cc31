"""FLUX.1: a flow-matching transformer on hidden states of T5 and a pooled embedding of CLIP; its VAE."""

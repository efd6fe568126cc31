"""FLUX.2 klein: a flow-matching transformer on Qwen3's hidden states and FLUX.2's latents."""

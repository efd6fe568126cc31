"""Z-Image: a single-stream flow-matching transformer on Qwen3's hidden states and FLUX's latents."""

"""Anima: Cosmos-Predict2's transformer, on T5 tokens that attend to Qwen3's hidden states, and Qwen-Image's latents."""

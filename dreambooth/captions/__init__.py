"""Captions: reading, prompts, editing, and an undo history per folder."""

"""Images from a model in memory, and their files."""

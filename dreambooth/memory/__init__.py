"""Memory: forecast before a run, freed after it, recognized where it is exhausted; quantized and offloaded weights."""

"""Memory: forecast before a run, freed after it, and recognized where it is exhausted."""

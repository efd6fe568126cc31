"""Image files: listing, reading, decoding to sRGB, probing, and the shapes of aspect-ratio buckets."""

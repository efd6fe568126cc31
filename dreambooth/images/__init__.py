"""Image files: listing, reading, decoding to sRGB, metadata, near duplicates, and aspect-ratio buckets."""

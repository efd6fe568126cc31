"""Pictures and captions -> examples -> buckets -> batches.

pictures.py   find picture files, decode any of them to upright RGB
captions.py   captions beside the pictures, and the prompts made of them
caption_files.py    captions as they lie on disk, for editing; caption_edits.py: what an edit would change
caption_writing.py  all of an edit or nothing, undo and redo; caption_journal.py: what was done, step by step
buckets.py    sizes of equal area, and how a picture is cropped to one
variation.py  what changes about a picture from one showing to the next
plan.py       the examples of a run and the batches of its epochs, as plain values
planning.py   from concepts to a plan, with every problem named at once
pixels.py     an example's picture as a tensor              (torch)
cache.py      latents and text embeddings kept on disk      (torch)
"""

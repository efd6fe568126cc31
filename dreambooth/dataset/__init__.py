"""Pictures and captions -> examples -> buckets -> batches.

finding.py     which files of a folder are pictures, captions, masks
reading.py     reading from drives that may be slow, stuck or written to
damage.py      what a file's structure tells of damage
pictures.py    decode any picture, with what that took
rgb.py         turned upright, 8 bits, on white, sRGB
lookalikes.py  fingerprints of what can be seen, and near ones
examining.py   one complete reading of a file
known.py       what earlier readings told                   (SQLite)
notes.py       what can be said of a file: the kinds
found.py       what a path stands for: a folder, a concepts list, what kohya/ reads
kohya/         folders, TOML files and bucket rules of kohya's sd-scripts
captions.py    captions beside the pictures, and the prompts made of them
caption_files.py    captions as they lie on disk, for editing; caption_edits.py: what an edit would change
caption_writing.py  all of an edit or nothing, undo and redo; caption_journal.py: what was done, step by step
metadata_file.py  captions of many pictures in one JSON
bucket_rules.py   which rule crops, as the settings say
buckets.py     sizes of equal area, and how a picture is cropped to one
variation.py   what changes about a picture from one showing to the next
plan.py        the examples of a run and the batches of its epochs, as plain values
class_pictures.py  partners, and regularization pictures among the others
sources.py     the files that concepts name, each read with its caption
remarks.py     what is to be said of the pictures of a plan
planning.py    from concepts to a plan, with every problem named at once
pixels.py      an example's picture as a tensor              (torch)
cache.py       latents and text embeddings kept on disk      (torch)
"""

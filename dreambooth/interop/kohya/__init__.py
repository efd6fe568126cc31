"""What kohya's sd-scripts call things and how they mean them: read, and written back.

buckets.py   their buckets, for runs that are to compare
captions.py  their captions, word for word
toml_file.py TOML as people write it, with the line of each complaint
takeover.py  what is taken over, and what is not, as it is found
folders.py   10_sls 1girl: repeats and words in a folder's name
subsets.py   a dataset.toml: [general], [[datasets]], [[datasets.subsets]]
training.py  the parameters of a training
otherwise.py what of a folder's files is trained otherwise here, to be said
export.py    a model's concepts and settings as dataset.toml
"""

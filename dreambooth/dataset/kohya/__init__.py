"""What kohya's sd-scripts call things and how they mean them: read, and written back.

buckets.py   their buckets, for runs that are to compare
toml_file.py TOML as people write it, with the line of each complaint
takeover.py  what is taken over, and what is not, as it is found
folders.py   10_sls 1girl: repeats and words in a folder's name
subsets.py   a dataset.toml: [general], [[datasets]], [[datasets.subsets]]
training.py  the parameters of a training
export.py    a model's concepts and settings as dataset.toml
"""

"""Captions by machine: models that look at a picture and say what is in it.

answers.py          what a model says of a picture, and what all models have in common
recognise.py        which kind of model a folder holds
finding.py          models in the host's folders and the hub's cache; from the hub, the files that are needed
loading.py          a folder to a model that answers
labels.py           the list of tags of a WD14 tagger
square.py           a picture as these taggers want it
onnx_tagger.py      WD14 taggers as .onnx                   (onnxruntime)
timm_tagger.py      WD14 taggers as .safetensors            (timm)
captioners.py       BLIP and GIT                            (transformers)
vision_language.py  models that answer a question           (transformers)
words.py            from an answer to the caption: pure text rules
work.py             a folder of pictures from first to last
"""

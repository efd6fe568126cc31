"""Auto-captioning: models that tag or describe images.

base.py                 tags and sentences that a model predicts, and the interface of all models
model_kind.py           which kind of model a folder holds
model_files.py          models in the host's folders, in the hub's cache and on the hub
loading.py              a folder to a loaded model
labels.py               the label list of a WD14 tagger
square_padding.py       the input of these taggers: padded to a white square
onnx_tagger.py          WD14 taggers as .onnx                    (onnxruntime)
timm_tagger.py          WD14 taggers as .safetensors             (timm)
captioners.py           BLIP and GIT                             (transformers)
vision_language.py      vision-language models                   (transformers)
transformers_folder.py  models in transformers' layout
caption_text.py         a prediction to the caption: pure text rules
folder_captioning.py    captioning a whole folder
"""

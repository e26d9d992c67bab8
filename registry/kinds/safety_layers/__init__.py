"""Safety layers: a contiguous range of decoder layers that carries refusals, kept while training.

Source: Li, Yao, Zhang, Li, "Safety Layers in Aligned Large Language Models: The Key to LLM
Security", arXiv 2408.17003. Layers are 0-based and ranges are closed, ``[first, last]``, everywhere
here; ``_conventions`` converts the other spellings that are found.
"""

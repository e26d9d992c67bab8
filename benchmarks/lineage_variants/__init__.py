"""Changes made for real to a real model, each with what is true about it.

``truth`` says what a variant is and measures its distance, ``weights`` reads and writes the
checkpoints, ``training``, ``quantising``, ``abliteration``, ``merging`` and ``editing`` make the
changes, ``catalogue`` lists them.
"""

"""Refusal and over-refusal, measured: prompt sets, scorer, statistics, generation and utility.

This room answers "what does the model do" and never "what should be done about it": it knows
models and prompts, and nothing of kinds, registries or files of artifacts.
"""

"""Rendering, and nothing else: values in, text out; no file, database or clock is touched."""

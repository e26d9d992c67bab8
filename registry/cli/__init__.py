"""The ``safelatch`` command: click and rich live here; other heavy imports are in functions."""

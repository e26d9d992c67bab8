"""The ``safelatch`` command: click and rich live here; every other import is in a function."""

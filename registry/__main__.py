"""``python -m registry`` is the ``safelatch`` command."""

from registry.cli.main import main

main()

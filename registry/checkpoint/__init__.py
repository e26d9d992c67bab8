"""What a model on disk is: its bytes, its identity, its geometry and its lineage; without torch."""

"""A model in memory: where its sites are, what flows through them, what is attached to them."""

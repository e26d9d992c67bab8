"""Use cases: one module each, where the rooms meet. Nothing below imports from here."""

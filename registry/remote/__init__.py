"""Where artifacts and models come from when they are not here."""

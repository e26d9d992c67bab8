"""What an artifact is, whatever its kind: manifest, schema, bundle."""

"""A run directory: open, read, write; the Python face."""

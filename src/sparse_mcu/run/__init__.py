"""A run directory: open, read, write; the Python face."""

from sparse_mcu.run.model import Model
from sparse_mcu.run.run import Run, resume, search

__all__ = ["Model", "Run", "resume", "search"]

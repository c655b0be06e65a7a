"""Data sets: arrays in, whatever they came from; splits; checks."""

from sparse_mcu.data.check import Report, check
from sparse_mcu.data.dataset import Dataset, Split, digest
from sparse_mcu.data.load import BUILT_IN, load

__all__ = ["BUILT_IN", "Dataset", "Report", "Split", "check", "digest", "load"]

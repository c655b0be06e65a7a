"""The optimiser: proposes architectures, has workers evaluate them, and keeps the ledger of trials.

The names below are imported when first used: reading a ledger needs no PyTorch, and workers need no optimiser.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_mcu.search.candidate import Candidate as Candidate
    from sparse_mcu.search.candidate import Evaluation as Evaluation
    from sparse_mcu.search.evaluation import evaluate as evaluate
    from sparse_mcu.search.ledger import Ledger as Ledger
    from sparse_mcu.search.loop import search as search
    from sparse_mcu.search.objectives import Budget as Budget
    from sparse_mcu.search.options import Progress as Progress
    from sparse_mcu.search.options import SearchOptions as SearchOptions
    from sparse_mcu.search.records import TrialRecord as TrialRecord
    from sparse_mcu.search.sampler import SparseSampler as SparseSampler

_HOME = {
    "Budget": "objectives",
    "Candidate": "candidate",
    "Evaluation": "candidate",
    "Ledger": "ledger",
    "Progress": "options",
    "SearchOptions": "options",
    "SparseSampler": "sampler",
    "TrialRecord": "records",
    "evaluate": "evaluation",
    "search": "loop",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


class _Room(types.ModuleType):
    """Lets ``sparse_mcu.search(...)`` start a run although ``sparse_mcu.search`` is this room."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("sparse_mcu.run").search(*arguments, **options)


sys.modules[__name__].__class__ = _Room

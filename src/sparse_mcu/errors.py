"""The exceptions that users meet, under one base class.

A message states the rule and the value that broke it, then what to do. The command line prints a
``UserError`` as one line and exits with status 2; any other exception is a fault of ours (status 1).
"""

import difflib
from collections.abc import Iterable


class SparseMcuError(Exception):
    """Base class of everything this package raises on purpose."""


class TrainingError(SparseMcuError):
    """Training that diverged, or that cannot start."""


class UserError(SparseMcuError):
    """Something the user can put right: input, options, the environment."""


class DataError(UserError):
    """A data set that cannot be read or used."""


class ArchitectureError(UserError):
    """An architecture that cannot be built, or JSON that does not describe one."""


class NetworkError(UserError):
    """A network that a user brings along and that cannot be read, or that the integer arithmetic cannot express."""


class BoardError(UserError):
    """An unknown board, or one that cannot do what was asked of it."""


class BudgetError(UserError):
    """A RAM, flash or cycle budget that nothing can meet."""


class RunError(UserError):
    """A run directory that is not one, is in use, or cannot be written."""


class ToolchainError(UserError):
    """A missing or failing compiler or simulator."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the one-line message for an unknown ``name``, offering the nearest of the ``known`` ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    offer = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return f"no {kind} is called {name!r}; {offer}"

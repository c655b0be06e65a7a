"""sparse-mcu finds convolutional networks small enough for microcontrollers and writes them as verified C.

    run = sparse_mcu.search("digits", board="arduino-uno", time="10m")
    run.best().export(out="build")

What is public is imported when it is first used, so that the command line answers at once. ``search`` is also the name of a
room: the room can be called (see sparse_mcu/search/__init__.py), and is then ``sparse_mcu.run.search``.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_mcu.run import Model, Run, resume, search

__version__ = version("sparse-mcu")

__all__ = ["Model", "Run", "__version__", "resume", "search"]


def __getattr__(name: str) -> Any:
    if name == "search":
        return import_module("sparse_mcu.search")
    if name in __all__:
        return getattr(import_module("sparse_mcu.run"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

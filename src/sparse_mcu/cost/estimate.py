"""What a network costs on a board: the paper's sizes beside true flash, RAM and cycles, all without compiling."""

from dataclasses import dataclass

from sparse_mcu.cost.paper import layer_sizes
from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.predict import predict
from sparse_mcu.deploy.target import Target
from sparse_mcu.quant.graph import IntegerGraph


@dataclass(frozen=True, slots=True)
class Cost:
    """Sizes in bytes. The first three are the paper's (see ``cost.paper``), flash and RAM are the board's."""

    model_size: int
    working_memory_1: int
    working_memory_2: int
    macs: int
    nonzero_macs: int
    flash_bytes: int
    ram_bytes: int
    cycles: int


def cost(graph: IntegerGraph, board: Board, ram_bytes: int | None = None) -> Cost:
    """Return what ``graph`` costs on ``board``, within ``ram_bytes`` if it can; raise BoardError if its core is unknown."""
    layers = layer_sizes(graph)
    prediction = predict(graph, Target(board, ram_bytes))
    return Cost(
        model_size=sum(layer.model_size for layer in layers),
        working_memory_1=max(layer.working_memory_1 for layer in layers),
        working_memory_2=max(layer.working_memory_2 for layer in layers),
        macs=sum(layer.macs for layer in layers),
        nonzero_macs=sum(layer.nonzero_macs for layer in layers),
        flash_bytes=prediction.flash_bytes,
        ram_bytes=prediction.ram_bytes,
        cycles=prediction.cycles,
    )

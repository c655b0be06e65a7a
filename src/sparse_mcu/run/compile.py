"""A network trained elsewhere, from its ONNX file to C for a board: read, quantise on the user's images, measure, write."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparse_mcu.data import Dataset, load
from sparse_mcu.deploy import boards
from sparse_mcu.deploy.generate import generate
from sparse_mcu.deploy.kernel_costs import measured_costs
from sparse_mcu.deploy.predict import Prediction, predict
from sparse_mcu.deploy.simulation import Progress
from sparse_mcu.deploy.source import CSource
from sparse_mcu.deploy.target import Optimise, Target
from sparse_mcu.deploy.verification import Verification, verify
from sparse_mcu.errors import NetworkError
from sparse_mcu.nn.folded import FoldedNetwork
from sparse_mcu.quant import interpreter
from sparse_mcu.quant.floating import float_tensors
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.quant.macs import macs, nonzero_macs
from sparse_mcu.quant.onnx import import_model, read_model
from sparse_mcu.quant.quantise import quantise
from sparse_mcu.run.files import make_directory, write_text

VERIFIED_IMAGES = 500  # a simulated AVR takes seconds for as many, minutes for a whole test split
CHUNK = 256  # images whose float tensors are held at a time


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A network as integers and as C. Accuracies are on the data's test split; an unmeasured core has no ``prediction``."""

    target: Target
    dataset: Dataset
    graph: IntegerGraph
    source: CSource
    float_accuracy: float
    accuracy: float  # of the integers
    agreement: float  # share of the test images that floats and integers give the same class
    prediction: Prediction | None  # of a network with variables of its own

    @property
    def fits(self) -> bool | None:
        """Whether the board has the memory, and the RAM is within its limit; None where that is not predicted."""
        if self.prediction is None:
            return None
        return self.prediction.flash_bytes <= self.target.flash_limit and self.prediction.ram_bytes <= self.target.ram_limit

    def to_json(self) -> dict[str, Any]:
        """Return the figures; those of the prediction are null where there is none."""
        found = self.prediction
        return {
            "board": self.target.board.name,
            "optimise": self.target.optimise,
            "reentrant": self.source.reentrant,
            "test_images": len(self.dataset.test),
            "float_accuracy": self.float_accuracy,
            "test_accuracy": self.accuracy,
            "agreement": self.agreement,
            "flash_bytes": None if found is None else found.flash_bytes,
            "ram_bytes": None if found is None else found.ram_bytes,
            "cycles": None if found is None else found.cycles,
            "fits": self.fits,
            "macs": macs(self.graph),
            "nonzero_macs": nonzero_macs(self.graph),
        }

    def write(self, directory: Path) -> tuple[Path, ...]:
        """Write header and source into ``directory`` and return their paths."""
        make_directory(directory)
        files = {f"{self.source.name}.h": self.source.header, f"{self.source.name}.c": self.source.source}
        for name, text in files.items():
            write_text(directory / name, text)
        return tuple(directory / name for name in files)

    def verify(self, progress: Progress | None = None) -> Verification:
        """Run the first VERIFIED_IMAGES test images on this machine and on the board, and compare every logit."""
        test = self.dataset.test
        images, labels = test.images[:VERIFIED_IMAGES], test.labels[:VERIFIED_IMAGES]
        return verify(self.graph, self.target, images, labels, progress, reentrant=self.source.reentrant)


def compile_network(
    path: str | Path,
    data: str | Path,
    board: str,
    input_range: tuple[float, float] = (0.0, 1.0),
    ram_bytes: int | None = None,
    optimise: Optimise = "balanced",
    reentrant: bool = False,
) -> Compiled:
    """Compile the ONNX file at ``path`` for ``board``, with scales that suit the training images of ``data``.

    ``input_range`` is what the network takes for the bytes 0 and 255. Where whole images do not fit within ``ram_bytes``, the
    board's RAM unless given, they are streamed row by row. ``optimise`` says what matters most: the least flash (size), the
    fewest cycles that the board's flash has room for (speed), or some of both. A ``reentrant`` network keeps its
    variables in a struct of the caller's. Raises NetworkError, naming the node, where the
    file holds what integer graphs have not; DataError, BoardError.
    """
    target = Target(boards.board(board), ram_bytes, optimise=optimise)
    model = read_model(Path(path))
    dataset = load(data)
    network = import_model(model, dataset.input_shape, input_range)
    graph = quantise(network, dataset.train.images)
    if graph.classes < dataset.classes:
        raise NetworkError(
            f"a network must tell the classes of its data apart, but {path} has {graph.classes} logits and {data} "
            f"{dataset.classes} classes; calibrate with the data that it was trained on"
        )
    source = generate(graph, target, reentrant=reentrant)
    prediction = None if measured_costs(target.board) is None else predict(graph, target)
    return Compiled(target, dataset, graph, source, *_accuracies(network, graph, dataset), prediction)


def _accuracies(network: FoldedNetwork, graph: IntegerGraph, dataset: Dataset) -> tuple[float, float, float]:
    """Return the test accuracy of floats and of integers, and how often the two agree."""
    images, labels = dataset.test.images, dataset.test.labels
    chunks = [float_tensors(network, images[start : start + CHUNK])[graph.output] for start in range(0, len(images), CHUNK)]
    real = np.concatenate(chunks)[:, 0, 0].argmax(axis=1)
    integers = interpreter.run(graph, images).argmax(axis=1)
    return float(np.mean(real == labels)), float(np.mean(integers == labels)), float(np.mean(real == integers))

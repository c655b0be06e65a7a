"""The rows of the paper's table that are searched for, what each must reach, and what was published beside it.

Sizes in KB are 1,024 bytes, as in the paper. Model size counts non-zero weights at a byte each.
"""

from dataclasses import dataclass, field

KB = 1024


@dataclass(frozen=True, slots=True)
class Published:
    """A point of somebody else's table (METHOD.md section 5): test accuracy and model size in bytes."""

    system: str
    accuracy: float
    model_size: float


@dataclass(frozen=True, slots=True)
class Target:
    """What one network must reach. It is chosen by validation accuracy among those within ``limits``, then tested once."""

    name: str
    accuracy: float  # asked for on the test split
    limits: dict[str, float]  # by the names of ``objectives.UNITS``; "working_memory": the larger of both readings


@dataclass(frozen=True, slots=True)
class Row:
    """One search."""

    data: str  # an archive in the data directory
    board: str
    objectives: tuple[str, ...]
    targets: tuple[Target, ...]
    published: tuple[Published, ...]
    ram: str | None = None  # None: the board's
    flash: str | None = None
    limits: dict[str, int] = field(default_factory=dict)  # as ``search --limit`` takes them
    halved: bool = False  # ten classes as two: 0-4 against 5-9


PAPERS = ("accuracy", "model_size", "working_memory")
MNIST = (Published("SpArSe", 0.9864, 2.77 * KB), Published("μNAS", 0.9919, 480), Published("BitNetMCU", 0.9906, 5.4 * KB))
CIFAR10_BINARY = (
    Published("SpArSe", 0.7384, 0.78 * KB),
    Published("SpArSe, for size", 0.7308, 487),
    Published("μNAS", 0.7749, 685),
    Published("Bonsai", 0.7302, 1.98 * KB),
)
MNIST_PAPER = Target("the paper's row", 0.9864, {"model_size": 2.77 * KB, "working_memory": 1.96 * KB})
MNIST_SMALL = Target("small", 0.98, {"model_size": 700})
MNIST_SMALLEST = Target("μNAS's size", 0.9919, {"model_size": 480})
MNIST_UNO = Target("2 KB RAM, 8 KB flash", 0.99, {"ram_bytes": 2 * KB, "flash_bytes": 8 * KB})
CIFAR10_PAPER = Target("the paper's row", 0.75, {"model_size": 0.78 * KB, "working_memory": 1.28 * KB})
CIFAR10_UNO = Target("2 KB RAM, 8 KB flash", 0.75, {"ram_bytes": 2 * KB, "flash_bytes": 8 * KB})
FASHION_STM32 = Target("8 KB RAM, 32 KB flash", 0.915, {"ram_bytes": 8 * KB, "flash_bytes": 32 * KB})

ROWS = {
    "mnist": Row(
        "mnist.npz",
        "arduino-uno",
        PAPERS,
        (MNIST_PAPER, MNIST_SMALL, MNIST_SMALLEST),
        MNIST,
        flash="8K",
        limits={"model_size": int(2.77 * KB), "working_memory": int(1.96 * KB)},
    ),
    "mnist-uno": Row("mnist.npz", "arduino-uno", ("accuracy", "flash", "ram"), (MNIST_UNO, MNIST_PAPER), MNIST, flash="8K"),
    "cifar10-binary": Row(
        "cifar10_gray20.npz",
        "arduino-uno",
        PAPERS,
        (CIFAR10_PAPER,),
        CIFAR10_BINARY,
        flash="8K",
        limits={"model_size": int(0.78 * KB), "working_memory": int(1.28 * KB)},
        halved=True,
    ),
    "cifar10-binary-uno": Row(
        "cifar10_gray20.npz",
        "arduino-uno",
        ("accuracy", "flash", "ram"),
        (CIFAR10_UNO, CIFAR10_PAPER),
        CIFAR10_BINARY,
        flash="8K",
        halved=True,
    ),
    "fashion": Row("fashion_mnist.npz", "bluepill", ("accuracy", "flash", "ram"), (FASHION_STM32,), (), ram="8K", flash="32K"),
    # Without the working memory among the objectives (RQ3): otherwise as "mnist".
    "mnist-size": Row(
        "mnist.npz",
        "arduino-uno",
        ("accuracy", "model_size"),
        (MNIST_PAPER, MNIST_SMALL, MNIST_SMALLEST),
        MNIST,
        flash="8K",
        limits={"model_size": int(2.77 * KB)},
    ),
}

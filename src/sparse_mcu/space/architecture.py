"""The architecture Ω = {α, ϑ, θ} as plain frozen values; JSON in and out. Knows no torch.

The graph α and its operations ϑ are ``Architecture.blocks`` and their parts; how the network is trained and pruned (θ) is
``Architecture.training``. The weights ω live elsewhere. What the values mean as a network is said once, in ``layers.py``.
Shapes are (channels, height, width); a 1-D signal of T samples and C channels is (C, 1, T).
"""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Literal

from sparse_mcu.space._json import read

ConvKind = Literal["regular", "separable", "reduced"]
PoolKind = Literal["max", "average"]
Size = tuple[int, int]  # (height, width)


@dataclass(frozen=True, slots=True)
class Pool:
    """A pooling whose stride is its window; rows and columns that do not fill a window are dropped."""

    kind: PoolKind
    window: Size


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolutional layer, then optional batch norm, then ReLU.

    ``separable`` is depthwise (kernel, stride) then pointwise; ``reduced`` is a 1x1 convolution to ``reduced_channels``, then
    a full one (METHOD: "downsampled"). Each of the two steps has its own batch norm and ReLU.
    """

    kind: ConvKind
    kernel: Size
    channels: int
    stride: Size = (1, 1)
    padding: Literal["same", "valid"] = "same"
    batch_norm: bool = True
    reduced_channels: int | None = None  # for kind "reduced" only


@dataclass(frozen=True, slots=True)
class Block:
    """Convolutions, then an optional pool.

    ``residual`` adds the input of the last two convolutions to their output (both after ReLU); the two shapes must be equal.
    ``branch`` routes the block's output to the classifier as well as to the next block; the last block's always is.
    """

    convs: tuple[Conv, ...]
    pool: Pool | None = None
    residual: bool = False
    branch: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """The classifier. Every routed block output goes through its own fully connected layer; the results are summed.

    With ``hidden`` units the sum is a hidden layer (ReLU) and one more fully connected layer gives the logits.
    ``global`` averages each routed feature map over its height and width first.
    """

    kind: Literal["flatten", "global"] = "flatten"
    hidden: int | None = None


@dataclass(frozen=True, slots=True)
class Pruning:
    """How weights are removed while training; ``strength`` scales the KL term (1 is the variational bound)."""

    method: Literal["none", "unstructured", "structured", "both"] = "unstructured"
    strength: float = 1.0
    warmup: float = 0.3  # share of the epochs before and while the KL term ramps up
    threshold: float = 3.0  # a weight (or group) leaves when log alpha exceeds it


@dataclass(frozen=True, slots=True)
class Training:
    """θ: how the network is trained and pruned."""

    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 0.01
    schedule: Literal["cosine", "constant"] = "cosine"
    batch_size: int = 64
    epochs: int = 30
    weight_decay: float = 0.0
    dropout: float = 0.0
    augmentation: float = 0.0  # strength, see ``nn.augment``
    weight_bits: int = 8  # that hold a weight on the device; with fewer the network learns what rounding costs
    pruning: Pruning = Pruning()


@dataclass(frozen=True, slots=True)
class Architecture:
    """A point of Ω without its weights. ``input_shape`` is (C, H, W)."""

    input_shape: tuple[int, int, int]
    classes: int
    blocks: tuple[Block, ...]
    downsample: Pool | None = None
    head: Head = Head()
    training: Training = Training()

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary of JSON values that ``from_json`` turns back into an equal architecture."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Architecture":
        """Build an architecture from ``to_json``'s dictionary, parsed JSON included.

        Raises ArchitectureError on a missing or unknown key or a value of the wrong type.
        """
        return typing.cast(Architecture, read(cls, value, "architecture"))

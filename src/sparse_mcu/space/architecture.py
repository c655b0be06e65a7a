"""The architecture Ω = {α, ϑ, θ} as plain frozen values; JSON in and out. Knows no torch.

The graph α and its operations ϑ are ``Architecture.blocks`` and their parts; how the network is trained and pruned (θ) is
``Architecture.training``. The weights ω live elsewhere. What the values mean as a network is said once, in ``layers.py``.
Shapes are (channels, height, width); a 1-D signal of T samples and C channels is (C, 1, T).
"""

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from sparse_mcu.errors import ArchitectureError

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
    learning_rate: float = 3e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    batch_size: int = 64
    epochs: int = 30
    weight_decay: float = 0.0
    dropout: float = 0.0
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
        return typing.cast(Architecture, _read(cls, value, "architecture"))


def _read(kind: Any, value: Any, where: str) -> Any:
    """Read ``value`` (parsed JSON) as the annotated type ``kind``; ``where`` names it in messages."""
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value in arguments:
            return value
        raise ArchitectureError(f"{where} must be one of {', '.join(map(repr, arguments))}, but is {value!r}")
    if origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        (inner,) = (a for a in arguments if a is not type(None))
        return _read(inner, value, where)
    if origin is tuple:
        return _read_tuple(arguments, value, where)
    return _read_scalar(kind, value, where)


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ArchitectureError(f"{where} must be an object, but is {value!r}")
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    unknown = sorted(set(value) - {f.name for f in fields})
    if unknown:
        raise ArchitectureError(f"{where} has no field {unknown[0]!r}")
    missing = [f.name for f in fields if f.name not in value]
    if missing:
        raise ArchitectureError(f"{where} lacks the field {missing[0]!r}")
    return kind(**{f.name: _read(hints[f.name], value[f.name], f"{where}.{f.name}") for f in fields})


def _read_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ArchitectureError(f"{where} must be a list, but is {value!r}")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise ArchitectureError(f"{where} must have {len(arguments)} items, but has {len(value)}")
    return tuple(_read(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))


def _read_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ArchitectureError(f"{where} must be of type {kind.__name__}, but is {value!r}")
    return value

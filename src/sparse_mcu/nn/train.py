"""Training with pruning inside: cross entropy + KL / N with a warm-up, then the pruned network alone.

N: images of an epoch, all of a small data set and EPOCH_IMAGES of a large one. The objective per image is cross entropy +
strength * ramp * KL / N, where the ramp goes from 0 to 1 over the warm-up. In the last epochs what the posterior removed is 0
and stays so, and nothing is drawn any more: the weights that are left, and the batch norm statistics, settle to the network
that runs on the device. A network that is pruned already can train like that from its first epoch on; where a teacher's logits
are given, it learns those too (Hinton et al., "Distilling the knowledge in a neural network", 2015).
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_mcu.data.dataset import Split
from sparse_mcu.errors import TrainingError
from sparse_mcu.nn.augment import augment, mirror
from sparse_mcu.nn.folded import Float32Array
from sparse_mcu.nn.network import Network
from sparse_mcu.space.architecture import Training

# Share of the epochs, at the end, in which the pruned network trains alone: of all, and where the posterior began as a parent's.
FINE_TUNING, INHERITED_FINE_TUNING = 0.25, 0.5
FEWEST_DRAWN = 2  # epochs of a posterior that began as a parent's: fewer unlearn much and prune little
RATE_WARMUP = 0.1  # share of the steps: Adam's first steps would undo much of what a child inherited
# Share of the learning rate at which the posterior ends: with less, weights stop shrinking before they can leave.
DRAWN_RATE_FLOOR = 0.3
# Adam moves a parameter by about its learning rate per step. However few the steps are, log σ² must be able to come from its
# initial value to where log α is above the threshold: the sum of its learning rates is at least this. In long trainings the
# rate is that of the weights.
LOG_VARIANCE_TRAVEL = 10.0
SCALE_RATE = 3.0  # times the learning rate: a scale has to come from 1 to nearly 0, weights begin near 0
# PyTorch's 0.999 remembers the large gradients of the first steps for longer than a whole training run on a small data set takes.
ADAM_BETAS = (0.9, 0.95)
EVALUATION_BATCH = 1024
# Of a large data set: small networks need less than a pass over all of it, and what is due after an epoch is due in time. With
# all of it for N, the evidence for a weight would grow with images that a short training never sees, and hardly any would leave.
EPOCH_IMAGES = 2048
# Of a teacher's soft labels (Hinton et al., 2015, section 2): the share of the loss that is theirs, and what divides the logits.
TEACHER_SHARE, TEMPERATURE = 0.8, 3.0


@dataclass(frozen=True, slots=True)
class Epoch:
    """What happened in one epoch. Accuracies are shares; the training accuracy is that of the drawn (noisy) networks."""

    loss: float  # mean cross entropy per training image
    kl: float  # nats, of the whole network, after the epoch
    train_accuracy: float
    validation_accuracy: float | None  # of the pruned network
    nonzero_weights: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """The epochs in order, and what the posterior says about the weights."""

    epochs: tuple[Epoch, ...]
    complete: bool  # False where the deadline, or the caller, ended the training early
    suggested_bits: dict[str, int]  # layer -> bits per weight whose rounding the posterior finds harmless; 8 without one


def train(
    network: Network,
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    labels: npt.NDArray[np.int64],  # (N,)
    *,
    seed: int,
    validation: Split | None = None,
    device: torch.device | str = "cpu",
    deadline: float | None = None,
    report: Callable[[Epoch], None] | None = None,
    hopeless: Callable[[int], bool] | None = None,
    pruned: bool = False,
    inherited: bool = False,
    teacher: Float32Array | None = None,  # (N, classes): logits of another network for the images
    mirrored: bool = False,
    epoch_images: int = EPOCH_IMAGES,
) -> TrainingLog:
    """Train and prune ``network`` in place, as its ``architecture.training`` says; it is left in eval mode on ``device``.

    An epoch takes ``epoch_images`` of the images, or all where these are fewer; each comes once before any comes again.
    ``pruned``: the posterior has decided what leaves; the rest trains on alone. ``inherited``: weights and posterior began as a
    parent's; what left there does not come back, and the posterior decides sooner about the rest. ``mirrored``: every other
    image is turned round, left and right.

    The same seed gives the same network on a CPU with one thread; the global random state is left as it was. After
    ``deadline`` (by ``time.monotonic``) no epoch begins. ``report`` hears of every epoch. ``hopeless`` is told after every epoch
    but the last how many are done; where it says so, no other begins. Raises TrainingError when the loss is not finite.
    """
    device = torch.device(device)
    if len(images) < 2:
        raise TrainingError(f"training needs at least 2 images, but has {len(images)}")
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on small maps
    data = Images.on(device, images, labels, teacher)
    held_out = None if validation is None else Images.on(device, validation.images, validation.labels)
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        epochs = 0 if pruned else drawn_epochs(network.architecture.training, inherited)
        held = network.hold_pruning() if inherited and epochs else []
        trainer = _Trainer(network, data, held_out, epochs, min(len(images), epoch_images), held, mirrored)
        return trainer.run(deadline, report, hopeless)


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Images and labels on the device where they are used."""

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64
    soft: Tensor | None = None  # (N, classes) float32: log probabilities at TEMPERATURE

    @classmethod
    def on(
        cls,
        device: torch.device,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        teacher: Float32Array | None = None,
    ) -> "Images":
        """Copy arrays to ``device``; ``teacher``: logits that soft labels come from."""
        soft = None if teacher is None else F.log_softmax(torch.tensor(teacher, device=device) / TEMPERATURE, dim=1)
        return cls(torch.tensor(images, device=device), torch.tensor(labels, device=device), soft)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, order: Tensor) -> "Images":
        """Return the images at the places that ``order`` names."""
        return Images(self.images[order], self.labels[order], None if self.soft is None else self.soft[order])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield (B, C, H, W) float32 in [0, 1], (B,) labels and (B, classes) soft ones where there are any.

        The fewest batches of at most ``size``, all of the same length or one less: no image is left out, none counts several
        times as much as another, and batch norm never meets a single image where there are others.
        """
        count = math.ceil(len(self) / size)
        soft = [None] * count if self.soft is None else self.soft.tensor_split(count)
        parts = zip(self.images.tensor_split(count), self.labels.tensor_split(count), soft, strict=True)
        channels_last = torch.channels_last
        return ((x.to(torch.float32, memory_format=channels_last).mul_(1 / 255), y, soft) for x, y, soft in parts)


@torch.no_grad()
def accuracy(network: Network, data: Images) -> float:
    """Return the share of images that ``network`` in eval mode gets right."""
    was_training = network.training
    network.eval()
    right = [(network(x).argmax(1) == y).sum() for x, y, _ in data.batches(EVALUATION_BATCH)]
    network.train(was_training)
    return int(torch.stack(right).sum()) / len(data)


Held = Sequence[tuple[torch.nn.Parameter, Tensor]]  # parameters, and 0 where nothing must reach them


class _Trainer:
    """One training run: first the posterior is trained on drawn networks, then what it left."""

    def __init__(
        self,
        network: Network,
        data: Images,
        validation: Images | None,
        drawn_epochs: int,
        epoch_images: int,
        held: Held,
        mirrored: bool,
    ) -> None:
        self.network, self.data, self.validation, self.held, self.mirrored = network, data, validation, held, mirrored
        self.drawn_epochs, self.epoch_images = drawn_epochs, epoch_images
        self.order = torch.empty(0, dtype=torch.int64, device=data.labels.device)  # of what has yet to come
        self.training = network.architecture.training
        self.batches = math.ceil(epoch_images / self.training.batch_size)  # per epoch
        self.step = 0
        self.optimisers = self._optimisers()

    def run(
        self,
        deadline: float | None,
        report: Callable[[Epoch], None] | None,
        hopeless: Callable[[int], bool] | None,
    ) -> TrainingLog:
        epochs: list[Epoch] = []
        while len(epochs) < self.training.epochs and (deadline is None or time.monotonic() < deadline):
            if epochs and hopeless is not None and hopeless(len(epochs)):
                break
            if len(epochs) == self.drawn_epochs:
                self.network.fix_pruning()
                self.optimisers = self._optimisers()  # their momentum would move what is fixed at 0
            epochs.append(self._epoch())
            if report is not None:
                report(epochs[-1])
        self.network.fix_pruning()
        self.network.release_pruning()
        self.network.eval()
        bits = {layer.layer.name: layer.suggested_bits() for layer in self.network.weighted()}
        return TrainingLog(tuple(epochs), complete=len(epochs) == self.training.epochs, suggested_bits=bits)

    def _epoch(self) -> Epoch:
        start = time.perf_counter()
        self.network.train()
        self.network.noise.refresh()
        outcomes = [self._step(*batch) for batch in self._images().batches(self.training.batch_size)]
        loss, right = torch.stack([torch.stack(outcome) for outcome in outcomes]).sum(0).tolist()
        if not math.isfinite(loss):
            epoch = self.step // self.batches
            raise TrainingError(
                f"the loss of a network must be finite, but is {loss} after {epoch} epochs; lower the learning rate"
            )
        with torch.no_grad():
            kl = float(self.network.kl())
        validation_accuracy = None if self.validation is None else accuracy(self.network, self.validation)
        nonzero = self.network.nonzero_weights()
        seconds = time.perf_counter() - start
        return Epoch(loss / self.epoch_images, kl, right / self.epoch_images, validation_accuracy, nonzero, seconds)

    def _images(self) -> Images:
        """Return the images of the next epoch, in an order drawn from the global generator."""
        if len(self.order) < self.epoch_images:
            self.order = torch.cat([self.order, torch.randperm(len(self.data), device=self.order.device)])
        images = self.data.take(self.order[: self.epoch_images])
        self.order = self.order[self.epoch_images :]
        return images

    def _step(self, x: Tensor, y: Tensor, soft: Tensor | None) -> tuple[Tensor, Tensor]:
        """Make one step; return the summed cross entropy and the number of images got right, still on the device."""
        epoch = (self.step + 0.5) / self.batches
        if self.mirrored:
            x = mirror(x)
        if self.training.augmentation > 0:
            x = augment(x, self.training.augmentation)
        logits = self.network(x)
        loss = F.cross_entropy(logits, y)
        kl_weight = self.training.pruning.strength * kl_share(self.training, self.drawn_epochs, epoch) / self.epoch_images
        objective = loss if soft is None else (1 - TEACHER_SHARE) * loss + TEACHER_SHARE * _soft_loss(logits, soft)
        if kl_weight > 0:
            objective = objective + kl_weight * self.network.kl()
        for optimiser in self.optimisers:
            optimiser.zero_grad()
            for group in optimiser.param_groups:
                group["lr"] = rate_share(self.training, self.drawn_epochs, epoch) * group["full_rate"]
        torch.autograd.backward(objective)
        for parameter, mask in self.held:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        with torch.no_grad():
            return loss * len(y), (logits.argmax(1) == y).sum()

    def _optimisers(self) -> list[torch.optim.Optimizer]:
        """Return what moves the parameters; each group's ``full_rate`` is its learning rate before the schedule.

        Posterior variances are trained by Adam whatever moves the weights: their gradients are of the size of 1 / N.
        """
        rate, decay = self.training.learning_rate, self.training.weight_decay
        drawn_steps = self.drawn_epochs * self.batches
        groups: dict[tuple[float, float], list[Tensor]] = {}  # by rate and weight decay: each group costs time in every step
        variances: list[Tensor] = []
        for name, parameter in self.network.named_parameters():
            if name.endswith("log_variance"):
                variances.append(parameter)
            elif name.endswith(".weight"):
                groups.setdefault((rate, decay), []).append(parameter)
            else:
                groups.setdefault((SCALE_RATE * rate if name.endswith("scale.mean") else rate, 0.0), []).append(parameter)
        settings = [{"params": p, "full_rate": r, "weight_decay": d} for (r, d), p in groups.items()]
        posterior = []
        if variances and self.step < drawn_steps:
            variance_rate = max(rate, LOG_VARIANCE_TRAVEL / drawn_steps)
            posterior = [{"params": variances, "full_rate": variance_rate, "weight_decay": 0.0}]
        if self.training.optimiser == "adam":
            return [torch.optim.AdamW(settings + posterior, betas=ADAM_BETAS, fused=True)]
        optimisers: list[torch.optim.Optimizer] = [torch.optim.SGD(settings, momentum=0.9, nesterov=True, fused=True)]
        return optimisers + ([torch.optim.AdamW(posterior, betas=ADAM_BETAS, fused=True)] if posterior else [])


def _soft_loss(logits: Tensor, soft: Tensor) -> Tensor:
    """Return the mean divergence from soft labels; times T², so that its gradients are of the size of the cross entropy's."""
    ours = F.log_softmax(logits / TEMPERATURE, dim=1)
    return F.kl_div(ours, soft, reduction="batchmean", log_target=True) * TEMPERATURE**2


def drawn_epochs(training: Training, inherited: bool) -> int:
    """Return the number of epochs in which the posterior is trained, before the pruned network trains alone."""
    if training.pruning.method == "none":
        return 0
    if inherited:
        drawn = training.epochs - math.ceil(INHERITED_FINE_TUNING * training.epochs)
        return drawn if drawn >= FEWEST_DRAWN else 0
    return max(1, training.epochs - math.ceil(FINE_TUNING * training.epochs))


def rate_share(training: Training, drawn: int, epoch: float) -> float:
    """Return the share of the learning rate after ``epoch`` epochs: one cosine for the posterior, another for what it left.

    ``drawn``: in so many epochs the posterior is trained.
    """
    warmup = min(1.0, epoch / (RATE_WARMUP * training.epochs))
    if training.schedule == "constant":
        return warmup
    if epoch < drawn:
        return warmup * _cosine(epoch / drawn, DRAWN_RATE_FLOOR)
    return warmup * _cosine((epoch - drawn) / (training.epochs - drawn), 0.0)


def kl_share(training: Training, drawn: int, epoch: float) -> float:
    """Return the share of the strength with which the KL term counts after ``epoch`` epochs; ``drawn`` as for ``rate_share``."""
    if epoch >= drawn:
        return 0.0
    warmup = training.pruning.warmup * training.epochs
    return 1.0 if epoch >= warmup else epoch / warmup


def _cosine(progress: float, floor: float) -> float:
    """Fall from 1 to ``floor`` as ``progress`` goes from 0 to 1."""
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))

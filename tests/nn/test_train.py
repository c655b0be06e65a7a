import dataclasses
import math
import time

import numpy as np
import pytest
import torch

from sparse_mcu.data.dataset import Split
from sparse_mcu.errors import TrainingError
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.train import Images, accuracy, drawn_epochs, kl_share, rate_share, train
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pruning, Training


def network(method="unstructured", seed=0, **training):
    settings = Training(pruning=Pruning(method), **{"epochs": 4, "batch_size": 16} | training)
    blocks = (Block((Conv("regular", (3, 3), 4), Conv("regular", (1, 1), 4, batch_norm=False))),)
    return Network(Architecture((1, 4, 4), 2, blocks, head=Head("flatten"), training=settings), seed)


def halves(n, seed=0):
    """Images (N, 1, 4, 4) whose left or right half is bright, and which."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    images = rng.integers(0, 120, (n, 1, 4, 4), dtype=np.uint8)
    images[labels == 0, :, :, :2] += 100
    images[labels == 1, :, :, 2:] += 100
    return images, labels


def test_left_and_right_cannot_be_told_apart_by_who_learns_of_mirror_images():
    images, labels = halves(200)
    learnt = {}
    for mirrored in (False, True):
        learner = network("none", epochs=10)
        train(learner, images, labels, seed=0, mirrored=mirrored)
        learnt[mirrored] = accuracy(learner, Images.on(torch.device("cpu"), images, labels))
    assert learnt[False] > 0.95 and learnt[True] < 0.8


def test_batches_hold_every_image_once_and_none_stands_alone():
    images = torch.arange(65, dtype=torch.uint8).reshape(65, 1, 1, 1)
    batches = list(Images(images, torch.arange(65)).batches(32))
    assert [len(y) for _, y, _ in batches] == [22, 22, 21]
    assert torch.equal(torch.cat([y for _, y, _ in batches]), torch.arange(65))
    assert torch.allclose(torch.cat([x for x, _, _ in batches]).flatten() * 255, torch.arange(65.0))


def test_taken_images_keep_their_labels():
    images = torch.arange(50, dtype=torch.uint8).reshape(50, 1, 1, 1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))[:20]
    taken = Images(images, torch.arange(50), torch.arange(50.0).unsqueeze(1)).take(order)
    assert torch.equal(taken.labels, order)
    assert torch.equal(taken.images.flatten().long(), taken.labels)
    assert taken.soft is not None and torch.equal(taken.soft.flatten().long(), taken.labels)


def test_an_epoch_takes_some_of_many_images_and_each_comes_once_before_any_comes_again(monkeypatch):
    images, labels = halves(50)
    taken = []
    take = Images.take
    monkeypatch.setattr(Images, "take", lambda self, order: taken.append(order) or take(self, order))
    log = train(network("unstructured", epochs=5), images, labels, seed=0, epoch_images=20)
    assert [len(order) for order in taken] == [20] * 5
    seen = torch.cat(taken)
    assert torch.equal(seen[:50].sort().values, torch.arange(50)) and torch.equal(seen[50:100].sort().values, torch.arange(50))
    assert all(0 <= epoch.train_accuracy <= 1 for epoch in log.epochs)


def test_the_kl_term_is_shared_by_the_images_of_an_epoch():
    """Of the same images, four times as many an epoch let a quarter of the prior count, and fewer weights leave."""
    images, labels = halves(400)
    left = []
    for epoch_images, epochs in ((100, 40), (400, 10)):
        settings = Training(learning_rate=0.02, batch_size=20, epochs=epochs, pruning=Pruning("unstructured", 3.0))
        net = network("unstructured")
        net = Network(dataclasses.replace(net.architecture, training=settings), 0)
        train(net, images, labels, seed=0, epoch_images=epoch_images)
        left.append(net.nonzero_weights())
    assert left[0] < left[1]


def test_a_pruned_network_trains_on_without_losing_or_regaining_a_weight():
    images, labels = halves(200)
    net = network("both", learning_rate=0.02, epochs=8)
    train(net, images, labels, seed=0)
    kept = {layer.layer.name: layer.effective_weight() != 0 for layer in net.weighted()}
    scales = [scales.effective().detach() != 0 for layer in net.weighted() for scales in layer.scales()]
    before = net.weights()
    log = train(net, images, labels, seed=1, pruned=True)
    assert log.complete and any(not mask.all() for mask in kept.values())
    assert any(not np.array_equal(before[name], value) for name, value in net.weights().items())
    assert all(torch.equal(kept[layer.layer.name], layer.effective_weight() != 0) for layer in net.weighted())
    after = [scales.effective() != 0 for layer in net.weighted() for scales in layer.scales()]
    assert all(torch.equal(mask, other) for mask, other in zip(scales, after, strict=True))


def test_a_teacher_is_believed_more_than_the_labels():
    images, labels = halves(200)
    lies = np.where(np.arange(2) == labels[:, None], -20.0, 20.0).astype(np.float32)
    net = network("none", learning_rate=0.02, epochs=12)
    train(net, images, labels, seed=0, teacher=lies)
    assert accuracy(net, Images.on(torch.device("cpu"), images, labels)) <= 0.1


@pytest.mark.parametrize("n", [40, 33])
def test_reported_loss_is_the_mean_over_all_images_last_batch_included(n):
    images, labels = halves(n)
    net = network("none", epochs=1, learning_rate=0.0, batch_size=16)
    with torch.no_grad():
        for layer in net.weighted():  # without batch norm's statistics a loss does not depend on the batches
            layer.gamma = layer.beta = None
        logits = net(torch.from_numpy(images).float() / 255)
        expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).item()
        right = (logits.argmax(1).numpy() == labels).mean()
    log = train(net, images, labels, seed=0)
    assert log.epochs[0].loss == pytest.approx(expected, rel=1e-5)
    assert log.epochs[0].train_accuracy == pytest.approx(right)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("method", ["none", "unstructured", "structured", "both"])
def test_every_method_learns(method, optimiser):
    images, labels = halves(200)
    net = network(method, optimiser=optimiser, learning_rate=0.02, epochs=12)
    log = train(net, images, labels, validation=Split(*halves(100, seed=1)), seed=0)
    assert log.complete and len(log.epochs) == 12
    assert log.epochs[-1].validation_accuracy >= 0.97
    assert not net.training


def test_the_seed_decides_all_and_the_global_generator_is_left_alone():
    images, labels = halves(60)
    state = torch.get_rng_state()
    runs = [train(net := network("both", dropout=0.1), images, labels, seed=seed) and net.weights() for seed in (5, 5, 6)]
    assert all(np.array_equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not np.array_equal(runs[0]["logits.weight"], runs[2]["logits.weight"])
    assert torch.equal(state, torch.get_rng_state())


def test_pruning_removes_inputs_that_tell_nothing_and_keeps_accuracy():
    """Only 4 of 64 pixels tell the class: a linear classifier drops nearly all other weights, and loses nothing."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1000, 1, 8, 8), dtype=np.uint8)
    labels = rng.integers(0, 2, 1000)
    images[:, 0, 3, 2:6] = labels[:, None] * 130 + rng.integers(0, 125, (1000, 4))
    identity = Block((Conv("regular", (1, 1), 1, batch_norm=False),))
    training = Training(epochs=40, batch_size=50, learning_rate=0.02)
    net = Network(Architecture((1, 8, 8), 2, (identity,), training=training), seed=1)
    log = train(net, images, labels, seed=0)
    kept = next(f.weight for f in net.fold() if f.layer.name == "logits").reshape(2, 8, 8) != 0
    telling = np.zeros((8, 8), dtype=bool)
    telling[3, 2:6] = True
    assert log.epochs[-1].train_accuracy == 1.0
    assert kept[:, telling].any()
    assert kept[:, ~telling].mean() <= 0.05


def test_what_the_log_counts_is_what_fold_returns():
    images, labels = halves(60)
    net = network("both")
    log = train(net, images, labels, seed=0)
    assert log.epochs[-1].nonzero_weights == sum(np.count_nonzero(f.weight) for f in net.fold() if f.weight is not None)


def test_trained_arrays_lie_in_the_order_of_their_shape():
    """Files of arrays, safetensors among them, hold them so, whatever memory format trains faster."""
    net = network("both")
    train(net, *halves(60), seed=0)
    arrays = [*net.weights().values(), *(f.weight for f in net.fold() if f.weight is not None)]
    assert all(array.flags.c_contiguous and array.dtype == np.float32 for array in arrays)


def test_validation_accuracy_in_the_log_is_that_of_the_network_returned():
    images, labels = halves(60)
    net = network("both")
    validation = Split(*halves(50, seed=1))
    log = train(net, images, labels, seed=0, validation=validation)
    data = Images.on(torch.device("cpu"), validation.images, validation.labels)
    assert accuracy(net, data) == log.epochs[-1].validation_accuracy


def test_report_hears_of_every_epoch_as_it_ends():
    images, labels = halves(60)
    heard = []
    log = train(network(), images, labels, seed=0, report=heard.append)
    assert tuple(heard) == log.epochs


def test_no_epoch_begins_after_the_deadline_and_pruning_is_settled_then_too():
    images, labels = halves(60)
    net = network(epochs=50)
    log = train(net, images, labels, seed=0, deadline=time.monotonic() - 1)
    assert log.epochs == () and not log.complete and not net.training
    assert all(
        np.array_equal(layer.weight.detach().numpy(), layer.effective_weight().detach().numpy()) for layer in net.weighted()
    )


def test_a_loss_that_is_not_finite_is_an_error():
    images, labels = halves(60)
    with pytest.raises(TrainingError, match="loss of a network must be finite, but is nan after"):
        train(network("none", optimiser="sgd", learning_rate=1e12, epochs=8), images, labels, seed=0)


def test_one_image_is_not_enough():
    with pytest.raises(TrainingError, match="at least 2 images, but has 1"):
        train(network(), *halves(1), seed=0)


def test_drawn_epochs_leave_the_last_quarter_to_the_pruned_network():
    assert [drawn_epochs(Training(epochs=epochs), inherited=False) for epochs in (1, 2, 10, 40)] == [1, 1, 7, 30]
    assert drawn_epochs(Training(epochs=40, pruning=Pruning("none")), inherited=False) == 0


def test_an_inherited_posterior_has_half_of_the_epochs_or_none_where_these_are_few():
    assert [drawn_epochs(Training(epochs=epochs), inherited=True) for epochs in (1, 3, 4, 10, 40)] == [0, 0, 2, 5, 20]
    assert drawn_epochs(Training(epochs=40, pruning=Pruning("none")), inherited=True) == 0


@pytest.mark.parametrize("method", ["unstructured", "structured", "both"])
def test_what_an_ancestor_lost_does_not_come_back(method):
    images, labels = halves(60)
    net = network(method, epochs=8)
    train(net, images, labels, seed=0)
    with torch.no_grad():  # half of the weights and one channel have left
        for layer in net.weighted():
            if layer.sparse:
                layer.log_variance[::2] = 8.0
            if layer.scale is not None:
                layer.scale.log_variance[0] = 8.0
    net.fix_pruning()
    net.release_pruning()
    before = {name: value == 0 for name, value in net.weights().items() if name.endswith((".weight", "scale.mean"))}
    assert any(gone.any() for gone in before.values())
    train(net, images, labels, seed=1, inherited=True)
    after = net.weights()
    assert all(not after[name][gone].any() for name, gone in before.items())
    assert any(after[name].any() for name in before)


@pytest.mark.parametrize(("settings", "drawn"), [({}, 3), ({"inherited": True}, 2), ({"pruned": True}, 0)])
def test_what_began_as_a_parents_decides_sooner_and_what_is_pruned_has_decided(settings: dict[str, bool], drawn: int):
    trained = network(epochs=4)
    done, fixed_after = [], []
    fix = trained.fix_pruning
    trained.fix_pruning = lambda: (fixed_after.append(len(done)), fix())
    train(trained, *halves(64), seed=0, report=done.append, **settings)
    assert fixed_after == [drawn, 4]


def test_learning_rate_warms_up_and_falls_once_before_and_once_after_pruning():
    training = Training(epochs=40)
    shares = [rate_share(training, 30, epoch) for epoch in (0, 2, 4, 15, 30 - 1e-9, 30, 35, 40)]
    warm = 0.3 + 0.7 * 0.5 * (1 + math.cos(math.pi * 4 / 30))
    expected = [0, 0.5 * (0.3 + 0.35 * (1 + math.cos(math.pi * 2 / 30))), warm, 0.65, 0.3, 1, 0.5, 0]
    assert shares == pytest.approx(expected, abs=1e-6)


def test_a_constant_schedule_warms_up_only():
    training = Training(epochs=40, schedule="constant")
    assert [rate_share(training, 30, epoch) for epoch in (1, 4, 30, 39)] == pytest.approx([0.25, 1, 1, 1])


def test_kl_ramps_up_and_ends_with_the_posterior():
    training = Training(epochs=40, pruning=Pruning(warmup=0.3))
    assert [kl_share(training, 30, epoch) for epoch in (0, 6, 12, 29, 30)] == pytest.approx([0, 0.5, 1, 1, 0])
    assert kl_share(Training(epochs=40, pruning=Pruning(warmup=0.0)), 30, 0.0) == 1.0
    assert kl_share(Training(epochs=40, pruning=Pruning("none")), 0, 0.0) == 0.0

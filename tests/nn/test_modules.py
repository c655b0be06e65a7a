import numpy as np
import pytest
import torch

from sparse_mcu.nn.modules import Shares, WeightedLayer
from sparse_mcu.nn.variational import INITIAL_LOG_VARIANCE, Noise
from sparse_mcu.space.architecture import Pruning
from sparse_mcu.space.layers import Layer

LAYER = Layer("x", "conv", ("input",), (2, 4, 4), (3, 4, 4), (3, 3), (1, 1), (1, 1, 1, 1), batch_norm=True)


OUTPUTS = Shares(channel=1.0)


def module(method, layer=LAYER, shares=OUTPUTS, bits=8, **pruning):
    return WeightedLayer(layer, Pruning(method, **pruning), shares, torch.Generator().manual_seed(0), Noise(), bits)


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("none", set()),
        ("unstructured", {"log_variance"}),
        ("structured", {"log_variance", "scale.mean", "scale.log_variance"}),
        ("both", {"log_variance", "scale.mean", "scale.log_variance"}),
    ],
)
def test_the_method_decides_what_a_layer_learns(method, parts):
    assert module(method).state_dict().keys() == {"weight", "gamma", "beta", "mean", "variance"} | parts


def test_only_weights_below_the_threshold_stay():
    layer = module("unstructured", threshold=1.0)
    log_alpha = torch.linspace(-2, 4, layer.weight.numel()).reshape(layer.weight.shape)
    with torch.no_grad():
        layer.log_variance.copy_(log_alpha + torch.log(layer.weight.square() + 1e-8))
    assert torch.equal(layer.effective_weight() != 0, log_alpha <= 1.0)


def test_structured_pruning_alone_removes_no_single_weights():
    layer = module("structured")
    with torch.no_grad():
        layer.log_variance.fill_(20.0)
    assert torch.equal(layer.effective_weight(), layer.weight)


def test_a_channel_whose_scale_has_left_is_zero_whatever_its_shift():
    layer = module("structured").eval()
    with torch.no_grad():
        layer.beta.fill_(5.0)
        layer.scale.log_variance[1] = 10.0
    y = layer(torch.rand(2, 2, 4, 4))
    assert not y[:, 1].any() and y[:, [0, 2]].any()
    assert not layer.fold().weight[1].any() and layer.fold().bias[1] == 0


def test_scales_are_drawn_for_every_image_with_the_moments_of_their_posterior():
    pointwise = Layer("x", "conv", ("input",), (1, 1, 1), (2, 1, 1))
    layer = module("both", pointwise).train()
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.log_variance.fill_(-40.0)
        layer.scale.mean.copy_(torch.tensor([1.0, -2.0]))
        layer.scale.log_variance.copy_(torch.tensor([0.5, 1.5]).square().log())
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        y = layer(torch.ones(100_000, 1, 1, 1)).flatten(1)
    np.testing.assert_allclose(y.mean(0), [1.0, -2.0], atol=0.02)
    np.testing.assert_allclose(y.std(0), [0.5, 1.5], atol=0.02)


def partly_pruned():
    """A layer of which some weights have left, by a posterior that has been trained."""
    layer = module("both", threshold=-6.0).train()
    with torch.no_grad():
        layer.log_variance.fill_(INITIAL_LOG_VARIANCE - 0.01)
    layer.fix_pruning()
    assert 0 < (layer.weight == 0).sum() < layer.weight.numel()
    return layer


def test_fixed_pruning_draws_nothing_and_lets_no_gradient_bring_a_weight_back():
    layer, x = partly_pruned(), torch.rand(4, 2, 4, 4)
    gone = layer.weight == 0
    assert torch.equal(layer(x), layer(x))
    layer(x).square().sum().backward()
    assert not layer.weight.grad[gone].any() and layer.weight.grad[~gone].all()


def test_fixed_pruning_survives_release_although_weights_have_moved():
    layer = partly_pruned()
    kept = layer.weight != 0
    with torch.no_grad():
        layer.weight.mul_(1e-3)  # log α grows by 13.8: the posterior would remove what the mask keeps
    layer.release_pruning()
    assert torch.equal(layer.effective_weight() != 0, kept)


def test_held_pruning_is_without_noise_and_a_mask_for_gradients():
    layer = partly_pruned()
    layer.release_pruning()
    gone, before = layer.weight == 0, layer.log_variance.detach().clone()
    held = dict(layer.hold_pruning())
    for parameter in (layer.weight, layer.log_variance):
        assert torch.equal(held[parameter] == 0, gone)
    assert (layer.log_variance[gone] < -20).all() and torch.equal(layer.log_variance[~gone], before[~gone])
    assert torch.equal(layer.effective_weight() != 0, ~gone)
    assert held[layer.scale.mean].all()  # no channel has left


def test_a_channel_that_has_left_is_held_too():
    layer = module("structured").train()
    with torch.no_grad():
        layer.scale.mean[1] = 0.0
        layer.scale.log_variance.fill_(-3.0)
    held = dict(layer.hold_pruning())
    assert held[layer.scale.mean].tolist() == [1.0, 0.0, 1.0] == held[layer.scale.log_variance].tolist()
    assert not layer.eval()(torch.rand(4, 2, 4, 4))[:, 1].any()


def test_what_has_yet_to_be_learnt_does_not_leave():
    layer = module("unstructured")
    with torch.no_grad():
        layer.weight[0] = 0.0  # as what reads a channel that is new
        layer.weight[1] = 0.0
        layer.log_variance[1] = -3.0
    layer.fix_pruning()
    assert layer.weight_mask[0].all() and not layer.weight_mask[1].any()


def test_the_posterior_suggests_bits_and_its_absence_eight():
    certain, vague = module("unstructured"), module("unstructured")
    with torch.no_grad():
        certain.log_variance.fill_(-30.0)
        vague.log_variance.copy_(torch.log(vague.weight.square() + 1e-8) + 2.9)
    assert (module("none").suggested_bits(), certain.suggested_bits(), vague.suggested_bits()) == (8, 8, 2)


def test_an_input_whose_scale_has_left_is_read_by_no_weight():
    linear = Layer("x", "linear", ("input",), (2, 2, 2), (3, 1, 1), (2, 2))
    layer = module("structured", linear, Shares(input=1.0)).eval()
    with torch.no_grad():
        layer.input_scale.mean.copy_(torch.arange(1.0, 9.0))
        layer.input_scale.log_variance[5] = 20.0
    x = torch.rand(4, 2, 2, 2)
    weight = layer.fold().weight
    assert not weight[:, 5].any() and weight[:, [0, 1, 2, 3, 4, 6, 7]].all()
    np.testing.assert_allclose(layer(x).flatten(1).detach(), x.flatten(1).numpy() @ weight.T, rtol=1e-5, atol=1e-5)


def test_scales_of_inputs_are_drawn_for_every_image():
    linear = Layer("x", "linear", ("input",), (1, 1, 2), (1, 1, 1), (1, 2))
    layer = module("both", linear, Shares(input=1.0)).train()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 10.0]]))
        layer.log_variance.fill_(-40.0)
        layer.input_scale.log_variance.copy_(torch.tensor([0.3, 0.4]).square().log())
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        y = layer(torch.ones(100_000, 1, 1, 2)).flatten()
    assert y.mean() == pytest.approx(11.0, abs=0.05)
    assert y.std() == pytest.approx(np.hypot(0.3, 4.0), abs=0.05)


@pytest.mark.parametrize("method", ["none", "unstructured", "structured", "both"])
@pytest.mark.parametrize(("bits", "largest"), [(2, 1), (4, 7)])
def test_weights_of_few_bits_are_seen_rounded_by_all_but_the_posterior(method, bits, largest):
    linear = Layer("x", "linear", ("input",), (2, 2, 2), (3, 1, 1), kernel=(2, 2))
    layer, exact = (module(method, linear, Shares(channel=1.0, input=1.0), count) for count in (bits, 8))
    x = torch.rand(4, 2, 2, 2)
    with torch.no_grad():
        for either in (layer, exact):
            if either.input_scale is not None:
                either.input_scale.mean.copy_(torch.linspace(0.5, 2.0, 8))
            either.eval()
        torch.testing.assert_close(layer(x).flatten(1), x.flatten(1) @ torch.from_numpy(layer.fold().weight).T)
        multiples = layer.fold().weight / layer.fold().step[:, None]
        np.testing.assert_allclose(multiples, np.rint(multiples), atol=1e-4)
        assert np.abs(np.rint(multiples)).max() == largest and exact.fold().step is None
        assert not torch.allclose(layer(x), exact(x))
        for either in (layer, exact):
            either.train().fix_pruning()
        assert not torch.allclose(layer(x), exact(x))  # trained on as it will be
    assert torch.equal(layer.effective_weight(), exact.effective_weight())  # what a child inherits

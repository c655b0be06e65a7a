import pytest
import torch

from sparse_mcu.nn.draw import drawn_sums
from sparse_mcu.nn.operations import apply_weights, padded
from sparse_mcu.nn.variational import SQUARE_FLOOR, Noise
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head
from sparse_mcu.space.layers import layers

CONVS = (
    Conv("regular", (3, 2), 4, padding="valid"),
    Conv("regular", (4, 3), 3, stride=(2, 1)),  # its zeros are uneven
    Conv("separable", (3, 3), 5, stride=(2, 2)),
)
LAYERS = [layer for layer in layers(Architecture((2, 9, 7), 3, (Block(CONVS),), head=Head("flatten"))) if layer.weights]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_gradients_by_hand_are_those_of_autograd(layer, with_bias):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, *layer.in_shape, generator=generator, dtype=torch.float64)
    x = padded(layer, images).detach().requires_grad_()
    weight = torch.randn(layer.weight_shape, generator=generator, dtype=torch.float64).requires_grad_()
    log_variance = torch.randn(layer.weight_shape, generator=generator, dtype=torch.float64).requires_grad_()
    bias = torch.randn(layer.out_shape[0], generator=generator, dtype=torch.float64).requires_grad_() if with_bias else None
    sums = drawn_sums(layer, x, weight, log_variance, bias, Noise())
    mean = apply_weights(layer, x, weight, bias)
    deviation = (apply_weights(layer, x.square(), log_variance.exp()) + SQUARE_FLOOR).sqrt()
    draw = ((sums - mean) / deviation).detach()
    direction = torch.randn(sums.shape, generator=generator, dtype=torch.float64)
    moved = [tensor for tensor in (x, weight, log_variance, bias) if tensor is not None]
    assert not sums._is_view()  # what follows changes it in place
    by_hand = torch.autograd.grad((sums * direction).sum(), moved)
    reference = torch.autograd.grad(((mean + deviation * draw) * direction).sum(), moved)
    for ours, theirs in zip(by_hand, reference, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_draws_have_the_means_and_variances_of_the_sums():
    layer = LAYERS[0]
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, *layer.in_shape, generator=generator)
    weight = torch.randn(layer.weight_shape, generator=generator)
    log_variance = torch.randn(layer.weight_shape, generator=generator)
    sums = drawn_sums(layer, image.expand(20_000, -1, -1, -1), weight, log_variance, None, Noise())
    mean = apply_weights(layer, image, weight)[0]
    variance = apply_weights(layer, image.square(), log_variance.exp())[0]
    torch.testing.assert_close(sums.mean(0), mean, atol=0.1, rtol=0.02)
    torch.testing.assert_close(sums.var(0), variance, atol=0.05, rtol=0.08)


def test_images_need_no_gradient():
    layer = LAYERS[0]
    weight, log_variance = torch.randn(layer.weight_shape).requires_grad_(), torch.zeros(layer.weight_shape).requires_grad_()
    drawn_sums(layer, torch.rand(2, *layer.in_shape), weight, log_variance, None, Noise()).sum().backward()
    assert weight.grad is not None and log_variance.grad is not None

import pytest
import torch

from sparse_mcu.nn.augment import SHIFT, augment, mirror


def blob(height, width, down=0.0, right=0.0):
    """One image with a soft spot in its middle, moved by shares of the extent."""
    y = torch.linspace(-0.5, 0.5, height)[:, None] - down
    x = torch.linspace(-0.5, 0.5, width)[None, :] - right
    return torch.exp(-20 * (y**2 * (height > 1) + x**2))[None, None]


def centre(images):
    """Where the mass of (B, 1, H, W) is, in shares of the extent; (B, 2)."""
    mass = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    y, x = (torch.linspace(-0.5, 0.5, extent) for extent in images.shape[2:])
    return torch.stack([(mass.sum(2) * y).sum(1), (mass.sum(1) * x).sum(1)], dim=1)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 12), (2, 1, 64), (1, 16, 1)])
def test_no_strength_changes_nothing_and_some_keeps_shape_and_range(shape):
    x = torch.rand(5, *shape)
    assert torch.allclose(augment(x, 0.0), x, atol=1e-5)
    moved = augment(x, 1.0)
    assert moved.shape == x.shape and not torch.allclose(moved, x, atol=1e-3)
    assert x.min() <= moved.min() and moved.max() <= x.max()


@pytest.mark.parametrize("extents", [(32, 32), (24, 48), (1, 64)])
def test_images_move_as_far_as_said_and_each_by_itself(extents):
    torch.manual_seed(0)
    centres = centre(augment(blob(*extents).expand(2000, -1, -1, -1), 1.0))
    for axis, extent in enumerate(extents):
        expected = SHIFT if extent > 1 else 0.0
        assert centres[:, axis].std().item() == pytest.approx(expected, rel=0.15, abs=1e-6)


def test_an_image_that_is_not_square_is_turned_and_not_sheared():
    """A thin bar stays thin: its second moments keep their eigenvalues but for the scale."""
    torch.manual_seed(1)
    y, x = torch.linspace(-0.5, 0.5, 40)[:, None], torch.linspace(-1.0, 1.0, 80)[None, :]
    bar = torch.exp(-80 * y**2 - 8 * x**2)[None, None].expand(200, -1, -1, -1)

    def ratio(images):
        mass = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
        coordinates = torch.stack(torch.broadcast_tensors(y, x)).flatten(1)
        mean = mass.flatten(1) @ coordinates.T
        second = torch.einsum("bn,in,jn->bij", mass.flatten(1), coordinates, coordinates) - mean[:, :, None] * mean[:, None]
        values = torch.linalg.eigvalsh(second)
        return values[:, 1] / values[:, 0]

    assert torch.allclose(ratio(augment(bar, 1.0)), ratio(bar), rtol=0.12)


def test_the_generator_decides():
    x = torch.rand(4, 1, 8, 8)
    torch.manual_seed(3)
    first = augment(x, 1.0)
    assert not torch.equal(augment(x, 1.0), first)
    torch.manual_seed(3)
    assert torch.equal(augment(x, 1.0), first)


def test_about_every_other_image_is_mirrored():
    torch.manual_seed(0)
    x = torch.rand(1000, 2, 5, 7)
    mirrored = mirror(x)
    turned = (mirrored == x.flip(3)).flatten(1).all(1)
    assert torch.equal(mirrored[~turned], x[~turned])
    assert 400 < turned.sum() < 600

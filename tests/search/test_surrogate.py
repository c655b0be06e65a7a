import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_mcu.search.surrogate import INACTIVE, Surrogate, arc_kernel, inputs


def random_inputs(n: int, dimensions: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return inputs([(rng.uniform(size=dimensions), rng.uniform(size=dimensions) < 0.7) for _ in range(n)])


def randomised(kernel: torch.nn.Module, seed: int) -> None:
    """Move every hyperparameter off its starting value, so that a kernel that ignores one is found out."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in kernel.named_parameters():
        if "lengthscale" not in name:
            parameter.data *= 1.0 + torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.data += 0.1


def direct_kernel(kernel: torch.nn.Module, index: int, A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Matérn-5/2 of the distance in the arc embedding of process ``index``, written out pair by pair."""
    arc = kernel.base_kernel
    omega, rho = (value.detach().numpy()[index].ravel() for value in (arc.radius, arc.angle))
    scale = kernel.outputscale[index].item()

    def embed(x: np.ndarray) -> np.ndarray:
        parts = [
            (0.0, 0.0) if value == INACTIVE else (w * math.sin(math.pi * r * value), w * math.cos(math.pi * r * value))
            for value, w, r in zip(x, omega, rho, strict=True)
        ]
        return np.array(parts).ravel()

    distance = np.array([[np.linalg.norm(embed(a) - embed(b)) for b in B] for a in A])
    root = math.sqrt(5.0) * distance
    return scale * (1.0 + root + root**2 / 3.0) * np.exp(-root)


def test_kernel_is_matern_on_the_arc_embedding() -> None:
    kernel, X = arc_kernel(6, k=2), random_inputs(9, 6, seed=0)
    randomised(kernel, seed=1)
    dense = kernel(X.expand(2, 9, 6)).to_dense().detach().numpy()
    for index in range(2):
        assert dense[index] == pytest.approx(direct_kernel(kernel, index, X.numpy(), X.numpy()), abs=1e-6)
    assert not np.allclose(dense[0], dense[1])


def test_kernel_ignores_the_value_of_an_inactive_dimension() -> None:
    rng = np.random.default_rng(0)
    values, active = rng.uniform(size=(5, 4)), rng.uniform(size=(5, 4)) < 0.5
    assert not active.all()
    moved = np.where(active, values, rng.uniform(size=(5, 4)))
    kernel = arc_kernel(4, k=1)
    before, after = (kernel(inputs(list(zip(v, active, strict=True)))).to_dense() for v in (values, moved))
    assert torch.equal(before, after)


def test_kernel_sees_an_active_dimension_and_its_switch() -> None:
    points = [([0.2, 0.5], [True, True]), ([0.9, 0.5], [True, True]), ([0.2, 0.5], [False, True])]
    X = inputs([(np.array(v), np.array(a)) for v, a in points])
    first = arc_kernel(2, k=1)(X).to_dense()[0, 0]
    assert first[1] < first[0] and first[2] < first[0] and first[1] != first[2]


def test_length_scales_widen_with_the_dimensions_but_for_telling_ones() -> None:
    radius = arc_kernel(100, k=1, telling=3).base_kernel.radius[0, 0]
    assert radius[:97].tolist() == pytest.approx([0.1] * 97, rel=1e-3)
    assert radius[97:].tolist() == pytest.approx([1.0] * 3, rel=1e-3)


def test_few_points_tell_what_depends_on_a_telling_coordinate() -> None:
    """In 60 dimensions, of which one matters: 12 points are enough where it is among the telling ones."""
    X, pool = random_inputs(12, 60, seed=14).clamp(min=0.0), random_inputs(200, 60, seed=15).clamp(min=0.0)
    (mean,), _ = Surrogate(X, X[:, -1:].exp(), telling=2).posterior(pool)
    assert np.corrcoef(mean, pool[:, -1])[0, 1] > 0.9


def test_posterior_equals_a_direct_solve() -> None:
    """Mean and covariance of Rasmussen and Williams (2006), equations 2.23 and 2.24, solved in float64."""
    X, pool = random_inputs(30, 5, seed=2), random_inputs(12, 5, seed=3)
    y = torch.sin(3.0 * X.clamp(min=0.0)).sum(dim=1) * 40.0 + 700.0
    Y = torch.stack([y, y**2], dim=1)
    surrogate = Surrogate(X, Y)
    model = surrogate._model
    for k, (mean, covariance) in enumerate(zip(*surrogate.posterior(pool), strict=True)):
        shift, scale = Y[:, k].mean().item(), Y[:, k].std().item()
        noise, constant = model.likelihood.noise[k].item(), model.mean_module.constant[k].item()
        K = direct_kernel(model.covar_module, k, X.numpy(), X.numpy()) + noise * np.eye(30)
        K_star = direct_kernel(model.covar_module, k, pool.numpy(), X.numpy())
        K_pool = direct_kernel(model.covar_module, k, pool.numpy(), pool.numpy())
        standardised = (Y[:, k].numpy() - shift) / scale - constant
        expected_mean = shift + scale * (constant + K_star @ np.linalg.solve(K, standardised))
        expected_covariance = scale**2 * (K_pool - K_star @ np.linalg.solve(K, K_star.T))
        assert mean.numpy() == pytest.approx(expected_mean, rel=1e-6)
        assert covariance.numpy() == pytest.approx(expected_covariance, abs=1e-6 * scale**2)


def test_draws_have_the_moments_of_the_posterior() -> None:
    X, pool = random_inputs(12, 3, seed=4), random_inputs(4, 3, seed=5)
    surrogate = Surrogate(X, X.clamp(min=0.0).sum(dim=1, keepdim=True))
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([surrogate.draw(pool, generator)[0, :, 0] for _ in range(300)])
    (mean,), (covariance,) = surrogate.posterior(pool)
    # 300 draws: five standard errors of a mean, and of a variance
    assert ((draws.mean(dim=0) - mean).abs() < 5 * (covariance.diagonal() / 300).sqrt()).all()
    assert torch.cov(draws.T) == pytest.approx(covariance, abs=5 * covariance.abs().max().item() * math.sqrt(2 / 300))


def test_predicts_a_smooth_function_of_active_dimensions() -> None:
    X, pool = random_inputs(60, 8, seed=6), random_inputs(200, 8, seed=7)

    def truth(Z: Tensor) -> Tensor:
        return Z[:, 0].clamp(min=0.0) + 0.5 * (Z[:, 1] == INACTIVE)

    (mean,), _ = Surrogate(X, truth(X).unsqueeze(1)).posterior(pool)
    assert np.corrcoef(mean, truth(pool))[0, 1] > 0.95


def test_conditioning_replaces_the_data() -> None:
    X, more = random_inputs(10, 3, seed=8), random_inputs(20, 3, seed=9)

    def truth(Z: Tensor) -> Tensor:
        return Z.clamp(min=0.0).sum(dim=1, keepdim=True)

    surrogate = Surrogate(X, truth(X))
    before = surrogate.posterior(more)[1][0].diagonal()
    surrogate.condition(torch.cat([X, more]), truth(torch.cat([X, more])))
    (mean,), (covariance,) = surrogate.posterior(more)
    assert (covariance.diagonal() < before).all()
    assert mean.numpy() == pytest.approx(truth(more)[:, 0].numpy(), abs=0.1)


def test_an_objective_that_never_varies_is_predicted_as_it_is() -> None:
    X = random_inputs(6, 3, seed=10)
    (mean,), _ = Surrogate(X, torch.full((6, 1), 4.0, dtype=torch.float64)).posterior(random_inputs(5, 3, seed=11))
    assert mean.numpy() == pytest.approx(4.0, abs=1e-3)


def test_the_same_data_give_the_same_fit() -> None:
    X = random_inputs(15, 4, seed=12)
    Y = X.clamp(min=0.0).sum(dim=1, keepdim=True)
    pool = random_inputs(5, 4, seed=13)
    means = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # a fit that draws from the global generator would differ
            means.append(Surrogate(X, Y).posterior(pool)[0])
    assert torch.equal(*means)

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
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.data += 0.5 * noise


def direct_kernel(kernel: torch.nn.Module, A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Matérn-5/2 of the distance in the arc embedding, written out pair by pair."""
    arc = kernel.base_kernel
    omega, rho = arc.radius.detach().numpy().ravel(), arc.angle.detach().numpy().ravel()
    scale = kernel.outputscale.item()

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
    kernel, X = arc_kernel(6), random_inputs(9, 6, seed=0)
    randomised(kernel, seed=1)
    assert kernel(X).to_dense().detach().numpy() == pytest.approx(direct_kernel(kernel, X.numpy(), X.numpy()), abs=1e-7)


def test_kernel_ignores_the_value_of_an_inactive_dimension() -> None:
    rng = np.random.default_rng(0)
    values, active = rng.uniform(size=(5, 4)), rng.uniform(size=(5, 4)) < 0.5
    assert not active.all()
    moved = np.where(active, values, rng.uniform(size=(5, 4)))
    kernel = arc_kernel(4)
    before, after = (kernel(inputs(list(zip(v, active, strict=True)))).to_dense() for v in (values, moved))
    assert torch.equal(before, after)


def test_kernel_sees_an_active_dimension_and_its_switch() -> None:
    kernel = arc_kernel(2)
    points = [([0.2, 0.5], [True, True]), ([0.9, 0.5], [True, True]), ([0.2, 0.5], [False, True])]
    X = inputs([(np.array(v), np.array(a)) for v, a in points])
    first = kernel(X).to_dense()[0]
    assert first[1] < first[0] and first[2] < first[0] and first[1] != first[2]


def test_posterior_equals_a_direct_solve() -> None:
    """Mean and covariance of Rasmussen and Williams (2006), equations 2.23 and 2.24, solved in float64."""
    X, pool = random_inputs(30, 5, seed=2), random_inputs(12, 5, seed=3)
    y = torch.sin(3.0 * X.clamp(min=0.0)).sum(dim=1) * 40.0 + 700.0
    Y = torch.stack([y, -2.0 * y], dim=1)
    surrogate = Surrogate(X, Y)
    for column, model, (mean, covariance) in zip(Y.T, surrogate._models, surrogate.posterior(pool), strict=True):
        shift, scale = column.mean().item(), column.std().item()
        noise, constant = model.likelihood.noise.item(), model.mean_module.constant.item()
        K = direct_kernel(model.covar_module, X.numpy(), X.numpy()) + noise * np.eye(30)
        K_star = direct_kernel(model.covar_module, pool.numpy(), X.numpy())
        K_pool = direct_kernel(model.covar_module, pool.numpy(), pool.numpy())
        standardised = (column.numpy() - shift) / scale - constant
        expected_mean = shift + scale * (constant + K_star @ np.linalg.solve(K, standardised))
        expected_covariance = scale**2 * (K_pool - K_star @ np.linalg.solve(K, K_star.T))
        assert mean.numpy() == pytest.approx(expected_mean, rel=1e-6)
        assert covariance.numpy() == pytest.approx(expected_covariance, abs=1e-6 * scale**2)


def test_draws_have_the_moments_of_the_posterior() -> None:
    X, pool = random_inputs(12, 3, seed=4), random_inputs(4, 3, seed=5)
    surrogate = Surrogate(X, X.clamp(min=0.0).sum(dim=1, keepdim=True))
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([surrogate.draw(pool, generator)[:, 0] for _ in range(600)])
    ((mean, covariance),) = surrogate.posterior(pool)
    # 600 draws: five standard errors of a mean, and of a variance
    assert ((draws.mean(dim=0) - mean).abs() < 5 * (covariance.diagonal() / 600).sqrt()).all()
    assert torch.cov(draws.T) == pytest.approx(covariance, abs=5 * covariance.abs().max().item() * math.sqrt(2 / 600))


def test_predicts_a_smooth_function_of_active_dimensions() -> None:
    X, pool = random_inputs(60, 8, seed=6), random_inputs(200, 8, seed=7)

    def truth(Z: Tensor) -> Tensor:
        return Z[:, 0].clamp(min=0.0) + 0.5 * (Z[:, 1] == INACTIVE)

    ((mean, _),) = Surrogate(X, truth(X).unsqueeze(1)).posterior(pool)
    assert np.corrcoef(mean, truth(pool))[0, 1] > 0.95


def test_conditioning_replaces_the_data() -> None:
    X, more = random_inputs(10, 3, seed=8), random_inputs(20, 3, seed=9)

    def truth(Z: Tensor) -> Tensor:
        return Z.clamp(min=0.0).sum(dim=1, keepdim=True)

    surrogate = Surrogate(X, truth(X))
    before = surrogate.posterior(more)[0][1].diagonal()
    surrogate.condition(torch.cat([X, more]), truth(torch.cat([X, more])))
    mean, covariance = surrogate.posterior(more)[0]
    assert (covariance.diagonal() < before).all()
    assert mean.numpy() == pytest.approx(truth(more)[:, 0].numpy(), abs=0.1)


def test_an_objective_that_never_varies_is_predicted_as_it_is() -> None:
    X = random_inputs(6, 3, seed=10)
    ((mean, _),) = Surrogate(X, torch.full((6, 1), 4.0, dtype=torch.float64)).posterior(random_inputs(5, 3, seed=11))
    assert mean.numpy() == pytest.approx(4.0, abs=1e-3)


def test_the_same_data_give_the_same_fit() -> None:
    X = random_inputs(15, 4, seed=12)
    Y = X.clamp(min=0.0).sum(dim=1, keepdim=True)
    pool = random_inputs(5, 4, seed=13)
    means = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # a fit that draws from the global generator would differ
            means.append(Surrogate(X, Y).posterior(pool)[0][0])
    assert torch.equal(*means)

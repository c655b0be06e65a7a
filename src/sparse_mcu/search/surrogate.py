"""One exact Gaussian process per objective over the encoding of Ω (METHOD section 4).

The kernel is Matérn-5/2 on the arc embedding (Swersky, Duvenaud, Snoek, Hutter and Osborne, 2013): an active coordinate
x_i in [0, 1] becomes ω_i [sin(π ρ x_i), cos(π ρ x_i)], an inactive one [0, 0], so that the value of a parameter that is
switched off cannot matter. ρ = 1/2: the range of a coordinate is a quarter circle, all of it ω_i away from being switched off.
1/ω_i is the length scale of dimension i. Its prior widens with the number of dimensions, so that the distance of two random
points does not (Hvarfner, Hellsten and Nardi, "Vanilla Bayesian optimization performs great in high dimensions", ICML 2024).

n: points; D: dimensions; k: objectives. X: (n, D) float64 with INACTIVE where a dimension is switched off; Y: (n, k).
"""

import math
from collections.abc import Sequence

import gpytorch
import numpy as np
import numpy.typing as npt
import torch
from botorch.models.gpytorch import GPyTorchModel
from botorch.models.utils.gpytorch_modules import get_gaussian_likelihood_with_lognormal_prior
from botorch.optim.fit import fit_gpytorch_mll_scipy
from gpytorch.constraints import GreaterThan
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import ArcKernel, MaternKernel, ScaleKernel
from gpytorch.means import ConstantMean
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import NormalPrior
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from sparse_mcu.search.pareto import Float64Array

INACTIVE = -1.0
# L-BFGS steps of a fit, at most. The hyperparameters have priors, and the search refits as it goes: the last digits are worth
# little. But after 30 steps searches of a conditional space stayed more often in the wrong half of it.
FIT_STEPS = 100
RADIUS_RANGE = (1e-4, 10.0)  # of ω: from no influence at all to a length scale of a tenth of a coordinate's range
JITTER = 1e-5  # added to the variance of a draw; the noise of an observation is at least ten times as large
VARIANCE_RANGE = (0.05, 50.0)
VARIANCE = 3.0  # of a process before it has seen anything; outcomes are standardised, but a trend reaches further than its data


def inputs(
    points: Sequence[tuple[Float64Array, npt.NDArray[np.bool_]]],  # n times (values (D,), active (D,)) of space.encode
) -> Tensor:  # (n, D)
    """Stack encoded architectures; what is inactive becomes INACTIVE whatever its value says."""
    return torch.from_numpy(np.stack([np.where(active, values, INACTIVE) for values, active in points]))


class Surrogate:
    """Independent Gaussian processes of k objectives, with the hyperparameters of largest posterior density.

    The last ``telling`` coordinates are expected to explain more than the rest: their length scales do not widen.
    """

    def __init__(
        self,
        X: Tensor,  # (n, D)
        Y: Tensor,  # (n, k)
        telling: int = 0,
    ) -> None:
        self._mean = Y.mean(dim=0)
        # A column that never varies is predicted as it is.
        deviation = Y.std(dim=0) if len(Y) > 1 else torch.zeros_like(self._mean)
        self._deviation = torch.where(deviation > 1e-9, deviation, torch.ones_like(deviation))
        self._model = _Processes(self._repeated(X), self._targets(Y), arc_kernel(X.shape[1], Y.shape[1], telling))
        _fit(self._model)

    def condition(
        self,
        X: Tensor,  # (n, D)
        Y: Tensor,  # (n, k)
    ) -> None:
        """Replace the data and keep the hyperparameters: cheap, and enough between two fits."""
        self._model.set_train_data(self._repeated(X), self._targets(Y), strict=False)

    def posterior(
        self,
        X: Tensor,  # (m, D)
    ) -> tuple[Tensor, Tensor]:  # (k, m), (k, m, m)
        """Return the joint mean and covariance at X of each noise-free objective."""
        with torch.no_grad(), _exact():
            joint: MultivariateNormal = self._model(self._repeated(X))
            scale = self._deviation[:, None]
            return self._mean[:, None] + scale * joint.mean, scale[:, None] ** 2 * joint.covariance_matrix

    def draw(
        self,
        X: Tensor,  # (m, D)
        generator: torch.Generator,
        draws: int = 1,
    ) -> Tensor:  # (draws, m, k)
        """Draw functions from the posterior, one per objective each time, and return their values at X: Thompson samples."""
        mean, covariance = self.posterior(X)
        normal = torch.randn((*mean.shape, draws), generator=generator, dtype=torch.float64)
        # In units of the standardised outcome; candidates that are nearly alike make the matrix singular up to rounding.
        standardised = covariance / self._deviation[:, None, None] ** 2 + JITTER * torch.eye(len(X), dtype=torch.float64)
        factor = psd_safe_cholesky(standardised)
        drawn: Tensor = mean[..., None] + self._deviation[:, None, None] * (factor @ normal)
        return drawn.permute(2, 1, 0)

    def _repeated(self, X: Tensor) -> Tensor:
        """Give every objective its copy of the inputs: the k processes are one batch."""
        return X.expand(len(self._mean), *X.shape)

    def _targets(self, Y: Tensor) -> Tensor:
        """Standardise the objectives, one row each."""
        return ((Y - self._mean) / self._deviation).T.contiguous()


def arc_kernel(dimensions: int, k: int, telling: int = 0) -> ScaleKernel:
    """Return k scaled Matérn-5/2 kernels on the arc embedding of ``dimensions`` coordinates, with their priors.

    The densities are those of the logarithms: a prior on ω itself has its mode near 0, where everything is noise.
    """
    batch = torch.Size([k])
    location = torch.full((dimensions,), 0.5 * math.log(dimensions))  # of the log length scale
    location[dimensions - telling :] = 0.0
    arc = ArcKernel(MaternKernel(nu=2.5, batch_shape=batch), delta_func=_active, ard_num_dims=dimensions, batch_shape=batch)
    arc.register_constraint("raw_radius", _by_logarithm())
    prior = NormalPrior(location, torch.ones_like(location))
    arc.register_prior("length_scale_prior", prior, lambda module: -module.radius.log())
    arc.radius = (-location).exp().expand(k, 1, dimensions)
    arc.angle = 0.5
    arc.lengthscale = 1.0
    arc.raw_angle.requires_grad_(False)
    arc.raw_lengthscale.requires_grad_(False)  # it would only repeat ω
    scaled = ScaleKernel(arc, batch_shape=batch)
    scaled.register_constraint("raw_outputscale", _by_logarithm())
    scaled.register_prior("variance_prior", NormalPrior(math.log(VARIANCE), 1.0), lambda module: module.outputscale.log())
    scaled.outputscale = VARIANCE
    return scaled.double()


def _by_logarithm() -> GreaterThan:
    """Optimise a positive hyperparameter by its logarithm."""
    return GreaterThan(1e-5, transform=torch.exp, inv_transform=torch.log)


def _active(X: Tensor) -> Tensor:
    return (X != INACTIVE).to(X)


def _exact() -> gpytorch.settings.fast_computations:
    """Solve by Cholesky factors, whatever the size: no iterative approximation."""
    return gpytorch.settings.fast_computations(False, False, False)


class _Processes(gpytorch.models.ExactGP, GPyTorchModel):  # type: ignore[misc]  # GPyTorch and BoTorch have no types
    """k processes as one batch: inputs (k, n, D), targets (k, n)."""

    def __init__(self, X: Tensor, Y: Tensor, kernel: ScaleKernel) -> None:
        batch = Y.shape[:1]
        super().__init__(X, Y, get_gaussian_likelihood_with_lognormal_prior(batch).double())
        self.mean_module = ConstantMean(batch_shape=batch).double()
        self.covar_module = kernel

    def forward(self, X: Tensor) -> MultivariateNormal:
        return MultivariateNormal(self.mean_module(X), self.covar_module(X))


def _fit(model: _Processes) -> None:
    """Move the hyperparameters to where their posterior density is largest.

    All k in one optimisation: most of a step's time is overhead that they share. And not by BoTorch's fit_gpytorch_mll, which
    starts again from draws of the global generator where the limit of steps ends it.
    """
    mll = ExactMarginalLogLikelihood(model.likelihood, model)
    mll.train()
    with _exact():
        fit_gpytorch_mll_scipy(mll, bounds=_bounds(mll), options={"maxiter": FIT_STEPS})
    mll.eval()


def _bounds(mll: ExactMarginalLogLikelihood) -> dict[str, tuple[float, float]]:
    """Return bounds of the logarithms: a long step in a line search must not end where the covariance is singular."""
    ranges = {"raw_radius": RADIUS_RANGE, "raw_outputscale": VARIANCE_RANGE}
    return {
        name: (math.log(ranges[part][0]), math.log(ranges[part][1]))
        for name, _ in mll.named_parameters()
        if (part := name.rpartition(".")[2]) in ranges
    }

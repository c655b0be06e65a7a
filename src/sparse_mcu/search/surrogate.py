"""One exact Gaussian process per objective over the encoding of Ω (METHOD section 4).

The kernel is Matérn-5/2 on the arc embedding (Swersky, Duvenaud, Snoek, Hutter and Osborne, 2013): an active coordinate
x_i in [0, 1] becomes ω_i [sin(π ρ_i x_i), cos(π ρ_i x_i)], an inactive one [0, 0], so that the value of a parameter that is
switched off cannot matter. 1/ω_i is the length scale of dimension i; its prior widens with the number of dimensions
(Hvarfner, Hellsten and Nardi, "Vanilla Bayesian optimization performs great in high dimensions", ICML 2024).

n: points; D: dimensions; k: objectives. X: (n, D) float64 with INACTIVE where a dimension is switched off; Y: (n, k).
"""

import math
from collections.abc import Sequence

import gpytorch
import numpy as np
import numpy.typing as npt
import torch
from botorch.models import SingleTaskGP
from botorch.models.utils.gpytorch_modules import get_gaussian_likelihood_with_lognormal_prior
from botorch.optim.fit import fit_gpytorch_mll_scipy
from gpytorch.kernels import ArcKernel, MaternKernel, ScaleKernel
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import GammaPrior, LogNormalPrior
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from sparse_mcu.search.pareto import Float64Array

INACTIVE = -1.0
# L-BFGS steps of a fit. The hyperparameters have priors, and the search refits as it goes: the last digits are worth little.
FIT_STEPS = 40


def inputs(
    points: Sequence[tuple[Float64Array, npt.NDArray[np.bool_]]],  # n times (values (D,), active (D,)) of space.encode
) -> Tensor:  # (n, D)
    """Stack encoded architectures; what is inactive becomes INACTIVE whatever its value says."""
    return torch.from_numpy(np.stack([np.where(active, values, INACTIVE) for values, active in points]))


class Surrogate:
    """Independent Gaussian processes of k objectives, fitted to maximum a posteriori hyperparameters."""

    def __init__(
        self,
        X: Tensor,  # (n, D)
        Y: Tensor,  # (n, k)
    ) -> None:
        self._mean = Y.mean(dim=0)
        # A column that never varies is predicted as it is.
        deviation = Y.std(dim=0) if len(Y) > 1 else torch.zeros_like(self._mean)
        self._deviation = torch.where(deviation > 1e-9, deviation, torch.ones_like(deviation))
        self._models = [_fitted(X, column) for column in self._standardised(Y).T]

    def condition(
        self,
        X: Tensor,  # (n, D)
        Y: Tensor,  # (n, k)
    ) -> None:
        """Replace the data and keep the hyperparameters: cheap, and enough between two fits."""
        for model, column in zip(self._models, self._standardised(Y).T, strict=True):
            model.set_train_data(X, column.contiguous(), strict=False)

    def posterior(
        self,
        X: Tensor,  # (m, D)
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the mean (m,) and covariance (m, m) of the noise-free objective at X, for each of the k objectives."""
        moments = []
        with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
            for model, mean, deviation in zip(self._models, self._mean, self._deviation, strict=True):
                joint = model.posterior(X).distribution
                moments.append((mean + deviation * joint.mean, deviation**2 * joint.covariance_matrix))
        return moments

    def draw(
        self,
        X: Tensor,  # (m, D)
        generator: torch.Generator,
    ) -> Tensor:  # (m, k)
        """Draw one function per objective from the posterior and return its values at X: a Thompson sample."""
        columns = []
        for mean, covariance in self.posterior(X):
            normal = torch.randn(len(X), generator=generator, dtype=torch.float64)
            columns.append(mean + psd_safe_cholesky(covariance) @ normal)
        return torch.stack(columns, dim=1)

    def _standardised(self, Y: Tensor) -> Tensor:
        return (Y - self._mean) / self._deviation


def arc_kernel(dimensions: int) -> ScaleKernel:
    """Return the scaled Matérn-5/2 kernel on the arc embedding of ``dimensions`` coordinates, with its priors."""
    # ω = 1 / length scale: the log-normal prior of the length scale with its sign changed.
    radius_prior = LogNormalPrior(-math.sqrt(2) - 0.5 * math.log(dimensions), math.sqrt(3))
    arc = ArcKernel(MaternKernel(nu=2.5), delta_func=_active, radius_prior=radius_prior, ard_num_dims=dimensions)
    arc.radius = torch.full((dimensions,), radius_prior.mean.clamp(max=1.0).item())
    arc.raw_lengthscale.requires_grad_(False)  # it would only repeat the angle ρ
    arc.lengthscale = 1.0
    return ScaleKernel(arc, outputscale_prior=GammaPrior(2.0, 0.15)).double()


def _active(X: Tensor) -> Tensor:
    return (X != INACTIVE).to(X)


def _fitted(
    X: Tensor,  # (n, D)
    y: Tensor,  # (n,)
) -> SingleTaskGP:
    model = SingleTaskGP(
        X,
        y.unsqueeze(-1),
        likelihood=get_gaussian_likelihood_with_lognormal_prior(),
        covar_module=arc_kernel(X.shape[-1]),
        outcome_transform=None,
    )
    mll = ExactMarginalLogLikelihood(model.likelihood, model)
    with gpytorch.settings.fast_computations(False, False, False):
        # The plain fit: BoTorch's fit_gpytorch_mll restarts from draws of the global generator where a step limit ends it.
        fit_gpytorch_mll_scipy(mll, options={"maxiter": FIT_STEPS})
    model.eval()
    return model

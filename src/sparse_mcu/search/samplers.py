"""Other optimisers for the same search: Optuna's, over the same Ω and evaluation.

That a trial broke the budget they learn from its constraints, which the ledger keeps; what cannot fit they are refused.
"""

import numpy as np
import optuna
from optuna.samplers import BaseSampler


def other_sampler(name: str, seed: int, begun: int) -> BaseSampler:
    """Return Optuna's sampler ``name``, one of options.SAMPLERS but our own, for a study that has ``begun`` trials.

    They keep their random state to themselves: one that goes on with a study is seeded anew, not to repeat what it proposed.
    """
    state = int(np.random.SeedSequence((seed, begun)).generate_state(1)[0])
    if name == "random":
        return optuna.samplers.RandomSampler(seed=state)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=state)
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=state)
    assert name == "gp", name
    return optuna.samplers.GPSampler(seed=state, warn_independent_sampling=False)

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.search.objectives import MINIMISED
from sparse_mcu.search.rungs import COST_MARGIN, ERROR_MARGIN, RELATIVE_ERROR_MARGIN, SHARES, Rungs


def measured(error: float, flash: float, ram: float) -> dict[str, float]:
    return {"error": error, "flash_bytes": flash, "ram_bytes": ram, "macs": 1.0}


RIVAL = measured(0.10, 4000.0, 500.0)
RUNGS = Rungs.of(MINIMISED, [[RIVAL, measured(0.08, 3500.0, 500.0)], [measured(0.30, 6000.0, 600.0)]])


def test_hopeless_is_what_a_rival_beats_in_everything_by_the_margin() -> None:
    assert RUNGS.hopeless(0, measured(0.30, 5000.0, 600.0))
    assert not RUNGS.hopeless(0, measured(0.15, 5000.0, 600.0))  # worse, but not by enough
    assert not RUNGS.hopeless(0, measured(0.30, 3900.0, 600.0))  # smaller in flash
    assert not RUNGS.hopeless(0, measured(0.30, 5000.0, 510.0))  # larger in RAM, but not by enough


def test_rungs_are_compared_each_with_itself() -> None:
    late = measured(0.22, 3950.0, 600.0)
    assert not RUNGS.hopeless(0, late) and RUNGS.hopeless(1, late)


def test_nobody_is_hopeless_before_others_have_finished() -> None:
    empty = Rungs.of(MINIMISED, [])
    assert not any(empty.hopeless(rung, measured(0.9, 9e9, 9e9)) for rung in range(len(SHARES)))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12))
def test_the_rivals_that_are_kept_decide_as_all_would(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.uniform(size=(n, 3)) * [0.5, 8000.0, 1000.0]
    candidate = measured(*(rng.uniform(size=3) * [0.9, 9000.0, 1000.0]))
    error, flash, ram = candidate["error"], candidate["flash_bytes"], candidate["ram_bytes"]
    expected = any(
        row[0] <= error - RELATIVE_ERROR_MARGIN * error - ERROR_MARGIN
        and row[1] <= flash - COST_MARGIN * flash
        and row[2] <= ram - COST_MARGIN * ram
        for row in rows
    )
    assert Rungs.of(MINIMISED, [[measured(*row)] for row in rows.tolist()]).hopeless(0, candidate) == expected

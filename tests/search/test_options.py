from typing import Any

import pytest

from sparse_mcu.deploy.boards import board
from sparse_mcu.errors import UserError
from sparse_mcu.search.objectives import Budget
from sparse_mcu.search.options import SearchOptions


def options(**changes: Any) -> SearchOptions:
    return SearchOptions(**{"board": board("arduino-uno"), "budget": Budget(1024, 8192), "trials": 3} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": 10.0}, "seconds=10.0 and trials=3"),
        ({"trials": None}, "seconds=None and trials=None"),
        ({"trials": 0}, "trials must be above 0, but is 0"),
        ({"trials": None, "seconds": -1.0}, "seconds must be above 0, but is -1.0"),
        ({"workers": 0}, "workers must be above 0, but is 0"),
        ({"seed": -1}, "seed must be at least 0, but is -1"),
        ({"device": "gpu"}, "no device is called 'gpu'; .*cpu"),
        ({"sampler": "nsga"}, "no sampler is called 'nsga'; .*nsga2"),
        ({"objectives": ("accuracy", "ramm")}, "no objective is called 'ramm'; .*ram"),
        ({"objectives": ("flash", "ram")}, "objectives are accuracy and others, .* but are 'flash,ram'"),
        ({"objectives": ("accuracy", "ram", "ram")}, "each named once, but are 'accuracy,ram,ram'"),
    ],
)
def test_options_that_make_no_sense_are_named(changes: dict[str, Any], message: str) -> None:
    options()
    with pytest.raises(UserError, match=message):
        options(**changes)

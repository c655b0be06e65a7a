import pytest

from sparse_mcu.search.objectives import LIMITED, OBJECTIVES, UNITS, Budget, Goal


@pytest.mark.parametrize(("ram", "flash", "kept"), [(1024, 8192, True), (1025, 8192, False), (1024, 8193, False), (1, 1, True)])
def test_a_budget_is_kept_up_to_its_last_byte(ram: int, flash: int, kept: bool) -> None:
    assert Budget(ram_bytes=1024, flash_bytes=8192).keeps({"ram_bytes": ram, "flash_bytes": flash}) is kept


def test_a_limit_of_cycles_counts_only_where_there_is_one() -> None:
    measured = {"ram_bytes": 1024, "flash_bytes": 8192, "cycles": 501}
    assert Budget(1024, 8192).keeps(measured) and Budget(1024, 8192, 501).keeps(measured)
    assert not Budget(1024, 8192, 500).keeps(measured)


@pytest.mark.parametrize("name", LIMITED)
def test_what_else_is_limited_must_be_kept_by_every_reading(name: str) -> None:
    limited = Budget(1024, 8192, **{name: 100})
    kept = {"ram_bytes": 1024, "flash_bytes": 8192} | dict.fromkeys(LIMITED[name], 100)
    assert limited.keeps(kept) and f"{name.replace('_', ' ')} 100" in str(limited)
    for unit in LIMITED[name]:
        assert not limited.keeps(kept | {unit: 101})


def test_what_can_be_minimised_or_limited_is_measured() -> None:
    assert set(OBJECTIVES.values()) <= set(UNITS)
    assert {unit for units in LIMITED.values() for unit in units} <= set(UNITS)


def test_the_columns_of_a_goal_are_its_objectives_and_what_else_is_limited() -> None:
    goal = Goal.of(("accuracy", "model_size", "cycles"), Budget(1024, 8192, cycles=10**6))
    assert goal.minimised == ("error", "model_size", "cycles")
    assert goal.columns == ("error", "model_size", "cycles", "flash_bytes", "ram_bytes")

import pytest

from sparse_mcu.search.objectives import MINIMISED, UNITS, Budget


@pytest.mark.parametrize(("ram", "flash", "kept"), [(1024, 8192, True), (1025, 8192, False), (1024, 8193, False), (1, 1, True)])
def test_a_budget_is_kept_up_to_its_last_byte(ram: int, flash: int, kept: bool) -> None:
    assert Budget(ram_bytes=1024, flash_bytes=8192).keeps({"ram_bytes": ram, "flash_bytes": flash}) is kept


def test_what_is_minimised_is_measured() -> None:
    assert set(MINIMISED) <= set(UNITS)

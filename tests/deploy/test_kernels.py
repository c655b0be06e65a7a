import re
import subprocess
from pathlib import Path

import pytest

from sparse_mcu.deploy.kernels import KERNELS, needed, sections

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-Wno-unused-function")  # nothing in it is called


def test_sections_are_the_file_without_its_head_and_their_opening_lines() -> None:
    text = KERNELS.read_text()
    body = re.sub(r"/\* kernel .*\*/\n", "", text[text.index("/* kernel prelude */") :])
    joined = "".join(section.text for section in sections().values())
    assert "".join(joined.split()) == "".join(body.split())


def test_each_section_uses_sections_that_come_before_it() -> None:
    names = list(sections())
    for position, section in enumerate(sections().values()):
        assert set(section.uses) <= set(names[:position])


def test_what_is_needed_comes_in_the_order_of_the_file() -> None:
    assert needed(["max_pool"]) == ("pool", "max_pool")
    assert needed(["sums_gaps", "sums_pairs"]) == ("scaled", "requantise", "keep", "convolve", "kept", "sums_pairs", "sums_gaps")
    assert needed([]) == ()


@pytest.mark.parametrize("sum_bytes", [3, 4])
@pytest.mark.parametrize("padded", [0, 1])
@pytest.mark.parametrize("paired", [0, 1])
def test_all_kernels_together_are_c99_without_a_warning(sum_bytes: int, padded: int, paired: int, tmp_path: Path) -> None:
    options = ("-std=c99", "-O2", f"-DSUM_BYTES={sum_bytes}", f"-DPADDED={padded}", f"-DPAIRED={paired}", *WARNINGS)
    subprocess.run(["cc", *options, "-c", KERNELS, "-o", tmp_path / "kernels.o"], check=True)


@pytest.mark.parametrize("name", [name for name in sections() if name not in ("prelude", "standalone")])
def test_a_section_and_what_it_needs_compile_alone(name: str, tmp_path: Path) -> None:
    source = tmp_path / "kernel.c"
    source.write_text("\n\n".join(sections()[section].text for section in ("prelude", "standalone", *needed([name]))) + "\n")
    subprocess.run(["cc", "-std=c99", *WARNINGS, "-c", source, "-o", tmp_path / "kernel.o"], check=True)

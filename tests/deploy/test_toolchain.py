import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.boards import board
from sparse_mcu.errors import ToolchainError

SCRIPT = Path(__file__).parents[2] / "tools" / "toolchain.sh"
UNO = board("arduino-uno")


def test_everything_is_there_where_these_tests_run() -> None:
    assert toolchain.obstacle(UNO) is None


def test_a_missing_compiler_is_one_line_with_packages_and_what_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    line = toolchain.obstacle(UNO)
    assert line == (
        "simulating arduino-uno needs avr-gcc, avr-nm, avr-size, cc, which are not installed; on Debian: "
        "apt-get install gcc-avr binutils-avr gcc libc6-dev; without it the C can be checked on this machine only"
    )
    with pytest.raises(ToolchainError, match="needs cc, which is not installed"):
        toolchain.require(toolchain.HOST, "running C on this machine", "networks run in NumPy only")


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("microbit", "gcc-arm-none-eabi binutils-arm-none-eabi qemu-system-arm"),
        ("ch32v003", "gcc-riscv64-unknown-elf binutils-riscv64-unknown-elf qemu-system-misc"),
    ],
)
def test_every_core_names_its_own_packages(name: str, packages: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert toolchain.obstacle(board(name)) is None
    monkeypatch.setenv("PATH", "")
    line = toolchain.obstacle(board(name))
    assert line is not None and f"apt-get install {packages};" in line and "\n" not in line


def test_a_missing_header_names_its_package() -> None:
    line = toolchain.lack(
        [toolchain.Part("simavr/none.h", "libnone-dev")], "simulating", "the C can be checked on this machine only"
    )
    assert line is not None and "needs simavr/none.h" in line and "apt-get install libnone-dev" in line


def test_headers_are_found_beside_a_compiler_of_another_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "avr-gcc").touch(mode=0o755)
    header = tmp_path / "avr" / "include" / "avr" / "only_here.h"
    header.parent.mkdir(parents=True)
    header.touch()
    assert toolchain.find_header("avr/only_here.h") is None
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert toolchain.find_header("avr/only_here.h") == header


def test_a_board_without_a_simulator_says_so() -> None:
    assert toolchain.obstacle(dataclasses.replace(board("bluepill"), simulator=None)) == (
        "no simulator is known for Arm Cortex-M3; its C can be checked on this machine only"
    )


def test_a_failing_compiler_gives_its_first_error_line(tmp_path: Path) -> None:
    source = tmp_path / "broken.c"
    source.write_text("int main(void) { return first_fault + second_fault; }")
    with pytest.raises(ToolchainError) as caught:
        toolchain.run(["cc", "-c", source, "-o", tmp_path / "broken.o"])
    message = str(caught.value)
    assert message.startswith("cc failed with status 1: ") and "first_fault" in message
    assert "second_fault" not in message and "\n" not in message


def test_a_failing_linker_gives_the_missing_symbol(tmp_path: Path) -> None:
    source = tmp_path / "broken.c"
    source.write_text("int absent(void); int main(void) { return absent(); }")
    with pytest.raises(ToolchainError, match="undefined reference to `absent'"):
        toolchain.run(["cc", source, "-o", tmp_path / "broken"])


def test_a_tool_that_hangs_is_stopped() -> None:
    with pytest.raises(ToolchainError, match=r"must end within 0\.2 s, but was still running"):
        toolchain.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.2)


def test_a_tool_that_is_not_there_or_fails_silently() -> None:
    with pytest.raises(ToolchainError, match="no-such-tool cannot be run: No such file"):
        toolchain.run(["no-such-tool"])
    with pytest.raises(ToolchainError, match="status 7: it gave no reason"):
        toolchain.run([sys.executable, "-c", "raise SystemExit(7)"])


def test_a_workspace_leaves_nothing_behind() -> None:
    with toolchain.workspace() as folder:
        (folder / "model.c").write_text("")
    assert not folder.exists()


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = r"temporary folder, which cannot be written \(No space left on device\); set TMPDIR"
    with pytest.raises(ToolchainError, match=line), toolchain.workspace():
        Path("/dev/full").write_text("no room")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(ToolchainError, match="cannot be written"), toolchain.workspace():
        pass


def test_other_faults_pass_through_a_workspace() -> None:
    with pytest.raises(FileNotFoundError), toolchain.workspace() as folder:
        (folder / "absent.c").read_text()


def test_versions_are_one_line() -> None:
    assert toolchain.version("avr-gcc").startswith("avr-gcc (GCC) ")


# tools/toolchain.sh


AVR_PACKAGES = "gcc libc6-dev gcc-avr binutils-avr avr-libc libsimavr-dev"
ALL_PACKAGES = (
    f"{AVR_PACKAGES} gcc-arm-none-eabi binutils-arm-none-eabi gcc-riscv64-unknown-elf binutils-riscv64-unknown-elf "
    "qemu-system-arm qemu-system-misc"
)


def run_script(*arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", SCRIPT, *arguments], env={"PATH": path}, capture_output=True, text=True)


def stub(folder: Path, name: str, text: str) -> None:
    script = folder / name
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)


@pytest.fixture
def bare_machine(tmp_path: Path) -> Path:
    """A PATH with nothing of a tool chain; ``apt-get`` notes how it is called and fails until ``update`` was run."""
    for name in ("tr", "mktemp", "tail", "rm", "env", "cat"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    calls = tmp_path / "calls"
    stub(
        tmp_path,
        "apt-get",
        f'echo "$@" >>{calls}; case $1 in update) true >{tmp_path}/updated;; *) [ -e {tmp_path}/updated ];; esac',
    )
    return tmp_path


def test_the_script_says_in_one_line_that_all_is_there() -> None:
    done = run_script(path=os.environ["PATH"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "toolchain: the compilers and simulators are installed\n", "")


def test_the_script_tells_a_user_without_rights_what_to_run(bare_machine: Path) -> None:
    stub(bare_machine, "id", "echo 1000")
    done = run_script(path=str(bare_machine))
    assert done.returncode == 0
    assert f"run: sudo apt-get install {ALL_PACKAGES}\n" in done.stderr
    assert not (bare_machine / "calls").exists()


def test_the_script_updates_package_lists_only_when_installing_fails(bare_machine: Path) -> None:
    stub(bare_machine, "id", "echo 0")
    install = f"install -y -q --no-install-recommends {ALL_PACKAGES}"
    assert run_script(path=str(bare_machine)).returncode == 0
    assert (bare_machine / "calls").read_text().splitlines() == [install, "update -q", install]
    (bare_machine / "calls").unlink()
    done = run_script(path=str(bare_machine))
    assert (bare_machine / "calls").read_text().splitlines() == [install]
    assert done.stdout.endswith("toolchain: installed\n")


def test_the_script_can_leave_it_at_avr_boards(bare_machine: Path) -> None:
    stub(bare_machine, "id", "echo 1000")
    assert f"run: sudo apt-get install {AVR_PACKAGES}\n" in run_script("avr", path=str(bare_machine)).stderr


def test_the_script_does_not_stop_a_set_up_that_cannot_install(bare_machine: Path) -> None:
    stub(bare_machine, "id", "echo 0")
    stub(bare_machine, "apt-get", "echo no network >&2; exit 100")
    done = run_script(path=str(bare_machine))
    assert done.returncode == 0
    assert "no network" in done.stderr and "run: apt-get install gcc libc6-dev" in done.stderr

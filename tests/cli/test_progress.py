import dataclasses

import pytest

from sparse_mcu.cli.progress import PLAIN_SECONDS, PlainLines, summary
from sparse_mcu.search.options import Progress

PROGRESS = Progress(
    stage="explore",
    share=0.25,
    done=9,
    failed=0,
    refused=0,
    stopped=0,
    seconds_left=125.0,
    hypervolume=0.51234,
    best_accuracy=0.98053,
)


def test_a_summary_says_what_a_user_waits_for() -> None:
    assert summary(PROGRESS) == "explore: 9 trials, 2m05s left, best 98.05%, hypervolume 0.5123"
    early = dataclasses.replace(PROGRESS, seconds_left=None, done=0, failed=2, best_accuracy=None, hypervolume=0.0)
    assert summary(early) == "explore: 0 trials, 2 failed, none within the budget yet"
    busy = dataclasses.replace(PROGRESS, failed=1, stopped=3, refused=12, seconds_left=None)
    counts = "1 failed, 3 stopped early, 12 refused"
    assert summary(busy) == f"explore: 9 trials, {counts}, best 98.05%, hypervolume 0.5123"
    alone = dataclasses.replace(PROGRESS, taught=False, best_accuracy=None)
    assert summary(alone) == "explore: 9 trials, without a teacher, 2m05s left, none within the budget yet"


def test_plain_lines_come_at_a_new_stage_and_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    lines = PlainLines(lambda: now)
    printed = []
    for second, stage in enumerate(["explore"] * 15 + ["morph"] * 3):
        now = 100.0 + second
        lines(dataclasses.replace(PROGRESS, stage=stage))
        printed.append(capsys.readouterr().err.count("\n"))
    assert PLAIN_SECONDS == 10.0
    assert [second for second, count in enumerate(printed) if count] == [0, 10, 15]

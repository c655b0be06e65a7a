"""``sparse-mcu data``: the named data sets, and a look at one's own."""

from sparse_mcu.cli.output import print_json, print_lines, print_table
from sparse_mcu.data import BUILT_IN, Report, check
from sparse_mcu.errors import DataError


def show_built_in(as_json: bool) -> None:
    """Print the data sets that need no file."""
    if as_json:
        print_json(BUILT_IN)
    else:
        print_table(("name", "what it holds"), BUILT_IN.items())


def show_check(source: str, as_json: bool) -> None:
    """Print what ``source`` holds; raise DataError if it cannot be used."""
    report = check(source)
    if as_json:
        print_json(report.to_json())
    else:
        _print(report)
    if report.problems:
        raise DataError(f"{source} cannot be used; problems: {len(report.problems)}; the first: {report.problems[0]}")


def _print(report: Report) -> None:
    facts = report.facts
    if facts:
        channels, height, width = facts["input_shape"]
        print_lines(
            [
                facts["source"],
                f"an image: {height} x {width} pixels, {channels} channel{'s' * (channels > 1)}, {facts['input_bytes']} bytes",
                "",
            ]
        )
        counts = facts["images_per_class"]
        rows = [(name, *map(str, row)) for name, *row in zip(facts["class_names"], *counts.values(), strict=True)]
        total = ("all", *(str(facts["images"][split]) for split in counts))
        print_table(("class", *(f">{split}" for split in counts)), [*rows, total], marked=len(rows))
    print_lines(f"warning: {warning}" for warning in report.warnings)
    print_lines(f"problem: {problem}" for problem in report.problems)
    if not report.problems:
        print_lines(["nothing is wrong" if not report.warnings else "can be used"])

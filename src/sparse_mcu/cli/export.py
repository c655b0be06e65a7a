"""``sparse-mcu export``: a network as source code."""

from pathlib import Path

from sparse_mcu.cli.output import print_json, print_lines
from sparse_mcu.deploy.target import Optimise
from sparse_mcu.run import Run


def export(path: Path, name: str, format: str, out: Path | None, optimise: Optimise, reentrant: bool, as_json: bool) -> None:
    """Write model ``name`` of the run at ``path`` and print where it went."""
    model = Run.load(path).model(name)
    files = model.export(out, format, optimise, reentrant)
    if as_json:
        settings = {"model": model.number, "format": format, "optimise": optimise, "reentrant": reentrant}
        print_json({**settings, "files": [str(file) for file in files]})
    else:
        print_lines(f"wrote {file}" for file in files)

"""Does one update: `python __main__.py FOLDER`, in the train environment.

It is started by its path. The train environment has none of our packages, and the folder that they
lie in may hold others that it must not see: so just the two packages that it needs are lent to it.
"""

import importlib.util
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]


def _lend(name: str) -> None:
    """Make a package of ours importable, by where it lies."""
    folder = _ROOT / name
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        sys.exit(f"{folder} is no package: install the whole distribution again")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def main(argv: list[str]) -> None:
    """Read the order in the folder and leave an outcome there."""
    if len(argv) != 1:
        sys.exit("usage: __main__.py FOLDER")
    for name in ("mia_events", "consumers"):
        _lend(name)
    from consumers.train.engine.run import run  # noqa: PLC0415 - not importable before

    run(Path(argv[0]))


if __name__ == "__main__":
    main(sys.argv[1:])

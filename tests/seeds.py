"""A pytest plugin: one number from which a run draws all that it draws.

It is XREC_TEST_SEED. `make test` leaves it at 0, so each push runs the same cases. `make test-all`
takes the day's date. The first lines of a run show it; set it to get the same cases again.
"""

import os

import hypothesis
import pytest

SEED = int(os.environ.get("XREC_TEST_SEED") or 0)

hypothesis.settings.register_profile(
    "xrec",
    deadline=None,
    database=None,
    derandomize=SEED == 0,
    max_examples=25 if SEED == 0 else 200,
    print_blob=True,
)
hypothesis.settings.load_profile("xrec")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Have Hypothesis draw from the seed too."""
    if SEED and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = SEED


def pytest_report_header() -> str:
    return f"XREC_TEST_SEED={SEED}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SEED and terminalreporter.stats.get("failed"):
        terminalreporter.line(f"XREC_TEST_SEED={SEED} draws the same cases again")


@pytest.fixture(scope="session")
def drawn_seed():
    """The seed of what a test draws: 0 on each push, another one every night."""
    return SEED

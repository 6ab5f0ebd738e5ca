"""One module per job, plus commands on a whole project: `pipeline`, `status`, `explain`, `audit`.

The docstring of `xrec.jobs.NAME` is the help of its command.

`xrec.jobs.NAME.run(config)` runs a job: config in, one library call, manifest out. If the artifact
already exists with these settings and inputs, it returns its manifest and starts no Ray cluster.
`xrec.jobs.NAME.output(config)` describes the artifact without doing any work. `serve` makes no
artifact: it runs until it is interrupted.
"""

import ast
import importlib
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:  # `xrec --help` must not wait for pydantic and pyarrow
    from xrec.jobs.output import Output
    from xrec.storage import Kind, Manifest

ARTIFACT_OF: "Mapping[str, Kind]" = {
    "build-sample-llm": "llm",
    "annotate": "annotations",
    "prepare": "dataset",
    "pretrain-graph": "graph",
    "neighbors": "neighbors",
    "train-adapter": "adapter",
    "recommend": "recommendations",
    "backfill": "explanations",
    "evaluate": "evaluation",
    "compare": "comparison",
}
"""The jobs, in pipeline order, and the artifact that each makes."""

PIPELINE = tuple(name for name in ARTIFACT_OF if name != "compare")
"""The jobs that `xrec run` works through."""


class Job(Protocol):
    """The module of a job; `config` is an instance of its class in `xrec.config.CONFIG_TYPES`."""

    def output(self, config: Any, *, exact: bool = True) -> "Output":
        """Describe the artifact; without `exact`, avoid downloads and long reads."""

    def run(self, config: Any) -> "Manifest | None":
        """Make the artifact unless it exists; return None if the config's limit ended the run."""


def job_named(name: str) -> Job:
    """Import and return the module of a job."""
    return cast(Job, importlib.import_module(f"xrec.jobs.{name.replace('-', '_')}"))


def help_of(name: str) -> str:
    """Return the docstring of a job's module without importing the module, which takes seconds."""
    source = resources.files(__name__).joinpath(f"{name.replace('-', '_')}.py").read_text("utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def run_job(name: str, config: Any) -> "Manifest | None":
    """Run a job, if what it reads can be read (`check_readable`)."""
    check_readable(config)
    from xrec.storage import at_work, open_location

    with at_work(open_location(config.workspace, config.storage)):
        return job_named(name).run(config)


def check_readable(config: Any) -> None:
    """Raise StorageError or DataError unless the job's buckets and unsafe words are readable."""
    from xrec.storage import check_artifacts

    check_artifacts(config)
    if (decoding := getattr(config, "decoding", None)) is not None:
        from xrec.checks import check_word_list

        check_word_list(decoding.text.checks, config.storage)

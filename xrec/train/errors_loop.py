"""What stopped a training run, out of Ray Train's wrappers: the worker's own error if it is xrec's, else a TrainingError."""

from ray.train import TrainingFailedError, WorkerGroupError
from ray.train.v2.api.exceptions import ControllerError

from xrec.errors import TrainingError, XRecError


def own_cause(error: BaseException) -> BaseException:
    """The exception of our own code inside Ray Train's wrappers."""
    for name in ("_base_exc", "controller_failure"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            return own_cause(inner)
    return error


def as_xrec_error(error: TrainingFailedError) -> XRecError:
    """What to raise instead of `error`: the first worker's XRecError if there is one, else a TrainingError that names the cause."""
    failures = dict(error.worker_failures) if isinstance(error, WorkerGroupError) else {}
    if isinstance(error, ControllerError):
        cause = own_cause(error)
        return (
            cause
            if isinstance(cause, XRecError)
            else TrainingError(f"training stopped: {_short(cause)}")
        )
    causes = {rank: own_cause(failure) for rank, failure in sorted(failures.items())}
    for cause in causes.values():
        if isinstance(cause, XRecError):
            return cause
    rank, cause = next(iter(causes.items()), (0, error))
    return TrainingError(
        f"worker {rank} of the training failed, and retries (scaling.max_failures) did not help: {_short(cause)}"
    )


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:500]}"

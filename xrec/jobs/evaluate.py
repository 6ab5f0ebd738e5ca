"""Score explanations against references.

Explains held-out pairs, and the same pairs with shuffled vectors, and scores the texts.

In:   <workspace>/dataset, graph and adapter, llm.model
Out:  <workspace>/evaluation: metrics as JSON and Parquet, report.html

Examples:
  xrec evaluate configs/yelp.yaml
  xrec evaluate configs/yelp.yaml max_pairs=500 encoder=null
"""

from collections.abc import Mapping

from xrec.config import EvaluateConfig, identity_of
from xrec.jobs.output import Output
from xrec.storage import Kind, Manifest, location_of, manifest_of

_ARTIFACTS: tuple[Kind, ...] = ("dataset", "graph", "adapter")


def output(config: EvaluateConfig, *, exact: bool = True) -> Output:
    """Return the job's output."""
    return _output(config, _manifests(config))


def run(config: EvaluateConfig) -> Manifest:
    """Explain held-out pairs in this process and score the texts, unless that is done."""
    from xrec.evaluate.run import evaluate

    manifests = _manifests(config)
    if (done := _output(config, manifests).done()) is not None:
        return done
    return evaluate(config, manifests)


def _manifests(config: EvaluateConfig) -> dict[str, Manifest]:
    return {kind: manifest_of(config, kind) for kind in _ARTIFACTS}


def _output(config: EvaluateConfig, manifests: Mapping[str, Manifest]) -> Output:
    inputs = {name: manifest.fingerprint for name, manifest in manifests.items()}
    return Output(location_of(config, "evaluation"), "evaluation", identity_of(config), inputs)

"""Score explanations against references.

Explains held-out pairs, and the same pairs with shuffled vectors, and scores the texts.

In:   <workspace>/dataset, graph and adapter, llm.model; or only dataset, and an endpoint
Out:  <workspace>/evaluation: metrics as JSON and Parquet, report.html

Examples:
  xrec evaluate configs/yelp.yaml
  xrec evaluate configs/yelp.yaml max_pairs=500 encoder=null
  xrec evaluate configs/endpoint.yaml
"""

from collections.abc import Mapping

from xrec.backfill.identity import model_of
from xrec.config import EvaluateConfig, identity_of_texts
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
    return evaluate(config, manifests, _inputs(config, manifests))


def _manifests(config: EvaluateConfig) -> dict[str, Manifest]:
    kinds = _ARTIFACTS if config.writer == "adapter" else _ARTIFACTS[:1]
    return {kind: manifest_of(config, kind) for kind in kinds}


def _inputs(config: EvaluateConfig, manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Return the fingerprints of the artifacts, and of a model that writes without an adapter."""
    own = {} if config.writer == "adapter" else model_of(config)
    return {name: manifest.fingerprint for name, manifest in manifests.items()} | own


def _output(config: EvaluateConfig, manifests: Mapping[str, Manifest]) -> Output:
    inputs, location = _inputs(config, manifests), location_of(config, "evaluation")
    return Output(location, "evaluation", identity_of_texts(config), inputs)

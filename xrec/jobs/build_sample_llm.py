"""Job `build-sample-llm`: a small language model of the sample's language is trained."""

from xrec.config import BuildSampleLLMConfig, identity_of
from xrec.jobs.output import Output
from xrec.storage import Manifest, check_artifacts, location_of


def output(config: BuildSampleLLMConfig, *, exact: bool = True) -> Output:
    return Output(location_of(config, "llm"), "llm", identity_of(config), {})


def run(config: BuildSampleLLMConfig) -> Manifest:
    """Train in this process, unless it is done; returns the manifest."""
    from xrec.sample.language_model import build_sample_llm

    check_artifacts(config, "llm")
    return output(config).done() or build_sample_llm(config)

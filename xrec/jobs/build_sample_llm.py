"""Train the demo's toy language model.

Takes a few minutes on CPUs, and spares the sample a download.

In:   nothing
Out:  <workspace>/llm in the Hugging Face layout; use it as llm.model: workspace:llm

Examples:
  xrec build-sample-llm configs/sample.yaml
  xrec build-sample-llm configs/sample.yaml num_steps=400
"""

from xrec.config import BuildSampleLLMConfig, identity_of
from xrec.jobs.output import Output
from xrec.storage import Manifest, location_of


def output(config: BuildSampleLLMConfig, *, exact: bool = True) -> Output:
    """Return the job's output."""
    return Output(location_of(config, "llm"), "llm", identity_of(config), {})


def run(config: BuildSampleLLMConfig) -> Manifest:
    """Train in this process, unless the model exists."""
    from xrec.sample.language_model import build_sample_llm

    return output(config).done() or build_sample_llm(config)

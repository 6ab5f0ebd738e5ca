"""Job `build-sample-llm`: a small language model of the sample's language is trained."""

from xrec.config.data import BuildSampleLLMConfig
from xrec.sample.language_model_artifact import build_sample_llm
from xrec.storage import Manifest


def run(config: BuildSampleLLMConfig) -> Manifest:
    """Train the model in this process and write it."""
    return build_sample_llm(config)


if __name__ == "__main__":
    from xrec.cli.main import run_job

    run_job("build-sample-llm")

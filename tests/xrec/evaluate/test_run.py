"""Evaluations of texts that an endpoint wrote, for which there are no vectors and likelihoods."""

import logging

from tests.world.endpoint import Answer, stub_endpoint
from tests.world.workspace import build_workspace
from xrec.config import EvaluateConfig, parse_config
from xrec.evaluate.evaluation import REPORT
from xrec.evaluate.metrics import OF_VECTORS
from xrec.jobs.evaluate import run


def test_endpoint_is_evaluated_without_what_needs_vectors_which_is_named(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    build_workspace(tmp_path)
    with stub_endpoint(lambda asked: Answer(text="Come to [title].")) as stub:
        engine = {"kind": "endpoint", "base_url": stub.url, "model": "m", "api_key_variable": None}
        values = {"workspace": str(tmp_path), "engine": engine, "encoder": None, "max_pairs": 4}
        config = parse_config(EvaluateConfig, values)
        manifest = run(config)
        num_asked = len(stub.asked)
        assert run(config).fingerprint == manifest.fingerprint  # it is up to date
    assert num_asked == len(stub.asked) == 4
    assert manifest.metrics["names_item"] == 1.0
    assert manifest.inputs.keys() == {"dataset", "endpoint"}
    assert not {metric.name for metric in OF_VECTORS} & manifest.metrics.keys()
    page = (tmp_path / "evaluation" / REPORT).read_text()
    for metric in OF_VECTORS:
        assert metric.label in caplog.text
        assert metric.label.split(",")[0] in page

"""The server that one would write first: Ray Serve around `generate`, one request at a time.

`python -m benchmarks.serve_plain CONFIG` runs until it is terminated; CONFIG is a project file.
Model, adapter, prompts, dtype, threads, greedy decoding, longest text and rules of texts are those
of `xrec serve`. A request holds one pair, and the answer has the same form.
"""

import os
import signal
import sys
import threading
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve
from transformers import GenerationConfig

from benchmarks.generate import unpack_linears
from xrec.adapter.pairs import Pair
from xrec.cluster import ensure_ray
from xrec.config import ServeConfig, load_config
from xrec.generate.engine import Completion
from xrec.llm.model import stop_token_ids
from xrec.text.writers import load_explainer

api = FastAPI()


@serve.deployment(max_ongoing_requests=1, ray_actor_options={"num_cpus": 1})
@serve.ingress(api)
class Plain:
    """The replica, which answers one request at a time."""

    def __init__(self, config: ServeConfig):
        torch.set_num_threads(config.models.cpus)
        self._explainer = load_explainer(config, "cpu")
        self._decoding = config.decoding
        model = self._explainer.model
        assert model is not None
        unpack_linears(model)  # as `generate` finds a model
        self._model = model
        self._stop = stop_token_ids(model, self._explainer.pairs.builder.tokenizer)
        self._generation = GenerationConfig(
            max_new_tokens=config.decoding.max_new_tokens,
            do_sample=False,
            eos_token_id=self._stop,
            pad_token_id=self._stop[0],
        )

    @api.get("/readyz")
    def ready(self) -> str:
        """Answer that the model is loaded."""
        return "ready"

    @api.post("/v1/explanations")
    def explain(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer with the explanation of the request's first pair."""
        explainer, pair = self._explainer, request["pairs"][0]
        indices = Pair(
            explainer.dataset.user_index(pair["user_id"]),
            explainer.dataset.item_index(pair["item_id"]),
        )
        prompt = explainer.pairs.prompt(indices)
        with torch.inference_mode():
            ids = self._model.generate(torch.tensor([prompt]), generation_config=self._generation)[
                0, len(prompt) :
            ].tolist()
        ended = ids[-1] in self._stop
        completion = Completion(0, ids[:-1] if ended else ids, "stop" if ended else "length")
        text, _ = explainer.finisher.finish(
            completion, prompt, explainer.pairs.texts(indices), self._decoding
        )
        return {
            "explanations": [
                {**pair, "explanation": text, "num_generated_tokens": len(completion.token_ids)}
            ]
        }


def main() -> None:
    """Serve until SIGTERM."""
    config = load_config(ServeConfig, sys.argv[1])
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    with ensure_ray(config.ray):
        serve.start(http_options={"host": config.http.host, "port": config.http.port})
        serve.run(Plain.bind(config))  # type: ignore[attr-defined]  # Ray's decorator adds it
        done.wait()
        serve.shutdown()


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main()

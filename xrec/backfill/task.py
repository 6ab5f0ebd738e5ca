"""Explaining pairs as a task of `xrec.bulk`, with a language model or without."""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import SecretStr

from xrec.backfill.explain import explain_pairs, failed_by, say_pairs, why_again
from xrec.backfill.identity import shared_key
from xrec.bulk import Identity, Outcome
from xrec.config import BackfillConfig, DecodingConfig, TextConfig
from xrec.data import Dataset, read_dataset
from xrec.generate.engine import EngineCore, EngineReport
from xrec.generate.explainer import Explainer
from xrec.schemas import PAIRS
from xrec.storage import location_of
from xrec.text.endpoint_engine import EndpointCore
from xrec.text.writers import load_explainer, writer_key, writer_replies

# What torch, transformers and vLLM raise if a batch fails, including out of memory.
_ENGINE_ERRORS = (RuntimeError, ValueError, ArithmeticError, LookupError)


@dataclass(frozen=True)
class MakeExplainTask:
    """A factory of an actor's task, called in its process; all that an actor is given.

    config: with absolute paths, for processes in another working directory.
    shared_key: the part of the content keys that all pairs of the run share.
    run, attempt: the name of the work that pays an endpoint, and how often failed pairs have been
        retried.
    endpoint_key: the key of the endpoint that writes, if one does.
    """

    config: BackfillConfig
    shared_key: str
    load: "LoadExplainer"
    run: str = ""
    attempt: int = 0
    endpoint_key: SecretStr | None = None

    def __call__(self) -> "ExplainTask | SayTask":
        torch.set_num_threads(self.config.actors.cpus)
        if self.config.writer == "sentences":
            dataset = read_dataset(location_of(self.config, "dataset"))
            return SayTask(dataset, self.config.decoding.text, self.shared_key)
        explainer = self.load(self)
        is_endpoint = self.config.writer == "endpoint"
        core = explainer.engine.core if is_endpoint else None
        config = self.config
        return ExplainTask(explainer, config.decoding, self.shared_key, core, config.texts_per_user)


LoadExplainer = Callable[[MakeExplainTask], Explainer]


def load_task_explainer(made: MakeExplainTask) -> Explainer:
    """Load the explainer that the config asks for; raise ModelError, and what reading raises."""
    replies = writer_replies(made.config, made.run, made.attempt)
    return load_explainer(made.config, made.config.actors.device, made.endpoint_key, replies)


def explain_task(
    config: BackfillConfig,
    identity: Identity,
    load: LoadExplainer = load_task_explainer,
    attempt: int = 0,
) -> MakeExplainTask:
    """Return what the actors of a run of `config` are given.

    attempt: how often failed pairs have been retried. Raises ConfigError if the endpoint's key is
    not in the environment.
    """
    return MakeExplainTask(
        config, shared_key(identity), load, identity.run, attempt, writer_key(config)
    )


@dataclass
class ExplainTask:
    """A ChunkTask and CarryingTask of xrec.bulk.

    core: the engine's, if it is that of an endpoint.
    """

    explainer: Explainer
    decoding: DecodingConfig
    shared_key: str
    core: EngineCore | None = None
    texts_per_user: float | None = None
    row_errors: tuple[type[Exception], ...] = _ENGINE_ERRORS

    def do(self, rows: pa.Table) -> Outcome:
        """See ChunkTask; the costs are those of `costs_of`.

        Chunks that are processed at the same time share the engine. A chunk's costs then include
        some of another chunk's, but the totals are right.
        """
        generated, failed = explain_pairs(
            self.explainer, rows, self.decoding, self.shared_key, self.texts_per_user
        )
        report = self.explainer.engine.take_report()
        costs = costs_of(generated, report)
        if isinstance(core := self.core, EndpointCore):  # it charges for refused texts too
            costs["num_prompt_tokens"] = report.num_prompt_tokens
            costs["num_generated_tokens"] = report.num_decoded_tokens
            if core.replies is not None:
                core.replies.flush()
                costs["maybe_paid_twice"] = core.replies.take_maybe_paid_twice()
        return Outcome(generated, failed, costs)

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        return failed_by(self.explainer.dataset, rows, reason, message)

    def why_again(self, earlier: pa.Table) -> pa.Array:
        rules = self.decoding.text
        return why_again(self.explainer, earlier, rules, self.shared_key, self.texts_per_user)


@dataclass
class SayTask:
    """A ChunkTask and CarryingTask that writes what people did, without a language model."""

    dataset: Dataset
    rules: TextConfig
    shared_key: str
    row_errors: tuple[type[Exception], ...] = ()

    def do(self, rows: pa.Table) -> Outcome:
        """See ChunkTask."""
        generated, failed = say_pairs(self.dataset, rows, self.rules, self.shared_key)
        return Outcome(generated, failed, {"num_plain": generated.num_rows})

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        return failed_by(self.dataset, rows, reason, message)

    def why_again(self, earlier: pa.Table) -> pa.Array:
        generated, failed = say_pairs(self.dataset, earlier, self.rules, self.shared_key)
        keys = {
            (row["user_id"], row["item_id"]): row["content_key"]
            for rows in (generated, failed)
            for row in rows.select([*PAIRS.names, "content_key"]).to_pylist()
        }
        return pa.array(
            None if keys[row["user_id"], row["item_id"]] == row["content_key"] else "evidence"
            for row in earlier.select([*PAIRS.names, "content_key"]).to_pylist()
        )


def costs_of(generated: pa.Table, report: EngineReport) -> dict[str, float]:
    """Return the costs of generating some rows, as numbers that can be added up.

    num_prompt_tokens and num_generated_tokens count the tokens of the explanations; num_plain is
    how many of these are plain sentences, num_refused how many replace a refused text. The engine
    reports engine_prompt_tokens, engine_computed_prompt_tokens and engine_seconds.
    """
    costs: dict[str, float] = {
        name: pc.sum(generated[name]).as_py() or 0
        for name in ("num_prompt_tokens", "num_generated_tokens")
    }
    costs["num_plain"] = pc.sum(pc.equal(generated["kind"], "plain")).as_py() or 0
    costs["num_refused"] = pc.sum(pc.not_equal(generated["refused"], "")).as_py() or 0
    costs["engine_prompt_tokens"] = report.num_prompt_tokens
    costs["engine_computed_prompt_tokens"] = report.num_computed_prompt_tokens
    costs["engine_seconds"] = report.total_seconds
    return costs

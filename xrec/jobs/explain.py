"""Explain one pair in this process, and show what the model was given: `xrec explain`."""

from xrec.adapter.pairs import Pair
from xrec.config import BackfillConfig, EndpointConfig, EngineConfig
from xrec.generate.explainer import Explanation
from xrec.jobs import check_readable
from xrec.text.writers import load_explainer, writer_key


def explain(config: BackfillConfig, user_id: str, item_id: str) -> list[str]:
    """Return lines that show the pair's texts, its prompt and its explanation.

    Raises UnknownIdError for an id that is not in the dataset, and what `load_explainer` raises.
    """
    check_readable(config)
    engine = config.engine
    if isinstance(engine, EngineConfig) and engine.kind == "auto" and engine.num_gpus == 1:
        # vLLM starts too slowly for one text.
        config = config.model_copy(update={"engine": engine.model_copy(update={"kind": "builtin"})})
    if isinstance(engine, EndpointConfig):  # a batch takes hours
        config = config.model_copy(update={"engine": engine.model_copy(update={"batch": False})})
    explainer = load_explainer(config, config.actors.device, writer_key(config))
    dataset, pairs = explainer.dataset, explainer.pairs
    pair = Pair(dataset.user_index(user_id), dataset.item_index(item_id))
    prompt, texts = pairs.prompt(pair), pairs.texts(pair)
    (explanation,) = explainer.explain([prompt], [texts], config.decoding)
    return [
        f"user          {user_id}: {texts.user_profile or '(no profile)'}",
        f"item          {item_id}: {texts.item_title or '(no title)'}. "
        f"{texts.item_profile or '(no profile)'}",
        f"model         {explainer.model_fingerprint} (language model, adapter and graph)",
        f"prompt        {explanation.num_prompt_tokens} tokens; "
        "<user N> and <item N> are collaborative tokens:",
        *(f"              | {line}" for line in pairs.builder.show(prompt).splitlines()),
        *_explanation_lines(explanation),
    ]


def _explanation_lines(explanation: Explanation) -> list[str]:
    lines = [
        f"explanation   {explanation.text}",
        "              (written now; a stored text may differ, for example in bfloat16)",
        f"              ({explanation.num_generated_tokens} tokens, "
        f"ended by {explanation.finish_reason})",
    ]
    if (failure := explanation.failure) is not None:
        lines.append(f"failed        {failure.reason}: {failure.message}")
    elif explanation.refused:
        instead = "a plain sentence" if explanation.kind == "plain" else "a later attempt"
        lines.append(f"              ({instead}: a text was refused as {explanation.refused})")
    return lines

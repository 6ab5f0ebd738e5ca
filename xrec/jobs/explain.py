"""In this process: what `xrec explain` prints of a pair, and `xrec audit` of all published ones."""

from collections import defaultdict
from collections.abc import Iterator

from xrec.adapter.pairs import Pair
from xrec.backfill.explain import FailedPair, refused_today
from xrec.bulk import published, take_down
from xrec.checks import check_word_list
from xrec.config import BackfillConfig, EngineConfig
from xrec.generate.explainer import Explanation
from xrec.generate.loading import load_explainer, load_finisher, sources_of
from xrec.schemas import GENERATED
from xrec.storage import check_artifacts


def run(config: BackfillConfig, user_id: str, item_id: str) -> list[str]:
    """Explain the pair; returns its texts, the prompt, and the explanation, for a reader.

    Raises UnknownIdError for an id that the dataset does not know, and what `load_explainer`
    raises.
    """
    check_artifacts(config, "dataset", "graph", "adapter")
    check_word_list(config.decoding.text.checks, config.storage)
    explainer = load_explainer(
        sources_of(config), device=config.actors.device, engine=_engine(config)
    )
    dataset, pairs = explainer.dataset, explainer.pairs
    pair = Pair(dataset.user_index(user_id), dataset.item_index(item_id))
    prompt, texts = pairs.prompt(pair), pairs.texts(pair)
    (explanation,) = explainer.explain([prompt], [texts], config.decoding)
    return [
        f"user          {user_id}: {texts.user_profile or '(no profile)'}",
        f"item          {item_id}: {texts.item_title or '(no title)'}. "
        f"{texts.item_profile or '(no profile)'}",
        f"model         {explainer.model_fingerprint} (language model, adapter and graph together)",
        f"prompt        {explanation.num_prompt_tokens} tokens, "
        "collaborative tokens as <user N> and <item N>:",
        *(f"              | {line}" for line in pairs.builder.show(prompt).splitlines()),
        *lines_of(explanation),
    ]


def lines_of(explanation: Explanation) -> list[str]:
    """The text, and why there is none or why it is not the one that was written first."""
    lines = [
        f"explanation   {explanation.text}",
        "              (written now: a stored text of the pair may differ, as in bfloat16)",
        f"              ({explanation.num_generated_tokens} tokens, "
        f"ended by {explanation.finish_reason})",
    ]
    if (failure := explanation.failure) is not None:
        lines.append(f"failed        {failure.reason}: {failure.message}")
    elif explanation.refused:
        instead = "a plain sentence" if explanation.kind == "plain" else "a later try"
        lines.append(f"              ({instead}: a text was refused as {explanation.refused})")
    return lines


def audit(config: BackfillConfig, *, takes_down: bool) -> Iterator[str]:
    """Lines that say which published texts today's checks would refuse, and why.

    takes_down: takes these pairs down too, a takedown for each reason. No text is written, and the
    language model is not loaded. Raises what `load_finisher` and `take_down` raise.
    """
    check_artifacts(config, "dataset", "graph", "adapter", "explanations")
    rules, uri = config.decoding.text, config.artifact("explanations")
    check_word_list(rules.checks, config.storage)
    table, knows = published(uri, storage=config.storage), load_finisher(sources_of(config))
    num_rows, by_reason = 0, defaultdict[str, list[FailedPair]](list)
    for rows in table.batches(GENERATED.names):
        num_rows += rows.num_rows
        for each in refused_today(*knows, rows, rules):
            by_reason[each.reason].append(each)
            yield f"{each.ids['user_id']}  {each.ids['item_id']}  {each.reason}: {each.message}"
    why = "".join(f"; {len(found)} {reason}" for reason, found in by_reason.items())
    yield f"{uri}: {sum(map(len, by_reason.values()))} of {num_rows} texts are refused today{why}"
    for reason, found in by_reason.items() if takes_down else ():
        rows, why = [each.ids for each in found], f"audit: {reason}"
        made = take_down(uri, rows=rows, reason=why, storage=config.storage)
        yield f"takedown {made.number} ({why}): version {made.version} has none of them"


def _engine(config: BackfillConfig) -> EngineConfig:
    """The backfill's engine; but auto is builtin, because vLLM starts longer than one text takes.

    A model that several GPUs share is left to vLLM.
    """
    if config.engine.kind == "auto" and config.engine.num_gpus == 1:
        return config.engine.model_copy(update={"kind": "builtin"})
    return config.engine

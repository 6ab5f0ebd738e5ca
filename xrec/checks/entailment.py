"""Check with a natural language inference model that each sentence of a text is entailed.

The model is a transformers folder with a sequence classifier of premise and hypothesis that has
the label "entailment". The premise is what is known about the pair: profiles, title and evidence.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xrec.data.language import sentence_ends
from xrec.errors import ModelError

if TYPE_CHECKING:
    from xrec.llm.prompt import PairTexts

_LEAST = 0.5  # probability of entailment


class Entailment:
    """The model in `folder`, which is loaded when the first text is checked."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def why_not(self, text: str, texts: PairTexts) -> str | None:
        """Return which sentence of `text` is not entailed, with its probability, or None.

        Raises ModelError if the model cannot be read.
        """
        ends = sentence_ends(text) or [len(text)]
        parts = (text[a:b].strip() for a, b in zip([0, *ends], [*ends, len(text)], strict=True))
        for sentence in filter(None, parts):
            if (probability := self._probability(_premise(texts), sentence)) < _LEAST:
                return f"{sentence!r} is entailed with probability {probability:.2f}"
        return None

    def _probability(self, premise: str, hypothesis: str) -> float:
        import torch

        model, tokenizer, label = self._model
        limits = (tokenizer.model_max_length, model.config.max_position_embeddings)
        batch = tokenizer(
            premise,
            hypothesis,
            truncation="only_first",
            max_length=min(limits) - 2,  # some models number positions from 2
            return_tensors="pt",
        )
        with torch.inference_mode():
            logits = model(**batch).logits[0]  # (num_labels,)
        return float(logits.float().softmax(-1)[label])

    @cached_property
    def _model(self) -> tuple[Any, Any, int]:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            if not Path(self.folder).is_dir():
                raise OSError("there is no such folder")
            model = AutoModelForSequenceClassification.from_pretrained(self.folder).eval()
            tokenizer = AutoTokenizer.from_pretrained(self.folder)
            labels = {str(name).lower(): index for name, index in model.config.label2id.items()}
            return model, tokenizer, labels["entailment"]
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"checks.entailment: cannot read the model in {self.folder} ({error}); expected a "
                "local transformers folder with a sequence classifier that has the label "
                "entailment; set an existing folder, or null to turn this check off",
                code="model_not_loadable",
                key="checks.entailment",
                saw=self.folder,
            ) from error


def _premise(texts: PairTexts) -> str:
    counts = (
        f"{known.item_reviews} of {known.num_item_reviews} reviews of it mention the {known.aspect}"
        f"{f' ({known.opinion})' if known.opinion else ''}; the user mentions it in "
        f"{known.user_reviews} of {known.num_user_reviews}."
        for known in texts.aspects
    )
    about = (f"The item is {texts.item_title}.", texts.item_profile, *counts, texts.user_profile)
    return " ".join(part for part in about if part)

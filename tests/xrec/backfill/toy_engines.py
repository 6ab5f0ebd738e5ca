"""Engines without a model, for actors: the ids determine the text, and some prompts fail."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xrec.adapter.pairs import PairPrompts
from xrec.backfill.task import MakeExplainTask, load_task_explainer
from xrec.config.decoding import DecodingConfig
from xrec.generate.engine import Completion
from xrec.generate.explainer import Explainer


@dataclass(frozen=True)
class Toy:
    """A function for `load` of MakeExplainTask: a real explainer with an `EchoEngine`.

    A pair of `broken` raises an error; a pair of `mute` gets an empty text until the file `healed`
    is in the folder. Each call of the engine writes its pairs to a file in the folder's `calls`. A
    text is `says` and the ids of its pair.
    """

    folder: str
    broken: tuple[str, ...] = ()
    mute: tuple[str, ...] = ()
    says: str = "explained"

    def __call__(self, made: MakeExplainTask) -> Explainer:
        """Make the explainer in the actor's process."""
        real = load_task_explainer(made)
        return Explainer(
            real.model,
            EchoEngine(real.pairs, self),
            real.pairs,
            real.dataset,
            real.graph,
            real.model_fingerprint,
        )


class EchoEngine:
    """Writes the index of the prompt's user and item."""

    def __init__(self, pairs: PairPrompts, toy: Toy):
        self._builder = pairs.builder
        self._toy = toy

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig, is_refused: object = None
    ) -> Iterator[Completion]:
        """Yield one completion a prompt, beginning with the last prompt."""
        names = [self._name(prompt) for prompt in prompts]
        calls = Path(self._toy.folder) / "calls"
        calls.mkdir(exist_ok=True)
        with (calls / str(os.getpid())).open("a", encoding="utf-8") as file:
            file.write("".join(f"{name}\n" for name in names))
        if any(name in self._toy.broken for name in names):
            raise RuntimeError("the kernel has no image for this device")
        is_healed = (Path(self._toy.folder) / "healed").exists()
        for index, name in reversed(list(enumerate(names))):
            is_mute = name in self._toy.mute and not is_healed
            text = "" if is_mute else f"{self._toy.says} {name}"
            yield Completion(index, self._builder.encode_explanation(text)[:-1], "stop")

    def _name(self, prompt: Sequence[int]) -> str:
        """Return "u<index> i<index>" by the prompt's collaborative tokens."""
        vocabulary = self._builder.vocabulary
        user, item = sorted(
            token - vocabulary.num_text_tokens
            for token in prompt
            if token >= vocabulary.num_text_tokens
        )
        return f"u{user} i{item - vocabulary.num_users}"

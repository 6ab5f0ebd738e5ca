"""The questions that a judge is asked, from prompt files: our own, or those of the config."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pydantic import BaseModel

from xrec.config.metrics import JudgeConfig
from xrec.config.shared import StorageConfig
from xrec.lab.judge.replies import (
    ScoreReply,
    StatementsReply,
    SupportReply,
    support_schema,
)
from xrec.storage import fingerprint_of
from xrec.text import Message, Prompt
from xrec.text.prompt_file import PromptFile, parse_prompt_file, read_prompt_file


@dataclass(frozen=True)
class Questions:
    """Makes the prompts of a judge."""

    score_file: PromptFile
    statements_file: PromptFile
    support_file: PromptFile

    def score(self, text: str, reference: str) -> Prompt[ScoreReply]:
        """How well does the text say what the reference says?"""
        data = {"prediction": text, "reference": reference}
        return Prompt(self._messages(self.score_file, data), ScoreReply)

    def statements(self, text: str) -> Prompt[StatementsReply]:
        """What does the text state?"""
        return Prompt(self._messages(self.statements_file, {"text": text}), StatementsReply)

    def support(self, statements: list[str], text: str) -> Prompt[SupportReply]:
        """Which of the statements does the text support?"""
        data = {"text": text, "statements": statements}
        return Prompt(self._messages(self.support_file, data), support_schema(len(statements)))

    @property
    def fingerprint(self) -> str:
        """Of all that the files say."""
        files = (self.score_file, self.statements_file, self.support_file)
        return fingerprint_of([[file.system, dict(file.examples)] for file in files])

    def _messages(self, file: PromptFile, data: Mapping[str, Any]) -> tuple[Message, ...]:
        return file.messages(data, next(iter(file.examples), None), {})


def read_questions(config: JudgeConfig, storage: StorageConfig) -> Questions:
    """The questions of a judge.

    Raises ConfigError if a file of the config cannot be read or is no prompt, or the reply of its
    example is not one of that question.
    """
    return Questions(
        _read(config, "prompt", "score.txt", ScoreReply, storage),
        _read(config, "statements_prompt", "statements.txt", StatementsReply, storage),
        _read(config, "support_prompt", "support.txt", SupportReply, storage),
    )


def _read(
    config: JudgeConfig, key: str, ours: str, schema: type[BaseModel], storage: StorageConfig
) -> PromptFile:
    uri = getattr(config, key)
    if uri is None:
        text = (resources.files(__package__) / "prompts" / ours).read_text("utf-8")
        file = parse_prompt_file(ours, text)
    else:
        file = read_prompt_file(f"metrics.judges, {config.name}.{key}", uri, storage)
    file.check(schema)
    return file

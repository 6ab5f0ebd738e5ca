"""A judge of claims: a language model lists what a text claims, with a quote that supports it.

A claim counts as supported only if the model says so and code finds its quote in the evidence,
word for word except for case, marks and spacing. So a model can miss support, but cannot invent it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from pydantic import BaseModel

from xrec.data import Dataset
from xrec.data.language import words
from xrec.text import Asker, Prompt, PromptFile, parse_prompt_file


class Claim(BaseModel):
    """One claim of the text about the item or the reader."""

    # The docstrings here are part of the schema that the model sees.

    claim: str
    verdict: Literal["supported", "unsupported"]
    quote: str


class ClaimsReply(BaseModel):
    """All claims of the text, in order."""

    claims: list[Claim]


@dataclass(frozen=True)
class CheckedClaims:
    """The number of a text's claims, and of those that a quote from the evidence supports."""

    num_claims: int
    num_supported: int

    @property
    def share(self) -> float | None:
        """The share of claims that are supported; None if the text makes none."""
        return self.num_supported / self.num_claims if self.num_claims else None


def check_claims(
    asker: Asker, texts: Sequence[str], evidence: Sequence[tuple[str, Sequence[str]]]
) -> list[CheckedClaims | None]:
    """Return the checked claims of each text; None if the model's reply is invalid.

    evidence: for each text, its user, and what is known of the item and the user. Raises what
    `Asker.ask` raises.
    """
    question = claims_question()
    prompts = [
        Prompt(
            question.messages({"text": text, "evidence": [*known]}, None, {}),
            ClaimsReply,
            user_ids=(user_id,),
        )
        for text, (user_id, known) in zip(texts, evidence, strict=True)
    ]
    replies = asker.ask(prompts)
    return [
        None if reply.value is None else checked(reply.value, known)
        for reply, (_, known) in zip(replies, evidence, strict=True)
    ]


def checked(reply: ClaimsReply, evidence: Sequence[str]) -> CheckedClaims:
    """Count the claims, and the supported ones whose quote is in one of the texts of `evidence`."""
    known = [_spaced(text) for text in evidence]
    supported = [
        claim
        for claim in reply.claims
        if claim.verdict == "supported"
        and (quote := _spaced(claim.quote)).strip()
        and any(quote in text for text in known)
    ]
    return CheckedClaims(len(reply.claims), len(supported))


def known_texts(dataset: Dataset, user_index: int, item_index: int) -> list[str]:
    """Return the evidence on a pair: the item's title and profile, and the user's profile."""
    of_item = (dataset.items[name][item_index].as_py() for name in ("title", "profile"))
    return [*of_item, dataset.users["profile"][user_index].as_py()]


def claims_question() -> PromptFile:
    """Return the prompt of the judge."""
    text = (resources.files(__package__) / "claims.txt").read_text("utf-8")
    return parse_prompt_file("claims.txt", text)


def _spaced(text: str) -> str:
    """Return the words of a text, case-folded, with a blank before and after each."""
    return f" {' '.join(words(text.casefold()))} "

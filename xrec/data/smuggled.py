"""Finds text that is not meant for readers: orders to a language model, and calls to buy or click.

Both are found by their wording, so other wordings get through. A review that gives orders is left
out, but generated texts are checked as well.
"""

import unicodedata
from collections.abc import Sequence

import regex

from xrec.data.personal import is_personal
from xrec.data.sentences import sentence_ends

_ORDERS = regex.compile(
    # "Ignore your instructions", in several languages.
    r"\b(?:ignore|disregard|forget|override|bypass)\b[^.!?]{0,30}\b(?:previous|prior|above|earlier|"
    r"your|system|all)\b[^.!?]{0,20}\b(?:instructions?|prompts?|rules|guidelines)\b"
    r"|\b(?:ignorier\w*|vergiss|vergessen sie)\b[^.!?]{0,40}\banweisung(?:en)?\b"
    r"|\b(?:ignora|ignore|olvida|esqueça)\b[^.!?]{0,40}\b(?:instrucciones|instruções|istruzioni)\b"
    r"|\b(?:ignore[rz]?|oublie[rz]?)\b (?:les|toutes|tes|vos)\b[^.!?]{0,40}\b(?:instructions|"
    r"consignes)\b|\bnegeer\b[^.!?]{0,40}\binstructies\b"
    r"|\b(?:игнорир|забуд)\w*[^.!?]{0,40}\b(?:инструкц|указани)"
    r"|(?:忽略|无视|無視|忘记).{0,20}(?:指令|指示|提示)|(?:指示|命令)を.{0,10}無視"
    # Addressing the model.
    r"|\b(?:reveal|print|repeat|show|new|your)\b.{0,20}\b(?:system|developer) (?:prompt|message)\b"
    r"|\byou are (?:now )?(?:an?|the) (?:AI|assistant|chatbot)\b"
    r"|\bas (?:an AI(?: language model)?|the assistant),"
    r"|\b(?:dear|hey|attention|note to|message (?:to|for)|instructions? (?:to|for))\b[^.!?]{0,20}"
    r"\b(?:AI|assistant|language model|LLM|chatbot|recommender|summari[sz]er)\b"
    # Strings that only occur in a chat or in a model's reply.
    r"|<\|.{1,40}\|>|</?(?:think|start_of_turn|end_of_turn|system|assistant|instructions?)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT)\]|<</?SYS>>|(?:^|[.!?\]}>*#-]\s*)(?:system|assistant)\s*:"
    r"|#{2,}\s*(?:system|instructions?|response|assistant)"
    r"|\"(?:role|content|profile|explanation|aspects?|opinion|sentiment)\"\s*:"
    r"|\b(?:new|real|updated) (?:task|instructions?)\s*:"
    r"|\b(?:write|say|mention|put|repeat|include)\b[^.!?]{0,60}\b(?:in|into|for) (?:the|your|every|"
    r"each|all) (?:\w+ )?(?:profiles?|explanations?|summar(?:y|ies)|repl(?:y|ies)|output)\b",
    regex.IGNORECASE,
)
_CALLS = regex.compile(
    r"\b(?:click|tap) (?:here|below|(?:on )?the link)\b"
    r"|\b(?:buy|order|shop|book|subscribe|sign up|register|download|call|act)(?: it| yours)? "
    r"(?:now|today)\b"
    r"|\b(?:call|e-?mail|contact|text|message|follow|dm) us\b|\b(?:contact|follow|dm) me\b"
    r"|\b(?:promo|discount|coupon|voucher|referral)[ -]?codes?\b|\buse (?:the |my )?code\b",
    regex.IGNORECASE,
)


def gives_orders(text: str) -> bool:
    """Return whether a review addresses the language model that will read it."""
    return _ORDERS.search(unicodedata.normalize("NFKC", text)) is not None


def solicits(text: str, titles: Sequence[str] = ()) -> bool:
    """Return whether a text, apart from `titles`, has personal data or calls to buy or click."""
    for title in filter(None, titles):
        text = text.replace(title, " ")
    return is_personal(text) or _CALLS.search(text) is not None


def without_solicitation(text: str, titles: Sequence[str]) -> tuple[str, int]:
    """Return the text without sentences that solicit, and the number of those sentences."""
    starts = [0, *sentence_ends(text)]
    parts = [text[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
    kept = [part for part in parts if not solicits(part, titles)]
    return "".join(kept).strip(), len(parts) - len(kept)

"""Whether a finished text may be shown, and what is said instead.

tokens     the words of a text, as they are compared
phrases    which aspects of the catalogue's vocabulary a text names
numbers    the numbers of a text
support    aspects, numbers and names that nothing supports
tone       whether an English text praises
word_list  words that no text may hold
plain      the plain sentence from the evidence
checker    all checks together
"""

from xrec.checks.checker import Checker, Refusal
from xrec.checks.phrases import AspectNames, Named
from xrec.checks.plain import plain_sentence
from xrec.checks.word_list import check_word_list

__all__ = ["AspectNames", "Checker", "Named", "Refusal", "check_word_list", "plain_sentence"]

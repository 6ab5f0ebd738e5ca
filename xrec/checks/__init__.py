"""Whether a finished text may be shown, and what is said instead.

tokens   the words and numbers of a text, as they are compared
phrases  which aspects of the catalogue's vocabulary a text names, and which unsafe words
words    stems of English words, and which of them need no support
support  what a text says and nothing supports
tone     whether an English text praises
plain    the plain sentence from the evidence
checker  all checks together
"""

from xrec.checks.checker import Checker, Refusal
from xrec.checks.phrases import AspectNames, Named, check_word_list
from xrec.checks.plain import plain_sentence

__all__ = ["AspectNames", "Checker", "Named", "Refusal", "check_word_list", "plain_sentence"]

"""Whether a finished text may be shown, and what is said instead.

tokens      the words and numbers of a text, as they are compared
english     words and patterns of English; english.yaml has them as data, with examples
phrases     which aspects of the catalog's vocabulary a text names, and which unsafe words
support     what a text says and nothing supports, a function for each rule
tone        whether an English text praises
entailment  whether a model finds a text entailed by what is known
plain       the plain sentence from the evidence
checker     all checks together
"""

from xrec.checks.checker import Checker, Refusal
from xrec.checks.phrases import AspectNames, Named, check_word_list
from xrec.checks.plain import plain_sentence

__all__ = ["AspectNames", "Checker", "Named", "Refusal", "check_word_list", "plain_sentence"]

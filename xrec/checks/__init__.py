"""Decide whether a generated text may be shown, and write a plain sentence to replace it if not.

tokens      split a text into words and numbers, normalized for comparison
english     English word lists and patterns; english.yaml has the data, with examples
phrases     find aspects of the catalog's vocabulary and unsafe words in a text
support     find claims that nothing supports, with a function for each rule
tone        check that an English text is positive
entailment  check with a model that a text is entailed by what is known
plain       write the plain sentence from the evidence
checker     combine all checks
"""

from xrec.checks.checker import Checker
from xrec.checks.phrases import AspectNames, Named, check_word_list
from xrec.checks.plain import plain_sentence

__all__ = ["AspectNames", "Checker", "Named", "check_word_list", "plain_sentence"]

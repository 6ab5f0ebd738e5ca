"""What each metric is called and means."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """A metric in words: its group, label with unit, meaning, and the digits worth showing."""

    group: str
    label: str
    meaning: str
    digits: int = 3


_COVERAGE = "How many pairs have a text?"
_SIGNAL = "Does the user's own vector matter?"
_TRUTH = "Are the texts true?"
_LIKENESS = "Are the texts like the references?"
_FORM = "How do the texts read?"

DESCRIPTIONS = {
    "coverage": Description(
        _COVERAGE,
        "Coverage",
        "Share of pairs with a text. The others, whose text failed or was refused, count as empty "
        "texts in all that follows.",
    ),
    "personalization_gain": Description(
        _SIGNAL,
        "Personalization gain, nats per token",
        "How much likelier the reference is with the user's own vector than with another user's. "
        "Above 0, the signal reaches the likelihood; whether texts change is another question.",
    ),
    "nll_own": Description(
        _SIGNAL,
        "NLL, own vector, nats per token",
        "How surprising the reference is to the model with the user's own vector. Lower is better.",
    ),
    "aspect_accuracy": Description(
        _SIGNAL,
        "Aspect accuracy",
        "Share of texts that name the planted aspect which the user likes most, and no other. "
        "Only the collaborative signal tells which.",
    ),
    "aspect_accuracy_shuffled": Description(
        _SIGNAL,
        "Aspect accuracy, another user's vector",
        "The same for texts made with another user's vector. It should fall to about chance.",
    ),
    "aspect_chance": Description(
        _SIGNAL,
        "Aspect accuracy, chance level",
        "What naming one of the item's aspects blindly would reach.",
    ),
    "aspect_accuracy_references": Description(
        _SIGNAL,
        "Aspect accuracy, references",
        "The same test on the reference texts. Below 1, the test misreads some texts.",
    ),
    "title_accuracy": Description(
        _TRUTH,
        "Right title, of texts that name one",
        "Share of texts that name their own item and no other, among those that name any item of "
        "the catalogue.",
    ),
    "names_item": Description(
        _TRUTH,
        "Texts that name their item",
        "Share of texts in which the item's title stands, in full or in an unambiguous short form.",
    ),
    "names_another_item": Description(
        _TRUTH,
        "Texts that name another item",
        "Share of texts in which another item's title stands that is not in the prompt.",
    ),
    "aspects_supported": Description(
        _TRUTH,
        "Texts with only aspects that the item has",
        "Share of texts that name no aspect which the item lacks.",
    ),
    "bleu": Description(
        _LIKENESS,
        "BLEU, 0 to 100",
        "Shared word sequences of up to four words, over the whole corpus.",
        digits=2,
    ),
    "rouge_l": Description(
        _LIKENESS, "ROUGE-L F1", "Longest common subsequence of words; mean over the pairs."
    ),
    "embedding_f1": Description(
        _LIKENESS,
        "Embedding score F1",
        "Each token matched with its nearest token of the other text, in a small sentence "
        "encoder's space (BERTScore's formula, not its scale).",
    ),
    "embedding_precision": Description(
        _LIKENESS,
        "Embedding score precision",
        "How much of the explanation is found in the reference.",
    ),
    "embedding_recall": Description(
        _LIKENESS,
        "Embedding score recall",
        "How much of the reference is found in the explanation.",
    ),
    "sentence_cosine": Description(
        _LIKENESS,
        "Sentence cosine",
        "Closeness of the two whole texts in the same encoder's space.",
    ),
    "unique_sentence_ratio": Description(
        _FORM,
        "Unique sentence ratio",
        "Distinct texts over all texts. 1: no two pairs read the same.",
    ),
    "mean_words": Description(_FORM, "Words, mean", "Length of the generated texts.", digits=1),
    "mean_words_references": Description(
        _FORM, "Words of the references, mean", "Length of the reference texts.", digits=1
    ),
}

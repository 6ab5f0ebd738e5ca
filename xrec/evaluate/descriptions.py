"""The label and the meaning of each metric."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """A metric in words: its group, label with unit, meaning, and number of digits to show."""

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
        "texts in all other metrics.",
    ),
    "personalization_gain": Description(
        _SIGNAL,
        "Personalization gain, nats per token",
        "How much likelier the reference is with the user's own vector than with another user's. "
        "Above 0, the vector affects the likelihood, but not necessarily the generated text.",
    ),
    "nll_own": Description(
        _SIGNAL,
        "NLL, own vector, nats per token",
        "How surprising the reference is to the model with the user's own vector. Lower is better.",
    ),
    "aspect_accuracy": Description(
        _SIGNAL,
        "Aspect accuracy",
        "Share of texts that name the planted aspect that the user likes most, and no other. "
        "Only the collaborative signal reveals which one it is.",
    ),
    "aspect_accuracy_shuffled": Description(
        _SIGNAL,
        "Aspect accuracy, another user's vector",
        "The same for texts generated with another user's vector. It should drop to about chance.",
    ),
    "aspect_chance": Description(
        _SIGNAL,
        "Aspect accuracy, chance level",
        "The accuracy of naming one of the item's aspects at random.",
    ),
    "aspect_accuracy_references": Description(
        _SIGNAL,
        "Aspect accuracy, references",
        "The same test on the reference texts. If it is below 1, the test misreads some texts.",
    ),
    "title_accuracy": Description(
        _TRUTH,
        "Correct title, among texts that name one",
        "Share of texts that name their own item and no other, among those that name any item of "
        "the catalog.",
    ),
    "names_item": Description(
        _TRUTH,
        "Texts that name their item",
        "Share of texts that contain the item's title, in full or in an unambiguous short form.",
    ),
    "names_another_item": Description(
        _TRUTH,
        "Texts that name another item",
        "Share of texts that contain another item's title, unless it is in the prompt.",
    ),
    "aspects_supported": Description(
        _TRUTH,
        "Texts with only aspects that the item has",
        "Share of texts that name no aspect that the item lacks.",
    ),
    "bleu": Description(
        _LIKENESS,
        "BLEU, 0 to 100",
        "Overlap of word sequences of up to four words, over the whole corpus.",
        digits=2,
    ),
    "rouge_l": Description(
        _LIKENESS, "ROUGE-L F1", "Longest common subsequence of words; mean over all pairs."
    ),
    "embedding_f1": Description(
        _LIKENESS,
        "Embedding score F1",
        "Similarity of each token to the nearest token of the other text, in the space of a small "
        "sentence encoder (BERTScore's formula, but on another scale).",
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
        "Similarity of the two whole texts in the space of the same encoder.",
    ),
    "unique_sentence_ratio": Description(
        _FORM,
        "Unique sentence ratio",
        "Number of distinct texts divided by all texts. 1: no two texts are the same.",
    ),
    "mean_words": Description(_FORM, "Words, mean", "Length of the generated texts.", digits=1),
    "mean_words_references": Description(
        _FORM, "Words of the references, mean", "Length of the reference texts.", digits=1
    ),
}

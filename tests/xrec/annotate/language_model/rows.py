"""Small rows of the three kinds of text."""

from xrec.annotate.annotator import ItemInput, ItemText, PairInput, Review, ReviewedItem, UserInput


def review(text: str, *, number: int = 0, summary: str = "", rating: float | None = 5.0) -> Review:
    """A review of user `u<number>` and item `i<number>`."""
    return Review(f"u{number}", f"i{number}", text, summary, rating)


def item_row(*texts: str, title: str = "", details: str = "") -> ItemInput:
    return ItemInput("i0", title, details, tuple(map(review, texts)), len(texts))


def user_row(*texts: str, item: ItemText | None = None) -> UserInput:
    """A user with these training reviews, all of one item."""
    return UserInput("u0", tuple(ReviewedItem(review(text), item) for text in texts), len(texts))


def pair_row(text: str, *, number: int = 0, item: ItemText | None = None) -> PairInput:
    return PairInput(f"u{number}", f"i{number}", review(text, number=number), item, "train")

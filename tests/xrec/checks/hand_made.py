"""Three pairs, and a hundred texts about them that a person has judged (judged.txt).

A verdict is "" for a text that may be shown, else the reason why it may not.
"""

from pathlib import Path

from xrec.data import AspectEvidence
from xrec.llm.prompt import PairTexts

VOCABULARY = (
    "late hour", "quiet garden", "live music", "dog-friendly table", "fresh pastry",
    "strong coffee", "river view", "board game", "coffee", "staff", "service", "price", "parking",
    "outdoor seating", "happy hour", "beer garden", "garden", "wine list", "plot", "character",
    "pacing", "twist", "prose", "dialogue", "ending", "courtroom scene", "murder mystery",
    "romance", "world building", "tone", "build quality", "string", "tuner", "sustain", "pickup",
    "carrying case", "sound quality", "battery life", "noise cancellation", "fit",
)  # fmt: skip

BISTRO = PairTexts(
    user_profile="A nurse in their forties who comes by bike at weekends, mostly with two cousins. "
    "Loves quiet places and good coffee.",
    item_title="Café 21",
    item_profile="A cosy bistro on Mill Lane, run by the Novak family since 1987. Guests praise "
    "its late hours, a quiet garden and its fresh pastries; some find it expensive.",
    aspects=(
        AspectEvidence("late hour", 14, 31, 3, 7),
        AspectEvidence("quiet garden", 9, 31, 0, 7),
    ),
    menu=frozenset({"late hour", "quiet garden", "fresh pastry", "dog-friendly table", "staff"}),
)
NOVEL = PairTexts(
    user_profile="Reads legal thrillers and enjoys John Grisham.",
    item_title="The Killing Hour",
    item_profile="A lawyer in Chicago takes on a case of murder and revenge. Readers praise the "
    "courtroom scenes, the plot and its many twists.",
    aspects=(
        AspectEvidence("courtroom scene", 12, 40, 2, 5),
        AspectEvidence("twist", 20, 40, 0, 5),
    ),
    menu=frozenset({"courtroom scene", "twist", "plot", "character", "murder mystery"}),
)
GUITAR = PairTexts(
    user_profile="Plays blues at home and cares for a warm tone.",
    item_title="Harbor HG-200 Electric Guitar",
    item_profile="An electric guitar with a maple neck and three pickups, praised for its tone and "
    "build quality. Comes without a bag.",
    aspects=(AspectEvidence("tone", 22, 48, 1, 1), AspectEvidence("build quality", 11, 48, 0, 1)),
    menu=frozenset({"tone", "build quality", "pickup", "sustain", "price"}),
)


def judged() -> list[tuple[str, str, PairTexts]]:
    """Return verdict, pair and text of all of them."""
    pairs = {"[BISTRO]": BISTRO, "[NOVEL]": NOVEL, "[GUITAR]": GUITAR}
    pair, rows = BISTRO, []
    for line in Path(__file__).with_name("judged.txt").read_text("utf-8").splitlines()[1:]:
        verdict, _, text = map(str.strip, line.partition("|"))
        if text:
            rows.append((verdict, text, pair))
        else:
            pair = pairs[line]
    return rows

"""Three pairs, and a hundred texts about them that a person has judged.

A verdict is "" for a text that may be shown, else the reason why it may not.
"""

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

_BISTRO = """
| You would enjoy Café 21 for its late hours and its quiet garden.
| With its quiet garden, Café 21 is a calm place for your weekends.
| The fresh pastries and late hours at Café 21 suit you very well.
| Late hours make Café 21 a good choice after work.
| You will love the Novak family's pastries.
| Café 21 offers dog friendly tables and a garden that is quiet.
| The dog-friendly table is a nice touch, and the staff is kind.
| A cosy bistro on Mill Lane where 14 of 31 guests praise the late hours.
unsupported | You come with two cousins, and the quiet garden has room for all.
| There is no doubt that you would love the late hours.
| Run by the Novaks since 1987, it has the quiet garden you look for.
| Don't miss the fresh pastries at Café 21!
| The late hours never disappoint.
| Good coffee is what you love, and the garden is where to drink it.
| This cosy place offers late hours: One visit and you will be back.
| You would enjoy the staff's kindness and the quiet garden.
| It is the one bistro where quiet gardens and late hours meet.
| Since you like quiet places, the garden at Café 21 will delight you.
unsupported | You would enjoy Café 21 for its live music.
unsupported | With its river view, Café 21 is a calm place for your weekends.
unsupported | The board games at Café 21 will win you over.
unsupported | You would love the strong coffee and the late hours.
unsupported | You would enjoy the good coffee at Café 21.
unsupported | The coffee will please you, as will the staff.
| As you love good coffee, you will feel at home in this quiet garden.
unsupported | The wine list is great and the garden is quiet.
unsupported | You would enjoy the happy hour with your cousins.
unsupported | Its outdoor seating and late hours suit you well.
unsupported | There is good parking by the quiet garden.
unsupported | 25 of 31 guests praise the late hours.
unsupported | It has been run by the Novak family since 1990.
unsupported | It has twelve tables in a quiet garden.
unsupported | The late hours remind you of Paris, and the garden is lovely.
unsupported | You would enjoy the quiet garden on Baker Street.
unsupported | It won a Michelin star for its fresh pastries.
unsupported | Open until 2 at night, it has the late hours you want.
unsupported | You would enjoy the Italian pastries in the quiet garden.
unsupported | The chef makes fresh pastries and wonderful sushi all day.
not_positive | The quiet garden is terrible and dirty.
not_positive | You would hate the late hours.
not_positive | Café 21 is awful, and the pastries are bad.
not_positive | You would not like the quiet garden.
not_positive | The fresh pastries are good but the late hours are a horrible problem.
not_positive | It lacks a quiet garden.
not_positive | Avoid the late hours, which are noisy and sad.
not_positive | The quiet garden isn't open any more.
"""
_NOVEL = """
| You would enjoy The Killing Hour for its courtroom scenes.
| A fan of John Grisham will love the twists of this legal thriller.
| The plot of murder and revenge keeps you reading to the end.
| Twist upon twist, this tale of a lawyer in Chicago will grip you.
| The Killing Hour has the courtroom scenes that you love in Grisham.
| You like legal thrillers, and this murder mystery is a great one.
| 20 of 40 readers praise its twists.
| The characters and the plot are wonderful.
| Half the fun is in the twists; you never guess who did it.
| A murder, a lawyer, a case of revenge: just the thing for you.
unsupported | You would enjoy how the lawyer fights for her client in court.
| The courtroom scene is great, and no one will be bored.
| You can't put it down once the twists begin.
unsupported | You would enjoy the romance in The Killing Hour.
unsupported | The prose is beautiful and the plot strong.
unsupported | A fan of Harry Potter will love the twists.
unsupported | The world building and the courtroom scenes are great.
unsupported | You would love the snappy dialogue and the twists.
unsupported | Its pacing is great, as in your favourite legal thrillers.
unsupported | The second book of the Boston series has great courtroom scenes.
unsupported | Over 300 pages of courtroom scenes will delight you.
unsupported | It won the Pulitzer, and you love courtroom scenes.
unsupported | You would love the ending and its many twists.
unsupported | Set in London, the plot is full of twists.
unsupported | The lawyer falls in love with a detective named Anna.
unsupported | This is a tale of a submarine crew under the ice.
not_positive | The twists are boring and stupid.
not_positive | You would be disappointed by the courtroom scenes.
not_positive | The plot is dull, and the twists are weak and awful.
not_positive | This is a bad book without twists.
not_positive | The courtroom scenes are a waste of your time.
"""
_GUITAR = """
unsupported | You would enjoy the Harbor HG-200 for its warm tone.
| The tone and build quality of this guitar are excellent.
unsupported | Three pickups give you the blues tone that you care for.
| You play blues at home, so the sustain and tone will please you.
| The build quality is great for the price.
| Its tone is second to none.
unsupported | You won't regret it: the tone is warm.
| An electric guitar with a tone that you would love at home.
unsupported | It comes with a carrying case and a warm tone.
unsupported | The tuners hold well and the tone is warm.
unsupported | It has two pickups and a warm tone.
unsupported | The battery life and tone are great.
unsupported | Its strings are great, and so is the tone.
unsupported | You would enjoy the Fender neck and the warm tone.
unsupported | With 24 frets and a warm tone it suits you.
unsupported | The sound quality and noise cancellation are great.
unsupported | The body of solid mahogany gives a warm tone.
not_positive | The tone suits you, with its high price.
not_positive | The tone is thin, harsh and bad.
not_positive | The build quality is poor and cheap.
not_positive | It does not have a warm tone.
not_positive | You would regret this ugly guitar.
not_positive | The tone is warm, but the build quality is awful.
"""


def judged() -> list[tuple[str, PairTexts, str]]:
    """Verdict, pair and text of all of them."""
    return [
        (*map(str.strip, line.split("|", 1)), pair)
        for pair, lines in ((BISTRO, _BISTRO), (NOVEL, _NOVEL), (GUITAR, _GUITAR))
        for line in lines.strip().splitlines()
    ]

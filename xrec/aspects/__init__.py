"""Choose which aspects of an item to name to a user, and count the reviews that mention them.

counts  how many training reviews of an item, and of a user, mention each aspect
choice  score(u, i, a), and the best aspects of many pairs with their counts
"""

from xrec.aspects.choice import AspectChooser, Choices, check_prompt, chooser_for

__all__ = ["AspectChooser", "Choices", "check_prompt", "chooser_for"]

"""Choose which aspects of an item to name to a user, and count the reviews that mention them.

counts  count the training reviews of an item, and by a user, that mention each aspect
choice  compute score(u, i, a), and choose the best aspects of many pairs with their counts
"""

from xrec.aspects.choice import AspectChooser, Choices, check_prompt, chooser_for

__all__ = ["AspectChooser", "Choices", "check_prompt", "chooser_for"]

"""How many tokens a request will take, by those that were counted before."""

import math
import threading

from xrec.text.budget import Spent

TOKENS_PER_CHARACTER = 0.3
"""Before anything was counted; English takes about 0.25, other languages more."""


def about_tokens(text: str) -> int:
    """About how many tokens a text is, for any tokenizer."""
    return math.ceil(len(text) * TOKENS_PER_CHARACTER)


class TokenEstimate:
    """Learns tokens per character of prompts, and the mean length of replies, in any thread."""

    def __init__(self) -> None:
        self._num_characters = self._num_replies = 0
        self._spent = Spent()
        self._lock = threading.Lock()

    def of(self, num_characters: int, max_tokens: int) -> Spent:
        """The tokens of a prompt of so many characters and of its reply of at most `max_tokens`."""
        with self._lock:
            if not self._num_replies:
                return Spent(num_characters * TOKENS_PER_CHARACTER, max_tokens)
            per_character = self._spent.num_prompt_tokens / max(1, self._num_characters)
            per_reply = self._spent.num_reply_tokens / self._num_replies
            return Spent(num_characters * per_character, per_reply)

    def learn(self, num_characters: int, num_prompt_tokens: int, num_reply_tokens: int) -> None:
        """Note what a prompt of so many characters took."""
        with self._lock:
            self._num_characters += num_characters
            self._num_replies += 1
            self._spent += Spent(num_prompt_tokens, num_reply_tokens)

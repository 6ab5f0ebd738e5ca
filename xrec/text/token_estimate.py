"""How many tokens a request will take, by those that were counted before."""

from xrec.text.model import Usage

_TOKENS_PER_CHARACTER = 0.3
"""Before anything was counted; English takes about 0.25, other languages more."""


class TokenEstimate:
    """Learns tokens per character of prompts, and the mean length of replies."""

    def __init__(self) -> None:
        self._num_characters = 0
        self._usage = Usage()

    def of(self, num_characters: int, max_tokens: int) -> float:
        """The tokens of a prompt of so many characters and of its reply of at most `max_tokens`."""
        num_replies = self._usage.num_requests
        if not num_replies:
            return num_characters * _TOKENS_PER_CHARACTER + max_tokens
        per_character = self._usage.num_prompt_tokens / max(1, self._num_characters)
        return num_characters * per_character + self._usage.num_reply_tokens / num_replies

    def learn(self, num_characters: int, num_prompt_tokens: int, num_reply_tokens: int) -> None:
        """Note what a prompt of so many characters took."""
        self._num_characters += num_characters
        self._usage += Usage(num_prompt_tokens, num_reply_tokens, 1)

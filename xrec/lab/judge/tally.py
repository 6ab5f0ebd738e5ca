"""What judges cost, and what they failed at: counted as replies come, in any thread."""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from xrec.text import Reply


class Tally:
    """Counts of a judge by name: prompt_tokens, reply_tokens, requests, failed:<reason>."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, replies: Sequence[Reply[Any]]) -> None:
        """Count the replies."""
        with self._lock:
            for reply in replies:
                self._counts["prompt_tokens"] += reply.usage.num_prompt_tokens
                self._counts["reply_tokens"] += reply.usage.num_reply_tokens
                self._counts["requests"] += reply.usage.num_requests
                if reply.failure is not None:
                    self._counts[f"failed:{reply.failure.reason}"] += 1

    def taken(self) -> dict[str, float]:
        """What was counted since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return {name: float(count) for name, count in counts.items() if count}

"""What a job may spend on a language model: tokens, or money by prices."""

import threading

from xrec.config.text import PricesConfig
from xrec.errors import BudgetError
from xrec.text.model import Usage


class Budget:
    """Says whether one more prompt may be asked; threads may use it at the same time.

    What is under way counts with its estimate, so what is spent in the end exceeds the budget only
    by what estimates were too low. `spent` is what the job spent before.
    """

    def __init__(
        self,
        max_tokens: float | None = None,
        max_cost: float | None = None,
        prices: PricesConfig | None = None,
        spent: Usage | None = None,
    ):
        if max_cost is not None and prices is None:
            raise ValueError("max_cost needs prices")
        self._max_tokens, self._max_cost, self._prices = max_tokens, max_cost, prices
        self._spent, self._under_way = spent or Usage(), Usage()
        self._lock = threading.Lock()

    def reserve(self, estimate: Usage) -> bool:
        """Whether a prompt of this estimate may be asked; it then is under way.

        Raises BudgetError if no budget would be left even if nothing had been spent.
        """
        self._check_possible(estimate)
        with self._lock:
            total = self._spent + self._under_way + estimate
            if self._exceeded(total) is not None:
                return False
            self._under_way += estimate
            return True

    def settle(self, estimate: Usage, usage: Usage) -> None:
        """Note what a prompt that was under way took in the end."""
        with self._lock:
            self._under_way -= estimate
            self._spent += usage

    def error(self) -> BudgetError:
        """The error that ends a job because nothing more may be asked."""
        spent = self._spent
        return BudgetError(
            f"the budget is used up: {self._described(spent)} are spent, and one more prompt would "
            "exceed it; raise it and run again, what is committed stays"
        )

    def _check_possible(self, estimate: Usage) -> None:
        if (what := self._exceeded(estimate)) is not None:
            raise BudgetError(
                f"{what}, which is too small for a single prompt of about "
                f"{estimate.num_prompt_tokens:.0f} tokens and a reply of up to "
                f"{estimate.num_reply_tokens:.0f}; raise it"
            )

    def _exceeded(self, spent: Usage) -> str | None:
        """Which budget is exceeded, with its key and value."""
        if self._max_tokens is not None and spent.num_tokens > self._max_tokens:
            return f"max_tokens = {self._max_tokens:g}"
        if self._max_cost is not None and self._cost(spent) > self._max_cost:
            return f"max_cost = {self._max_cost:g}"
        return None

    def _cost(self, spent: Usage) -> float:
        assert self._prices is not None
        return self._prices.of(spent.num_prompt_tokens, spent.num_reply_tokens)

    def _described(self, spent: Usage) -> str:
        money = f", {self._cost(spent):.4g} by the prices" if self._prices else ""
        return f"{spent.num_tokens:,.0f} tokens{money}"

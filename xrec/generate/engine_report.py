"""What a generate call cost: counts and seconds, filled in as it goes."""

from dataclasses import dataclass


@dataclass
class EngineReport:
    """Of one call. Tokens are those that went through the layers; there is no padding among them.

    `num_key_cells` are the products of a query and a key that attention computed, masked ones included; `num_seen_keys` those
    between a token and a position that is there.
    """

    num_prompts: int = 0
    num_failed: int = 0
    num_prompt_tokens: int = 0
    num_computed_prompt_tokens: int = 0
    num_decoded_tokens: int = 0
    num_decode_steps: int = 0
    num_prefill_passes: int = 0
    num_logits: int = 0
    num_key_cells: int = 0
    num_seen_keys: int = 0
    max_rows: int = 0
    max_prefixes: int = 0
    key_value_bytes: int = 0
    key_value_budget_bytes: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    sampling_seconds: float = 0.0
    total_seconds: float = 0.0

    @property
    def prefix_hit_share(self) -> float:
        """Share of the prompts' tokens that were not computed, because another prompt's beginning was the same."""
        return 1 - self.num_computed_prompt_tokens / max(1, self.num_prompt_tokens)

    @property
    def attention_padding_share(self) -> float:
        """Share of attention's products that were with no token or no position."""
        return 1 - self.num_seen_keys / max(1, self.num_key_cells)

    @property
    def python_seconds(self) -> float:
        """Neither prefill, decode nor sampling: planning, and what the caller did between completions."""
        return (
            self.total_seconds - self.prefill_seconds - self.decode_seconds - self.sampling_seconds
        )

"""The cost of some steps of a run, as counts and seconds."""

from dataclasses import dataclass


@dataclass
class EngineReport:
    """The cost of steps; the run updates it with each of them.

    A prompt counts once for each of its texts. Tokens are those that went through the layers,
    without padding. `num_key_cells` counts the query-key products that attention computed, masked
    ones included. `num_seen_keys` counts those among them that were between a token and a position
    of its own sequence. `max_rows`, `max_prefixes` and `key_value_bytes` are the most that were at
    work at the same time. The seconds of a phase include the work of the device.
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
        """The share of prompt tokens that were not computed, thanks to shared prefixes."""
        return 1 - self.num_computed_prompt_tokens / max(1, self.num_prompt_tokens)

    @property
    def attention_padding_share(self) -> float:
        """The share of attention's query-key products that were padding."""
        return 1 - self.num_seen_keys / max(1, self.num_key_cells)

    @property
    def python_seconds(self) -> float:
        """Seconds of the steps outside prefill, decoding and sampling: planning."""
        return (
            self.total_seconds - self.prefill_seconds - self.decode_seconds - self.sampling_seconds
        )

"""Our own run: continuous batching over a transformers decoder, in passes without padding.

Requests are grouped by their beginnings (prefix_groups) and get places in one arena of keys and
values (arena, slots). A schedule decides what is computed next, and a layout says to attention
(attention) where the tokens of a pass are. The next tokens are chosen from the logits (sampling).
In float32 the greedy tokens equal those of transformers' `generate` on one prompt at a time,
whatever arrives, ends or is cancelled in between.
"""

"""The engine of CPUs: continuous batching over a transformers decoder, in passes without padding.

Requests are grouped by their beginnings (requests) and get slots in one KV cache (kv_cache, slots).
The scheduler decides what is computed next, and a layout says to attention where the tokens of a
pass are (model_runner). The next tokens are chosen from the logits (sampling). In float32 the
greedy tokens equal those of transformers' `generate` on one prompt at a time, whatever arrives,
ends or is cancelled in between.
"""

"""The CPU engine: continuous batching over a transformers decoder, in passes without padding.

Requests are grouped by shared prefix and get slots in one KV cache (requests, kv_cache).
The scheduler decides what is computed next, and a layout tells attention where the tokens of a
pass are (model). The next tokens are chosen from the logits (sampling). In float32, greedy
tokens equal those of transformers' `generate` on one prompt at a time, whichever requests arrive,
end or are canceled in between.
"""

"""Generation by vLLM: an out-of-tree model with collaborative tokens (entry point `vllm.general_plugins`) and the engine around it.

`attachment` and `injection` are plain torch; `model` and `engine` need the extra `[vllm]`, and nothing else imports them.
"""

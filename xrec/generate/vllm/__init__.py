"""Generation by vLLM: a model with collaborative tokens, and the engine that runs it.

xrec is a plugin of vLLM (entry point `vllm.general_plugins`) that adds this model. Modules that
import vLLM are loaded for `engine.kind: vllm` only, after `plugin` has looked at its version.
"""

"""Generation with vLLM: models with collaborative tokens, and the engine that runs them.

xrec is a plugin of vLLM (entry point `vllm.general_plugins`) that adds these models. Modules that
import vLLM are only loaded if the engine is vLLM, after `plugin` has checked its version.
"""

"""Mixture-of-experts adapters from graph vectors to the language model's space; their artifact."""

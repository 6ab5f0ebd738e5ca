"""Mixture-of-experts adapters from graph vectors to language-model vectors, and their artifact."""

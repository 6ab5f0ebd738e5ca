"""The frozen language model: its loading, prompts, collaborative tokens and their injection."""

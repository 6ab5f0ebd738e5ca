"""The frozen language model: loading, prompts of token ids, collaborative tokens and their injection."""

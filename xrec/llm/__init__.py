"""The frozen language model: loading, prompts, collaborative tokens, injection, and the loss."""

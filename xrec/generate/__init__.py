"""Text generation: an engine takes prompts of token IDs and yields completions, in any order."""

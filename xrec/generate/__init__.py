"""Generation: an engine takes prompts of token ids and yields completions, in any order."""

"""Generation: prompts of token ids in, completions out, in any order."""

"""From the graph's space into the language model's: the mixture-of-experts adapters and the model that carries them."""

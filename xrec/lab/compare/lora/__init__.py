"""The contestant lora: low-rank weights beside the frozen layers, by the library peft.

train       the driver: the artifact, from a run on Ray Train
worker      one worker: examples, steps, checkpoints
weights     low-rank weights into a model, out of it, and merged for writing
"""

from xrec.lab.compare.lora.texts import lora_texts

__all__ = ["lora_texts"]

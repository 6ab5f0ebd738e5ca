"""The annotator that asks a language model: an engine of ours, or an endpoint (xrec.text).

A row becomes a prompt (prompts), the prompt a reply with a schema (replies), and the reply a text
(writer). Equal prompts are asked once, and replies outlive a kill (xrec.text.Asker).
"""

from xrec.annotate.language_model.writer import language_model_spec

__all__ = ["language_model_spec"]

"""The annotator that asks a language model: an engine of ours, or an endpoint (xrec.text).

A row becomes a prompt (prompts), the prompt a reply by a schema (replies), and the reply a text.
Prompts are asked once, and what was answered outlives a kill (xrec.text.asker).
"""

from xrec.annotate.language_model.writer import language_model_spec

__all__ = ["language_model_spec"]

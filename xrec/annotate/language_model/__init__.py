"""The annotator that asks a language model: one of our engines, or an endpoint (xrec.text).

The writer turns a row into a prompt (prompts), and its reply, which follows a schema, into a text
(replies). Identical prompts are sent once, and replies survive a kill (xrec.text.Asker).
"""

from xrec.annotate.language_model.writer import language_model_spec

__all__ = ["language_model_spec"]

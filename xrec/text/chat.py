"""Conversations as token ids of a model, for engines of ours.

Only the model's own chat template can give special tokens: what messages say is tokenized with
special tokens off, so no review can end its message and begin another one.
"""

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from xrec.llm.prompt import TextEncoder, render_chat
from xrec.text.model import Message


class Chat:
    """Makes prompts of token ids out of messages, for the model of `tokenizer`, in any thread.

    A model without a chat template sees the messages one after the other.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._encoder = TextEncoder(tokenizer)

    def token_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids of the conversation, up to where the model's reply begins."""
        ids: list[int] = []
        for piece in self._scaffold(messages).split(_MARK):
            place, is_content, rest = piece.partition(_END)
            if is_content:
                ids += self._encoder.encode(messages[int(place)].content)
            if scaffold := rest if is_content else place:
                ids += self._tokenizer(scaffold, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, token_ids: list[int]) -> str:
        """The text of generated ids, without special tokens."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True))

    def _scaffold(self, messages: Sequence[Message]) -> str:
        """The conversation with a mark where each message's words belong."""
        marked = [
            Message(message.role, f"{_MARK}{place}{_END}") for place, message in enumerate(messages)
        ]
        if not self._tokenizer.chat_template:
            start = self._tokenizer.bos_token or ""
            return start + "\n\n".join(message.content for message in marked) + "\n\n"
        try:
            return self._templated(marked)
        except TemplateError:  # some models know no system message
            return self._templated(_without_system(marked))

    def _templated(self, messages: Sequence[Message]) -> str:
        said = ((message.role, message.content) for message in messages)
        return render_chat(self._tokenizer, said)


_MARK, _END = "\ue000", "\ue001"
"""Characters of private use around the place of a message while the template is filled in."""


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """The messages, in which the first one of the user begins with what the system's said."""
    said = [message.content for message in messages if message.role == "system"]
    others = [message for message in messages if message.role != "system"]
    first = Message("user", "\n\n".join([*said, others[0].content]))
    return [first, *others[1:]]

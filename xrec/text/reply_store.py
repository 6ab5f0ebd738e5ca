"""Replies that were received, so that an interrupted job does not ask for them again.

A bulk run commits whole chunks. What was answered in a chunk that is not committed would be asked
again, and paid again, after a kill. So each reply is written as it comes, as a file of its own
below `ok/` or `failed/`, under the hash of its prompt.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from xrec.errors import StorageNotFoundError
from xrec.storage import Location
from xrec.text.model import ObjectT, Prompt, Reply, ReplyFailure, Usage
from xrec.text.schema import parse_reply


def prompt_key(model: Mapping[str, Any], prompt: Prompt[Any]) -> str:
    """32 hex digits of a prompt's words and schema, and of the `model` with its sampling."""
    parts = {
        "model": model,
        "messages": [[message.role, message.content] for message in prompt.messages],
        "schema": prompt.schema.model_json_schema(),
    }
    data = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(data.encode(errors="surrogatepass"), digest_size=16).hexdigest()


class ReplyStore:
    """Replies below `folder`; several processes may use it at the same time."""

    def __init__(self, folder: Location):
        self._folder = folder

    def read(self, key: str, schema: type[ObjectT]) -> Reply[ObjectT] | None:
        """The reply to the prompt of this key, with index 0; None if there is none."""
        for place in ("ok", "failed"):
            try:
                data = self._at(place, key).read_bytes()
            except StorageNotFoundError:
                continue
            return _reply(json.loads(data), schema)
        return None

    def write(self, key: str, reply: Reply[Any]) -> None:
        """Keep a reply; returns once it is in the store."""
        failure = reply.failure
        record = {
            "raw": reply.raw,
            "usage": vars(reply.usage),
            "failure": None if failure is None else vars(failure),
        }
        data = json.dumps(record, ensure_ascii=False).encode(errors="surrogatepass")
        self._at("ok" if failure is None else "failed", key).write_bytes(data)

    def forget_failures(self) -> None:
        """Delete the failures, so that their prompts are asked again."""
        (self._folder / "failed").delete()

    def delete(self) -> None:
        """Delete all replies."""
        self._folder.delete()

    def _at(self, place: str, key: str) -> Location:
        return self._folder / place / key[:2] / f"{key}.json"


def _reply(record: Mapping[str, Any], schema: type[ObjectT]) -> Reply[ObjectT] | None:
    """The reply of a record; None if the schema has become another one meanwhile."""
    usage = Usage(**record["usage"])
    if record["failure"] is not None:
        return Reply(0, None, ReplyFailure(**record["failure"]), record["raw"], usage)
    found = parse_reply(record["raw"], schema)
    return None if isinstance(found, ReplyFailure) else Reply(0, found, None, record["raw"], usage)

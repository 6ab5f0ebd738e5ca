"""Replies on disk or S3, so that an interrupted job does not pay for them again.

A bulk run commits whole chunks. Without the store, a kill would lose all replies of an unfinished
chunk. Each reply is a file under `ok/` or `failed/`, named after the hash of its prompt.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from xrec.errors import StorageNotFoundError
from xrec.storage import Location
from xrec.text.messages import ObjectT, Prompt, Reply, ReplyFailure, Usage
from xrec.text.replies import parse_reply


def prompt_key(identity: Mapping[str, Any], prompt: Prompt[Any]) -> str:
    """Return 32 hex digits that identify a prompt, its schema, and the model and its sampling."""
    parts = {
        "model": identity,
        "messages": prompt.messages,
        "schema": prompt.schema.model_json_schema(),
    }
    data = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(data.encode(errors="surrogatepass"), digest_size=16).hexdigest()


class ReplyStore:
    """The stored replies in a folder, which several processes may use."""

    def __init__(self, folder: Location):
        self._folder = folder

    def read(self, key: str, schema: type[ObjectT]) -> Reply[ObjectT] | None:
        """Return the reply to the prompt with this key, with index 0, or None if it is not stored.

        Also return None if the reply no longer fits the schema.
        """
        for outcome in ("ok", "failed"):
            try:
                record = json.loads(self._file(outcome, key).read_bytes())
            except StorageNotFoundError:
                continue
            usage, raw = Usage(**record["usage"]), record["raw"]
            if record["failure"] is not None:
                return Reply(0, raw, usage, failure=ReplyFailure(**record["failure"]))
            value = parse_reply(raw, schema)
            return None if isinstance(value, ReplyFailure) else Reply(0, raw, usage, value=value)
        return None

    def write(self, key: str, reply: Reply[Any]) -> None:
        """Store a reply durably."""
        failure = reply.failure
        record = {
            "raw": reply.raw,
            "usage": vars(reply.usage),
            "failure": None if failure is None else vars(failure),
        }
        data = json.dumps(record, ensure_ascii=False).encode(errors="surrogatepass")
        self._file("ok" if failure is None else "failed", key).write_bytes(data)

    def forget_failures(self) -> None:
        """Delete the failures, so that their prompts are sent again."""
        (self._folder / "failed").delete()

    def delete(self) -> None:
        """Delete all replies."""
        self._folder.delete()

    def _file(self, outcome: str, key: str) -> Location:
        return self._folder / outcome / key[:2] / f"{key}.json"

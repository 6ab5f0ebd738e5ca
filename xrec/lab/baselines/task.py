"""Writing texts as a task of `xrec.bulk`: its rows are those of a backfill."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from xrec.backfill.pair_rows import FailedPair, KnownPair, failed_rows, look_up
from xrec.backfill.task import EXPLANATIONS
from xrec.bulk import Outcome
from xrec.config.baselines import PeerConfig, PeerKind
from xrec.config.llm import LLMConfig
from xrec.config.shared import Device, StorageConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.lab.baselines.artifact import TrainedPeer, read_peer
from xrec.lab.baselines.aspects import AspectNames, Names, aspect_ids, aspect_names
from xrec.lab.baselines.batch import collate_pairs
from xrec.lab.baselines.words import Words
from xrec.lab.baselines.write import write_greedily
from xrec.llm.model import resolve_device
from xrec.llm.source import anywhere
from xrec.schemas import GENERATED
from xrec.storage import location_of, open_location

TEXTS = EXPLANATIONS
"""The columns of a backfill's rows, so that every reader of explanations reads them."""

_EMPTY = "the peer ended the text before its first word"
_INDICES = ("user_index", "item_index")

# What torch raises for a batch that it cannot do, lack of memory included.
_ERRORS = (RuntimeError, ValueError, ArithmeticError, LookupError)


@dataclass(frozen=True)
class MakePeerTask:
    """Makes an actor's task; everything that an actor gets. The URIs fit any working directory."""

    peer: str
    dataset: str
    aspects: str
    kind: PeerKind
    num_aspects: int
    llm: LLMConfig | None
    storage: StorageConfig
    device: Device
    num_threads: int
    texts_per_batch: int

    @classmethod
    def of(cls, config: PeerConfig) -> "MakePeerTask":
        """What the actors of `config` get."""
        return cls(
            peer=location_of(config, "peer").shared_uri,
            dataset=location_of(config, "dataset").shared_uri,
            aspects=location_of(config, "aspects").shared_uri,
            kind=config.kind,
            num_aspects=config.peter.num_aspects,
            llm=None if config.llm is None else anywhere(config.llm),
            storage=config.storage,
            device=config.actors.device,
            num_threads=config.actors.cpus_per_actor,
            texts_per_batch=config.texts_per_batch,
        )

    def __call__(self) -> "PeerTask":
        """Load peer and dataset, in the actor's process."""
        torch.set_num_threads(self.num_threads)
        device = resolve_device(self.device)
        dataset = read_dataset(open_location(self.dataset, self.storage))
        aspects = open_location(self.aspects, self.storage)
        return PeerTask(
            read_peer(open_location(self.peer, self.storage), device, self.llm, self.storage),
            dataset,
            aspect_names(self.kind, dataset, aspects, self.num_aspects),
            device,
            self.texts_per_batch,
        )


@dataclass
class PeerTask:
    """A ChunkTask of xrec.bulk."""

    peer: TrainedPeer
    dataset: Dataset
    aspects: AspectNames
    device: torch.device
    texts_per_batch: int
    row_errors: tuple[type[Exception], ...] = _ERRORS

    def do(self, rows: pa.Table) -> Outcome:
        """See ChunkTask; the costs are num_generated_tokens."""
        known, failed = look_up(self.dataset, rows)
        written: list[dict[str, Any]] = []
        for start in range(0, len(known), self.texts_per_batch):
            batch = known[start : start + self.texts_per_batch]
            for pair, row in zip(batch, self._write(batch), strict=True):
                if row["explanation"]:
                    written.append(row)
                else:
                    failed.append(FailedPair(pair.ids, "empty_text", _EMPTY))
        costs = {"num_generated_tokens": float(sum(row["num_generated_tokens"] for row in written))}
        return Outcome(
            pa.Table.from_pylist(written, GENERATED), failed_rows(self.dataset, failed), costs
        )

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """See ChunkTask."""
        failed = [FailedPair(ids, reason, message) for ids in rows.to_pylist()]
        return failed_rows(self.dataset, failed)

    def _write(self, pairs: Sequence[KnownPair]) -> list[dict[str, Any]]:
        """A row of the schema GENERATED for each pair; its text may be empty."""
        peer = self.peer
        users, items = ([getattr(pair, name) for pair in pairs] for name in _INDICES)
        names = self.aspects.of(users, items)
        read = collate_pairs(users, items, [self._aspect_ids(of_pair) for of_pair in names])
        texts = write_greedily(
            peer.model,
            read.to(self.device),
            end_ids=peer.codec.end_ids,
            never_written=peer.codec.never_written,
            max_tokens=peer.max_words,
        )
        return [self._row(*each) for each in zip(pairs, names, texts, strict=True)]

    def _aspect_ids(self, names: Names) -> tuple[int, ...]:
        codec, num_words = self.peer.codec, self.peer.num_aspect_words
        return aspect_ids(codec, names, num_words) if isinstance(codec, Words) else ()

    def _row(self, pair: KnownPair, names: Names, token_ids: list[int]) -> dict[str, Any]:
        has_ended = bool(token_ids) and token_ids[-1] in self.peer.codec.end_ids
        fingerprint = self.peer.manifest.fingerprint
        return {
            **pair.ids,
            "explanation": self.peer.codec.decode(token_ids),
            "num_prompt_tokens": 2 + self.peer.num_aspect_words,  # user, item, aspects
            "num_generated_tokens": len(token_ids) - has_ended,
            "finish_reason": "stop" if has_ended else "length",
            "model_fingerprint": fingerprint,
            "content_key": _hash(fingerprint, pair.user_index, pair.item_index, *names),
            "aspects": [],
            "kind": "written",
            "refused": "",
        }


def _hash(*parts: str | int) -> str:
    """16 hex digits: all that a text depends on."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

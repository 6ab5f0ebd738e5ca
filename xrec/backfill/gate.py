"""Whether a run that is done may be published: figures of its texts, beside those published.

Coverage and failures are of all rows. The other figures are of a sample, whole chunks from all over
the plan, and of the published rows of the same users; two are of what the run was given. A figure
of few rows, or with nothing to be compared with, is not judged. docs/night.md says what each figure
sees.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.backfill.identity import shared_key
from xrec.backfill.judged import Rows, judged
from xrec.backfill.own import LEAST_ROWS, own_profiles, own_texts, own_vectors
from xrec.bulk import (
    OK,
    BulkRun,
    Identity,
    Published,
    Survey,
    final_rows,
    published,
    read_takedowns,
)
from xrec.config.backfill import BackfillConfig
from xrec.config.shared import WORKSPACE, StorageConfig
from xrec.data import read_dataset
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, GateError
from xrec.schemas import GENERATED, PAIRS
from xrec.storage import fingerprint_of, location_of, open_location

SAMPLE_ROWS = 20_000
_OWN = ("own_item", "own_user", "own_profile", "own_vector")
_AT_LEAST = frozenset({"coverage", "named", "distinct", "judged", *_OWN})
_NUM_SHOWN, _USERS_LOOKED_AT = 30, 1000

Values = dict[str, float | None]


class Figure(NamedTuple):
    """A figure, None if it is not known, and its bound, None if there is none."""

    name: str
    value: float | None
    bound: float | None

    @property
    def passes(self) -> bool:
        """Whether the value is within the bound, as far as both are known."""
        if self.value is None or self.bound is None:
            return True
        return self.value >= self.bound if self.name in _AT_LEAST else self.value <= self.bound

    def __str__(self) -> str:
        value = "not known" if self.value is None else f"{self.value:.3f}"
        side = "at least" if self.name in _AT_LEAST else "at most"
        bound = "no bound" if self.bound is None else f"{side} {self.bound:g}"
        return f"{'   ' if self.passes else 'NO '}{self.name:12}{value:>10}  ({bound})"


class Sample(NamedTuple):
    """Explanations of a run, and the published ones of the same users.

    version: the published one; None if there is none. is_alike: whether the same model wrote it,
    with the same settings, so that only pairs whose inputs changed are written again. dataset: the
    URI of its dataset, as the manifest has it.
    """

    new: Rows
    old: Rows
    version: int | None = None
    is_alike: bool = False
    dataset: str = ""


class Gate:
    """Judges a run just before it is published; `metrics` is what the manifest says of that.

    force: why it is published whatever the figures are; empty if it is not.
    """

    def __init__(self, config: BackfillConfig, run: BulkRun, force: str = ""):
        self._config, self._run, self._force = config, run, force
        self.metrics: dict[str, Any] = {"gate": {"forced": force}} if force else {}

    def check(self) -> None:
        """Judge, and create the verdict in the run's folder; raises GateError if it is no."""
        if self._config.gate is None:
            return
        sample = sample_of(self._run)
        figures = judge(self._config, self._run, sample)
        passed = all(each.passes for each in figures)
        verdict = {
            "passed": passed,
            "pass_number": len(self._run.passes()) - 1,
            "beside_version": sample.version,
            "figures": {each.name: each.value for each in figures},
            "bounds": {each.name: each.bound for each in figures},
        }
        name = f"gate-{fingerprint_of(verdict)}.json"
        (self._run.folder / name).create_bytes(json.dumps(verdict, indent=2).encode())
        self.metrics = {"gate": {**verdict, **self.metrics.get("gate", {})}}
        if not passed and not self._force:
            shown = "\n".join(f"  {each}" for each in figures)
            failed = [f"{n} {name}" for name, n in Survey(self._run).summary.failed.items()]
            refused = GateError(
                f"{self._run.output}: the run is done and stays a candidate, since its gate does "
                f"not let it through:\n{shown}\nwithout a text: {', '.join(failed) or 'none'}\n"
                "look at it (xrec publish CONFIG --look); then correct the cause, give other "
                "bounds (gate.NAME), or publish it nevertheless (xrec publish CONFIG --force WHY)",
                code="gate_not_passed",
                key="gate",
                saw=tuple(each.name for each in figures if not each.passes),
            )
            refused.metrics = self.metrics
            raise refused


def judge(config: BackfillConfig, run: BulkRun, sample: Sample) -> list[Figure]:
    summary, num_rows = Survey(run).summary, run.record.num_rows
    num_failed = run.format.faults(summary.failed).total()
    coverage = summary.num_ok / num_rows if num_rows >= LEAST_ROWS else None
    counts = {"coverage": coverage, "failed": num_failed / num_rows}
    bounds = {"failed": config.max_failed_share, **(config.gate or {})}
    values: Values = {**counts, **shares_of(sample.new), **drift(sample)}
    values |= {
        name: figure(config, sample) if bounds.get(name) is not None else None
        for name, figure in (("own_profile", _own_profile), ("own_vector", _own_vector))
    }
    scored = sample.new, sample.old, run.folder / "judged"
    values["judged"] = judged(config, *scored) if bounds.get("judged") is not None else None
    return [Figure(name, value, bounds.get(name)) for name, value in values.items()]


def _own_profile(config: BackfillConfig, sample: Sample) -> float | None:
    """None if the published version's dataset is this run's, or is not there any more."""
    dataset = read_dataset(location_of(config, "dataset"))
    uri = sample.dataset.replace(WORKSPACE, f"{config.workspace.rstrip('/')}/", 1)
    try:
        earlier = read_dataset(open_location(uri, config.storage)) if uri else dataset
    except (ArtifactNotFoundError, ArtifactMismatchError):  # deleted, or of an older xrec
        return None
    is_same = earlier.manifest.fingerprint == dataset.manifest.fingerprint
    return None if is_same else own_profiles(dataset, earlier)


def _own_vector(config: BackfillConfig, sample: Sample) -> float | None:
    from xrec.graph.artifact import read_graph  # it imports torch, which xrec table needs not

    dataset, graph = (location_of(config, name) for name in ("dataset", "graph"))
    return own_vectors(read_dataset(dataset), read_graph(graph))


def shares_of(new: Rows) -> Values:
    rows = list(new.values())
    commonest = Counter(row["explanation"] for row in rows).most_common(1)
    return {
        "plain": _share(row["kind"] == "plain" for row in rows),
        "refused": _share(row["refused"] != "" for row in rows),
        "unsupported": _share(row["refused"] == "unsupported" for row in rows),
        "named": _share(
            any(each["is_named"] for each in row["aspects"]) for row in rows if row["aspects"]
        ),
        "commonest": _share(row["explanation"] == commonest[0][0] for row in rows),
    }


def drift(sample: Sample) -> Values:
    """Figures of texts beside the published ones of the same pairs."""
    pairs = sorted(sample.new.keys() & sample.old.keys())
    new, old = ([rows[pair] for pair in pairs] for rows in (sample.new, sample.old))
    texts, before = ([row["explanation"] for row in rows] for rows in (new, old))
    if len(pairs) < LEAST_ROWS:
        return dict.fromkeys(("length", "distinct", "aspects", "rewritten", "own_item", "own_user"))
    num_words = [sum(len(text.split()) for text in some) for some in (texts, before)]
    is_new = _share(text != earlier for text, earlier in zip(texts, before, strict=True))
    draw, of_item = random.Random(0), defaultdict[str, list[int]](list)
    for place, (_, item) in enumerate(pairs):
        of_item[item].append(place)
    others = (
        [n for n in draw.choices(range(len(pairs)), k=8) if pairs[n][1] != i] for _, i in pairs
    )
    return {
        "length": abs(num_words[0] / max(num_words[1], 1) - 1),
        "distinct": len(set(texts)) / len(set(before)),
        "aspects": _distance(*map(_chosen, (new, old))),
        "rewritten": is_new if sample.is_alike else None,
        "own_item": own_texts(texts, before, others, draw),
        "own_user": own_texts(texts, before, (of_item[item] for _, item in pairs), draw),
    }


def _share(flags: Iterable[bool]) -> float | None:
    found = list(flags)
    return sum(found) / len(found) if len(found) >= LEAST_ROWS else None


def _chosen(rows: Iterable[Mapping[str, Any]]) -> Counter[str]:
    return Counter(each["aspect"] for row in rows for each in row["aspects"])


def _distance(one: Counter[str], other: Counter[str]) -> float | None:
    """The total variation distance of two distributions, 0 to 1; None if one has nothing."""
    if not one or not other:
        return None
    sums = one.total(), other.total()
    return sum(abs(one[name] / sums[0] - other[name] / sums[1]) for name in one | other) / 2


def sample_of(run: BulkRun) -> Sample:
    """The same sample each time; raises BrokenResultError if a result cannot be read."""
    passes, taken, num_chunks = run.passes(), read_takedowns(run.output), run.record.size.num_chunks
    num_wanted = min(num_chunks, -(-SAMPLE_ROWS * num_chunks // run.record.num_rows))
    chosen = np.unique(np.linspace(0, num_chunks - 1, num_wanted).astype(int))
    found = (final_rows(run.format, passes, chunk, chunk) for chunk in chosen.tolist())
    rows = pa.concat_tables(taken.without(rows) for chunk in found for rows, _ in chunk)
    new = _by_pair(rows.filter(pc.equal(rows["status"], OK)))
    try:
        table = published(run.output.uri, storage=run.storage)
        old = _published_rows(table, rows["user_id"].unique().to_pylist())
    except (ArtifactNotFoundError, ArtifactMismatchError):  # nothing, or of an older xrec
        return Sample(new, {})
    mine, said = run.record.identity, table.manifest
    theirs = Identity(kind=mine.kind, config=said.config, inputs=said.inputs)
    uri = said.metrics.get("made_from", {}).get("dataset", "")
    return Sample(new, old, table.version, shared_key(mine) == shared_key(theirs), uri)


def diff_lines(
    uri: str, old: int, new: int, seed: int, storage: StorageConfig | None = None
) -> Iterator[str]:
    """Lines with pairs whose text differs between two versions; raises what `published` raises."""
    before, after = (published(uri, version=version, storage=storage) for version in (old, new))
    rows, users, buckets = after.dataset(PAIRS, None), list[str](), range(after.num_buckets)
    for bucket in random.Random(seed).sample(buckets, len(buckets)):
        found = rows.to_table(columns=["user_id"], filter=pc.field("bucket") == bucket)
        users += found["user_id"].unique().to_pylist()
        if len(users) >= _USERS_LOOKED_AT:
            break
    return side_by_side(_published_rows(after, users), _published_rows(before, users), seed)


def side_by_side(new: Rows, old: Rows, seed: int = 0) -> Iterator[str]:
    """Lines with old and new text of thirty pairs whose text differs, and why it does."""
    nothing = {"explanation": "(no text)"}
    both = {p: (old.get(p, nothing), new.get(p, nothing)) for p in sorted(new.keys() | old.keys())}
    differing = [p for p, rows in both.items() if len({row["explanation"] for row in rows}) > 1]
    yield f"{len(differing)} of {len(both)} pairs differ"
    for pair in sorted(random.Random(seed).sample(differing, min(_NUM_SHOWN, len(differing)))):
        yield f"\n{' '.join(pair)}: {_why(*both[pair])}"
        yield from (
            f"  {mark} {row['explanation']}" for mark, row in zip("-+", both[pair], strict=True)
        )


def _why(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs of a pair beside its text, as far as its rows tell."""
    if len(old) == 1 or len(new) == 1:
        return "new" if len(old) == 1 else "it has no text any more"
    names = ("model_fingerprint", "content_key", "kind", "refused")
    found = [f"{name} {old[name]} -> {new[name]}" for name in names if old[name] != new[name]]
    chosen = [", ".join(_chosen([row])) for row in (old, new)]
    found += [f"aspects {' -> '.join(chosen)}"] if chosen[0] != chosen[1] else []
    return "; ".join(found)


def _published_rows(table: Published, user_ids: Sequence[str]) -> Rows:
    return _by_pair(table.find(table.dataset(GENERATED), "user_id", user_ids or [""]))


def _by_pair(rows: pa.Table) -> Rows:
    found = rows.select(GENERATED.names).to_pylist()
    return {(row["user_id"], row["item_id"]): row for row in found}

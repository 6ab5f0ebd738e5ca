"""What a run is known by: the settings, inputs and rows that its texts depend on, and no URI."""

import pytest

from tests.xrec.backfill.runs import OTHER_DECODING
from xrec.backfill.identity import identify, identify_unchecked, shared_key
from xrec.config.identity import identity_of
from xrec.generate.loading import sources_of
from xrec.storage import run_fingerprint

TWO = {"kind": "split", "max_pairs": 2}
FP8 = {"kind": "vllm", "vllm_options": {"quantization": "fp8", "kv_cache_dtype": "fp8"}}


def test_identity_is_the_manifests_run(runs):
    identity = identify(runs.config())
    assert identity.run == run_fingerprint("explanations", identity.config, identity.inputs)
    assert identify_unchecked(runs.config()) == identity


def test_identity_with_another_dtype_is_another_run(runs):
    one = runs.config()
    other = one.model_copy(update={"llm": one.llm.model_copy(update={"dtype": "bfloat16"})})
    settings, others = identify(one).config, identify(other).config
    assert {name for name in settings if settings[name] != others[name]} == {"llm"}


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"decoding": OTHER_DECODING}, "decoding"),
        ({"pairs": {"kind": "split", "max_pairs": 3}}, "pairs"),
        ({"engine": FP8}, "engine"),
        ({"engine": {"kind": "builtin"}}, "engine"),
    ],
)
def test_identity_of_other_settings_differs(runs, values, key):
    one, other = runs.config(pairs=TWO), runs.config(**{"pairs": TWO, **values})
    settings, others = identify(one).config, identify(other).config
    assert {name for name in settings if settings[name] != others[name]} == {key}
    assert identify(one).run != identify(other).run
    is_same = shared_key(identify(one)) == shared_key(identify(other))
    assert is_same is (key == "pairs")


def test_identity_has_every_option_that_is_not_listed(runs):
    assert identify(runs.config()).config == identity_of(runs.config())


def test_identity_does_not_depend_on_places_and_on_how_the_work_is_done(runs):
    other = runs.config(
        explanations=str(runs.folder / "elsewhere"),
        rows_per_chunk=5,
        carry_from=None,
        gate={"plain": 0.5},
        actors={"num_actors": 1, "device": "cpu"},
        engine={"max_rows": 2, "vllm_options": {"max_num_batched_tokens": 4096}},
        max_failed_share=0.1,
        retry_failed="all",
        vacuum_hours=168,
    )
    assert identify(other) == identify(runs.config())
    tables = [runs.config(pairs={"kind": "table", "uri": uri}) for uri in ("one", "another")]
    assert identify(tables[0]) == identify(tables[1])


def test_sources_can_be_opened_from_anywhere(runs, monkeypatch):
    monkeypatch.chdir(runs.folder)
    sources = sources_of(runs.config(adapter="mine", graph="s3://bucket/graph"))
    assert (sources.adapter, sources.graph) == (str(runs.folder / "mine"), "s3://bucket/graph")

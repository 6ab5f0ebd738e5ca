"""Golden files: what is a difference, and what belongs to a machine."""

from benchmarks import golden


def test_digest_of_another_kind_of_processor_is_kept_and_not_compared(monkeypatch):
    recorded = {"graph": {"shape": [2], "digest": {"avx512": "a"}}}
    monkeypatch.setattr(golden, "processor", lambda: "no avx512")
    here = {"graph": {"shape": [2], "digest": {"no avx512": "b"}}}
    assert list(golden.differences(recorded, here)) == []
    both = golden.merged(recorded, here)
    assert both["graph"]["digest"] == {"avx512": "a", "no avx512": "b"}
    changed = {"graph": {"shape": [3], "digest": {"no avx512": "c"}}, "adapter": {}}
    assert list(golden.differences(both, changed)) == [
        'adapter: recorded "nothing", found {}',
        'graph/digest/no avx512: recorded "b", found "c"',
        "graph/shape: recorded [2], found [3]",
    ]

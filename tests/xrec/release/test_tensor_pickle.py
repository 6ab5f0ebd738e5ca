"""Tensors from pickles: those that torch and pickle wrote come back, all else is refused unrun."""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from xrec.errors import DataError
from xrec.release.tensor_pickle import read_state_dict, read_tensor


class Hostile:
    """Unpickled, it writes a file: the sign that code of the pickle was run."""

    def __init__(self, sign: Path):
        self.sign = sign

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.sign, "run"))


class LoadFromBytes:
    """A call of torch.storage._load_from_bytes, which plain pickle.load would make.

    The attacker chooses its bytes.
    """

    def __init__(self, data: bytes):
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return (torch.storage._load_from_bytes, (self.data,))


class Rebuild:
    """A call of torch._utils._rebuild_tensor_v2 with the given arguments."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return (torch._utils._rebuild_tensor_v2, self.arguments)


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def storage_bytes(tensor: Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensor.storage(), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


READERS = pytest.mark.parametrize(
    ("read", "write"), [(read_state_dict, saved), (read_tensor, pickle.dumps)]
)
Read, Write = Callable[[bytes, str], Any], Callable[[Any], bytes]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_read_state_dict_gives_what_torch_save_wrote_as_float32(dtype: torch.dtype) -> None:
    state = {name: torch.randn(3, 4).to(dtype) for name in ("a", "b.c")}
    read = read_state_dict(saved(OrderedDict(state)), "x.pkl")
    assert {name: tensor.tolist() for name, tensor in read.items()} == {
        name: tensor.float().tolist() for name, tensor in state.items()
    }
    assert {tensor.dtype for tensor in read.values()} == {torch.float32}


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_read_tensor_gives_what_pickle_dump_wrote(protocol: int) -> None:
    """Slices of one trained table, as the release writes them.

    Each has the storage of the whole table and requires a gradient.
    """
    table = torch.randn(9, 4, requires_grad=True) * 2
    for rows in (table[:5], table[5:]):
        read = read_tensor(pickle.dumps(rows, protocol=protocol), "user_emb.pkl")
        assert torch.equal(read, rows)
        assert (read.requires_grad, read.is_contiguous(), read.untyped_storage().nbytes()) == (
            False,
            True,
            rows.numel() * 4,
        )


@READERS
def test_read_hostile_pickle_is_refused_and_runs_nothing(
    read: Read, write: Write, tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    for content in (
        Hostile(sign),
        {"w_gate": Hostile(sign)},
        OrderedDict(w_gate=torch.zeros(2), extra=Hostile(sign)),
        [Hostile(sign)],
    ):
        data = write(content)
        with pytest.raises(DataError, match=r"x\.pkl: not .*nothing in it was run"):
            read(data, "x.pkl")
        assert not sign.exists()
    pickle.loads(pickle.dumps(Hostile(sign)))
    assert sign.exists(), (
        "the hostile pickle must do harm where nothing stops it, else the test proves nothing"
    )


def test_read_tensor_hostile_storage_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    inner = LoadFromBytes(pickle.dumps(Hostile(sign)))
    arguments = (0, (2,), (1,), False, OrderedDict())
    for content in (
        inner,
        Rebuild(inner, *arguments),
        Rebuild(LoadFromBytes(saved(Hostile(sign))), *arguments),
    ):
        with pytest.raises(DataError, match="nothing in it was run"):
            read_tensor(pickle.dumps(content), "user_emb.pkl")
    assert not sign.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(S'open(SIGN, \"w\")'\ntR.",
        b"(S'open(SIGN, \"w\")'\nibuiltins\neval\n.",
        b"(cbuiltins\neval\nS'open(SIGN, \"w\")'\no.",
        b"\x80\x04\x8c\x0dtorch.storage\x94\x8c\x1c_load_from_bytes.__globals__\x94\x93\x94.",
    ],
)
def test_read_tensor_other_ways_to_name_a_function_are_refused(
    program: bytes, tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    with pytest.raises(
        DataError, match=r"it calls (builtins\.eval|torch\.storage\._load_from_bytes\.__globals__)"
    ):
        read_tensor(
            program.replace(b"SIGN", repr(str(sign)).encode().replace(b"'", b"\\x27")),
            "user_emb.pkl",
        )
    assert not sign.exists()


def test_read_tensor_that_sets_attributes_is_refused_and_sets_none() -> None:
    program = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(N}X\x04\x00\x00\x00evilK\x01stb."
    with pytest.raises(DataError, match="it sets attributes"):
        read_tensor(program, "user_emb.pkl")
    assert not hasattr(torch._utils._rebuild_tensor_v2, "evil")


def test_read_tensor_beyond_its_storage_is_refused() -> None:
    storage = LoadFromBytes(storage_bytes(torch.zeros(8)))
    for offset, size, stride in (
        (0, (9,), (1,)),
        (4, (5,), (1,)),
        (0, (4, 4), (8, 1)),
        (-1, (2,), (1,)),
    ):
        with pytest.raises(DataError, match="not one tensor"):
            read_tensor(
                pickle.dumps(Rebuild(storage, offset, size, stride, False, OrderedDict())),
                "user_emb.pkl",
            )


@READERS
def test_read_truncated_file_raises_data_error_at_every_length(read: Read, write: Write) -> None:
    data = write(torch.randn(2, 3) if read is read_tensor else {"a": torch.randn(2, 3)})
    for length in range(len(data) - 1):
        with pytest.raises(DataError, match=r"x\.pkl: not"):
            read(data[:length], "x.pkl")


@READERS
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4a2a\nsize 8401594\n",
        b"PK\x03\x04" + bytes(60),
    ],
)
def test_read_file_of_another_format_raises_data_error(
    read: Read, write: Write, data: bytes
) -> None:
    with pytest.raises(DataError, match=r"x\.pkl: not"):
        read(data, "x.pkl")


@READERS
@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, dtype=torch.int64), "saw torch.int64"),
        (torch.tensor([1.0, float("nan")]), "holds NaN or infinity"),
        (torch.tensor([float("inf")]), "holds NaN or infinity"),
    ],
)
def test_read_tensor_of_another_kind_raises_data_error(
    read: Read, write: Write, tensor: Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tensor if read is read_tensor else {"a": tensor}), "x.pkl")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2), "expected a state dict"),
        ([torch.zeros(2)], "expected a state dict"),
        ({1: torch.zeros(2)}, "expected a state dict"),
        ({"a": 1.0}, "a: expected a dense tensor of floating-point numbers, saw float"),
        ({"a": torch.eye(2).to_sparse()}, r"saw torch\.float32 in layout torch\.sparse_coo"),
    ],
)
def test_read_state_dict_of_other_things_raises_data_error(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_state_dict(saved(value), "x.pkl")


@pytest.mark.parametrize(
    "value", [None, 3, [torch.zeros(2)], (torch.zeros(2), torch.zeros(2)), {"a": torch.zeros(2)}]
)
def test_read_tensor_of_other_things_raises_data_error(value: Any) -> None:
    with pytest.raises(DataError, match="not one tensor"):
        read_tensor(pickle.dumps(value), "x.pkl")

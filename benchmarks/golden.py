"""Record what the sample's run makes and how wrong inputs end; later, report what has changed.

    make demo WORKSPACE=/tmp/demo
    python -m benchmarks.golden record --workspace /tmp/demo
    python -m benchmarks.golden compare --workspace /tmp/demo

`record` writes JSON files to golden/: workspace.json (each artifact's content), rows.json (the
published texts), errors.json (the exit code, error code, and key of each command in
golden/wrong.yaml), and dataset-NAME.json with `--dataset FOLDER NAME`. `compare` prints each
difference from these files and exits with 1 if there is one.

Artifacts are read without xrec, and the program is called by its installed name, so both commands
work before and after a rebuild. Times, run ids, hosts, versions, and paths are left out. Trained
weights, and whatever follows from them, differ between processors with and without AVX-512: their
content is recorded by kind of processor and compared only with the same kind.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from unittest.mock import patch

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import typer
import yaml
from safetensors.numpy import load_file

GOLDEN = Path(__file__).with_name("golden")
_UNSTABLE_COLUMNS = {"bucket", "content_key", "model_fingerprint", "run", "version"}
_UNSTABLE_WORDS = {
    *("at", "date", "fingerprint", "host", "path", "run"),
    *("second", "seconds", "time", "uri", "version"),
}
_KINDS = {"avx512", "no avx512"}
_EVERYWHERE = "every processor"

Values = Mapping[str, Any]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def processor() -> str:
    """Return the kind of this machine's processor, on which trained weights depend."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return "avx512" if "avx512f" in flags else "no avx512"


def digest_of(parts: Iterator[bytes] | list[bytes]) -> str:
    """Return 16 hex digits of the SHA-256 of the parts, each preceded by its length."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()[:16]


def table_record(table: pa.Table, where: str) -> dict[str, Any]:
    """Return a table's columns and number of rows, and a digest that no order of rows changes."""
    names = sorted(set(table.column_names) - _UNSTABLE_COLUMNS)
    table = table.select(names)
    rows = sorted(
        json.dumps(row, ensure_ascii=False, default=str).encode()
        for batch in table.to_batches(max_chunksize=10_000)
        for row in batch.to_pylist()
    )
    columns = {field.name: str(field.type) for field in table.schema}
    return {"columns": columns, "rows": table.num_rows, "digest": {where: digest_of(rows)}}


def tensors_record(path: Path, where: str) -> dict[str, Any]:
    """Return the shape, dtype, and digest of each tensor of a safetensors file."""
    return {
        name: {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype),
            "digest": {where: digest_of([tensor.tobytes()])},
        }
        for name, tensor in sorted(load_file(path).items())
    }


def stable(value: Any) -> Any:
    """Return a JSON value without the keys that differ from run to run."""
    if isinstance(value, dict):
        names = sorted(name for name in value if not _UNSTABLE_WORDS & {*name.split("_")})
        return {name: stable(value[name]) for name in names}
    return [stable(each) for each in value] if isinstance(value, list) else value


def artifact_record(folder: Path, where: str) -> dict[str, Any]:
    """Return the content of an artifact's files by name; a Delta table is one of its own."""
    if (folder / "_delta_log").is_dir():
        return {"table": table_record(deltalake.DeltaTable(folder).to_pyarrow_table(), where)}
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.name == "manifest.json":
            found[name] = {"row_counts": json.loads(path.read_text())["row_counts"]}
        elif path.suffix == ".parquet":
            found[name] = table_record(pq.read_table(path), where)
        elif path.suffix == ".safetensors":
            found[name] = tensors_record(path, where)
        elif path.suffix == ".json":
            values = stable(json.loads(path.read_text()))
            text = json.dumps(values)
            is_long = len(text) > 10_000  # a tokenizer
            shown = digest_of([text.encode()]) if is_long else values
            found[name] = {"digest" if is_long else "values": {where: shown}}
    return found


def workspace_record(workspace: Path) -> dict[str, Any]:
    """Return the content of each finished artifact of a workspace."""
    folders = {path.parent for path in workspace.rglob("manifest.json")}
    folders |= {path.parent for path in workspace.rglob("_delta_log")}
    top = [each for each in folders if not any(parent in folders for parent in each.parents)]
    return {
        str(each.relative_to(workspace)): artifact_record(
            each, _EVERYWHERE if each.name == "dataset" else processor()
        )
        for each in sorted(top)
    }


def published_rows(workspace: Path) -> dict[str, dict[str, str]]:
    """Return the status and the explanation or reason of each published pair, USER ITEM."""
    rows = deltalake.DeltaTable(workspace / "explanations").to_pyarrow_table().to_pylist()
    shown = {
        f"{row['user_id']} {row['item_id']}": f"{row['status']}: "
        f"{row['explanation'] or row['reason']}"
        for row in rows
    }
    return {processor(): dict(sorted(shown.items()))}


def error_endings(folder: Path) -> dict[str, dict[str, Any]]:
    """Run each command of wrong.yaml in `folder`; return how it ended."""
    given = yaml.safe_load((GOLDEN / "wrong.yaml").read_text())
    for name, text in given["files"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace("{folder}", str(folder)))
    lines = [line for line in given["commands"].splitlines() if not line.startswith("#")]
    with contextlib.chdir(folder):
        return {line: _ending(line, str(folder)) for line in lines}


def _ending(line: str, folder: str) -> dict[str, Any]:
    (program,) = importlib.metadata.entry_points(group="console_scripts", name="xrec")
    words = [program.name, *shlex.split(line.replace("{folder}", folder))]
    with (
        patch.object(sys, "argv", words),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        try:
            exit_code: Any = program.load()() or 0
            error: BaseException | None = None
        except SystemExit as ended:
            exit_code, error = ended.code, ended
        except Exception as bug:  # noqa: BLE001 - a bug is an ending too
            exit_code, error = f"{type(bug).__name__}: {bug}", None
    while error is not None and not isinstance(getattr(error, "code", None), str):
        error = error.__cause__ or error.__context__
    code, key = (str(getattr(error, name, "")) for name in ("code", "key"))
    return {"exit": exit_code, "code": code, "key": key.replace(folder, "{folder}")}


def merged(recorded: Any, found: Any) -> Any:
    """Return `found` with the digests and rows that `recorded` has of other processors."""
    if not isinstance(recorded, dict) or not isinstance(found, dict):
        return found
    kept = {name: value for name, value in recorded.items() if name in _KINDS}
    return kept | {name: merged(recorded.get(name), value) for name, value in found.items()}


def differences(recorded: Any, found: Any, place: str = "") -> Iterator[str]:
    """Yield a line for each value that differs, except those of another kind of processor."""
    if not isinstance(recorded, dict) or not isinstance(found, dict):
        if recorded != found:
            yield f"{place}: recorded {_cut(recorded)}, found {_cut(found)}"
        return
    compared = {*recorded, *found} - (_KINDS - {processor()})
    if processor() not in recorded:
        compared -= {processor()}
    for name in sorted(compared):
        below = f"{place}/{name}" if place else name
        yield from differences(recorded.get(name, "nothing"), found.get(name, "nothing"), below)


def _cut(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."


@app.command()
def main(
    action: Annotated[Literal["record", "compare"], typer.Argument()],
    workspace: Annotated[Path | None, typer.Option(help="What make demo made.")] = None,
    dataset: Annotated[
        tuple[Path, str] | None,
        typer.Option(metavar="FOLDER NAME", help="A further dataset, recorded by this name."),
    ] = None,
    errors: Annotated[bool, typer.Option(help="Run the commands of wrong.yaml.")] = True,
) -> None:
    """Record the golden files, or compare with them."""
    found: dict[str, Values] = {}
    if workspace is not None:
        found["workspace"] = workspace_record(workspace)
        found["rows"] = published_rows(workspace)
    if dataset is not None:
        found[f"dataset-{dataset[1]}"] = artifact_record(dataset[0], _EVERYWHERE)
    if errors:
        with tempfile.TemporaryDirectory() as folder:
            found["errors"] = error_endings(Path(os.path.realpath(folder)))
    lines: list[str] = []
    for name, values in found.items():
        path = GOLDEN / f"{name}.json"
        recorded = json.loads(path.read_text()) if path.exists() else {}
        if action == "compare":
            lines += differences(recorded, json.loads(json.dumps(values)), name)
        else:
            text = json.dumps(merged(recorded, values), indent=1, ensure_ascii=False)
            path.write_text(f"{text}\n")
    for line in lines:
        typer.echo(line)
    raise typer.Exit(1 if lines else 0)


if __name__ == "__main__":
    app()

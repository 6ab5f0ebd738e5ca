"""Two months of nights in one program: churn, forgets, kills and bad files, and what must hold.

    python -m benchmarks.sixty_nights FOLDER --nights 60 --users 10000 --seed 0

Everything follows from the seed. A night's texts are sentences about what people did (`llm: null`).
Between two nights the program sets all times in the workspace back by a day: those of files, of
the table's log and of plans. On each night some users and items come, leave and return, and every
third night somebody is forgotten. Some nights are killed between two jobs and started again, and
some have files of a bad day (`BAD`). After each night it checks (`Nights.check`):

- the published version passed its gate, and each bad night was stopped by the named figure;
- forgotten people are nowhere but in earlier versions, which are deleted within a week;
- at the end, that indices and disk are bounded.
"""

import csv
import json
import os
import random
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer
import yaml

from xrec.bulk import find_published
from xrec.config import Project, read_project
from xrec.data import open_dataset
from xrec.errors import GateError
from xrec.jobs import pipeline
from xrec.jobs.pipeline import chosen_configs
from xrec.nights import check_forgotten, forget
from xrec.storage import Manifest, open_location

WEEK, _DAY_SECONDS = timedelta(days=7), 86_400
_NUM_REMEMBERED = 30  # nights for which an index is kept
_RATES = {"users": 0.01, "items": 0.05}
"""Share that leaves each night; as many come back or are new."""


BAD: Mapping[str, str] = {
    "three items are eligible": "items",
    "the file of visits is cut": "interactions",
    "half of the users are missing": "users",
}
"""Files of a bad day, and a figure that must stop them."""


class Shop:
    """Users of four tastes, items of four kinds, and visits; `step` makes the next day."""

    def __init__(self, num_users: int, num_items: int, draw: random.Random):
        self._draw = draw
        self.present = {
            "users": {f"u{n}" for n in range(num_users)},
            "items": {f"i{n}" for n in range(num_items)},
        }
        self._away: dict[str, list[str]] = {"users": [], "items": []}
        self._num_made = {"users": num_users, "items": num_items}
        self.forgotten: list[str] = []
        self._visits = {
            (user, self._item(user)) for user in self._sorted("users") for _ in range(8)
        }

    @property
    def visits(self) -> list[tuple[str, str]]:
        """The visits of present users to present items."""
        users, items = self.present["users"], self.present["items"]
        return sorted(pair for pair in self._visits if pair[0] in users and pair[1] in items)

    def step(self) -> None:
        """Let some users and items leave, and as many return or come for the first time."""
        for kind, rate in _RATES.items():
            here, away = self.present[kind], self._away[kind]
            leaving = self._draw.sample(self._sorted(kind), round(rate * len(here)))
            for _name in leaving:
                is_back = away and self._draw.random() < 0.7
                here.add(away.pop(0) if is_back else self._new(kind))
            here.difference_update(leaving)
            away.extend(leaving)
        users, known = self._sorted("users"), {user for user, _ in self._visits}
        some = self._draw.sample(users, len(users) // 20) + [u for u in users if u not in known]
        self._visits |= {(user, self._item(user)) for user in some for _ in range(4)}

    def forget(self) -> str:
        """Remove a user for good, and return the ID; the files no longer have it."""
        user = self._draw.choice(self._sorted("users"))
        self.present["users"].remove(user)
        self.forgotten.append(user)
        return user

    def write(self, folder: Path, spoil: str | None = None) -> None:
        """Write interactions.csv and eligible.csv, as on a bad day if `spoil` names one."""
        files: dict[str, list[tuple[str, ...]]] = {
            "interactions": [("user_id", "item_id"), *self.visits],
            "eligible": [("item_id",), *((item,) for item in self._sorted("items"))],
        }
        if spoil == "three items are eligible":
            files["eligible"] = files["eligible"][:4]
        elif spoil == "the file of visits is cut":
            files["interactions"] = files["interactions"][: len(files["interactions"]) // 100]
        elif spoil is not None:
            half = {*self._sorted("users")[::2], "user_id"}
            files["interactions"] = [row for row in files["interactions"] if row[0] in half]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "raw").mkdir(exist_ok=True)
        for name, rows in files.items():
            path = folder / ("raw" if name == "interactions" else "") / f"{name}.csv"
            with path.open("w", newline="") as file:
                csv.writer(file).writerows(rows)

    def _sorted(self, kind: str) -> list[str]:
        return sorted(self.present[kind])

    def _new(self, kind: str) -> str:
        self._num_made[kind] += 1
        return f"{kind[0]}{self._num_made[kind] - 1}"

    def _item(self, user: str) -> str:
        """Draw an item, mostly one of the user's taste."""
        items, taste = self._sorted("items"), int(user[1:]) % 4
        own = [item for item in items if int(item[1:]) % 4 == taste]
        return self._draw.choice(own if own and self._draw.random() < 0.8 else items)


class Killed(BaseException):
    """Ends a night as a signal does."""


class Nights:
    """The nights of a project in `folder`, which has its files, workspace and `xrec.yaml`."""

    def __init__(self, folder: Path, num_users: int, num_items: int, seed: int):
        self._draw = random.Random(seed)
        self.shop = Shop(num_users, num_items, self._draw)
        self.folder, self.workspace = folder, folder / "workspace"
        self.stopped = dict[str, int]()
        self._seen = {kind: list[set[str]]() for kind in self.shop.present}
        one = {"num_processes": 1, "device": "cpu"}
        training = {"loss": "bpr", "num_epochs": 4, "steps_per_epoch": 8, "learning_rate": 0.02}
        values = {
            "workspace": str(self.workspace),
            "prepare": {"source": {"kind": "tables", "uri": str(folder / "raw")}},
            "pretrain-graph": {
                "model": {"embedding_dim": 8, "initialization": "random"},
                "training": training,
                "workers": one,
            },
            "neighbors": {},
            "recommend": {"k": 5, "eligible": {"items": str(folder / "eligible.csv")}},
            "backfill": {
                "llm": None,
                "actors": one,
                "max_failed_share": 1,
                "gate": {"coverage": 0},
            },
        }
        self.shop.write(folder)
        (folder / "xrec.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        pipeline.run(chosen_configs(self.project), tell=_quiet)

    @property
    def project(self) -> Project:
        return read_project(str(self.folder / "xrec.yaml"), [])

    def night(self, number: int) -> None:
        """Play a night, and check it."""
        self.age()
        self.shop.step()
        if number % 4 == 2:
            bad = [*BAD][number // 4 % len(BAD)]
            self.shop.write(self.folder, bad)
            self._is_stopped(bad)
        self.shop.write(self.folder)
        if self._draw.random() < 0.3:
            self._kill()
        if number % 3 == 0:
            user = self.shop.forget()
            forget(self.project, [user], refresh=self.refresh, retention=WEEK)
            self.shop.write(self.folder)
        self.refresh()
        self.check(number)

    def refresh(self, tell: Any = None) -> Manifest:
        """Run `xrec refresh`."""
        return pipeline.refresh(chosen_configs(self.project), tell=tell or _quiet)

    def published(self) -> Manifest:
        """Return the manifest of what readers see."""
        manifest = find_published(open_location(f"{self.workspace}/explanations"), "explanations")
        assert manifest is not None
        return manifest

    def check(self, number: int) -> None:
        """Raise AssertionError unless what the module promises holds after a night."""
        manifest = self.published()
        assert manifest.metrics["gate"]["passed"], f"night {number} was published past its gate"
        if self.shop.forgotten:
            for remains in check_forgotten(self.project, WEEK)["remains"]:
                assert remains["until"] != "the next xrec forget", f"night {number}: {remains}"
        dataset = open_dataset(self._uri("dataset"))
        for kind, table in (("users", dataset.users), ("items", dataset.items)):
            seen = self._seen[kind]
            seen.append({*self.shop.present[kind]})
            ids = set[str]().union(*seen[-_NUM_REMEMBERED - 1 :])
            assert table.num_rows <= 1.2 * len(ids), f"night {number}: {table.num_rows} {kind}"

    def stored_bytes(self) -> int:
        """Return the size of the workspace."""
        return sum(path.stat().st_size for path in self.workspace.rglob("*") if path.is_file())

    def age(self) -> None:
        """Set all times in the workspace back by a day."""
        table = self.workspace / "explanations"
        for path in (table / "_delta_log").glob("*checkpoint*"):
            path.unlink()  # the entries have the same content
        for path in (table / "_delta_log").glob("*.json"):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            for line in lines:
                _set_back(line, ("timestamp", "deletionTimestamp"), 1000 * _DAY_SECONDS)
            path.write_text("\n".join(map(json.dumps, lines)))
        for path in (table / "_xrec/runs").glob("*/run-*.json"):
            record = json.loads(path.read_text())
            _set_back(record, ("planned_at",), _DAY_SECONDS)
            path.write_text(json.dumps(record))
        for path in self.workspace.rglob("*"):
            if path.is_file():
                time = path.stat().st_mtime - _DAY_SECONDS
                os.utime(path, (time, time))

    def _uri(self, kind: str) -> str:
        uri: str = self.published().metrics["made_from"][kind]
        return uri.replace("workspace:", f"{self.workspace}/")

    def _is_stopped(self, bad: str) -> None:
        before, figures = self.published(), tuple[str, ...]()
        try:
            self.refresh()
        except GateError as error:
            figures = tuple(error.saw)
        assert BAD[bad] in figures, f"{bad}: stopped by {figures or 'nothing'}"
        self.stopped[bad] = self.stopped.get(bad, 0) + 1
        assert self.published() == before

    def _kill(self) -> None:
        left = self._draw.randrange(1, 9)

        def tell(line: str) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Killed

        with suppress(Killed):
            self.refresh(tell)


def _set_back(values: Any, names: tuple[str, ...], by: int) -> None:
    for key, value in values.items() if isinstance(values, dict) else ():
        if key in names and isinstance(value, int | float):
            values[key] = value - by
        _set_back(value, names, by)


def _quiet(line: str) -> None:
    pass


def main(
    folder: Path, nights: int = 60, users: int = 10_000, items: int = 400, seed: int = 0
) -> None:
    """Play the nights, print a line for each, and check the disk at the end."""
    played, sizes = Nights(folder, users, items, seed), list[int]()
    for number in range(1, nights + 1):
        played.night(number)
        sizes.append(played.stored_bytes())
        made = played.published()
        carried = made.metrics["num_carried"] / sum(made.row_counts.values())
        typer.echo(f"night {number}: {sizes[-1] / 2**20:.1f} MiB, carried {carried:.0%}")
    if nights > 14:
        assert sizes[-1] <= 2 * sizes[13], f"{sizes[13]} bytes on night 14, {sizes[-1]} at the end"
    typer.echo(f"bad nights that were stopped: {played.stopped}")


if __name__ == "__main__":
    typer.run(main)

"""The Dockerfile as its instructions, stage by stage."""

from dataclasses import dataclass

from tests.infra.manifests import ROOT

DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"


@dataclass(frozen=True)
class Instruction:
    """One instruction. Its continued lines are joined."""

    keyword: str
    value: str


def instructions() -> list[Instruction]:
    """Return all instructions in order, without comments."""
    found: list[Instruction] = []
    parts: list[str] = []
    for line in DOCKERFILE.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts.append(line.strip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            keyword, _, value = " ".join(parts).partition(" ")
            found.append(Instruction(keyword, value))
            parts = []
    return found


def stages() -> dict[str, list[Instruction]]:
    """Return the instructions of each stage by its name, FROM first."""
    found: dict[str, list[Instruction]] = {}
    for instruction in instructions():
        if instruction.keyword == "FROM":
            found[instruction.value.split(" AS ")[1]] = []
        list(found.values())[-1].append(instruction)
    return found

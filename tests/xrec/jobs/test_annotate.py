"""`xrec annotate` as a command and as a job of a project, with its actor in this process."""

import pytest

from tests.world.program import said
from tests.world.shop import review, write_json_lines, write_yaml
from tests.xrec.jobs.conftest import work_here
from xrec.config import AnnotateConfig, PrepareConfig, load_config, read_project
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.jobs import annotate as annotate_job
from xrec.jobs import prepare as prepare_job
from xrec.jobs.status import project_status

NUM_USERS = 8


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project file of reviews, whose jobs are annotate and prepare."""
    work_here(monkeypatch)
    text = "The tone is warm. It has a good tone."
    rows = [
        review(f"u{user}", f"i{(user + number) % 5}", text, time=number)
        for user in range(NUM_USERS)
        for number in range(4)
    ]
    path = write_json_lines(tmp_path / "reviews.jsonl", rows)
    values = {
        "workspace": str(tmp_path / "workspace"),
        "annotate": {
            "source": {"uri": str(path)},
            "rows_per_chunk": 4,
            "annotator": {"kind": "phrases"},
            "vocabulary": {"add": ["tone"]},
        },
        "prepare": {"source": {"kind": "annotations"}},
    }
    return str(write_yaml(tmp_path / "project.yaml", values))


def _annotate(project: str, *overrides: str) -> AnnotateConfig:
    return load_config(AnnotateConfig, project, overrides)


def _states(project: str, *overrides: str) -> dict[str, str]:
    artifacts = project_status(read_project(project, overrides))
    return {artifact.kind: artifact.state for artifact in artifacts}


def test_annotate_stops_at_its_limit_continues_without_and_refuses_other_reviews(project, tmp_path):
    assert "reached limit=7; " in said("annotate", project, "limit=7")
    assert _states(project) == {"annotations": "begun", "dataset": "missing"}
    assert f"explanations {4 * NUM_USERS}" in said("annotate", project)
    assert _states(project)["annotations"] == "up to date"
    uri = f"{_annotate(project).artifact('annotations')}/pairs"
    out = said("table", "status", uri)
    assert ("kind: annotations\n" in out, "\nphase: published\n" in out) == (True, True)
    assert f"{uri}: nothing is wrong" in said("table", "check", uri)
    assert annotate_job.run(_annotate(project)) == annotate_job.run(_annotate(project))
    write_json_lines(tmp_path / "reviews.jsonl", [review("a", "1", time=1)])
    assert annotate_job.output(_annotate(project), exact=False).found().state == "up to date"
    assert annotate_job.output(_annotate(project)).found().state == "stale"
    with pytest.raises(ArtifactMismatchError):
        annotate_job.run(_annotate(project))


def test_annotate_with_other_settings_makes_the_dataset_stale(project):
    with pytest.raises(ArtifactNotFoundError):
        prepare_job.run(load_config(PrepareConfig, project))
    annotate_job.run(_annotate(project))
    dataset = prepare_job.run(load_config(PrepareConfig, project))
    assert _states(project) == {"annotations": "up to date", "dataset": "up to date"}
    states = _states(project, "annotate.min_rating=3")
    assert states == {"annotations": "stale", "dataset": "stale"}
    again = _annotate(project, "vocabulary.min_reviews=2")
    annotate_job.output(again).delete()
    annotate_job.run(again)
    found = prepare_job.output(load_config(PrepareConfig, project)).found()
    assert found.state == "stale"
    assert found.manifest == dataset

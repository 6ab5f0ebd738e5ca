"""AWS and cron: Terraform grants what the code calls, and the crontab submits nights.

The program `xrec` on the path is a stub that records its arguments; the real command must accept
them.
"""

import os
import re
import shutil
import subprocess
from datetime import date
from typing import Any

import hcl2
import pytest
import typer
import yaml

from tests.infra.test_environment import ROOT, write_program
from xrec.cli.main import app

AWS = ROOT / "infra" / "aws"
MODULE = AWS / "terraform"
Block = dict[str, Any]


@pytest.fixture(scope="module")
def terraform():
    """The blocks of the module by type: resource, data, variable, and so on."""
    blocks: dict[str, list[Block]] = {}
    plain = hcl2.SerializationOptions(
        with_comments=False, explicit_blocks=False, strip_string_quotes=True
    )
    for path in sorted(MODULE.glob("*.tf")):
        for kind, found in hcl2.loads(path.read_text(), serialization_options=plain).items():
            blocks.setdefault(kind, []).extend(found)
    return blocks


def of_type(blocks: list[Block], type_name: str) -> dict[str, Block]:
    return {
        name: body
        for block in blocks
        for kind, named in block.items()
        if kind == type_name
        for name, body in named.items()
    }


def statements(terraform: dict[str, list[Block]], document: str) -> list[Block]:
    return of_type(terraform["data"], "aws_iam_policy_document")[document]["statement"]


def test_terraform_declares_all_that_it_refers_to(terraform):
    text = "\n".join(path.read_text() for path in MODULE.glob("*.tf"))
    code = re.sub(r"#.*|\"(?:[^\"$\\]|\\.)*\"", "", text)
    for kind, word in (("variable", "var"), ("locals", "local")):
        declared = {name for block in terraform[kind] for name in block}
        assert set(re.findall(rf"\b{word}\.(\w+)", text)) == declared
    for kind, name in set(re.findall(r"\b(aws_\w+)\.(\w+)", code)):
        where = "data" if kind == "aws_iam_policy_document" else "resource"
        assert name in of_type(terraform[where], kind), f"{kind}.{name}"
    assert all(body["description"] for block in terraform["variable"] for body in block.values())


def test_terraform_finds_the_module_valid(tmp_path):
    if (program := shutil.which("terraform")) is None:
        pytest.skip("needs terraform")
    shutil.copytree(MODULE, tmp_path / "module")
    for words in (["init", "-backend=false", "-input=false"], ["validate"]):
        subprocess.run([program, *words], cwd=tmp_path / "module", check=True)


# The actions of AWS that xrec's requests to S3 need.
READ = {"s3:ListBucket", "s3:GetObject"}
WRITE = {"s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"}
KEPT = {"s3:GetBucketVersioning", "s3:GetLifecycleConfiguration", "s3:ListBucketVersions"}
WRITE |= KEPT | {"s3:GetObjectVersion"}


def test_iam_allows_jobs_and_endpoint_what_the_code_calls_and_no_more(terraform):
    for name, actions in (("read", READ), ("write", WRITE)):
        granted = [each["actions"] for each in statements(terraform, name)]
        assert {action for statement in granted for action in statement} == actions
    for write in statements(terraform, "write"):
        below = "" if {*write["actions"]} == KEPT else "/${var.prefix}/*"
        assert write["resources"] == [f"${{local.bucket_arn}}{below}"]
    attached = of_type(terraform["resource"], "aws_iam_role_policy_attachment")
    for role, policy in (("jobs", "write"), ("endpoint", "read")):
        assert attached[role]["policy_arn"] == f"${{aws_iam_policy.{policy}.arn}}"
    for statement in statements(terraform, "read"):
        resources = statement["resources"]
        listed = resources if isinstance(resources, list) else [resources]
        assert all("local.bucket_arn" in each for each in listed)
    for document in of_type(terraform["data"], "aws_iam_policy_document"):
        for statement in statements(terraform, document):
            if statement.get("effect") != "Deny":
                prefix = "ec2:Describe" if statement.get("resources") == ["*"] else ""
                for action in statement["actions"]:
                    assert action.startswith(prefix), document
                    assert "*" not in action, document


def test_launcher_file_is_valid_requires_tokens_and_uses_the_profiles_of_terraform(terraform):
    from ray.autoscaler._private.util import prepare_config, validate_config

    launcher = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text())
    validate_config(prepare_config(launcher))  # with the provider's defaults, as `ray up` has it
    commands = launcher["head_start_ray_commands"] + launcher["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ray start") for command in starts)
    assert "/home/xrec/.ray/auth_token" in launcher["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in starts[0]
    configs = [kind["node_config"] for kind in launcher["available_node_types"].values()]
    assert {config["MetadataOptions"]["HttpTokens"] for config in configs} == {"required"}
    profiles = of_type(terraform["resource"], "aws_iam_instance_profile").values()
    named = {config["IamInstanceProfile"]["Arn"].split("/")[-1] for config in configs}
    assert named == {body["name"] for body in profiles}


def test_cron_submits_refresh_with_the_date_as_key(tmp_path, monkeypatch):
    write_program(tmp_path / "xrec", f'for word; do echo "$word"; done >> {tmp_path}/calls')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    lines = (ROOT / "infra" / "schedulers" / "crontab").read_text().splitlines()
    (*when, command) = next(line for line in lines if "xrec submit" in line).split(maxsplit=5)
    assert (when, "%" in command.replace("\\%", "")) == (["30", "2", "*", "*", "*"], False)
    subprocess.run(["/bin/sh", "-c", command.replace("\\%", "%")], check=True)
    assert_submits_refresh((tmp_path / "calls").read_text().splitlines())


@pytest.mark.parametrize(("file", "key"), [("airflow_dag", "{{ ds }}"), ("dagster_asset", "{key}")])
def test_airflow_and_dagster_submit_refresh_with_the_date_as_key(file, key):
    text = (ROOT / "infra" / "schedulers" / f"{file}.py").read_text()
    (command,) = re.findall(r'"xrec (submit [^"\n]*)"', text)
    assert_submits_refresh(command.replace(key, date.today().isoformat()).split())


def assert_submits_refresh(command):
    name, *words = command
    given = typer.main.get_command(app).commands[name].make_context(name, words).params
    assert (name, given["key"]) == ("submit", date.today().isoformat())
    assert [*given["command"]] == ["refresh", "/etc/xrec/shop.yaml"]

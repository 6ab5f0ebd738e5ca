"""AWS: Ray's launcher accepts the cluster file, and the Terraform grants what the code calls.

It grants no other action, and none outside the bucket.
"""

import json
import re
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from tests.infra.manifests import ROOT

AWS = ROOT / "infra" / "aws"
MODULE = AWS / "terraform"
Block = dict[str, Any]


@pytest.fixture(scope="module")
def terraform():
    """All blocks of the module by their type: resource, data, variable, ..."""
    blocks: dict[str, list[Block]] = {}
    plain = hcl2.SerializationOptions(
        with_comments=False, explicit_blocks=False, strip_string_quotes=True
    )
    for path in sorted(MODULE.glob("*.tf")):
        for kind, found in hcl2.loads(path.read_text(), serialization_options=plain).items():
            blocks.setdefault(kind, []).extend(found)
    return blocks


def _of_type(blocks: list[Block], type_name: str) -> dict[str, Block]:
    return {
        name: body
        for block in blocks
        for kind, named in block.items()
        if kind == type_name
        for name, body in named.items()
    }


def _statements(terraform: dict[str, list[Block]], document: str) -> list[Block]:
    return _of_type(terraform["data"], "aws_iam_policy_document")[document]["statement"]


def test_terraform_every_reference_is_to_something_declared(terraform):
    text = "\n".join(path.read_text() for path in MODULE.glob("*.tf"))
    code = re.sub(r"#.*|\"(?:[^\"$\\]|\\.)*\"", "", text)
    variables = {name for block in terraform["variable"] for name in block}
    assert set(re.findall(r"\bvar\.(\w+)", text)) == variables
    local_names = {name for block in terraform["locals"] for name in block}
    assert set(re.findall(r"\blocal\.(\w+)", text)) == local_names
    for kind, name in set(re.findall(r"\b(aws_\w+)\.(\w+)", code)):
        where = "data" if kind == "aws_iam_policy_document" else "resource"
        assert name in _of_type(terraform[where], kind), f"{kind}.{name}"
    assert all(body["description"] for block in terraform["variable"] for body in block.values())


def test_terraform_lifecycle_rules_are_those_of_the_one_file():
    rules = json.loads((AWS / "backfill-lifecycle.json").read_text())["Rules"]
    text = (MODULE / "bucket.tf").read_text()
    (path,) = re.findall(r'file\("\$\{path\.module\}/([^"]+)"\)', text)
    assert (MODULE / path).resolve() == AWS / "backfill-lifecycle.json"
    # None of these deletes an object that counts, as "Expiration" would.
    deletions = {"AbortIncompleteMultipartUpload", "NoncurrentVersionExpiration"}
    known = {"ID", "Status", "Filter", *deletions}
    assert all(rule.keys() <= known for rule in rules), "the Terraform would drop a key of the rule"
    assert all(rule["Filter"] == {} for rule in rules)
    assert set(re.findall(r"rule\.value\.(\w+)", text)) == known - {"Filter"}


# The actions of AWS that xrec's requests to S3 need. The requests are HeadBucket, ListObjectsV2;
# GetObject, HeadObject; PutObject, CreateMultipartUpload, UploadPart, CompleteMultipartUpload;
# DeleteObject, DeleteObjects; AbortMultipartUpload.
_READ = {"s3:ListBucket", "s3:GetObject"}
_WRITE = {"s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"}


def test_iam_jobs_and_endpoint_may_do_what_the_code_calls_and_no_more(terraform):
    for name, actions in (("read", _READ), ("write", _WRITE)):
        granted = [each["actions"] for each in _statements(terraform, name)]
        assert {action for statement in granted for action in statement} == actions
    (write,) = _statements(terraform, "write")
    assert write["resources"] == ["${local.bucket_arn}/${var.prefix}/*"]
    attached = _of_type(terraform["resource"], "aws_iam_role_policy_attachment")
    policies = {name: attached[name]["policy_arn"] for name in ("jobs", "endpoint")}
    assert policies == {
        "jobs": "${aws_iam_policy.write.arn}",
        "endpoint": "${aws_iam_policy.read.arn}",
    }
    for statement in _statements(terraform, "read"):
        resources = statement["resources"]
        listed = resources if isinstance(resources, list) else [resources]
        assert all("local.bucket_arn" in each for each in listed)


def test_iam_no_allowed_action_is_a_wildcard_and_only_describe_has_every_resource(terraform):
    for document in _of_type(terraform["data"], "aws_iam_policy_document"):
        for statement in _statements(terraform, document):
            if statement.get("effect") == "Deny":
                continue
            prefix = "ec2:Describe" if statement.get("resources") == ["*"] else ""
            for action in statement["actions"]:
                assert action.startswith(prefix), document
                assert "*" not in action, document


def test_bucket_is_private_encrypted_versioned_and_reached_by_tls_only(terraform):
    resources = terraform["resource"]
    access = _of_type(resources, "aws_s3_bucket_public_access_block")["artifacts"]
    blocks = ("block_public_acls", "block_public_policy", "ignore_public_acls")
    assert all(access[key] is True for key in (*blocks, "restrict_public_buckets"))
    versioning = _of_type(resources, "aws_s3_bucket_versioning")["artifacts"]
    assert versioning["versioning_configuration"][0]["status"] == "Enabled"
    assert "artifacts" in _of_type(resources, "aws_s3_bucket_server_side_encryption_configuration")
    (deny,) = _statements(terraform, "bucket")
    assert (deny["effect"], deny["actions"]) == ("Deny", ["s3:*"])
    assert deny["condition"] == [
        {"test": "Bool", "variable": "aws:SecureTransport", "values": ["false"]}
    ]


@pytest.fixture(scope="module")
def launcher():
    return yaml.safe_load((AWS / "cluster.yaml").read_text())


def test_launcher_file_is_valid_by_rays_own_schema(launcher):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(launcher)  # with the provider's defaults, as `ray up` has it
    validate_config(prepared)


def test_launcher_demands_tokens_everywhere(launcher):
    commands = launcher["head_start_ray_commands"] + launcher["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ray start") for command in starts)
    assert "/home/xrec/.ray/auth_token" in launcher["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in starts[0]
    for kind in launcher["available_node_types"].values():
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_launcher_instance_profiles_are_those_that_terraform_makes(launcher, terraform):
    named = {
        kind["node_config"]["IamInstanceProfile"]["Arn"].split("/")[-1]
        for kind in launcher["available_node_types"].values()
    }
    assert named == {
        body["name"]
        for body in _of_type(terraform["resource"], "aws_iam_instance_profile").values()
    }


def test_files_that_the_aws_readme_names_are_there():
    for name in re.findall(r"infra/aws/[\w./-]+\w", (ROOT / "infra" / "README.md").read_text()):
        assert Path(ROOT, name).exists(), name

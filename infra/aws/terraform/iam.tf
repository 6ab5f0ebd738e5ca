# Two rights. Jobs read everything of xrec's, and write below the prefix: they put, list and delete
# objects, and abort uploads that they began. tests/infra/test_cloud.py lists the calls. The endpoint
# only reads.
locals {
  bucket_arn = aws_s3_bucket.artifacts.arn
  readable   = concat([var.prefix], var.read_prefixes)
}

data "aws_iam_policy_document" "read" {
  statement {
    sid       = "Look"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket_arn]
    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = flatten([for prefix in local.readable : [prefix, "${prefix}/*"]])
    }
  }
  # Every job asks once whether the bucket can be used (HeadBucket), which knows no prefix.
  statement {
    sid       = "Ask"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket_arn]
    condition {
      test     = "Null"
      variable = "s3:prefix"
      values   = ["true"]
    }
  }
  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = [for prefix in local.readable : "${local.bucket_arn}/${prefix}/*"]
  }
}

data "aws_iam_policy_document" "write" {
  source_policy_documents = [data.aws_iam_policy_document.read.json]
  statement {
    sid       = "Write"
    actions   = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    resources = ["${local.bucket_arn}/${var.prefix}/*"]
  }
  # `xrec forget --check` also reads what the bucket keeps of replaced and deleted files.
  statement {
    sid       = "Keeps"
    actions   = ["s3:GetBucketVersioning", "s3:GetLifecycleConfiguration", "s3:ListBucketVersions"]
    resources = [local.bucket_arn]
  }
  statement {
    sid       = "Versions"
    actions   = ["s3:GetObjectVersion"]
    resources = ["${local.bucket_arn}/${var.prefix}/*"]
  }
}

resource "aws_iam_policy" "read" {
  name   = "xrec-read"
  policy = data.aws_iam_policy_document.read.json
}

resource "aws_iam_policy" "write" {
  name   = "xrec-write"
  policy = data.aws_iam_policy_document.write.json
}

# Who may take which role.
data "aws_iam_policy_document" "trust" {
  for_each = { jobs = var.service_accounts, endpoint = var.endpoint_service_accounts }
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }

  dynamic "statement" {
    for_each = var.oidc_provider_arn == null ? [] : [var.oidc_provider_arn]
    content {
      actions = ["sts:AssumeRoleWithWebIdentity"]
      principals {
        type        = "Federated"
        identifiers = [statement.value]
      }
      condition {
        test     = "StringEquals"
        variable = "${var.oidc_issuer}:sub"
        values   = [for account in each.value : "system:serviceaccount:${account}"]
      }
      condition {
        test     = "StringEquals"
        variable = "${var.oidc_issuer}:aud"
        values   = ["sts.amazonaws.com"]
      }
    }
  }
}

resource "aws_iam_role" "jobs" {
  name               = "xrec-jobs"
  assume_role_policy = data.aws_iam_policy_document.trust["jobs"].json
}

resource "aws_iam_role_policy_attachment" "jobs" {
  role       = aws_iam_role.jobs.name
  policy_arn = aws_iam_policy.write.arn
}

resource "aws_iam_instance_profile" "jobs" {
  name = "xrec-jobs"
  role = aws_iam_role.jobs.name
}

resource "aws_iam_role" "endpoint" {
  name               = "xrec-endpoint"
  assume_role_policy = data.aws_iam_policy_document.trust["endpoint"].json
}

resource "aws_iam_role_policy_attachment" "endpoint" {
  role       = aws_iam_role.endpoint.name
  policy_arn = aws_iam_policy.read.arn
}

# The head of a cluster by Ray's launcher (cluster/aws.yaml). Drivers on it write artifacts, and its
# autoscaler starts and ends machines, but only those that are tagged with the cluster's name.
data "aws_iam_policy_document" "launch" {
  statement {
    sid       = "Look"
    actions   = ["ec2:DescribeInstances", "ec2:DescribeInstanceStatus", "ec2:DescribeImages", "ec2:DescribeSubnets", "ec2:DescribeSecurityGroups", "ec2:DescribeKeyPairs", "ec2:DescribeInstanceTypes"]
    resources = ["*"] # EC2 knows no narrower resource for its Describe calls
  }
  statement {
    sid       = "Start"
    actions   = ["ec2:RunInstances"]
    resources = ["arn:aws:ec2:*:*:instance/*", "arn:aws:ec2:*:*:volume/*", "arn:aws:ec2:*:*:network-interface/*", "arn:aws:ec2:*:*:subnet/*", "arn:aws:ec2:*:*:security-group/*", "arn:aws:ec2:*:*:key-pair/*", "arn:aws:ec2:*::image/*"]
  }
  statement {
    sid       = "NameWhatIsStarted"
    actions   = ["ec2:CreateTags"]
    resources = ["arn:aws:ec2:*:*:instance/*"]
    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["RunInstances"]
    }
  }
  statement {
    sid       = "EndAndTagOwn"
    actions   = ["ec2:TerminateInstances", "ec2:CreateTags"]
    resources = ["arn:aws:ec2:*:*:instance/*"]
    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/ray-cluster-name"
      values   = ["xrec"]
    }
  }
  statement {
    sid       = "GiveThemTheirRole"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.jobs.arn]
  }
}

resource "aws_iam_policy" "launch" {
  name   = "xrec-launch"
  policy = data.aws_iam_policy_document.launch.json
}

data "aws_iam_policy_document" "trust_of_head" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "head" {
  name               = "xrec-head"
  assume_role_policy = data.aws_iam_policy_document.trust_of_head.json
}

resource "aws_iam_role_policy_attachment" "head" {
  for_each   = { write = aws_iam_policy.write.arn, launch = aws_iam_policy.launch.arn }
  role       = aws_iam_role.head.name
  policy_arn = each.value
}

resource "aws_iam_instance_profile" "head" {
  name = "xrec-head"
  role = aws_iam_role.head.name
}

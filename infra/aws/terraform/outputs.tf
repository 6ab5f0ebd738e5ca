output "roles" {
  description = "For the service accounts' annotation eks.amazonaws.com/role-arn: of jobs xrec, of the endpoint xrec-endpoint."
  value       = { xrec = aws_iam_role.jobs.arn, xrec-endpoint = aws_iam_role.endpoint.arn }
}

output "instance_profiles" {
  description = "For cluster/aws.yaml."
  value       = { head = aws_iam_instance_profile.head.arn, workers = aws_iam_instance_profile.jobs.arn }
}

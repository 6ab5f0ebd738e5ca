output "role_of_jobs" {
  description = "For the service account's annotation eks.amazonaws.com/role-arn."
  value       = aws_iam_role.jobs.arn
}

output "instance_profiles" {
  description = "For ../cluster.yaml."
  value       = { head = aws_iam_instance_profile.head.arn, workers = aws_iam_instance_profile.jobs.arn }
}

output "read_policy" {
  description = "For a role of an endpoint that generates nothing new: it needs no more than to read."
  value       = aws_iam_policy.read.arn
}

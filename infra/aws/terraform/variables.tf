variable "bucket" {
  description = "Name of the bucket of artifacts."
  type        = string
}

variable "prefix" {
  description = "Prefix below which jobs may write; every workspace lies there."
  type        = string
  default     = "workspaces"
}

variable "read_prefixes" {
  description = "Prefixes that jobs and the endpoint may read: raw data, language models."
  type        = list(string)
  default     = ["raw", "models"]
}

variable "oidc_provider_arn" {
  description = "ARN of the EKS cluster's OIDC provider, for pods; null: machines of EC2 only."
  type        = string
  default     = null
}

variable "oidc_issuer" {
  description = "Issuer of that provider, without https://."
  type        = string
  default     = null
}

variable "service_accounts" {
  description = "Kubernetes service accounts, namespace:name, that may take the role of jobs."
  type        = list(string)
  default     = ["xrec:xrec"]
}

variable "endpoint_service_accounts" {
  description = "Kubernetes service accounts, namespace:name, that may take the role of the endpoint."
  type        = list(string)
  default     = ["xrec:xrec-endpoint"]
}

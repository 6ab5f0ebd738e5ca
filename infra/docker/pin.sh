#!/usr/bin/env bash
# Pins the base images of the Dockerfile to what their tags name today: FROM python:TAG@sha256:...
# Run it again to take newer ones. It needs docker (buildx) and a registry that can be reached.
set -euo pipefail
file=${1:-$(dirname "$0")/Dockerfile}
for image in $(sed -nE 's/^FROM ([a-z0-9.\/-]+:[^@ ]+).*/\1/p' "$file" | sort -u); do
  digest=$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}')
  if [[ ! $digest =~ ^sha256:[0-9a-f]{64}$ ]]; then
    echo "error: $image: expected a digest (sha256:...), saw '$digest'; nothing was changed" >&2
    exit 1
  fi
  sed -i -E "s|^FROM ${image//./\\.}(@sha256:[0-9a-f]+)?|FROM $image@$digest|" "$file"
  echo "$image is $digest"
done

#!/usr/bin/env bash
# The soak: two servers on one PostgreSQL with simulated agents, while everything is
# killed and rotated. internal/soak says what must hold; whatever does not is printed,
# and the exit code is 1.
#
#   scripts/soak.sh [SEED] [DURATION] [AGENTS]     10m and 50 by default
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
seed=${1:-$(date +%s)} duration=${2:-10m} agents=${3:-50}
if ! { [ -n "${ASSAY_POSTGRES:-}" ] || command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }; then
  echo "error: there is no PostgreSQL (Debian package postgresql; ASSAY_POSTGRES names the directory of initdb)" >&2
  exit 2
fi
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
CGO_ENABLED=0 "$GO" build -o "$bin/" ./cmd/assayd ./cmd/assay
CGO_ENABLED=0 "$GO" build -o "$bin/soak" ./internal/soak/run
echo "again with: scripts/soak.sh $seed $duration $agents"
"$bin/soak" -seed "$seed" -duration "$duration" -agents "$agents" -binaries "$bin"

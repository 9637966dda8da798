#!/usr/bin/env bash
# Builds what the demo runs, saying so while the first build takes its time, and
# runs it. Needs Go, nothing else: no root, no gcc. The TPM
# chapter needs swtpm, and is left out where it can't be had.
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
command -v "$GO" >/dev/null || { echo "error: no Go toolchain found" >&2; echo "hint: install Go 1.26 or later, or set GO=/path/to/go" >&2; exit 2; }
mkdir -p bin
begin=$SECONDS
build() {
  CGO_ENABLED=0 "$GO" build -trimpath -tags=grpcnotrace -ldflags="-s -w" -o bin/ ./cmd/assayd ./cmd/assay-agent ./cmd/assay ./cmd/teesim ./examples/orders ./examples/inventory ./examples/demo
}
echo "Building the server, the agent, the command and the simulator (some minutes the first time, a second after that) …"
build &
pid=$!
while kill -0 $pid 2>/dev/null; do
  sleep 1
  n=$((SECONDS - begin))
  [ $((n % 15)) = 0 ] && [ $n -gt 0 ] && echo "  still building: ${n}s"
done
wait $pid
# The TPM chapter runs on a real software TPM. Without one the demo says so, and
# shows the rest.
if ! command -v swtpm >/dev/null && command -v apt-get >/dev/null; then
  root=()
  [ "$(id -u)" = 0 ] || root=(sudo -n)
  if [ ${#root[@]} = 0 ] || sudo -n true 2>/dev/null; then
    echo "Installing swtpm, a software TPM …"
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq swtpm >/dev/null 2>&1 || true
  fi
fi
exec bin/demo "$@"

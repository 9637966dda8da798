#!/usr/bin/env bash
# make install and make uninstall: binaries, units, users, completions, documents.
# Nothing is started, and no configuration is written: `assayd init` does that.
set -euo pipefail
cd "$(dirname "$0")/.."
action=${1:?install or uninstall}
to=${DESTDIR:-}
prefix=${PREFIX:-/usr/local}
unitdir=${UNITDIR:-/etc/systemd/system}
bin=${BIN:-bin}

list=()                                    # what is installed, for uninstall
put() { # put MODE FILE DESTINATION
  list+=("$3")
  [ "$action" = install ] || return 0
  install -D -m "$1" "$2" "$to$3"
}

binaries=(assayd assay-agent assay)
[ -x "$bin/assay-signer" ] && binaries+=(assay-signer) # `make signer` builds it, with cgo
[ "$action" = uninstall ] && binaries=(assayd assay-agent assay assay-signer)
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
for b in "${binaries[@]}"; do
  put 0755 "$bin/$b" "$prefix/bin/$b"
  for shell in bash zsh fish; do
    [ "$action" = uninstall ] || "$bin/$b" completion $shell >"$temp/$b.$shell"
  done
  put 0644 "$temp/$b.bash" "$prefix/share/bash-completion/completions/$b"
  put 0644 "$temp/$b.zsh" "$prefix/share/zsh/site-functions/_$b"
  put 0644 "$temp/$b.fish" "$prefix/share/fish/vendor_completions.d/$b.fish"
  if [ -e "deploy/systemd/$b.service" ]; then
    sed "s|/usr/bin/|$prefix/bin/|; s|/usr/share/doc|$prefix/share/doc|" "deploy/systemd/$b.service" >"$temp/$b.service"
    put 0644 "$temp/$b.service" "$unitdir/$b.service"
  fi
done
lib=/etc
[ "$prefix" = /usr ] && lib=/usr/lib
put 0644 deploy/systemd/sysusers.conf "$lib/sysusers.d/assay.conf"
put 0644 deploy/systemd/tmpfiles.conf "$lib/tmpfiles.d/assay.conf"
put 0644 deploy/systemd/60-assay-agent.rules "$lib/udev/rules.d/60-assay-agent.rules"
put 0644 deploy/grafana/assay.json "$prefix/share/assay/grafana/assay.json"
put 0644 deploy/prometheus/assay.rules.yaml "$prefix/share/assay/prometheus/assay.rules.yaml"
while IFS= read -r f; do
  put 0644 "docs/$f" "$prefix/share/doc/assay/$f"
done < <(cd docs && find . -name '*.md' -o -name '*.json' | sed 's|^\./||' | LC_ALL=C sort)
put 0644 LICENSE "$prefix/share/doc/assay/LICENSE"

if [ "$action" = uninstall ]; then
  for f in "${list[@]}"; do rm -f "$to$f"; done
  echo "removed; /etc/assay and /var/lib/assay stay"
  exit 0
fi
echo "installed below $to$prefix"
if [ -z "$to" ]; then
  cat <<NEXT
next, as root:
  systemd-sysusers && systemd-tmpfiles --create assay.conf && udevadm control --reload
  assayd init --trust-domain attested.example.org
  chown -R assay: /var/lib/assay /etc/assay/assayd.yaml /etc/assay/policy.yaml
  systemctl daemon-reload && systemctl enable --now assayd
NEXT
fi

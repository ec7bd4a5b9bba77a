#!/usr/bin/env bash
# Fetches Prometheus and its promtool into the folder given, as this machine's distribution packages them; installs
# nothing and needs no root. Ends with another status than 0 where there is no apt, or no such package.
set -euo pipefail

folder=${1:?usage: $0 FOLDER}
[ -x "$folder/root/usr/bin/promtool" ] && exit 0

no() {
    printf 'prometheus: %s\n' "$*" >&2
    exit 1
}
command -v apt-get >/dev/null || no "no apt-get here"
command -v dpkg-deb >/dev/null || no "no dpkg-deb here"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/lists/partial "$work"/cache/archives/partial "$work"/root
# Lists and caches of its own: the system's may be old, and are not ours to change.
cat >"$work/apt.conf" <<CONF
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
APT::Sandbox::User "";
CONF
export APT_CONFIG=$work/apt.conf
apt-get update -qq || no "apt-get update failed"
(cd "$work" && apt-get download -qq prometheus >"$work/log" 2>&1) || no "$(tail -3 "$work/log")"
dpkg-deb --extract "$work"/prometheus_*.deb "$work/root"
"$work/root/usr/bin/promtool" --version >/dev/null 2>&1 || no "what was fetched does not run here"
mkdir -p "$folder"
rm -rf "$folder/root" "$work"/root/usr/share/{doc,man,lintian}
mv "$work/root" "$folder/root"

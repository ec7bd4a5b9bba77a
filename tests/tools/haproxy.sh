#!/usr/bin/env bash
# Fetches HAProxy into the folder given, as this machine's distribution packages it, with the libraries that this machine
# lacks; installs nothing and needs no root. It runs with LD_LIBRARY_PATH set to FOLDER/lib. Ends with another status
# than 0 where there is no apt, or no such package.
set -euo pipefail

folder=${1:?usage: $0 FOLDER}
[ -x "$folder/root/usr/sbin/haproxy" ] && exit 0

no() {
    printf 'haproxy: %s\n' "$*" >&2
    exit 1
}
command -v apt-get >/dev/null || no "no apt-get here"
command -v dpkg-deb >/dev/null || no "no dpkg-deb here"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/lists/partial "$work"/cache/archives/partial "$work"/new/root
# Lists and caches of its own: the system's may be old, and are not ours to change.
cat >"$work/apt.conf" <<CONF
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
APT::Sandbox::User "";
Debug::NoLocking "true";
CONF
export APT_CONFIG=$work/apt.conf
apt-get update -qq || no "apt-get update failed"
apt-get install -y -qq --download-only --reinstall --no-install-recommends haproxy >"$work/log" 2>&1 ||
    no "$(tail -3 "$work/log")"
for package in "$work"/cache/archives/*.deb; do
    dpkg-deb --extract "$package" "$work/new/root"
done
# Where the libraries are has the machine's kind in its name.
library=$(find "$work/new/root" -name '*.so.*' -printf '%P\n' | head -1)
ln -s "root/$(dirname "${library:-usr/lib/none}")" "$work/new/lib"
LD_LIBRARY_PATH=$work/new/lib "$work/new/root/usr/sbin/haproxy" -v >/dev/null 2>&1 || no "what was fetched does not run here"
rm -rf "$folder" "$work"/new/root/usr/share
mkdir -p "$(dirname "$folder")"
mv "$work/new" "$folder"

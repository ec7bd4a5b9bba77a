#!/usr/bin/env bash
# Fetches Asterisk into the folder given, as Debian packages it, with all that it runs on; installs nothing.
#
# No Debian release since 11 has Asterisk, unstable does. So that nothing of unstable gets onto the system, apt works
# with lists and caches of its own, and the packages are only unpacked: Asterisk runs from the folder by its own
# loader, as any user. Ends with another status than 0 where there is no apt, or none of Debian's.
set -euo pipefail

folder=${1:?usage: $0 FOLDER}
[ -x "$folder/root/usr/sbin/asterisk" ] && exit 0

no() {
    printf 'asterisk: %s\n' "$*" >&2
    exit 1
}
command -v apt-get >/dev/null || no "no apt-get here"
command -v dpkg-deb >/dev/null || no "no dpkg-deb here"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keys" ] || no "no keys of Debian's here"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -1)
[ -n "$mirror" ] || no "apt knows no mirror of Debian"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/lists/partial "$work"/cache/archives/partial "$work"/parts "$work"/root
touch "$work/status"
echo "deb [signed-by=$keys] $mirror unstable main" >"$work/sources.list"
cat >"$work/apt.conf" <<CONF
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "$work/parts";
Dir::Etc::preferencesparts "$work/parts";
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
APT::Sandbox::User "";
CONF
export APT_CONFIG=$work/apt.conf
apt-get update -qq || no "apt-get update failed"
apt-get install -y -qq --download-only --no-install-recommends asterisk asterisk-modules >"$work/log" 2>&1 ||
    no "$(tail -3 "$work/log")"
for package in "$work"/cache/archives/*.deb; do
    dpkg-deb --extract "$package" "$work/root"
done
libraries=$(dirname "$(ls -d "$work"/root/usr/lib/*/asterisk)")
"$libraries"/ld-linux*.so.* --library-path "$libraries" "$work/root/usr/sbin/asterisk" -V ||
    no "what was fetched does not run here"
rm -rf "$folder"
mkdir -p "$folder"
# What programs read, not what people do.
rm -rf "$work"/root/usr/share/{doc,man,locale,i18n,lintian,perl}
mv "$work/root" "$folder/root"

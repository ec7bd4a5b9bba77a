# Sourced by the scripts that fetch a program as a distribution packages it: `fetch_packages NAME [APT-SETTING...]`, then
# `unpack PACKAGE...`, then `keep FOLDER` of what lies in $work/new. Nothing is installed, and no root is needed.

no() {
    printf '%s: %s\n' "$name" "$*" >&2
    exit 1
}

# Makes lists and caches of its own: the system's may be old, and are not ours to change. More settings are lines of
# apt.conf, in which WORK stands for the folder of all that.
fetch_packages() {
    name=$1
    shift
    command -v apt-get >/dev/null || no "no apt-get here"
    command -v dpkg-deb >/dev/null || no "no dpkg-deb here"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work"/lists/partial "$work"/cache/archives/partial "$work"/parts "$work"/new/root
    {
        cat <<CONF
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
APT::Sandbox::User "";
Debug::NoLocking "true";
CONF
        printf '%s\n' "${@//WORK/$work}"
    } >"$work/apt.conf"
    export APT_CONFIG=$work/apt.conf
}

# Unpacks the packages and whatever they need and this machine (or the status file of the settings) lacks.
unpack() {
    apt-get update -qq || no "apt-get update failed"
    apt-get install -y -qq --download-only --reinstall --no-install-recommends "$@" >"$work/log" 2>&1 ||
        no "$(tail -3 "$work/log")"
    local package
    for package in "$work"/cache/archives/*.deb; do
        dpkg-deb --extract "$package" "$work/new/root"
    done
}

# Puts what was unpacked in the place of what was there: what programs read, not what people do.
keep() {
    rm -rf "$1" "$work"/new/root/usr/share/{doc,man,locale,i18n,lintian,perl}
    mkdir -p "$(dirname "$1")"
    mv "$work/new" "$1"
}

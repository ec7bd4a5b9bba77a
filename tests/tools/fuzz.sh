#!/usr/bin/env bash
# Fuzzes one subject or all, one after the other: `fuzz.sh [SECONDS [SUBJECT...]]`. What is found stays in
# tests/fuzz/artifacts; new inputs that reach new code go into a folder of their own and, minimised, into the corpus
# only with MERGE=1.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

seconds=${1:-60}
[ $# -gt 0 ] && shift
subjects=("$@")
if [ ${#subjects[@]} -eq 0 ]; then
    for folder in corpus/*/; do subjects+=("$(basename "$folder")"); done
fi

if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz: installing cargo-fuzz" >&2
    cargo install --quiet --locked cargo-fuzz
fi
# The sanitizer's flags belong to the compiler's own future; this lets the toolchain at hand accept them.
export RUSTC_BOOTSTRAP=1

failed=()
for subject in "${subjects[@]}"; do
    found=target/found/$subject
    mkdir -p "$found"
    echo "fuzz: $subject for $seconds s" >&2
    cargo fuzz run --fuzz-dir . "$subject" "$found" "corpus/$subject" -- \
        -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 ||
        failed+=("$subject")
    if [ "${MERGE:-}" = 1 ]; then
        cargo fuzz run --fuzz-dir . "$subject" "corpus/$subject" "$found" -- -merge=1 -max_len=4096 -verbosity=0
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "fuzz: findings in ${failed[*]}; see tests/fuzz/artifacts" >&2
    exit 1
fi

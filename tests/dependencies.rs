//! What others' code may come into the binaries: from where, under which licences, and what never (threat 31 of the threats
//! reference). Read from the lock files, which hold all platforms, and from `cargo metadata`, which knows licences, both
//! without a network.
//!
//! Known vulnerabilities are not looked for: their database is on a server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use toml::Table;

/// Licences that ask for no more than a notice.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// The only source; each crate is then named by its checksum in the lock file.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Crates that do not come back, and why.
const BANNED: &[(&str, &str)] = &[
    ("openssl-sys", "there is one TLS, rustls with ring"),
    ("native-tls", "there is one TLS, rustls with ring"),
    ("aws-lc-sys", "there is one TLS, rustls with ring"),
    ("reqwest", "requests go through `outbound`"),
    (
        "tracing-log",
        "tungstenite logs whole requests by `log`, keys included",
    ),
];

/// Crates that are there in more than one version because others ask for different ones. One more version costs build time
/// and size, so that it should be noticed; one fewer is taken off this list.
const SEVERAL_VERSIONS: &[&str] = &[
    "base64",
    "getrandom",
    "hashbrown",
    "rand_core",
    "syn",
    "synstructure",
];

const LOCKS: [&str; 2] = ["Cargo.lock", "tests/fuzz/Cargo.lock"];

#[test]
fn every_crate_comes_from_one_registry_and_is_named_by_its_checksum() {
    for lock in LOCKS {
        let found = strangers(&locked(lock));
        assert!(found.is_empty(), "{lock}:\n{}", found.join("\n"));
    }
}

#[test]
fn no_banned_crate_is_in_a_lock_file() {
    for lock in LOCKS {
        let found = banned(&locked(lock));
        assert!(found.is_empty(), "{lock}:\n{}", found.join("\n"));
    }
}

#[test]
fn every_licence_asks_for_no_more_than_a_notice() {
    let packages = resolved();
    assert!(packages.len() > 100, "{}", packages.len());
    let of_others = packages.iter().filter(|it| !it["source"].is_null());
    let found: Vec<_> = of_others
        .filter(|it| !is_free(it["license"].as_str().unwrap_or_default()))
        .map(|it| format!("{} {}: {}", it["name"], it["version"], it["license"]))
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn crates_in_several_versions_are_known() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in resolved() {
        let text = |field: &str| package[field].as_str().expect("text").to_owned();
        versions
            .entry(text("name"))
            .or_default()
            .insert(text("version"));
    }
    let several = versions.iter().filter(|(_, versions)| versions.len() > 1);
    let several: BTreeMap<_, _> = several.map(|(name, all)| (name.as_str(), all)).collect();
    let known: BTreeSet<&str> = SEVERAL_VERSIONS.iter().copied().collect();
    let names: BTreeSet<&str> = several.keys().copied().collect();
    assert_eq!(names, known, "{several:#?}");
}

/// The packages of a lock file.
fn locked(path: &str) -> Vec<Table> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = fs::read_to_string(&path).expect("a lock file");
    let lock: Table = text.parse().expect("TOML");
    let packages = lock["package"].as_array().expect("packages");
    let packages = packages.iter().filter_map(toml::Value::as_table);
    packages.cloned().collect()
}

/// What this platform's build takes, tests and all.
fn resolved() -> Vec<Value> {
    let version = Command::new(env!("CARGO")).arg("-vV").output();
    let version = String::from_utf8(version.expect("cargo").stdout).expect("text");
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version=1"])
        .args(["--filter-platform", host.expect("a platform")])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let used: BTreeSet<_> = nodes
        .iter()
        .filter_map(|node| node["id"].as_str())
        .collect();
    let packages = metadata["packages"].as_array().expect("packages").iter();
    packages
        .filter(|it| it["id"].as_str().is_some_and(|id| used.contains(id)))
        .cloned()
        .collect()
}

fn text<'a>(package: &'a Table, field: &str) -> Option<&'a str> {
    package.get(field).and_then(toml::Value::as_str)
}

/// Those from elsewhere, or of which nobody can tell whether they are what they were. What has no source is ours.
fn strangers(packages: &[Table]) -> Vec<String> {
    let strange = packages.iter().filter(|package| {
        let source = text(package, "source");
        source.is_some_and(|source| source != SOURCE || text(package, "checksum").is_none())
    });
    let told = strange.map(|it| format!("{:?} from {:?}", text(it, "name"), text(it, "source")));
    told.collect()
}

fn banned(packages: &[Table]) -> Vec<String> {
    let names = packages.iter().filter_map(|package| text(package, "name"));
    let found = names.filter_map(|name| BANNED.iter().find(|(banned, _)| *banned == name));
    found.map(|(name, why)| format!("{name}: {why}")).collect()
}

/// Whether an SPDX expression leaves a choice of licences that are all on the list. `/` is what crates wrote before `OR`.
fn is_free(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ");
    let spaced = spaced.replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let is_free = any_of(&mut words);
    is_free && words.peek().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>) -> bool {
    let mut is_any = all_of(words);
    while words.next_if_eq(&"OR").is_some() {
        is_any |= all_of(words);
    }
    is_any
}

fn all_of(words: &mut Words<'_>) -> bool {
    let mut are_all = one(words);
    while words.next_if_eq(&"AND").is_some() {
        are_all &= one(words);
    }
    are_all
}

fn one(words: &mut Words<'_>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let is_any = any_of(words);
        return words.next_if_eq(&")").is_some() && is_any;
    }
    let is_listed = words.next().is_some_and(|name| LICENCES.contains(&name));
    // An exception is a licence of its own, which is not on the list.
    if words.next_if_eq(&"WITH").is_some() {
        words.next();
        return false;
    }
    is_listed
}

#[test]
fn choices_of_licences_are_understood() {
    for free in [
        "MIT",
        "MIT/Apache-2.0",
        "Apache-2.0 / MIT",
        "GPL-3.0-only OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
    ] {
        assert!(is_free(free), "{free}");
    }
    for bound in [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "(MIT OR GPL-2.0-only) AND LGPL-2.1-only",
        "MIT AND",
        "(MIT",
        "MIT Apache-2.0",
        "GPL-2.0-only WITH Classpath-exception-2.0",
    ] {
        assert!(!is_free(bound), "{bound}");
    }
}

#[test]
fn what_comes_from_elsewhere_is_seen() {
    let lock = |lines: &str| {
        let table: Table = format!("name = 'a'\n{lines}").parse().expect("TOML");
        [table]
    };
    let found = |lines: &str| strangers(&lock(lines)).len();
    let registry = format!("source = '{SOURCE}'\n");
    assert_eq!(found(""), 0, "ours");
    assert_eq!(found(&format!("{registry}checksum = '00'\n")), 0);
    assert_eq!(found(&registry), 1, "without a checksum");
    let elsewhere = "source = 'git+https://example.com/a#0'\nchecksum = '00'\n";
    assert_eq!(found(elsewhere), 1);
    let table: Table = "name = 'openssl-sys'".parse().expect("TOML");
    assert_eq!(banned(&[table]).len(), 1);
}

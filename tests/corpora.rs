//! What fuzzing found and what it started from, replayed, and some random bytes more, on any toolchain.

#[path = "fuzz/subjects/mod.rs"]
mod subjects;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .collect();
    names.sort();
    names
}

#[test]
fn every_corpus_is_replayed() {
    for (subject, run) in subjects::SUBJECTS {
        let folder = fuzz_folder().join("corpus").join(subject);
        let files = names(&folder);
        assert!(!files.is_empty(), "{subject} has nothing to begin with");
        for file in files {
            let bytes = fs::read(folder.join(&file)).unwrap();
            let outcome = catch_unwind(|| run(&bytes));
            assert!(outcome.is_ok(), "{subject} fails on {file}");
        }
    }
}

#[test]
fn every_subject_has_a_target_and_a_corpus() {
    let known: Vec<_> = subjects::SUBJECTS.iter().map(|(name, _)| *name).collect();
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let expected = sorted(known.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(names(&fuzz_folder().join("corpus")), expected);
    let targets = expected.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz_folder().join("targets")), sorted(targets));
    let manifest = fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap();
    for name in known {
        let target = fs::read_to_string(fuzz_folder().join(format!("targets/{name}.rs"))).unwrap();
        assert!(
            target.contains(&format!("subjects::run(\"{name}\"")),
            "{name}"
        );
        assert!(
            manifest.contains(&format!("path = \"targets/{name}.rs\"")),
            "{name}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        rng_seed: prop::test_runner::RngSeed::Fixed(22),
        ..ProptestConfig::default()
    })]

    #[test]
    fn laws_of_a_call_hold_in_any_order(bytes in prop::collection::vec(any::<u8>(), 2..600)) {
        subjects::run("call_laws", &bytes);
    }
}

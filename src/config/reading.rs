//! A configuration file and the files that it names, as they were at one moment, so that two moments can be compared.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use toml::{Table, Value};

use crate::listener::{Routes, Unchanged};
use crate::upstream::Identities;

use super::{Config, Mistake};

/// A good configuration, read from its file.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// What was made of that.
    pub routes: Routes,
    /// What was read.
    pub(super) reading: Reading,
}

impl Loaded {
    /// Reads a file, checks it, and makes what serves by it.
    ///
    /// # Errors
    ///
    /// All mistakes that were found.
    pub fn load(path: &Path) -> Result<Self, Vec<Mistake>> {
        Self::load_with(path, Identities::default())
    }

    /// The same with identities whose tokens are there already.
    pub(super) fn load_with(path: &Path, identities: Identities) -> Result<Self, Vec<Mistake>> {
        let (config, text) = Config::load(path).map_err(|mistake| vec![mistake])?;
        // Before the files are used: one that changes meanwhile is another one at the next look.
        let reading = Reading::of(text);
        let routes = config.build_with(reading.text(), identities)?;
        Ok(Self {
            config,
            routes,
            reading,
        })
    }

    /// The file's text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.reading.text()
    }
}

/// SHA-256 of a file; none if it cannot be read.
type Hash = Option<[u8; 32]>;

/// The text of a configuration, and what the files hold that it names.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Reading {
    /// May hold secrets, and so may the table.
    text: String,
    /// Empty if the text is no TOML.
    table: Table,
    files: BTreeMap<PathBuf, Hash>,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("files", &self.files.keys())
            .finish_non_exhaustive()
    }
}

impl Reading {
    /// Reads the file and those that it names; what cannot be read is empty.
    pub(super) fn read(path: &Path) -> Self {
        Self::of(fs::read_to_string(path).unwrap_or_default())
    }

    fn of(text: String) -> Self {
        let table: Table = text.parse().unwrap_or_default();
        let mut named = Vec::new();
        for (key, value) in &table {
            find_files(value, &mut vec![key], &mut named);
        }
        let files = named.into_iter().map(|path| {
            let hash = fs::read(&path).ok().map(|it| Sha256::digest(it).into());
            (path, hash)
        });
        Self {
            files: files.collect(),
            text,
            table,
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether both say the same there, in files that are named there too.
    pub(super) fn is_same(&self, other: &Self, path: &[&str]) -> bool {
        let (here, there) = (self.at(path), other.at(path));
        let Some(value) = here.filter(|_| here == there) else {
            return here.is_none() && there.is_none();
        };
        let mut named = Vec::new();
        find_files(value, &mut path.to_vec(), &mut named);
        named
            .iter()
            .all(|file| self.files.get(file) == other.files.get(file))
    }

    fn at(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let first = self.table.get(*first)?;
        rest.iter().try_fold(first, |value, key| value.get(*key))
    }

    /// Of what this one says the same as `old`.
    pub(super) fn unchanged_since(&self, old: &Self) -> Unchanged {
        let same = |table: &str| {
            let names = self.table.get(table).and_then(Value::as_table);
            let names = names.into_iter().flat_map(Table::keys);
            names
                .filter(|name| self.is_same(old, &[table, name]))
                .cloned()
                .collect()
        };
        Unchanged {
            deployments: same("deployments"),
            pools: same("pools"),
            agents: same("agents"),
        }
    }
}

/// The files that are named below `value`, which stands at `path`: fields that end in `_file`, and an agent's clip.
fn find_files<'a>(value: &'a Value, path: &mut Vec<&'a str>, found: &mut Vec<PathBuf>) {
    match value {
        Value::String(name) => {
            let is_file = match path.as_slice() {
                ["agents", _, "apology"] => true,
                path => path.last().is_some_and(|field| field.ends_with("_file")),
            };
            if is_file && !looks_itself(path) {
                found.push(PathBuf::from(name));
            }
        }
        Value::Table(table) => {
            for (key, value) in table {
                path.push(key);
                find_files(value, path, found);
                path.pop();
            }
        }
        Value::Array(items) => {
            for item in items {
                find_files(item, path, found);
            }
        }
        _ => {}
    }
}

/// Whether whoever uses that file notices by itself that it changed: then it is no reason to begin anew.
fn looks_itself(path: &[&str]) -> bool {
    matches!(
        path,
        ["listener" | "admin", "tls", ..]
            | ["deployments", _, "api_key_file"]
            | ["deployments", _, "entra", ..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_where_nobody_else_looks() {
        let text = "
[listener.tls]
certificate_file = 'a'
[deployments.east]
api_key_file = 'b'
ca_file = 'c'
[deployments.east.entra]
token_file = 'd'
[agents.desk]
apology = 'e'
greeting = 'f'
[auth.signing]
secret_file = 'g'
[[twilio.accounts]]
auth_token_file = 'h'
[[twilio.accounts]]
auth_token_file = 'i'
[listener.asterisk.servers.main]
ca_file = 'j'
[log]
filter = 'ca_file'
";
        let reading = Reading::of(text.to_owned());
        let found: Vec<_> = reading
            .files
            .keys()
            .map(|it| it.to_str().unwrap())
            .collect();
        assert_eq!(found, ["c", "e", "g", "h", "i", "j"]);
        assert!(reading.files.values().all(Option::is_none));
    }

    #[test]
    fn what_is_said_in_other_words_is_another() {
        let folder = std::env::temp_dir().join(format!("trunkline-reading-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let ca = folder.join("ca");
        fs::write(&ca, "one").unwrap();
        let text = format!(
            "[deployments.east]\nurl = 'ws://a'\n[deployments.west]\nca_file = '{}'\n[agents.desk]\ndeployment = 'east'\n",
            ca.display()
        );
        let check = |old: &Reading, text: &str, deployments: &[&str], agents: &[&str]| {
            let unchanged = Reading::of(text.to_owned()).unchanged_since(old);
            assert_eq!(Vec::from_iter(unchanged.deployments), deployments, "{text}");
            assert_eq!(Vec::from_iter(unchanged.agents), agents, "{text}");
        };
        let old = Reading::of(text.clone());
        check(&old, &text, &["east", "west"], &["desk"]);
        check(
            &old,
            &format!("# more\n{text}"),
            &["east", "west"],
            &["desk"],
        );
        check(
            &old,
            &text.replace("ws://a", "ws://b"),
            &["west"],
            &["desk"],
        );
        check(
            &old,
            &text.replace(".desk", ".other"),
            &["east", "west"],
            &[],
        );
        fs::write(&ca, "two").unwrap();
        check(&old, &text, &["east"], &["desk"]);
        fs::remove_file(&ca).unwrap();
        check(&old, &text, &["east"], &["desk"]);
        assert!(!Reading::of(text.clone()).is_same(&old, &["deployments"]));
        assert!(Reading::of(text).is_same(&old, &["quota", "redis"]));
        fs::remove_dir_all(&folder).unwrap();
    }
}

//! The folder where records wait: a file each, written so that it is there whole or not at all.
//!
//! Everything here waits for the disk; `deliver.rs` calls it on a thread for that.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::config::SpoolConfig;
use super::shelf::{Key, Shelf};

/// Records that the receiver refused are kept there, for people.
const REFUSED: &str = "refused";

/// So many of them; beyond it the oldest goes.
const MAX_REFUSED: usize = 1_000;

/// Records that are kept in memory because they cannot be written.
const MAX_UNWRITTEN: usize = 256;

/// The folder and what is in it.
#[derive(Debug)]
pub(super) struct Spool {
    config: SpoolConfig,
    pub(super) shelf: Shelf,
    /// What could not be written.
    unwritten: BTreeMap<Key, Bytes>,
}

/// What became of a record that was put there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Put {
    /// Older ones that had to go for it, or itself.
    pub(super) overflowed: Vec<Key>,
    /// Itself, as it could neither be written nor remembered.
    pub(super) is_lost: bool,
    /// Why it was not written.
    pub(super) error: Option<io::ErrorKind>,
}

impl Spool {
    /// Opens a folder with all that waits there.
    pub(super) fn open(config: SpoolConfig) -> io::Result<Self> {
        make_folder(&config.directory)?;
        let mut shelf = Shelf::default();
        for entry in fs::read_dir(&config.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(".tmp") {
                // Half of a record that the process did not live to write.
                let _ = fs::remove_file(entry.path());
            } else if let Some(key) = Key::of_file(name) {
                shelf.put(key, entry.metadata()?.len());
            }
        }
        Ok(Self::with_shelf(config, shelf))
    }

    /// A spool that remembers what it cannot write, for a folder that cannot be opened.
    pub(super) fn without_folder(config: SpoolConfig) -> Self {
        Self::with_shelf(config, Shelf::default())
    }

    fn with_shelf(config: SpoolConfig, shelf: Shelf) -> Self {
        Self {
            config,
            shelf,
            unwritten: BTreeMap::new(),
        }
    }

    /// Keeps a record.
    pub(super) fn put(&mut self, key: Key, body: Bytes) -> Put {
        let mut put = Put::default();
        let length = body.len() as u64;
        if let Err(error) = self.write(&key, &body) {
            put.error = Some(error.kind());
            if self.unwritten.len() >= MAX_UNWRITTEN {
                put.is_lost = true;
                return put;
            }
            self.unwritten.insert(key.clone(), body);
        }
        self.shelf.put(key, length);
        let (records, bytes) = (self.config.max_records, self.config.max_bytes);
        put.overflowed = self.shelf.overflow(records, bytes);
        for key in &put.overflowed {
            self.remove(key);
        }
        put
    }

    fn write(&self, key: &Key, body: &[u8]) -> io::Result<()> {
        let folder = &self.config.directory;
        let path = self.path(key);
        let temporary = path.with_extension("tmp");
        let mut file = private_file(&temporary)?;
        let written = file.write_all(body).and_then(|()| file.sync_all());
        if let Err(error) = written.and_then(|()| fs::rename(&temporary, &path)) {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        // The name too is to outlive a power cut.
        fs::File::open(folder)?.sync_all()
    }

    /// Reads what is to be sent for a key, later and elsewhere; none if somebody else took it away.
    pub(super) fn reader(&self, key: &Key) -> impl FnOnce() -> Option<Bytes> + Send + use<> {
        let remembered = self.unwritten.get(key).cloned();
        let path = self.path(key);
        move || remembered.or_else(|| fs::read(path).ok().map(Bytes::from))
    }

    /// Forgets a record.
    pub(super) fn remove(&mut self, key: &Key) {
        self.shelf.take(key);
        if self.unwritten.remove(key).is_none() {
            let _ = fs::remove_file(self.path(key));
        }
    }

    /// Puts a record aside that the receiver will never take.
    pub(super) fn refuse(&mut self, key: &Key) -> io::Result<()> {
        let folder = self.config.directory.join(REFUSED);
        let aside = folder.join(key.file_name());
        let moved = make_folder(&folder).and_then(|()| match self.unwritten.get(key) {
            Some(body) => private_file(&aside)?.write_all(body),
            None => fs::rename(self.path(key), &aside),
        });
        self.remove(key);
        moved?;
        bound(&folder)
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.config.directory.join(key.file_name())
    }
}

/// Only this user may look: records may hold what callers said.
fn make_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path)
}

fn private_file(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)
}

fn bound(folder: &Path) -> io::Result<()> {
    let names =
        fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut keys: Vec<Key> = names.filter_map(|name| Key::of_file(&name)).collect();
    keys.sort_unstable();
    let n_over = keys.len().saturating_sub(MAX_REFUSED);
    for key in &keys[..n_over] {
        fs::remove_file(folder.join(key.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("trunkline-spool-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        fn config(&self, max_records: usize) -> SpoolConfig {
            SpoolConfig {
                directory: self.0.clone(),
                max_bytes: 1_000,
                max_records,
            }
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).expect("a folder");
            let names = entries.map(|it| it.expect("an entry").file_name());
            let mut names: Vec<String> = names.map(|it| it.into_string().expect("text")).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn key(ended_ms: u64) -> Key {
        Key {
            ended_ms,
            call_id: format!("call-{ended_ms}"),
        }
    }

    #[test]
    fn what_waits_is_there_after_a_restart() {
        let folder = Folder::new("restart");
        let mut spool = Spool::open(folder.config(10)).expect("opens");
        for n in [2, 1] {
            let put = spool.put(key(n), Bytes::from(format!("record {n}")));
            assert_eq!(put, Put::default());
        }
        fs::write(folder.0.join("000000000000003-call-3.tmp"), "hal").expect("written");
        fs::write(folder.0.join("notes.txt"), "not ours").expect("written");
        let mut spool = Spool::open(folder.config(10)).expect("opens");
        assert_eq!((spool.shelf.len(), spool.shelf.bytes()), (2, 16));
        let next = spool.shelf.next().expect("the oldest");
        assert_eq!(spool.reader(&next)(), Some(Bytes::from("record 1")));
        spool.remove(&next);
        let expected = [key(2).file_name(), "notes.txt".to_owned()];
        assert_eq!(folder.names(), expected);
    }

    #[test]
    fn too_many_push_the_oldest_out() {
        let folder = Folder::new("full");
        let mut spool = Spool::open(folder.config(2)).expect("opens");
        for n in 1..=2 {
            spool.put(key(n), Bytes::from("x"));
        }
        let put = spool.put(key(3), Bytes::from("x"));
        assert_eq!(put.overflowed, [key(1)]);
        assert_eq!(folder.names(), [key(2).file_name(), key(3).file_name()]);
        let put = spool.put(key(4), Bytes::from(vec![b'x'; 1_001]));
        assert_eq!(put.overflowed, [key(2), key(3), key(4)]);
        assert_eq!(folder.names(), [] as [String; 0]);
    }

    #[test]
    fn the_refused_are_put_aside() {
        let folder = Folder::new("refused");
        let mut spool = Spool::open(folder.config(2)).expect("opens");
        spool.put(key(1), Bytes::from("x"));
        spool.refuse(&key(1)).expect("moved");
        assert_eq!(spool.shelf.len(), 0);
        assert_eq!(folder.names(), ["refused"]);
        assert!(folder.0.join("refused").join(key(1).file_name()).exists());
        // They do not wait.
        assert_eq!(Spool::open(folder.config(2)).expect("opens").shelf.len(), 0);
    }

    #[test]
    fn what_cannot_be_written_is_remembered_up_to_a_bound() {
        let folder = Folder::new("file");
        fs::write(&folder.0, "a file").expect("written");
        let config = folder.config(100_000);
        assert!(Spool::open(config.clone()).is_err());
        let mut spool = Spool::without_folder(config);
        for n in 0..MAX_UNWRITTEN as u64 {
            let put = spool.put(key(n), Bytes::from("x"));
            assert!(put.error.is_some() && !put.is_lost, "{put:?}");
        }
        assert!(spool.put(key(999), Bytes::from("x")).is_lost);
        assert_eq!(spool.reader(&key(0))(), Some(Bytes::from("x")));
        spool.remove(&key(0));
        assert_eq!(spool.shelf.len(), MAX_UNWRITTEN - 1);
        drop(spool);
        fs::remove_file(&folder.0).expect("removed");
    }
}

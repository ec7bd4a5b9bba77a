//! A file of records, a line each, which others may move away at any time.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

/// Waits for the disk; to be called on a thread for that.
#[derive(Debug)]
pub(super) struct RecordFile {
    path: PathBuf,
    file: Option<File>,
    /// The last line was not written to its end.
    is_torn: bool,
}

impl RecordFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            is_torn: false,
        }
    }

    /// The next line goes to whatever is at the path then.
    pub(super) fn reopen(&mut self) {
        self.file = None;
    }

    /// Appends a line by one write, so that lines of several processes do not mix.
    pub(super) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let mut line = Vec::with_capacity(record.len() + 2);
        if self.is_torn {
            line.push(b'\n');
        }
        line.extend_from_slice(record);
        line.push(b'\n');
        let written = self.current()?.write(&line);
        match written {
            Ok(n) if n == line.len() => {
                self.is_torn = false;
                Ok(())
            }
            Ok(n) => {
                self.is_torn |= n > 0;
                Err(io::ErrorKind::StorageFull.into())
            }
            Err(error) => {
                // A network's file may be another one after it came back.
                self.file = None;
                Err(error)
            }
        }
    }

    /// The file that is at the path now.
    fn current(&mut self) -> io::Result<&mut File> {
        let is_same = |file: &File| {
            let (open, there) = (file.metadata().ok()?, self.path.metadata().ok()?);
            Some((open.dev(), open.ino()) == (there.dev(), there.ino()))
        };
        let same = self.file.take_if(|file| is_same(file) == Some(true));
        let file = match same {
            Some(file) => file,
            None => {
                self.is_torn = false;
                let mut options = OpenOptions::new();
                options.append(true).create(true).mode(0o600);
                options.open(&self.path)?
            }
        };
        Ok(self.file.insert(file))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_moved_away_gets_no_more_lines() {
        let path = std::env::temp_dir().join(format!("trunkline-records-{}", std::process::id()));
        let moved = path.with_extension("1");
        let read = |path: &PathBuf| fs::read_to_string(path).expect("readable");
        let mut file = RecordFile::new(path.clone());
        file.append(b"{1}").expect("written");
        file.append(b"{2}").expect("written");
        assert_eq!(read(&path), "{1}\n{2}\n");
        fs::rename(&path, &moved).expect("renamed");
        file.append(b"{3}").expect("written");
        assert_eq!(
            (read(&moved).as_str(), read(&path).as_str()),
            ("{1}\n{2}\n", "{3}\n")
        );
        fs::remove_file(&path).expect("removed");
        file.append(b"{4}").expect("written");
        file.reopen();
        file.append(b"{5}").expect("written");
        assert_eq!(read(&path), "{4}\n{5}\n");
        for path in [path, moved] {
            fs::remove_file(path).expect("removed");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_an_error() {
        let mut file = RecordFile::new("/dev/full".into());
        let error = file.append(b"{}").expect_err("no room");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let mut nowhere = RecordFile::new("/nowhere/records".into());
        assert!(nowhere.append(b"{}").is_err());
    }
}

//! Secrets of the configuration: given as they are, by an environment variable, or by a file.
//!
//! What goes wrong is told by the field that is at fault, never by what stands in it: people paste the secret itself
//! where the name of its variable belongs.

use std::io::Read;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

/// More than any key has; a path that names something else is not read for ever.
const MAX_FILE: u64 = 64 * 1024;

/// Where one secret may be given.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The field's name; `_env` and `_file` are appended for the other two.
    pub name: &'a str,
    /// The secret itself.
    pub value: Option<&'a SecretString>,
    /// Name of the environment variable that holds it.
    pub env: Option<&'a str>,
    /// Path of the file that holds it.
    pub file: Option<&'a Path>,
}

/// A secret that is at hand, or the file to read it from.
#[derive(Clone, Debug)]
pub enum Given {
    /// The secret, not empty and without white space around it.
    Value(SecretString),
    /// A file, which was not looked at.
    File(PathBuf),
}

impl PartialEq for Given {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Value(a), Self::Value(b)) => a.expose_secret() == b.expose_secret(),
            (Self::File(a), Self::File(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Given {}

/// What is wrong with a secret of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct SecretError {
    /// The field that is at fault.
    pub field: String,
    /// What is wrong with it. Holds nothing of the secret.
    pub problem: String,
}

/// Why a file holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is not to be read.
    #[error("cannot be read: {0}")]
    Read(std::io::ErrorKind),
    /// It is something else.
    #[error("is longer than {MAX_FILE} bytes")]
    TooLong,
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
}

impl Source<'_> {
    /// The secret, if one is given; from its file, if that is where it is.
    ///
    /// # Errors
    ///
    /// If it is given more than once, not to be had, or empty.
    pub fn read(self) -> Result<Option<SecretString>, SecretError> {
        match self.find(|name| std::env::var(name).ok())? {
            None => Ok(None),
            Some(Given::Value(secret)) => Ok(Some(secret)),
            Some(Given::File(path)) => read_file(&path)
                .map(Some)
                .map_err(|error| self.wrong("_file", format!("{} {error}", path.display()))),
        }
    }

    /// The secret, where one must be given.
    ///
    /// # Errors
    ///
    /// As [`Source::read`], and if none is given.
    pub fn required(self) -> Result<SecretString, SecretError> {
        self.read()?.ok_or_else(|| self.missing())
    }

    /// The same without reading a file, for secrets that may change in theirs. `env` is the environment.
    ///
    /// # Errors
    ///
    /// If it is given more than once, or its variable is not set or empty.
    pub fn find(self, env: impl Fn(&str) -> Option<String>) -> Result<Option<Given>, SecretError> {
        let (field, secret) = match (self.value, self.env, self.file) {
            (None, None, None) => return Ok(None),
            (None, None, Some(path)) => return Ok(Some(Given::File(path.to_owned()))),
            (Some(value), None, None) => ("", value.clone()),
            (None, Some(variable), None) => match env(variable) {
                Some(value) => ("_env", value.into()),
                None => return Err(self.wrong("_env", no_variable(variable))),
            },
            _ => {
                let problem = format!("give only one of {}", self.fields());
                return Err(self.wrong("", problem));
            }
        };
        let trimmed = secret.expose_secret().trim();
        if trimmed.is_empty() {
            return Err(self.wrong(field, "is empty".to_owned()));
        }
        Ok(Some(Given::Value(trimmed.to_owned().into())))
    }

    /// The error where it must be given.
    #[must_use]
    pub fn missing(self) -> SecretError {
        self.wrong("", format!("one of {} is needed", self.fields()))
    }

    fn fields(self) -> String {
        let name = self.name;
        format!("{name}, {name}_env and {name}_file")
    }

    fn wrong(self, ending: &str, problem: String) -> SecretError {
        SecretError {
            field: format!("{}{ending}", self.name),
            problem,
        }
    }
}

/// Reads a secret without white space around it.
///
/// # Errors
///
/// If there is none.
pub fn read_file(path: &Path) -> Result<SecretString, FileError> {
    let failed = |error: std::io::Error| FileError::Read(error.kind());
    let mut text = String::new();
    std::fs::File::open(path)
        .map_err(failed)?
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(FileError::TooLong);
    }
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(FileError::Empty);
    }
    Ok(trimmed.to_owned().into())
}

/// Says that a variable is not set, by its name only if that looks like one (POSIX.1-2024 volume 1, 8.1).
fn no_variable(name: &str) -> String {
    let mut bytes = name.bytes();
    let is_name = bytes
        .next()
        .is_some_and(|first| first.is_ascii_uppercase() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    if is_name {
        format!("no environment variable {name}")
    } else {
        "no environment variable of that name; the name belongs here, not the secret".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source<'a>(
        value: Option<&'a SecretString>,
        env: Option<&'a str>,
        file: Option<&'a Path>,
    ) -> Source<'a> {
        Source {
            name: "secret",
            value,
            env,
            file,
        }
    }

    fn read(
        value: Option<&str>,
        env: Option<&str>,
        file: Option<&Path>,
    ) -> Result<Option<String>, String> {
        let value = value.map(SecretString::from);
        source(value.as_ref(), env, file)
            .read()
            .map(|read| read.map(|secret| secret.expose_secret().to_owned()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_is_given_once() {
        let missing = Path::new("/nowhere/secret");
        assert_eq!(read(None, None, None), Ok(None));
        assert_eq!(read(Some(" s "), None, None), Ok(Some("s".to_owned())));
        let check = |read: Result<Option<String>, String>, expected: &str| {
            assert_eq!(read, Err(expected.to_owned()));
        };
        check(read(Some(" "), None, None), "secret: is empty");
        check(
            read(Some("s"), None, Some(missing)),
            "secret: give only one of secret, secret_env and secret_file",
        );
        check(
            read(None, Some("NO_SUCH_VARIABLE"), None),
            "secret_env: no environment variable NO_SUCH_VARIABLE",
        );
        check(
            read(None, None, Some(missing)),
            "secret_file: /nowhere/secret cannot be read: entity not found",
        );
        assert_eq!(
            source(None, None, None).missing().to_string(),
            "secret: one of secret, secret_env and secret_file is needed"
        );
    }

    #[test]
    fn a_secret_in_the_place_of_a_name_is_not_repeated() {
        let check = |given: &str, is_said: bool| {
            let error = read(None, Some(given), None).expect_err("not set");
            assert!(
                error.starts_with("secret_env: no environment variable "),
                "{error}"
            );
            assert_eq!(error.contains(given), is_said, "{error}");
        };
        check("_NO_SUCH_1", true);
        check("sk-proj-abcdef", false);
        check("redis://:hunter2@10.0.0.1", false);
        check("1ABC", false);
        check("Mixed_Case", false);
    }

    #[test]
    fn the_environment_is_whatever_is_handed_in() {
        let env = |name: &str| (name == "HELD").then(|| " s \n".to_owned());
        let found = source(None, Some("HELD"), None).find(env);
        assert!(matches!(found, Ok(Some(Given::Value(s))) if s.expose_secret() == "s"));
        let empty = source(None, Some("HELD"), None).find(|_| Some(" ".to_owned()));
        assert_eq!(
            empty.expect_err("empty").to_string(),
            "secret_env: is empty"
        );
        // A file is left to whoever reads it again and again.
        let file = source(None, None, Some(Path::new("/nowhere"))).find(env);
        assert!(matches!(file, Ok(Some(Given::File(path))) if path == Path::new("/nowhere")));
    }

    #[test]
    fn files_that_hold_no_secret_are_told_apart() {
        let path = std::env::temp_dir().join(format!("trunkline-secret-{}", std::process::id()));
        let check = |content: &[u8], expected: Result<&str, FileError>| {
            std::fs::write(&path, content).expect("written");
            let read = read_file(&path).map(|key| key.expose_secret().to_owned());
            assert_eq!(read, expected.map(str::to_owned));
        };
        check(b"k-1\n", Ok("k-1"));
        check(b" \n", Err(FileError::Empty));
        check(
            &[0xff],
            Err(FileError::Read(std::io::ErrorKind::InvalidData)),
        );
        check(&[b'k'; 64 * 1024], Ok(&"k".repeat(64 * 1024)));
        check(&[b'k'; 64 * 1024 + 1], Err(FileError::TooLong));
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(
            read_file(&path).map(|_| ()),
            Err(FileError::Read(std::io::ErrorKind::NotFound))
        );
    }
}

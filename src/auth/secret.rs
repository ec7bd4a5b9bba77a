//! Secrets of the configuration file: given as they are, by an environment variable, or by a file.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

/// Where one secret may be given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    /// The field's name; `_env` and `_file` are appended for the other two.
    pub(super) name: &'a str,
    pub(super) value: Option<&'a SecretString>,
    pub(super) env: Option<&'a str>,
    pub(super) file: Option<&'a Path>,
}

impl Source<'_> {
    /// The secret, without white space around it, if one is given.
    ///
    /// # Errors
    ///
    /// What is wrong, for the operator: given more than once, not to be had, or empty.
    pub(super) fn read(self) -> Result<Option<SecretString>, String> {
        let name = self.name;
        let secret = match (self.value, self.env, self.file) {
            (None, None, None) => return Ok(None),
            (Some(value), None, None) => value.clone(),
            (None, Some(variable), None) => std::env::var(variable)
                .map_err(|_| format!("{name}_env: no environment variable {variable}"))?
                .into(),
            (None, None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|error| format!("{name}_file {}: {error}", path.display()))?
                .into(),
            _ => {
                return Err(format!(
                    "give only one of {name}, {name}_env and {name}_file"
                ));
            }
        };
        let trimmed = secret.expose_secret().trim();
        if trimmed.is_empty() {
            return Err(format!("{name} is empty"));
        }
        Ok(Some(trimmed.to_owned().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        value: Option<&str>,
        env: Option<&str>,
        file: Option<&Path>,
    ) -> Result<Option<String>, String> {
        let value = value.map(SecretString::from);
        let source = Source {
            name: "secret",
            value: value.as_ref(),
            env,
            file,
        };
        let read = source.read()?;
        Ok(read.map(|secret| secret.expose_secret().to_owned()))
    }

    #[test]
    fn a_secret_is_given_once() {
        let missing = Path::new("/nowhere/secret");
        assert_eq!(read(None, None, None), Ok(None));
        assert_eq!(read(Some(" s "), None, None), Ok(Some("s".to_owned())));
        assert_eq!(
            read(Some(" "), None, None),
            Err("secret is empty".to_owned())
        );
        assert_eq!(
            read(Some("s"), None, Some(missing)),
            Err("give only one of secret, secret_env and secret_file".to_owned())
        );
        assert_eq!(
            read(None, Some("NO_SUCH_VARIABLE"), None),
            Err("secret_env: no environment variable NO_SUCH_VARIABLE".to_owned())
        );
        let error = read(None, None, Some(missing)).unwrap_err();
        assert!(
            error.starts_with("secret_file /nowhere/secret: "),
            "{error}"
        );
    }
}

//! What a deployment is shown: an API key from a value, the environment or a file, or an Entra ID token.
//!
//! A dial takes what is there at that moment; open sessions never notice that a key or token was replaced. Decides
//! nothing about calls and opens no connection.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::join_all;
use http::{HeaderName, HeaderValue, header::AUTHORIZATION};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::secret::{FileError, read_file};
use crate::telemetry::Metrics;

use super::deployment::{Deployment, Kind};
use super::token_keeper::TokenKeeper;

/// How often a key file is read. A new key is taken when it was read twice the same, so that a half-written one is
/// not, and that must be within 5 s (faults reference, 20).
const KEY_FILE_LOOK: Duration = Duration::from_secs(2);

/// A deployment's credential.
#[derive(Debug)]
pub(super) enum Credential {
    /// Nothing is shown.
    None,
    /// A key that never changes.
    Key(SecretString),
    /// A key that is read again when its file changes.
    KeyFile(Arc<KeyFile>),
    /// A token that is refreshed.
    Token(Arc<TokenKeeper>),
}

/// What one dial shows.
#[derive(Debug)]
pub(super) struct Shown {
    secret: Option<SecretString>,
    is_token: bool,
    version: u64,
}

/// There is no token, nor will there be one soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoToken;

impl Credential {
    /// Whether both are shown alike: a key, what a file holds, or the tokens of one identity.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Key(a), Self::Key(b)) => a.expose_secret() == b.expose_secret(),
            (Self::KeyFile(a), Self::KeyFile(b)) => a.path == b.path,
            (Self::Token(a), Self::Token(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// What a dial shows now. Waits for a token, if there is none, for `limit` at most.
    pub(super) async fn show(&self, limit: Duration) -> Result<Shown, NoToken> {
        Ok(match self {
            Self::None => Shown::new(None, false, 0),
            Self::Key(key) => Shown::new(Some(key.clone()), false, 0),
            Self::KeyFile(file) => file.lock().show(),
            Self::Token(keeper) => {
                let (token, version) = keeper.token(limit).await.ok_or(NoToken)?;
                Shown::new(Some(token), true, version)
            }
        })
    }

    /// Counts what there was to show: another number, another key or token.
    pub(super) fn version(&self) -> u64 {
        match self {
            Self::None | Self::Key(_) => 0,
            Self::KeyFile(file) => file.lock().version,
            Self::Token(keeper) => keeper.version(),
        }
    }

    /// Counts only what the operator changed: a key that another one replaced may be taken back, and a token that was
    /// refreshed is not.
    pub(super) fn rotation(&self) -> u64 {
        match self {
            Self::None | Self::Key(_) | Self::Token(_) => 0,
            Self::KeyFile(file) => file.lock().version,
        }
    }

    /// Something newer than what was shown and refused, if there is any: the file is read again, or a token fetched.
    pub(super) async fn renew(
        &self,
        refused: &Shown,
        limit: Duration,
        metrics: &Metrics,
    ) -> Option<Shown> {
        match self {
            Self::None | Self::Key(_) => None,
            Self::KeyFile(file) => file.renew(refused.version, metrics).await,
            Self::Token(keeper) => {
                let (token, version) = keeper.replace(refused.version, limit).await?;
                Some(Shown::new(Some(token), true, version))
            }
        }
    }
}

impl Shown {
    fn new(secret: Option<SecretString>, is_token: bool, version: u64) -> Self {
        Self {
            secret,
            is_token,
            version,
        }
    }

    /// Grows whenever there is something newer to show.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The header for a deployment of that kind (protocol reference 1.3).
    pub(super) fn header(&self, kind: Kind) -> Option<(HeaderName, HeaderValue)> {
        let secret = self.secret.as_ref()?.expose_secret();
        let (name, mut value) = match kind {
            Kind::Azure if !self.is_token => (
                HeaderName::from_static("api-key"),
                HeaderValue::from_str(secret).ok()?,
            ),
            Kind::Azure | Kind::OpenAi => (
                AUTHORIZATION,
                HeaderValue::from_str(&format!("Bearer {secret}")).ok()?,
            ),
        };
        value.set_sensitive(true);
        Some((name, value))
    }
}

/// Keeps the keys and tokens of these deployments fresh until it is told to stop.
pub async fn keep_credentials(
    deployments: impl IntoIterator<Item = Arc<Deployment>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut files = Vec::new();
    let mut keepers: Vec<Arc<TokenKeeper>> = Vec::new();
    for deployment in deployments {
        match deployment.credential() {
            Credential::None | Credential::Key(_) => {}
            Credential::KeyFile(file) => files.push(Arc::clone(file)),
            Credential::Token(keeper) => {
                if !keepers.iter().any(|known| Arc::ptr_eq(known, keeper)) {
                    keepers.push(Arc::clone(keeper));
                }
            }
        }
    }
    let files = join_all(files.iter().map(|file| file.watch(&metrics)));
    let keepers = join_all(keepers.iter().map(|keeper| keeper.run(&metrics)));
    stop.run_until_cancelled(async { tokio::join!(files, keepers) })
        .await;
}

/// A key in a file.
#[derive(Debug)]
pub(super) struct KeyFile {
    deployment: String,
    path: PathBuf,
    state: Mutex<KeyState>,
}

/// Why a file holds no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyFileError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("has characters that no header can carry")]
    NoKey,
}

impl KeyFile {
    /// Reads the file for the first time.
    pub(super) fn open(deployment: &str, path: &Path) -> Result<Self, KeyFileError> {
        let key = read_secret(path)?;
        Ok(Self {
            deployment: deployment.to_owned(),
            path: path.to_owned(),
            state: Mutex::new(KeyState::new(key)),
        })
    }

    async fn watch(&self, metrics: &Metrics) {
        loop {
            sleep(KEY_FILE_LOOK).await;
            let read = self.read().await;
            let seen = self.lock().look(read);
            self.tell(&seen, metrics);
        }
    }

    /// A deployment refused the key of that version: whatever else is in the file now is better.
    async fn renew(&self, version: u64, metrics: &Metrics) -> Option<Shown> {
        if self.lock().version == version {
            let read = self.read().await;
            let seen = self.lock().take(version, read);
            self.tell(&seen, metrics);
        }
        let state = self.lock();
        (state.version != version).then(|| state.show())
    }

    async fn read(&self) -> Result<SecretString, KeyFileError> {
        let path = self.path.clone();
        // The file may lie on a network.
        tokio::task::spawn_blocking(move || read_secret(&path))
            .await
            .unwrap_or(Err(FileError::Read(std::io::ErrorKind::Other).into()))
    }

    fn tell(&self, seen: &Seen, metrics: &Metrics) {
        let (deployment, path) = (&self.deployment, self.path.display());
        match seen {
            Seen::NothingNew => {}
            Seen::NewKey => {
                metrics.key_file_read(deployment, true);
                tracing::info!(deployment, %path, "new API key");
            }
            Seen::Broken(error) => {
                metrics.key_file_read(deployment, false);
                tracing::warn!(deployment, %path, %error, "no API key in the file, the old one stays");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, KeyState> {
        self.state.lock().expect("no panic while held")
    }
}

/// The key in use and what was last seen in its file.
#[derive(Debug)]
struct KeyState {
    key: SecretString,
    version: u64,
    /// Another key that was read once.
    candidate: Option<SecretString>,
    /// What was wrong with the file the last time.
    problem: Option<KeyFileError>,
}

/// What a look at the file brought.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    NothingNew,
    NewKey,
    Broken(KeyFileError),
}

impl KeyState {
    fn new(key: SecretString) -> Self {
        Self {
            key,
            version: 0,
            candidate: None,
            problem: None,
        }
    }

    fn show(&self) -> Shown {
        Shown::new(Some(self.key.clone()), false, self.version)
    }

    /// A regular look: a new key counts when it stood there the last time too.
    fn look(&mut self, read: Result<SecretString, KeyFileError>) -> Seen {
        let key = match read {
            Ok(key) => key,
            Err(error) => return self.broken(error),
        };
        self.problem = None;
        if is_same(&key, &self.key) {
            self.candidate = None;
            return Seen::NothingNew;
        }
        let is_settled = self
            .candidate
            .as_ref()
            .is_some_and(|seen| is_same(seen, &key));
        if is_settled {
            return self.replace(key);
        }
        self.candidate = Some(key);
        Seen::NothingNew
    }

    /// A look because the key of `version` was refused.
    fn take(&mut self, version: u64, read: Result<SecretString, KeyFileError>) -> Seen {
        match read {
            Ok(key) if self.version == version && !is_same(&key, &self.key) => self.replace(key),
            Ok(_) => Seen::NothingNew,
            Err(error) => self.broken(error),
        }
    }

    fn replace(&mut self, key: SecretString) -> Seen {
        self.key = key;
        self.version += 1;
        self.candidate = None;
        self.problem = None;
        Seen::NewKey
    }

    /// The same trouble is told once.
    fn broken(&mut self, error: KeyFileError) -> Seen {
        self.candidate = None;
        if self.problem.as_ref() == Some(&error) {
            return Seen::NothingNew;
        }
        self.problem = Some(error.clone());
        Seen::Broken(error)
    }
}

fn is_same(a: &SecretString, b: &SecretString) -> bool {
    a.expose_secret() == b.expose_secret()
}

/// Reads a secret of one line.
pub(super) fn read_secret(path: &Path) -> Result<SecretString, KeyFileError> {
    let key = read_file(path)?;
    if !can_be_sent(&key) {
        return Err(KeyFileError::NoKey);
    }
    Ok(key)
}

/// Whether a key is one that a header can carry.
pub(super) fn can_be_sent(key: &SecretString) -> bool {
    let key = key.expose_secret();
    !key.is_empty() && HeaderValue::from_str(key).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<SecretString, KeyFileError> {
        Ok(text.into())
    }

    #[test]
    fn a_new_key_counts_when_it_was_seen_twice() {
        let mut state = KeyState::new("old".into());
        for (read, seen, in_use) in [
            (key("old"), Seen::NothingNew, "old"),
            (key("ne"), Seen::NothingNew, "old"),
            (key("new"), Seen::NothingNew, "old"),
            (key("new"), Seen::NewKey, "new"),
            (key("new"), Seen::NothingNew, "new"),
            (
                Err(KeyFileError::NoKey),
                Seen::Broken(KeyFileError::NoKey),
                "new",
            ),
            (Err(KeyFileError::NoKey), Seen::NothingNew, "new"),
            (key("third"), Seen::NothingNew, "new"),
            // Between two reads of the same it was something else.
            (
                Err(KeyFileError::NoKey),
                Seen::Broken(KeyFileError::NoKey),
                "new",
            ),
            (key("third"), Seen::NothingNew, "new"),
            (key("third"), Seen::NewKey, "third"),
        ] {
            assert_eq!(state.look(read), seen);
            assert_eq!(state.key.expose_secret(), in_use);
        }
        assert_eq!(state.version, 2);
    }

    #[test]
    fn a_refused_key_is_replaced_by_whatever_else_is_there() {
        let mut state = KeyState::new("old".into());
        assert_eq!(state.take(0, key("old")), Seen::NothingNew);
        assert_eq!(
            state.take(0, Err(FileError::TooLong.into())),
            Seen::Broken(FileError::TooLong.into())
        );
        assert_eq!(state.take(0, key("new")), Seen::NewKey);
        // Two calls were refused at once: the second finds it done.
        assert_eq!(state.take(0, key("new")), Seen::NothingNew);
        assert_eq!(state.version, 1);
    }

    #[test]
    fn files_that_hold_no_key_are_told_apart() {
        let path = std::env::temp_dir().join(format!("trunkline-key-{}", std::process::id()));
        let check = |content: &[u8], expected: Result<&str, KeyFileError>| {
            std::fs::write(&path, content).expect("written");
            let read = read_secret(&path).map(|key| key.expose_secret().to_owned());
            assert_eq!(read, expected.map(str::to_owned));
        };
        check(b"k-1\n", Ok("k-1"));
        check(b" \n", Err(FileError::Empty.into()));
        check(b"a\nb", Err(KeyFileError::NoKey));
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(
            read_secret(&path).map(|_| ()),
            Err(FileError::Read(std::io::ErrorKind::NotFound).into())
        );
    }

    #[test]
    fn keys_and_tokens_go_where_the_vendor_wants_them() {
        let check = |is_token, kind, expected: &str| {
            let shown = Shown::new(Some("s-1".into()), is_token, 0);
            let (name, value) = shown.header(kind).expect("a header");
            assert_eq!(
                format!("{name}: {}", value.to_str().expect("text")),
                expected
            );
            assert!(!format!("{value:?}{shown:?}").contains("s-1"));
        };
        check(false, Kind::Azure, "api-key: s-1");
        check(true, Kind::Azure, "authorization: Bearer s-1");
        check(false, Kind::OpenAi, "authorization: Bearer s-1");
        assert!(Shown::new(None, false, 0).header(Kind::Azure).is_none());
    }
}

//! Who is called, and how.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use trunkline::media::{AudioFormat, Codec, SampleRate};
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Shape, SoftPhone};

/// The `[target]` table. Secrets are named by the environment variables that hold them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `ws://` or `wss://`.
    pub url: String,
    /// Wire format; guessed from a path segment of the same name.
    #[serde(default)]
    pub dialect: Option<String>,
    /// Codec of dialects that have several: `pcm16`, `ulaw` or `alaw`.
    #[serde(default)]
    pub codec: Option<String>,
    /// Sample rate in Hz of dialects that have several.
    #[serde(default)]
    pub rate: Option<u32>,
    /// Event shape of the realtime dialect: `ga` or `preview`.
    #[serde(default)]
    pub shape: Option<Shape>,
    /// Environment variable with the key.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// Environment variable with the secret that requests are signed with, in dialects whose provider signs.
    #[serde(default)]
    pub client_secret_env: Option<String>,
    /// Session instructions in the realtime dialect.
    #[serde(default)]
    pub instructions: Option<String>,
    /// Further certificates to trust, a PEM file.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Further headers of the upgrade request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Custom parameters of the call, in dialects that have them.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
}

impl Target {
    /// Its dialect.
    ///
    /// # Errors
    /// That there is none.
    pub fn dialect(&self) -> Result<Dialect, String> {
        if let Some(name) = &self.dialect {
            let known = || Dialect::ALL.iter().map(|it| it.name()).collect::<Vec<_>>();
            return Dialect::from_name(name).ok_or_else(|| {
                format!("target.dialect: {name:?} is none of {}", known().join(", "))
            });
        }
        let path = self.url.parse::<http::Uri>().ok();
        path.and_then(|uri| Dialect::guess(uri.path()))
            .ok_or_else(|| format!("target.dialect: the path of {} names none", self.url))
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.dialect()?;
        self.format()?;
        Ok(())
    }

    fn format(&self) -> Result<AudioFormat, String> {
        let (codec, usual) = match self.codec.as_deref() {
            None | Some("pcm16") => (Codec::Pcm16, SampleRate::HZ_24000),
            Some("ulaw") => (Codec::Ulaw, SampleRate::HZ_8000),
            Some("alaw") => (Codec::Alaw, SampleRate::HZ_8000),
            Some(other) => {
                return Err(format!(
                    "target.codec: {other:?} is none of pcm16, ulaw, alaw"
                ));
            }
        };
        let rate = match self.rate {
            None => usual,
            Some(hz) => {
                SampleRate::new(hz).ok_or_else(|| format!("target.rate: {hz} Hz is not spoken"))?
            }
        };
        Ok(AudioFormat { codec, rate })
    }

    /// A phone that calls it, with an empty script. Reads the environment.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn phone(&self) -> Result<SoftPhone, String> {
        let said = |error: trunkline::simulator::phone::PhoneError| format!("target: {error}");
        let mut phone = SoftPhone::new(&self.url, self.dialect()?)
            .and_then(|phone| phone.format(self.format().unwrap_or(AudioFormat::MODEL_PCM)))
            .map_err(said)?;
        if let Some(shape) = self.shape {
            phone = phone.shape(shape);
        }
        if let Some(name) = &self.api_key_env {
            phone = phone.api_key(secret(name)?);
        }
        if let Some(name) = &self.client_secret_env {
            phone = phone.client_secret(secret(name)?);
        }
        if let Some(instructions) = &self.instructions {
            phone = phone.instructions(instructions);
        }
        for (name, value) in &self.headers {
            phone = phone.header(name, value).map_err(said)?;
        }
        for (name, value) in &self.parameters {
            phone = phone.parameter(name, value);
        }
        Ok(phone.keeps_audio(false))
    }
}

fn secret(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("target: the environment variable {name} is not set"))
}

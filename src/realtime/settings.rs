//! What an agent's session is set to: the part of the configuration file that ends up in `session.update`.
//!
//! A setting that is absent is not sent, so the deployment's own default applies. [`SessionSettings::validate`]
//! checks the vendor's documented ranges at load time; whether a model or voice exists only the deployment knows.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::json::quoted;

/// Settings of a Realtime session, the same for both shapes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionSettings {
    /// The system prompt.
    pub instructions: Option<String>,
    /// Name of the voice, for example `marin`. The vendor locks it at the first reply audio.
    pub voice: Option<String>,
    /// Speaking rate, 0.25 to 1.5.
    pub speed: Option<f64>,
    /// How the end of the caller's turn is found.
    pub turn_detection: Option<TurnDetection>,
    /// Turns the caller's words into text beside the conversation.
    pub transcription: Option<Transcription>,
    /// Filters the caller's audio before turn detection.
    pub noise_reduction: Option<NoiseReduction>,
    /// Functions that the model may call.
    pub tools: Vec<Tool>,
    /// Whether it has to.
    pub tool_choice: Option<ToolChoice>,
    /// Randomness, 0.6 to 1.2. Only the preview shape has it; towards GA it is left out.
    pub temperature: Option<f64>,
    /// Cap of one reply, 1 to 4096 tokens or `"inf"`.
    pub max_output_tokens: Option<MaxOutputTokens>,
    /// What happens when the conversation outgrows the model's context. GA only.
    pub truncation: Option<Truncation>,
    /// How long the model thinks before it speaks. GA only, and for models that reason.
    pub reasoning_effort: Option<ReasoningEffort>,
}

/// Audio from before the onset of speech that is part of it where nobody says otherwise (protocol reference 4.4).
pub const DEFAULT_PREFIX_PADDING: Duration = Duration::from_millis(300);

/// How the end of the caller's turn is found. Durations are written as `"300ms"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum TurnDetection {
    /// By silence.
    ServerVad {
        /// How loud speech must be, 0 to 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        threshold: Option<f64>,
        /// Audio kept from before the onset; up to 5 s here, the vendor states no bound.
        #[serde(
            default,
            with = "humantime_serde::option",
            skip_serializing_if = "Option::is_none"
        )]
        prefix_padding: Option<Duration>,
        /// Silence that ends a turn; up to 10 s here, the vendor states no bound.
        #[serde(
            default,
            with = "humantime_serde::option",
            skip_serializing_if = "Option::is_none"
        )]
        silence_duration: Option<Duration>,
        /// Silence after a reply at which the model speaks again, 5 s to 30 s. GA only.
        #[serde(
            default,
            with = "humantime_serde::option",
            skip_serializing_if = "Option::is_none"
        )]
        idle_timeout: Option<Duration>,
        /// Whether the end of a turn starts a response.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        create_response: Option<bool>,
        /// Whether the onset of speech cancels one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interrupt_response: Option<bool>,
    },
    /// By meaning.
    SemanticVad {
        /// How soon it takes a turn for finished.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        eagerness: Option<Eagerness>,
        /// Whether the end of a turn starts a response.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        create_response: Option<bool>,
        /// Whether the onset of speech cancels one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interrupt_response: Option<bool>,
    },
    /// Not at all; turns are committed by hand.
    None {},
}

/// How soon [`TurnDetection::SemanticVad`] takes a turn for finished: it waits 8, 4 or 2 s at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Eagerness {
    /// 8 s.
    Low,
    /// 4 s.
    Medium,
    /// 2 s.
    High,
    /// The vendor's choice, at present medium.
    Auto,
}

/// Transcription of the caller's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcription {
    /// The model; on Azure a deployment, which has to exist.
    pub model: String,
    /// ISO 639-1 code of the language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Words and style to expect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
}

/// Where the caller's microphone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseReduction {
    /// Handset or headset.
    NearField,
    /// Room or laptop.
    FarField,
}

impl NoiseReduction {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NearField => "near_field",
            Self::FarField => "far_field",
        }
    }
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// The function's name: letters, digits, `_`, `-`.
    pub name: String,
    /// What it does and when to call it.
    #[serde(default)]
    pub description: String,
    /// JSON Schema of its arguments.
    #[serde(default = "no_parameters")]
    pub parameters: serde_json::Value,
}

fn no_parameters() -> serde_json::Value {
    serde_json::json!({"type": "object", "properties": {}})
}

/// Whether the model has to call a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// As it sees fit.
    Auto,
    /// Never.
    None,
    /// Some function.
    Required,
    /// This function. Written as `{ function = "name" }`.
    Function(String),
}

impl ToolChoice {
    /// The value in a session, as JSON text.
    pub(super) fn json(&self) -> String {
        match self {
            Self::Auto => "\"auto\"".to_owned(),
            Self::None => "\"none\"".to_owned(),
            Self::Required => "\"required\"".to_owned(),
            Self::Function(name) => format!("{{\"type\":\"function\",\"name\":{}}}", quoted(name)),
        }
    }
}

/// Cap of one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MaxOutputTokens {
    /// This many tokens.
    Limit(u32),
    /// Written as `"inf"`.
    Unlimited(Infinite),
}

/// The word `inf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Infinite {
    /// No cap but the model's own.
    #[serde(rename = "inf")]
    Inf,
}

/// What happens when the conversation outgrows the model's context.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// The oldest items are left out.
    Auto,
    /// The response fails.
    Disabled,
    /// This share of the context is kept at each cut, 0 to 1: fewer cuts, so more of it comes from the cache.
    /// Written as `{ retention_ratio = 0.8 }`.
    RetentionRatio(f64),
}

impl Truncation {
    /// The value in a session, as JSON text.
    pub(super) fn json(self) -> String {
        match self {
            Self::Auto => "\"auto\"".to_owned(),
            Self::Disabled => "\"disabled\"".to_owned(),
            Self::RetentionRatio(ratio) => {
                format!("{{\"type\":\"retention_ratio\",\"retention_ratio\":{ratio}}}")
            }
        }
    }
}

/// How long a model that reasons thinks before it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReasoningEffort {
    /// Hardly.
    Minimal,
    /// The vendor's default.
    Low,
    /// Longer.
    Medium,
    /// Longer still.
    High,
    /// As long as it takes.
    XHigh,
}

impl ReasoningEffort {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::XHigh => "xhigh",
        }
    }
}

/// A setting outside of the vendor's range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidSetting {
    /// Path of the setting, as in the configuration.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl SessionSettings {
    /// Checks the ranges of the vendor's documentation (reference, protocol 4.1 and 4.4).
    ///
    /// # Errors
    /// The first setting that breaks one.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        within("speed", self.speed, 0.25, 1.5)?;
        within("temperature", self.temperature, 0.6, 1.2)?;
        not_blank("voice", self.voice.as_deref())?;
        if let Some(MaxOutputTokens::Limit(n)) = self.max_output_tokens {
            within("max_output_tokens", Some(f64::from(n)), 1.0, 4096.0)?;
        }
        if let Some(Truncation::RetentionRatio(ratio)) = self.truncation {
            within("truncation.retention_ratio", Some(ratio), 0.0, 1.0)?;
        }
        if let Some(turn_detection) = &self.turn_detection {
            turn_detection.validate()?;
        }
        if let Some(transcription) = &self.transcription {
            not_blank("transcription.model", Some(&transcription.model))?;
        }
        self.validate_tools()
    }

    fn validate_tools(&self) -> Result<(), InvalidSetting> {
        for (index, tool) in self.tools.iter().enumerate() {
            let name = &tool.name;
            let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            if name.is_empty() || name.len() > 64 || !name.chars().all(is_name_char) {
                return invalid(
                    format!("tools[{index}].name"),
                    "must be 1 to 64 letters, digits, `_` or `-`",
                );
            }
            if !tool.parameters.is_object() {
                return invalid(
                    format!("tools[{index}].parameters"),
                    "must be a JSON Schema object",
                );
            }
            if self.tools[..index].iter().any(|other| other.name == *name) {
                return invalid(
                    format!("tools[{index}].name"),
                    format!("`{name}` is there twice"),
                );
            }
        }
        match &self.tool_choice {
            Some(ToolChoice::Function(name))
                if !self.tools.iter().any(|tool| tool.name == *name) =>
            {
                invalid("tool_choice", format!("no tool is named `{name}`"))
            }
            Some(ToolChoice::Required) if self.tools.is_empty() => {
                invalid("tool_choice", "is `required` without tools")
            }
            _ => Ok(()),
        }
    }
}

impl TurnDetection {
    fn validate(&self) -> Result<(), InvalidSetting> {
        let Self::ServerVad {
            threshold,
            prefix_padding,
            silence_duration,
            idle_timeout,
            ..
        } = self
        else {
            return Ok(());
        };
        let seconds = |duration: &Option<Duration>| duration.map(|duration| duration.as_secs_f64());
        within("turn_detection.threshold", *threshold, 0.0, 1.0)?;
        within(
            "turn_detection.prefix_padding (s)",
            seconds(prefix_padding),
            0.0,
            5.0,
        )?;
        within(
            "turn_detection.silence_duration (s)",
            seconds(silence_duration),
            0.0,
            10.0,
        )?;
        within(
            "turn_detection.idle_timeout (s)",
            seconds(idle_timeout),
            5.0,
            30.0,
        )
    }
}

fn within(field: &str, value: Option<f64>, min: f64, max: f64) -> Result<(), InvalidSetting> {
    match value {
        // Written so that NaN fails too.
        Some(value) if !(min..=max).contains(&value) => {
            invalid(field, format!("{value} is not within {min} to {max}"))
        }
        _ => Ok(()),
    }
}

fn not_blank(field: &str, value: Option<&str>) -> Result<(), InvalidSetting> {
    match value {
        Some(value) if value.trim().is_empty() => invalid(field, "must not be empty"),
        _ => Ok(()),
    }
}

fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Result<(), InvalidSetting> {
    Err(InvalidSetting {
        field: field.into(),
        reason: reason.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
        instructions = "Be brief."
        voice = "marin"
        speed = 1.1
        max_output_tokens = "inf"
        noise_reduction = "near_field"
        tool_choice = { function = "weather" }
        turn_detection = { type = "server_vad", threshold = 0.6, silence_duration = "400ms", idle_timeout = "6s" }
        transcription = { model = "whisper-1", language = "en" }

        [[tools]]
        name = "weather"
        description = "Weather of a city."
        parameters = { type = "object", properties = { city = { type = "string" } } }
    "#;

    #[test]
    fn reads_a_full_configuration() {
        let settings: SessionSettings = toml::from_str(FULL).unwrap();
        settings.validate().unwrap();
        assert_eq!(
            settings.max_output_tokens,
            Some(MaxOutputTokens::Unlimited(Infinite::Inf))
        );
        assert_eq!(
            settings.tool_choice,
            Some(ToolChoice::Function("weather".to_owned()))
        );
        let Some(TurnDetection::ServerVad {
            silence_duration, ..
        }) = settings.turn_detection
        else {
            panic!("{:?}", settings.turn_detection);
        };
        assert_eq!(silence_duration, Some(Duration::from_millis(400)));
    }

    #[test]
    fn refuses_unknown_names() {
        for text in [
            "vioce = \"marin\"",
            "turn_detection = { type = \"server_vad\", silence_duration_ms = 200 }",
            "turn_detection = { type = \"none\", threshold = 1 }",
            "turn_detection = { type = \"other\" }",
            "max_output_tokens = \"lots\"",
            "tool_choice = \"maybe\"",
            "truncation = \"sometimes\"",
            "truncation = { retention = 0.5 }",
            "reasoning_effort = \"none\"",
        ] {
            assert!(toml::from_str::<SessionSettings>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_the_setting_that_is_out_of_range() {
        let check = |text: &str, field: &str| {
            let settings: SessionSettings = toml::from_str(text).unwrap();
            assert_eq!(settings.validate().unwrap_err().field, field, "{text}");
        };
        check("speed = 2.0", "speed");
        check("speed = nan", "speed");
        check("temperature = 0.5", "temperature");
        check("voice = \" \"", "voice");
        check("max_output_tokens = 0", "max_output_tokens");
        check("max_output_tokens = 4097", "max_output_tokens");
        check(
            "turn_detection = { type = \"server_vad\", threshold = 1.5 }",
            "turn_detection.threshold",
        );
        check(
            "turn_detection = { type = \"server_vad\", idle_timeout = \"1s\" }",
            "turn_detection.idle_timeout (s)",
        );
        check(
            "truncation = { retention_ratio = 1.5 }",
            "truncation.retention_ratio",
        );
        check(
            "truncation = { retention_ratio = nan }",
            "truncation.retention_ratio",
        );
        check("transcription = { model = \"\" }", "transcription.model");
        check("tool_choice = \"required\"", "tool_choice");
        check("tool_choice = { function = \"x\" }", "tool_choice");
        check("tools = [{ name = \"a b\" }]", "tools[0].name");
        check(
            "tools = [{ name = \"a\" }, { name = \"a\" }]",
            "tools[1].name",
        );
        check(
            "tools = [{ name = \"a\", parameters = 1 }]",
            "tools[0].parameters",
        );
    }
}

//! The session object in both shapes: what may stand in it, its defaults, its echo (reference chapter 4).
//!
//! Every reader is strict: a field that the shape does not know is refused with its path, and a refused object
//! changes nothing.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::codec::WireFormat;
use super::config::{Shape, SimulatorConfig};
use super::error::ApiError;
use super::fields::{
    Fields, checked_noise_reduction, checked_tool_choice, checked_tools, checked_transcription,
    checked_truncation, checked_voice, ga_format, ga_format_echo, ga_text_only, max_tokens,
    preview_format, preview_text_only, text_or_null, tokens_echo,
};
use super::quirks::Merge;
use super::session::SessionKind;

/// What is in force, whatever shape it was written in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SessionConfig {
    pub(super) text_only: bool,
    /// Preview clients see their list in the order they wrote it.
    pub(super) modalities: Value,
    pub(super) instructions: String,
    pub(super) voice: Value,
    speed: f64,
    pub(super) input_format: WireFormat,
    pub(super) output_format: WireFormat,
    pub(super) transcription: Option<Value>,
    noise_reduction: Value,
    pub(super) turn_detection: Option<TurnDetection>,
    pub(super) tools: Value,
    pub(super) tool_choice: Value,
    pub(super) temperature: f64,
    pub(super) max_output_tokens: Option<u64>,
    tracing: Value,
    pub(super) truncation: Value,
    prompt: Value,
    include: Value,
    /// GA fields of reasoning models, echoed only once set.
    extras: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct TurnDetection {
    pub(super) mode: TurnMode,
    pub(super) create_response: bool,
    pub(super) interrupt_response: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TurnMode {
    Server {
        threshold: f64,
        prefix_padding_ms: u64,
        silence_duration_ms: u64,
        idle_timeout_ms: Option<u64>,
    },
    Semantic {
        eagerness: String,
    },
}

/// What never changes in a session, for the echo and for refusing changes to it.
#[derive(Clone, Debug)]
pub(super) struct SessionFacts {
    pub(super) id: String,
    pub(super) model: String,
    pub(super) deployment: String,
    pub(super) kind: SessionKind,
    pub(super) shape: Shape,
    pub(super) expires_at: u64,
    /// An `api-version` of 2024.
    pub(super) first_preview: bool,
    pub(super) config: Arc<SimulatorConfig>,
}

/// What a session's history forbids.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Locks {
    /// Assistant audio is present.
    pub(super) voice: bool,
}

const PREVIEW_FIELDS: &[&str] = &[
    "model",
    "modalities",
    "instructions",
    "voice",
    "speed",
    "input_audio_format",
    "output_audio_format",
    "input_audio_transcription",
    "input_audio_noise_reduction",
    "turn_detection",
    "tools",
    "tool_choice",
    "temperature",
    "max_response_output_tokens",
    "tracing",
    "prompt",
    "include",
];
const PREVIEW_TRANSCRIPTION_FIELDS: &[&str] = &[
    "input_audio_format",
    "input_audio_transcription",
    "input_audio_noise_reduction",
    "turn_detection",
    "include",
];
const GA_FIELDS: &[&str] = &[
    "type",
    "model",
    "output_modalities",
    "instructions",
    "tools",
    "tool_choice",
    "max_output_tokens",
    "tracing",
    "truncation",
    "prompt",
    "include",
    "audio",
    "reasoning",
    "parallel_tool_calls",
];
const GA_TRANSCRIPTION_FIELDS: &[&str] = &["type", "include", "audio"];

impl SessionConfig {
    /// The session before any update, as in reference chapter 4.2.
    pub(super) fn new(shape: Shape, instructions: &str) -> Self {
        let (modalities, voice) = match shape {
            Shape::Preview => (json!(["audio", "text"]), "alloy"),
            Shape::Ga => (json!(["audio"]), "marin"),
        };
        Self {
            text_only: false,
            modalities,
            instructions: instructions.to_owned(),
            voice: voice.into(),
            speed: 1.0,
            input_format: WireFormat::Pcm16,
            output_format: WireFormat::Pcm16,
            transcription: None,
            noise_reduction: Value::Null,
            turn_detection: Some(TurnDetection {
                mode: TurnMode::Server {
                    threshold: 0.5,
                    prefix_padding_ms: 300,
                    silence_duration_ms: 200,
                    idle_timeout_ms: None,
                },
                create_response: true,
                interrupt_response: true,
            }),
            tools: json!([]),
            tool_choice: "auto".into(),
            temperature: 0.8,
            max_output_tokens: None,
            tracing: Value::Null,
            truncation: "auto".into(),
            prompt: Value::Null,
            include: Value::Null,
            extras: Map::new(),
        }
    }

    /// This configuration with `update` merged in. Null or empty clears; absent keeps.
    pub(super) fn updated(
        &self,
        update: &Value,
        facts: &SessionFacts,
        locks: Locks,
    ) -> Result<Self, ApiError> {
        let fields = Fields::of(update, "session")?;
        let mut next = self.clone();
        match facts.shape {
            Shape::Preview => next.merge_preview(&fields, facts, locks)?,
            Shape::Ga => next.merge_ga(&fields, facts, locks)?,
        }
        Ok(next)
    }

    fn merge_preview(
        &mut self,
        fields: &Fields<'_>,
        facts: &SessionFacts,
        locks: Locks,
    ) -> Result<(), ApiError> {
        fields.allow(match facts.kind {
            SessionKind::Conversation => PREVIEW_FIELDS,
            SessionKind::Transcription => PREVIEW_TRANSCRIPTION_FIELDS,
        })?;
        fields.check_model(&facts.model, &facts.deployment)?;
        if let Some(modalities) = fields.get("modalities") {
            self.text_only = preview_text_only(modalities, &fields.path("modalities"))?;
            self.modalities = modalities.clone();
        }
        self.merge_common(fields, locks, "max_response_output_tokens")?;
        self.merge_voice(fields, facts, locks)?;
        if let Some(speed) = fields.number("speed", 0.25, 1.5)? {
            self.speed = speed;
        }
        if let Some(temperature) = fields.number("temperature", 0.6, 1.2)? {
            self.temperature = temperature;
        }
        if let Some(format) = fields.get("input_audio_format") {
            self.input_format = preview_format(format, &fields.path("input_audio_format"))?;
        }
        if let Some(format) = fields.get("output_audio_format") {
            self.output_format = preview_format(format, &fields.path("output_audio_format"))?;
        }
        let names = ["input_audio_transcription", "input_audio_noise_reduction"];
        self.merge_input(fields, names, facts)
    }

    fn merge_ga(
        &mut self,
        fields: &Fields<'_>,
        facts: &SessionFacts,
        locks: Locks,
    ) -> Result<(), ApiError> {
        let kind = fields
            .get("type")
            .ok_or_else(|| ApiError::missing("session.type"))?;
        let expected = match facts.kind {
            SessionKind::Conversation => "realtime",
            SessionKind::Transcription => "transcription",
        };
        if kind != expected {
            let why = format!("this session is of type '{expected}'");
            return Err(ApiError::invalid("session.type", &why));
        }
        fields.allow(match facts.kind {
            SessionKind::Conversation => GA_FIELDS,
            SessionKind::Transcription => GA_TRANSCRIPTION_FIELDS,
        })?;
        fields.check_model(&facts.model, &facts.deployment)?;
        if let Some(modalities) = fields.get("output_modalities") {
            self.text_only = ga_text_only(modalities, &fields.path("output_modalities"))?;
            self.modalities = modalities.clone();
        }
        self.merge_common(fields, locks, "max_output_tokens")?;
        if let Some(truncation) = fields.get("truncation") {
            self.truncation = checked_truncation(truncation)?;
        }
        for name in ["reasoning", "parallel_tool_calls"] {
            if let Some(value) = fields.get(name) {
                self.extras.insert(name.to_owned(), value.clone());
            }
        }
        let Some(audio) = fields.object("audio")? else {
            return Ok(());
        };
        match facts.kind {
            SessionKind::Conversation => audio.allow(&["input", "output"])?,
            SessionKind::Transcription => audio.allow(&["input"])?,
        }
        if let Some(input) = audio.object("input")? {
            input.allow(&[
                "format",
                "transcription",
                "noise_reduction",
                "turn_detection",
            ])?;
            if let Some(format) = input.get("format") {
                self.input_format = ga_format(format, &input.path("format"))?;
            }
            self.merge_input(&input, ["transcription", "noise_reduction"], facts)?;
        }
        if let Some(output) = audio.object("output")? {
            output.allow(&["format", "voice", "speed"])?;
            if let Some(format) = output.get("format") {
                self.output_format = ga_format(format, &output.path("format"))?;
            }
            self.merge_voice(&output, facts, locks)?;
            if let Some(speed) = output.number("speed", 0.25, 1.5)? {
                self.speed = speed;
            }
        }
        Ok(())
    }

    /// Fields that stand at the top of both shapes under the same name.
    fn merge_common(
        &mut self,
        fields: &Fields<'_>,
        _locks: Locks,
        cap: &str,
    ) -> Result<(), ApiError> {
        if let Some(instructions) = fields.get("instructions") {
            self.instructions = text_or_null(instructions, &fields.path("instructions"))?;
        }
        if let Some(tools) = fields.get("tools") {
            self.tools = checked_tools(tools, &fields.path("tools"))?;
        }
        if let Some(choice) = fields.get("tool_choice") {
            self.tool_choice = checked_tool_choice(choice, &fields.path("tool_choice"))?;
        }
        if let Some(tokens) = fields.get(cap) {
            self.max_output_tokens = max_tokens(tokens, &fields.path(cap))?;
        }
        if let Some(tracing) = fields.get("tracing") {
            if !self.tracing.is_null() && *tracing != self.tracing {
                return Err(ApiError::invalid(
                    fields.path("tracing"),
                    "tracing cannot be changed once it is on",
                ));
            }
            self.tracing = tracing.clone();
        }
        if let Some(prompt) = fields.get("prompt") {
            self.prompt = prompt.clone();
        }
        if let Some(include) = fields.get("include") {
            self.include = include.clone();
        }
        Ok(())
    }

    fn merge_voice(
        &mut self,
        fields: &Fields<'_>,
        facts: &SessionFacts,
        locks: Locks,
    ) -> Result<(), ApiError> {
        let Some(voice) = fields.get("voice") else {
            return Ok(());
        };
        if locks.voice {
            let message = "Cannot update a conversation's voice if assistant audio is present.";
            return Err(ApiError::request("cannot_update_voice", message).at(fields.path("voice")));
        }
        let extra = &facts.config.quirks.extra_voices;
        self.voice = checked_voice(voice, &fields.path("voice"), facts.shape, extra)?;
        Ok(())
    }

    fn merge_input(
        &mut self,
        fields: &Fields<'_>,
        names: [&str; 2],
        facts: &SessionFacts,
    ) -> Result<(), ApiError> {
        let [transcription, noise_reduction] = names;
        if let Some(value) = fields.get(transcription) {
            self.transcription = checked_transcription(value, &fields.path(transcription))?;
        }
        if let Some(value) = fields.get(noise_reduction) {
            self.noise_reduction = checked_noise_reduction(value, &fields.path(noise_reduction))?;
        }
        if let Some(value) = fields.get("turn_detection") {
            let value = match facts.config.quirks.turn_detection_merge {
                Merge::Whole => value.clone(),
                Merge::Deep => self.merged_turn_detection(value, facts.shape),
            };
            self.turn_detection =
                TurnDetection::read(&value, &fields.path("turn_detection"), facts.shape)?;
        }
        Ok(())
    }

    /// The whole effective session, every key present.
    pub(super) fn echo(&self, facts: &SessionFacts) -> Value {
        match (facts.shape, facts.kind) {
            (Shape::Preview, SessionKind::Conversation) => self.echo_preview(facts),
            (Shape::Preview, SessionKind::Transcription) => json!({
                "id": facts.id, "object": "realtime.transcription_session", "expires_at": facts.expires_at,
                "input_audio_format": self.input_format.preview_name(),
                "input_audio_transcription": self.transcription,
                "input_audio_noise_reduction": self.noise_reduction,
                "turn_detection": self.turn_detection_echo(facts),
                "client_secret": null, "include": self.include,
            }),
            (Shape::Ga, SessionKind::Conversation) => self.echo_ga(facts),
            (Shape::Ga, SessionKind::Transcription) => json!({
                "type": "transcription", "object": "realtime.transcription_session", "id": facts.id,
                "expires_at": facts.expires_at, "audio": { "input": self.ga_input_echo(facts) }, "include": self.include,
            }),
        }
    }

    fn echo_preview(&self, facts: &SessionFacts) -> Value {
        let mut session = json!({
            "id": facts.id, "object": "realtime.session", "model": facts.model, "expires_at": facts.expires_at,
            "modalities": self.modalities, "instructions": self.instructions, "voice": self.voice,
            "turn_detection": self.turn_detection_echo(facts),
            "input_audio_format": self.input_format.preview_name(),
            "output_audio_format": self.output_format.preview_name(),
            "input_audio_transcription": self.transcription,
            "input_audio_noise_reduction": self.noise_reduction,
            "tool_choice": self.tool_choice, "temperature": self.temperature,
            "max_response_output_tokens": tokens_echo(self.max_output_tokens),
            "tools": self.tools, "client_secret": null, "include": self.include,
        });
        // Absent from vendor samples unless used.
        if self.speed != 1.0 {
            session["speed"] = self.speed.into();
        }
        for (name, value) in [("tracing", &self.tracing), ("prompt", &self.prompt)] {
            if !value.is_null() {
                session[name] = value.clone();
            }
        }
        session
    }

    fn echo_ga(&self, facts: &SessionFacts) -> Value {
        let mut session = json!({
            "type": "realtime", "object": "realtime.session", "id": facts.id, "model": facts.model,
            "output_modalities": self.modalities, "instructions": self.instructions, "tools": self.tools,
            "tool_choice": self.tool_choice, "max_output_tokens": tokens_echo(self.max_output_tokens),
            "tracing": self.tracing, "truncation": self.truncation, "prompt": self.prompt,
            "expires_at": facts.expires_at,
            "audio": {
                "input": self.ga_input_echo(facts),
                "output": { "format": ga_format_echo(self.output_format), "voice": self.voice, "speed": self.speed },
            },
            "include": self.include,
        });
        for (name, value) in &self.extras {
            session[name] = value.clone();
        }
        session
    }

    fn ga_input_echo(&self, facts: &SessionFacts) -> Value {
        json!({
            "format": ga_format_echo(self.input_format), "transcription": self.transcription,
            "noise_reduction": self.noise_reduction, "turn_detection": self.turn_detection_echo(facts),
        })
    }

    /// `value` over what is in force, if both are of the same type.
    fn merged_turn_detection(&self, value: &Value, shape: Shape) -> Value {
        let (Some(current), Some(update)) = (&self.turn_detection, value.as_object()) else {
            return value.clone();
        };
        let mut merged = current.echo(shape);
        if update
            .get("type")
            .is_some_and(|kind| *kind != merged["type"])
        {
            return value.clone();
        }
        for (name, field) in update {
            merged[name.as_str()] = field.clone();
        }
        merged
    }

    fn turn_detection_echo(&self, facts: &SessionFacts) -> Value {
        let Some(detection) = &self.turn_detection else {
            return Value::Null;
        };
        let mut echo = detection.echo(facts.shape);
        // The first preview did not know them (reference chapter 4.2); what is set is in force all the same.
        if facts.first_preview
            && let Some(echo) = echo.as_object_mut()
        {
            echo.remove("create_response");
            echo.remove("interrupt_response");
        }
        echo
    }
}

impl TurnDetection {
    /// Every field, whatever the client wrote of them.
    fn echo(&self, shape: Shape) -> Value {
        let mut echo = match &self.mode {
            TurnMode::Server {
                threshold,
                prefix_padding_ms,
                silence_duration_ms,
                idle_timeout_ms,
            } => {
                let mut echo = json!({
                    "type": "server_vad", "threshold": threshold, "prefix_padding_ms": prefix_padding_ms,
                    "silence_duration_ms": silence_duration_ms,
                });
                if shape == Shape::Ga {
                    echo["idle_timeout_ms"] = json!(idle_timeout_ms);
                }
                echo
            }
            TurnMode::Semantic { eagerness } => {
                json!({ "type": "semantic_vad", "eagerness": eagerness })
            }
        };
        echo["create_response"] = self.create_response.into();
        echo["interrupt_response"] = self.interrupt_response.into();
        echo
    }

    /// Reads the object as a whole; what it does not say takes the object's own defaults, not the session's.
    fn read(value: &Value, path: &str, shape: Shape) -> Result<Option<Self>, ApiError> {
        if value.is_null() {
            return Ok(None);
        }
        let fields = Fields::of(value, path)?;
        let mode = match fields.get("type").and_then(Value::as_str) {
            // Azure's first preview wrote manual turns this way.
            Some("none") if shape == Shape::Preview => return Ok(None),
            Some("server_vad") | None => {
                let mut known = vec![
                    "type",
                    "threshold",
                    "prefix_padding_ms",
                    "silence_duration_ms",
                    "create_response",
                    "interrupt_response",
                ];
                if shape == Shape::Ga {
                    known.push("idle_timeout_ms");
                }
                fields.allow(&known)?;
                TurnMode::Server {
                    threshold: fields.number("threshold", 0.0, 1.0)?.unwrap_or(0.5),
                    prefix_padding_ms: fields
                        .integer("prefix_padding_ms", 0, 60_000)?
                        .unwrap_or(300),
                    silence_duration_ms: fields
                        .integer("silence_duration_ms", 0, 60_000)?
                        .unwrap_or(500),
                    idle_timeout_ms: fields.integer("idle_timeout_ms", 5_000, 30_000)?,
                }
            }
            Some("semantic_vad") => {
                fields.allow(&["type", "eagerness", "create_response", "interrupt_response"])?;
                let eagerness = fields
                    .get("eagerness")
                    .and_then(Value::as_str)
                    .unwrap_or("auto");
                if !["low", "medium", "high", "auto"].contains(&eagerness) {
                    return Err(ApiError::invalid(
                        fields.path("eagerness"),
                        "expected low, medium, high or auto",
                    ));
                }
                TurnMode::Semantic {
                    eagerness: eagerness.to_owned(),
                }
            }
            Some(_) => {
                return Err(ApiError::invalid(
                    fields.path("type"),
                    "expected server_vad or semantic_vad",
                ));
            }
        };
        Ok(Some(Self {
            mode,
            create_response: fields.boolean("create_response")?.unwrap_or(true),
            interrupt_response: fields.boolean("interrupt_response")?.unwrap_or(true),
        }))
    }
}

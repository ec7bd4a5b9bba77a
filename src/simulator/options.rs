//! `response.create.response`: what one response may set for itself, in both shapes (reference chapter 2.1).

use serde_json::{Value, json};

use super::codec::WireFormat;
use super::config::Shape;
use super::error::ApiError;
use super::fields::{
    Fields, checked_metadata, checked_tool_choice, checked_tools, checked_voice, ga_format,
    ga_format_echo, ga_text_only, max_tokens, preview_format, preview_text_only, text_or_null,
    tokens_echo,
};
use super::schema::{Locks, SessionConfig, SessionFacts};

/// A response's settings, merged over the session.
#[derive(Clone, Debug)]
pub(super) struct ResponseOptions {
    pub(super) text_only: bool,
    modalities: Value,
    pub(super) instructions: Option<String>,
    voice: Value,
    pub(super) output_format: WireFormat,
    pub(super) tools: Value,
    pub(super) tool_choice: Value,
    temperature: f64,
    pub(super) max_output_tokens: Option<u64>,
    pub(super) out_of_band: bool,
    /// Replaces the conversation as context.
    pub(super) input: Option<Vec<Value>>,
    pub(super) metadata: Value,
}

impl ResponseOptions {
    /// What a response gets that VAD or an empty `response.create` started.
    pub(super) fn of_session(config: &SessionConfig) -> Self {
        Self {
            text_only: config.text_only,
            modalities: config.modalities.clone(),
            instructions: None,
            voice: config.voice.clone(),
            output_format: config.output_format,
            tools: config.tools.clone(),
            tool_choice: config.tool_choice.clone(),
            temperature: config.temperature,
            max_output_tokens: config.max_output_tokens,
            out_of_band: false,
            input: None,
            metadata: Value::Null,
        }
    }

    pub(super) fn read(
        value: &Value,
        config: &SessionConfig,
        facts: &SessionFacts,
        locks: Locks,
    ) -> Result<Self, ApiError> {
        let mut options = Self::of_session(config);
        if value.is_null() {
            return Ok(options);
        }
        let fields = Fields::of(value, "response")?;
        match facts.shape {
            Shape::Preview => options.merge_preview(&fields, facts, locks)?,
            Shape::Ga => options.merge_ga(&fields, facts, locks)?,
        }
        options.merge_common(&fields)?;
        Ok(options)
    }

    fn merge_preview(
        &mut self,
        fields: &Fields<'_>,
        facts: &SessionFacts,
        locks: Locks,
    ) -> Result<(), ApiError> {
        // The last four are left over from the first preview and mean nothing any more.
        fields.allow(&[
            "modalities",
            "instructions",
            "voice",
            "output_audio_format",
            "tools",
            "tool_choice",
            "temperature",
            "max_output_tokens",
            "max_response_output_tokens",
            "conversation",
            "input",
            "metadata",
            "prompt",
            "commit",
            "cancel_previous",
            "append_input_items",
            "input_items",
        ])?;
        if let Some(modalities) = fields.get_set("modalities") {
            self.text_only = preview_text_only(modalities, &fields.path("modalities"))?;
            self.modalities = modalities.clone();
        }
        self.merge_voice(fields, facts, locks)?;
        if let Some(format) = fields.get_set("output_audio_format") {
            self.output_format = preview_format(format, &fields.path("output_audio_format"))?;
        }
        if let Some(temperature) = fields.number("temperature", 0.6, 1.2)? {
            self.temperature = temperature;
        }
        if let Some(tokens) = fields.get_set("max_response_output_tokens") {
            self.max_output_tokens =
                max_tokens(tokens, &fields.path("max_response_output_tokens"))?;
        }
        Ok(())
    }

    fn merge_ga(
        &mut self,
        fields: &Fields<'_>,
        facts: &SessionFacts,
        locks: Locks,
    ) -> Result<(), ApiError> {
        fields.allow(&[
            "output_modalities",
            "instructions",
            "audio",
            "tools",
            "tool_choice",
            "max_output_tokens",
            "conversation",
            "input",
            "metadata",
            "prompt",
            "reasoning",
            "parallel_tool_calls",
        ])?;
        if let Some(modalities) = fields.get_set("output_modalities") {
            self.text_only = ga_text_only(modalities, &fields.path("output_modalities"))?;
            self.modalities = modalities.clone();
        }
        let Some(audio) = fields.object("audio")? else {
            return Ok(());
        };
        audio.allow(&["output"])?;
        let Some(output) = audio.object("output")? else {
            return Ok(());
        };
        output.allow(&["format", "voice"])?;
        if let Some(format) = output.get_set("format") {
            self.output_format = ga_format(format, &output.path("format"))?;
        }
        self.merge_voice(&output, facts, locks)
    }

    fn merge_voice(
        &mut self,
        fields: &Fields<'_>,
        facts: &SessionFacts,
        locks: Locks,
    ) -> Result<(), ApiError> {
        let Some(voice) = fields.get_set("voice") else {
            return Ok(());
        };
        if locks.voice && *voice != self.voice {
            let message = "Cannot update a conversation's voice if assistant audio is present.";
            return Err(ApiError::request("cannot_update_voice", message).at(fields.path("voice")));
        }
        let extra = &facts.config.quirks.extra_voices;
        self.voice = checked_voice(voice, &fields.path("voice"), facts.shape, extra)?;
        Ok(())
    }

    fn merge_common(&mut self, fields: &Fields<'_>) -> Result<(), ApiError> {
        if let Some(instructions) = fields.get_set("instructions") {
            self.instructions = Some(text_or_null(instructions, &fields.path("instructions"))?);
        }
        if let Some(tools) = fields.get_set("tools") {
            self.tools = checked_tools(tools, &fields.path("tools"))?;
        }
        if let Some(choice) = fields.get_set("tool_choice") {
            self.tool_choice = checked_tool_choice(choice, &fields.path("tool_choice"))?;
        }
        if let Some(tokens) = fields.get_set("max_output_tokens") {
            self.max_output_tokens = max_tokens(tokens, &fields.path("max_output_tokens"))?;
        }
        match fields.get_set("conversation").map(Value::as_str) {
            None | Some(Some("auto")) => {}
            Some(Some("none")) => self.out_of_band = true,
            Some(_) => {
                return Err(ApiError::invalid(
                    fields.path("conversation"),
                    "expected auto or none",
                ));
            }
        }
        if let Some(input) = fields.get_set("input") {
            let items = input.as_array().ok_or_else(|| {
                ApiError::wrong_type(fields.path("input"), "an array of items", input)
            })?;
            self.input = Some(items.clone());
        }
        if let Some(metadata) = fields.get_set("metadata") {
            self.metadata = checked_metadata(metadata, &fields.path("metadata"))?;
        }
        Ok(())
    }

    /// The echo of these options inside a response object.
    pub(super) fn echo_into(&self, response: &mut Value, shape: Shape) {
        match shape {
            Shape::Preview => {
                response["modalities"] = self.modalities.clone();
                response["voice"] = self.voice.clone();
                response["output_audio_format"] = self.output_format.preview_name().into();
                response["temperature"] = self.temperature.into();
            }
            Shape::Ga => {
                response["output_modalities"] = self.modalities.clone();
                response["audio"] = json!({"output": {"format": ga_format_echo(self.output_format), "voice": self.voice}});
            }
        }
        response["max_output_tokens"] = tokens_echo(self.max_output_tokens);
        response["metadata"] = self.metadata.clone();
    }
}

//! What a response reads and what that costs: context, truncation, usage (reference chapters 4.1 and 6.1).

use serde_json::{Value, json};

use super::config::Shape;
use super::conversation::{Item, Segment};
use super::error::ApiError;
use super::options::ResponseOptions;
use super::session::Session;

/// Input tokens of one response.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InputUsage {
    text: u64,
    audio: u64,
    image: u64,
    cached_text: u64,
    cached_audio: u64,
}

impl InputUsage {
    pub(super) fn of(context: &[Segment], previous: &[Segment]) -> Self {
        let mut usage = Self::default();
        for segment in context {
            usage.text += segment.text;
            usage.audio += segment.audio;
            usage.image += segment.image;
        }
        let common = context
            .iter()
            .zip(previous)
            .take_while(|(now, before)| now == before);
        let (text, all) = common.fold((0, 0), |(text, all), (now, _)| {
            (text + now.text, all + now.total())
        });
        // The vendor caches in blocks of 64 tokens.
        let cached = all / 64 * 64;
        usage.cached_text = cached.min(text);
        usage.cached_audio = (cached - usage.cached_text).min(usage.audio);
        usage
    }

    pub(super) fn total(self) -> u64 {
        self.text + self.audio + self.image
    }

    pub(super) fn cached(self) -> u64 {
        self.cached_text + self.cached_audio
    }
}

impl Session {
    pub(super) fn context_items(&self, options: &ResponseOptions) -> Result<Vec<Item>, ApiError> {
        let Some(input) = &options.input else {
            return Ok(self.conversation.items().to_vec());
        };
        let mut items = Vec::with_capacity(input.len());
        for (n, value) in input.iter().enumerate() {
            let path = format!("response.input[{n}]");
            if value["type"] == "item_reference" {
                let id = value["id"]
                    .as_str()
                    .ok_or_else(|| ApiError::missing(format!("{path}.id")))?;
                let item = self.conversation.get(id).ok_or_else(|| {
                    ApiError::invalid(format!("{path}.id"), &format!("item '{id}' does not exist"))
                })?;
                items.push(item.clone());
            } else {
                items.push(Item::read(
                    value,
                    &path,
                    self.facts.shape,
                    self.settings.input_format,
                )?);
            }
        }
        Ok(items)
    }

    /// Context as segments, the oldest items left out where it is too long (reference chapter 4.1, truncation).
    pub(super) fn fitted_context(
        &self,
        options: &ResponseOptions,
        items: &[Item],
    ) -> Result<Vec<Segment>, ApiError> {
        let instructions = options
            .instructions
            .as_ref()
            .unwrap_or(&self.settings.instructions);
        let mut segments = vec![Segment::text(instructions)];
        if options
            .tools
            .as_array()
            .is_some_and(|tools| !tools.is_empty())
        {
            segments.push(Segment::text(&options.tools.to_string()));
        }
        let n_fixed = segments.len();
        segments.extend(items.iter().map(Item::segment));
        let limit = self.context_limit();
        let mut total: u64 = segments.iter().map(|segment| segment.total()).sum();
        if total <= limit {
            return Ok(segments);
        }
        let truncation = &self.settings.truncation;
        if truncation == "disabled" {
            let message =
                format!("Conversation has {total} tokens, which exceeds the limit of {limit}.");
            return Err(ApiError::request("context_length_exceeded", message));
        }
        let ratio = truncation["retention_ratio"].as_f64().unwrap_or(1.0);
        let goal = (limit as f64 * ratio) as u64;
        while total > goal && segments.len() > n_fixed + 1 {
            total -= segments.remove(n_fixed).total();
        }
        Ok(segments)
    }

    pub(super) fn context_limit(&self) -> u64 {
        self.config
            .context_tokens
            .unwrap_or(match self.facts.shape {
                Shape::Preview => 128_000,
                Shape::Ga => 28_672,
            })
    }

    pub(super) fn usage(&self, input: InputUsage, text: u64, audio: u64) -> Value {
        let ga = self.facts.shape == Shape::Ga;
        let mut details = json!({"text_tokens": input.text, "audio_tokens": input.audio, "cached_tokens": input.cached()});
        let broken_down =
            ga || self.config.quirks.preview_cached_details && !self.facts.first_preview;
        // The first preview had no breakdown of what was cached, and only GA knows images.
        if broken_down {
            details["cached_tokens_details"] =
                json!({"text_tokens": input.cached_text, "audio_tokens": input.cached_audio});
        }
        if ga {
            details["image_tokens"] = input.image.into();
            details["cached_tokens_details"]["image_tokens"] = 0.into();
        }
        json!({
            "total_tokens": input.total() + text + audio, "input_tokens": input.total(),
            "output_tokens": text + audio, "input_token_details": details,
            "output_token_details": {"text_tokens": text, "audio_tokens": audio},
        })
    }
}

//! Strict readers of what stands in session, response and item objects; every refusal names the path.

use serde_json::{Map, Value, json};

use super::codec::WireFormat;
use super::config::Shape;
use super::error::ApiError;

/// A JSON object and where it stands, for errors that name the path.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    pub(super) fn of(value: &'a Value, path: &str) -> Result<Self, ApiError> {
        let map = value
            .as_object()
            .ok_or_else(|| ApiError::wrong_type(path, "an object", value))?;
        Ok(Self {
            map,
            path: path.to_owned(),
        })
    }

    pub(super) fn path(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    pub(super) fn allow(&self, known: &[&str]) -> Result<(), ApiError> {
        match self.map.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(ApiError::unknown(self.path(key))),
            None => Ok(()),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name)
    }

    /// The value unless it is absent or null.
    pub(super) fn get_set(&self, name: &str) -> Option<&'a Value> {
        self.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str) -> Result<&'a str, ApiError> {
        let value = self
            .get_set(name)
            .ok_or_else(|| ApiError::missing(self.path(name)))?;
        value
            .as_str()
            .ok_or_else(|| ApiError::wrong_type(self.path(name), "a string", value))
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<Self>, ApiError> {
        self.get_set(name)
            .map(|value| Fields::of(value, &self.path(name)))
            .transpose()
    }

    pub(super) fn number(&self, name: &str, low: f64, high: f64) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.get_set(name) else {
            return Ok(None);
        };
        let number = value
            .as_f64()
            .ok_or_else(|| ApiError::wrong_type(self.path(name), "a number", value))?;
        if (low..=high).contains(&number) {
            Ok(Some(number))
        } else {
            Err(ApiError::invalid(
                self.path(name),
                &format!("expected a value from {low} to {high}, got {number}"),
            ))
        }
    }

    pub(super) fn integer(&self, name: &str, low: u64, high: u64) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.get_set(name) else {
            return Ok(None);
        };
        if !value.is_number() {
            return Err(ApiError::wrong_type(self.path(name), "an integer", value));
        }
        match value
            .as_u64()
            .filter(|number| (low..=high).contains(number))
        {
            Some(number) => Ok(Some(number)),
            None => Err(ApiError::invalid(
                self.path(name),
                &format!("expected an integer from {low} to {high}, got {value}"),
            )),
        }
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.get_set(name) else {
            return Ok(None);
        };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| ApiError::wrong_type(self.path(name), "a boolean", value))
    }

    pub(super) fn check_model(&self, model: &str, deployment: &str) -> Result<(), ApiError> {
        match self.get_set("model") {
            // Clients that name the model they connected to change nothing.
            Some(named) if *named != model && *named != deployment => Err(ApiError::invalid(
                self.path("model"),
                "the model of a session cannot be changed",
            )),
            _ => Ok(()),
        }
    }
}

pub(super) fn ga_format_echo(format: WireFormat) -> Value {
    match format {
        WireFormat::Pcm16 => json!({"type": "audio/pcm", "rate": 24_000}),
        WireFormat::Ulaw => json!({"type": "audio/pcmu"}),
        WireFormat::Alaw => json!({"type": "audio/pcma"}),
    }
}

pub(super) fn ga_format(value: &Value, path: &str) -> Result<WireFormat, ApiError> {
    let fields = Fields::of(value, path)?;
    fields.allow(&["type", "rate"])?;
    let format = match fields.text("type")? {
        "audio/pcm" => WireFormat::Pcm16,
        "audio/pcmu" => WireFormat::Ulaw,
        "audio/pcma" => WireFormat::Alaw,
        _ => {
            return Err(ApiError::invalid(
                fields.path("type"),
                "expected audio/pcm, audio/pcmu or audio/pcma",
            ));
        }
    };
    let rate = u64::from(format.rate().hz());
    fields.integer("rate", rate, rate)?;
    Ok(format)
}

pub(super) fn preview_format(value: &Value, path: &str) -> Result<WireFormat, ApiError> {
    let name = value
        .as_str()
        .ok_or_else(|| ApiError::wrong_type(path, "a string", value))?;
    WireFormat::from_preview_name(name)
        .ok_or_else(|| ApiError::invalid(path, "expected pcm16, g711_ulaw or g711_alaw"))
}

pub(super) fn modality_names<'a>(value: &'a Value, path: &str) -> Result<Vec<&'a str>, ApiError> {
    let list = value
        .as_array()
        .ok_or_else(|| ApiError::wrong_type(path, "an array", value))?;
    let mut names: Vec<_> = list.iter().filter_map(Value::as_str).collect();
    names.sort_unstable();
    Ok(names)
}

pub(super) fn preview_text_only(value: &Value, path: &str) -> Result<bool, ApiError> {
    match modality_names(value, path)?.as_slice() {
        ["text"] => Ok(true),
        ["audio", "text"] => Ok(false),
        _ => Err(ApiError::invalid(
            path,
            "supported combinations are ['text'] and ['audio', 'text']",
        )),
    }
}

pub(super) fn ga_text_only(value: &Value, path: &str) -> Result<bool, ApiError> {
    match modality_names(value, path)?.as_slice() {
        ["text"] => Ok(true),
        ["audio"] => Ok(false),
        _ => Err(ApiError::invalid(
            path,
            "supported combinations are ['text'] and ['audio']",
        )),
    }
}

pub(super) fn text_or_null(value: &Value, path: &str) -> Result<String, ApiError> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        _ => Err(ApiError::wrong_type(path, "a string", value)),
    }
}

pub(super) fn tokens_echo(tokens: Option<u64>) -> Value {
    tokens.map_or_else(|| "inf".into(), Value::from)
}

pub(super) fn max_tokens(value: &Value, path: &str) -> Result<Option<u64>, ApiError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text == "inf" => Ok(None),
        Value::Number(number) => match number.as_u64() {
            Some(tokens @ 1..=4_096) => Ok(Some(tokens)),
            _ => Err(ApiError::invalid(
                path,
                "expected an integer from 1 to 4096 or 'inf'",
            )),
        },
        _ => Err(ApiError::wrong_type(path, "an integer or 'inf'", value)),
    }
}

/// Voices of the preview; GA has two more (reference chapter 4.1).
const PREVIEW_VOICES: [&str; 8] = [
    "alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse",
];
const GA_VOICES: [&str; 2] = ["marin", "cedar"];

/// A voice of the shape, one of `extra`, or in GA a custom voice `{id}`.
pub(super) fn checked_voice(
    value: &Value,
    path: &str,
    shape: Shape,
    extra: &[String],
) -> Result<Value, ApiError> {
    let ga = shape == Shape::Ga;
    match value {
        Value::String(name) => {
            let known = PREVIEW_VOICES.contains(&name.as_str())
                || ga && GA_VOICES.contains(&name.as_str())
                || extra.contains(name);
            if known {
                return Ok(value.clone());
            }
            let mut names = PREVIEW_VOICES.to_vec();
            names.extend(GA_VOICES.iter().filter(|_| ga));
            names.extend(extra.iter().map(String::as_str));
            let why = format!("supported values are {}", names.join(", "));
            Err(ApiError::invalid(path, &why))
        }
        Value::Object(_) if ga => {
            let fields = Fields::of(value, path)?;
            fields.allow(&["id"])?;
            fields.text("id").map(|_| value.clone())
        }
        _ if ga => Err(ApiError::wrong_type(
            path,
            "a string or an object with an id",
            value,
        )),
        _ => Err(ApiError::wrong_type(path, "a string", value)),
    }
}

pub(super) fn checked_transcription(value: &Value, path: &str) -> Result<Option<Value>, ApiError> {
    if value.is_null() {
        return Ok(None);
    }
    let fields = Fields::of(value, path)?;
    fields.allow(&[
        "model",
        "language",
        "prompt",
        "languages",
        "keywords",
        "delay",
    ])?;
    if let Some(model) = fields.get_set("model")
        && !model.is_string()
    {
        return Err(ApiError::wrong_type(
            fields.path("model"),
            "a string",
            model,
        ));
    }
    Ok(Some(value.clone()))
}

pub(super) fn checked_noise_reduction(value: &Value, path: &str) -> Result<Value, ApiError> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    match Fields::of(value, path)?.text("type")? {
        "near_field" | "far_field" => Ok(value.clone()),
        _ => Err(ApiError::invalid(
            format!("{path}.type"),
            "expected near_field or far_field",
        )),
    }
}

pub(super) fn checked_truncation(value: &Value) -> Result<Value, ApiError> {
    match value {
        Value::Null => Ok("auto".into()),
        Value::String(text) if text == "auto" || text == "disabled" => Ok(value.clone()),
        Value::Object(_) => {
            let fields = Fields::of(value, "session.truncation")?;
            fields.allow(&["type", "retention_ratio", "token_limits"])?;
            if fields.text("type")? != "retention_ratio" {
                return Err(ApiError::invalid(
                    fields.path("type"),
                    "expected retention_ratio",
                ));
            }
            fields.number("retention_ratio", 0.0, 1.0)?;
            Ok(value.clone())
        }
        _ => Err(ApiError::invalid(
            "session.truncation",
            "expected auto, disabled or a retention ratio",
        )),
    }
}

pub(super) fn checked_tools(value: &Value, path: &str) -> Result<Value, ApiError> {
    let tools = match value {
        Value::Null => return Ok(json!([])),
        Value::Array(tools) => tools,
        _ => return Err(ApiError::wrong_type(path, "an array", value)),
    };
    for (n, tool) in tools.iter().enumerate() {
        let fields = Fields::of(tool, &format!("{path}[{n}]"))?;
        match fields.text("type")? {
            "function" => fields.text("name")?,
            "mcp" => fields.text("server_label")?,
            _ => {
                return Err(ApiError::invalid(
                    fields.path("type"),
                    "expected function or mcp",
                ));
            }
        };
    }
    Ok(value.clone())
}

pub(super) fn checked_tool_choice(value: &Value, path: &str) -> Result<Value, ApiError> {
    match value {
        Value::Null => Ok("auto".into()),
        Value::String(text) if ["auto", "none", "required"].contains(&text.as_str()) => {
            Ok(value.clone())
        }
        Value::Object(_) => Fields::of(value, path)?.text("type").map(|_| value.clone()),
        _ => Err(ApiError::invalid(
            path,
            "expected auto, none, required or a tool",
        )),
    }
}

/// At most 16 pairs, keys of 64 and values of 512 characters.
pub(super) fn checked_metadata(value: &Value, path: &str) -> Result<Value, ApiError> {
    let map = value
        .as_object()
        .ok_or_else(|| ApiError::wrong_type(path, "an object", value))?;
    if map.len() > 16 {
        return Err(ApiError::invalid(path, "at most 16 pairs are allowed"));
    }
    for (key, value) in map {
        let text = value
            .as_str()
            .ok_or_else(|| ApiError::wrong_type(format!("{path}.{key}"), "a string", value))?;
        if key.chars().count() > 64 || text.chars().count() > 512 {
            return Err(ApiError::invalid(
                format!("{path}.{key}"),
                "at most 64 characters of key and 512 of value",
            ));
        }
    }
    Ok(value.clone())
}

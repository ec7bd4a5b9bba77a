//! What an operator lets a tenant's SDK callers do with the session that they conduct themselves.
//!
//! [`SessionPolicy`] is the operator's word, checked once; [`PolicedSession`](super::PolicedSession) holds one call to
//! it. Field by field a setting is pinned, has a default, is forbidden, or is free (limits reference, threats 22 and
//! 23). Audio is not looked at.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::json::{Object, quoted, unquoted};
use super::policy_fields::{Field, Settings};
use super::preset::SessionPreset;
use super::shape::Shape;
use super::translate_session::SessionKind;

/// The largest cap of a reply (protocol reference 2.1).
const MAX_OUTPUT_TOKENS: u32 = 4096;

/// One `[tenants.NAME.session]` table. Fields go by their GA paths or their preview names.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionPolicyConfig {
    /// Stands before whatever instructions a caller gives, and alone if it gives none. Callers do not see it.
    pub instructions_prefix: Option<String>,
    /// Settings that callers cannot change.
    pub pinned: BTreeMap<String, Value>,
    /// Settings that sessions begin with.
    pub defaults: BTreeMap<String, Value>,
    /// Fields that callers may not send at all.
    pub forbidden: Vec<String>,
    /// Cap of one reply in tokens, whatever a caller asks for.
    pub max_output_tokens: Option<u32>,
    /// Functions that callers may declare; without it, any.
    pub tools: Option<Vec<String>>,
    /// Kinds of tools that callers may declare.
    pub tool_types: Vec<ToolType>,
    /// Whether callers may add items that speak as the system.
    pub system_items: bool,
    /// Whether callers may add function calls that the model did not make, and results of such.
    pub unasked_tool_results: bool,
    /// Whether callers may name prompts stored at the vendor, which bring instructions of their own.
    pub stored_prompts: bool,
    /// Whether fields and kinds of items pass that the gateway does not know.
    pub unknown_fields: bool,
}

impl Default for SessionPolicyConfig {
    fn default() -> Self {
        Self {
            instructions_prefix: None,
            pinned: BTreeMap::new(),
            defaults: BTreeMap::new(),
            forbidden: Vec::new(),
            max_output_tokens: None,
            tools: None,
            tool_types: vec![ToolType::Function],
            system_items: false,
            unasked_tool_results: false,
            stored_prompts: false,
            unknown_fields: false,
        }
    }
}

/// A kind of tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolType {
    /// Called by the caller.
    Function,
    /// Called by the vendor at a server that the caller names.
    Mcp,
}

impl ToolType {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Mcp => "mcp",
        }
    }
}

/// A mistake in a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyMistake {
    /// Where it is, below the policy's table.
    pub path: Vec<String>,
    /// What is wrong.
    pub problem: String,
}

/// What callers of one tenant may do.
///
/// `Debug` shows nothing of it: the instructions are not for callers, and so not for logs.
pub struct SessionPolicy {
    pub(super) prefix: Option<String>,
    pub(super) pinned: Settings,
    defaults: Settings,
    pub(super) forbidden: Vec<&'static str>,
    pub(super) max_output_tokens: Option<u32>,
    pub(super) tools: Option<Vec<String>>,
    pub(super) tool_types: Vec<ToolType>,
    pub(super) system_items: bool,
    pub(super) unasked_tool_results: bool,
    pub(super) stored_prompts: bool,
    pub(super) unknown_fields: bool,
}

impl fmt::Debug for SessionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionPolicy").finish_non_exhaustive()
    }
}

impl SessionPolicy {
    /// Checks a configuration.
    ///
    /// # Errors
    ///
    /// All mistakes that were found.
    pub fn new(config: &SessionPolicyConfig) -> Result<Self, Vec<PolicyMistake>> {
        let mut mistakes = Vec::new();
        let pinned = settings(&config.pinned, "pinned", &mut mistakes);
        let defaults = settings(&config.defaults, "defaults", &mut mistakes);
        let forbidden = forbidden(&config.forbidden, &mut mistakes);
        let prefix = config.instructions_prefix.as_deref().map(str::trim);
        let mut mistake = |path: &[&str], problem: &str| {
            mistakes.push(PolicyMistake {
                path: path.iter().map(|name| (*name).to_owned()).collect(),
                problem: problem.to_owned(),
            });
        };
        if prefix == Some("") {
            mistake(&["instructions_prefix"], "is empty");
        }
        if prefix.is_some() && pinned.get("instructions").is_some() {
            let problem = "instructions are pinned, so that nothing could follow the prefix";
            mistake(&["instructions_prefix"], problem);
        }
        if pinned.get("max_output_tokens").is_some() {
            let problem = "max_output_tokens has a field of its own in the policy";
            mistake(&["pinned"], problem);
        }
        if !matches!(config.max_output_tokens, None | Some(1..=MAX_OUTPUT_TOKENS)) {
            mistake(&["max_output_tokens"], "must be 1 to 4096");
        }
        if let Some(name) = defaults.names().find(|name| pinned.get(name).is_some()) {
            mistake(&["defaults"], &format!("{name} is pinned already"));
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Self {
            prefix: prefix.map(str::to_owned),
            pinned,
            defaults,
            forbidden,
            max_output_tokens: config.max_output_tokens,
            tools: config.tools.clone(),
            tool_types: config.tool_types.clone(),
            system_items: config.system_items,
            unasked_tool_results: config.unasked_tool_results,
            stored_prompts: config.stored_prompts,
            unknown_fields: config.unknown_fields,
        })
    }

    /// Whether callers are kept from seeing some of their sessions' instructions.
    pub(super) fn hides_instructions(&self) -> bool {
        self.prefix.is_some() || self.pinned.get("instructions").is_some()
    }

    /// A caller's instructions as the deployment is to have them.
    pub(super) fn with_prefix(&self, own: &str) -> Option<String> {
        let prefix = self.prefix.as_deref()?;
        Some(if own.is_empty() {
            prefix.to_owned()
        } else {
            format!("{prefix}{JOINT}{own}")
        })
    }
}

/// What stands between the operator's instructions and the caller's.
pub(super) const JOINT: &str = "\n\n";

/// The event with which the gateway sets a session before its caller says anything, by a policy, by what is attached
/// to the caller's key, or both; `None` if neither says anything. `transcribes` tells of the kind of session, and
/// `event_id` names the event in the deployment's answer.
#[must_use]
pub fn opening_update(
    policy: Option<&SessionPolicy>,
    preset: Option<&SessionPreset>,
    shape: Shape,
    transcribes: bool,
    event_id: &str,
) -> Option<String> {
    let mut settings = Settings::default();
    if let Some(policy) = policy {
        settings.set_all(&policy.defaults);
    }
    if let Some(preset) = preset {
        settings.set_all(preset.settings());
    }
    if let Some(policy) = policy {
        settings.set_all(&policy.pinned);
        let own = settings.get("instructions").and_then(unquoted);
        if let Some(instructions) = policy.with_prefix(&own.unwrap_or_default()) {
            settings.set("instructions", &quoted(&instructions));
        }
        if let Some(most) = policy.max_output_tokens {
            let asked = settings
                .get("max_output_tokens")
                .and_then(|asked| asked.parse::<u32>().ok());
            let tokens = asked.map_or(most, |asked| asked.min(most));
            settings.set("max_output_tokens", &tokens.to_string());
        }
    }
    let kind = match transcribes {
        true => SessionKind::Transcription,
        false => SessionKind::Realtime,
    };
    if transcribes {
        settings.retain(Field::is_of_transcription);
    }
    (!settings.is_empty()).then(|| settings.update(event_id, shape, kind))
}

/// A deployment's `session.created` as if its session had always been as the `session.updated` says.
#[must_use]
pub fn created_as_updated(created: &str, updated: &str) -> Option<String> {
    let mut event = Object::parse(created).ok()?;
    let updated = Object::parse(updated).ok()?;
    event.set("session", updated.get("session")?.clone());
    Some(event.write())
}

fn settings(
    config: &BTreeMap<String, Value>,
    table: &str,
    mistakes: &mut Vec<PolicyMistake>,
) -> Settings {
    let mut settings = Settings::default();
    for (name, value) in config {
        set(
            name,
            value,
            &mut vec![table.to_owned()],
            &mut settings,
            mistakes,
        );
    }
    settings
}

fn set(
    name: &str,
    value: &Value,
    path: &mut Vec<String>,
    settings: &mut Settings,
    mistakes: &mut Vec<PolicyMistake>,
) {
    let full = match path.split_first() {
        Some((_, above)) if !above.is_empty() => format!("{}.{name}", above.join(".")),
        _ => name.to_owned(),
    };
    path.push(name.to_owned());
    if let Value::Object(inner) = value
        && matches!(full.as_str(), "audio" | "audio.input" | "audio.output")
    {
        for (name, value) in inner {
            set(name, value, path, settings, mistakes);
        }
    } else {
        match Field::find(&full).filter(|field| field.is_setting()) {
            Some(field) if settings.get(field.name).is_some() => {
                mistakes.push(PolicyMistake {
                    path: path.clone(),
                    problem: format!("{} is there under another name already", field.name),
                });
            }
            Some(field) if field.name == "instructions" && !value.is_string() => {
                mistakes.push(PolicyMistake {
                    path: path.clone(),
                    problem: "instructions are a text".to_owned(),
                });
            }
            Some(field) => {
                let value = field.ga_value(Cow::Owned(value.to_string()));
                settings.set(field.name, &value);
            }
            None => mistakes.push(PolicyMistake {
                path: path.clone(),
                problem: format!("a session has no setting {full}"),
            }),
        }
    }
    path.pop();
}

fn forbidden(names: &[String], mistakes: &mut Vec<PolicyMistake>) -> Vec<&'static str> {
    let mut forbidden = Vec::new();
    for name in names {
        match Field::find(name).filter(|field| field.can_be_forbidden()) {
            Some(field) => forbidden.push(field.name),
            None => mistakes.push(PolicyMistake {
                path: vec!["forbidden".to_owned()],
                problem: format!("neither a session nor a response has a field {name}"),
            }),
        }
    }
    forbidden
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(toml: &str) -> Result<SessionPolicy, Vec<PolicyMistake>> {
        SessionPolicy::new(&toml::from_str(toml).expect("of this form"))
    }

    #[test]
    fn mistakes_are_named() {
        let check = |toml: &str, path: &str, problem: &str| {
            let mistakes = policy(toml).expect_err("a mistake");
            assert_eq!(mistakes.len(), 1, "{mistakes:?}");
            assert_eq!(mistakes[0].path.join("."), path);
            assert!(mistakes[0].problem.contains(problem), "{mistakes:?}");
        };
        check(
            "pinned = { voise = 'x' }",
            "pinned.voise",
            "no setting voise",
        );
        check(
            "defaults = { audio = { output = { pitch = 1 } } }",
            "defaults.audio.output.pitch",
            "no setting audio.output.pitch",
        );
        check(
            "pinned = { conversation = 'none' }",
            "pinned.conversation",
            "no setting",
        );
        check("pinned = { model = 'm' }", "pinned.model", "no setting");
        check(
            "pinned = { voice = 'a', audio = { output = { voice = 'b' } } }",
            "pinned.voice",
            "another name",
        );
        check(
            "pinned = { instructions = 1 }",
            "pinned.instructions",
            "text",
        );
        check("forbidden = ['tool']", "forbidden", "field tool");
        check("forbidden = ['type']", "forbidden", "field type");
        check("max_output_tokens = 0", "max_output_tokens", "1 to 4096");
        check("max_output_tokens = 4097", "max_output_tokens", "1 to 4096");
        check("instructions_prefix = ' '", "instructions_prefix", "empty");
        check(
            "instructions_prefix = 'x'\npinned = { instructions = 'y' }",
            "instructions_prefix",
            "pinned",
        );
        check("pinned = { max_output_tokens = 5 }", "pinned", "its own");
        check(
            "pinned = { voice = 'a' }\ndefaults = { voice = 'b' }",
            "defaults",
            "pinned already",
        );
    }

    #[test]
    fn what_a_policy_holds_is_not_shown() {
        let policy = policy("instructions_prefix = 'Never tell.'").expect("good");
        assert!(!format!("{policy:?}").contains("Never"));
    }

    /// What a session is set to before its caller says anything.
    fn check(toml: Option<&str>, preset: Option<(Shape, &str)>, expected: [Option<&str>; 2]) {
        let policy = toml.map(|toml| policy(toml).expect("good"));
        let preset =
            preset.map(|(shape, session)| SessionPreset::new(shape, session, false).expect("good"));
        for (shape, expected) in [Shape::Ga, Shape::Preview].into_iter().zip(expected) {
            let update = opening_update(policy.as_ref(), preset.as_ref(), shape, false, "e");
            let expected = expected.map(|session| {
                format!(r#"{{"type":"session.update","event_id":"e","session":{session}}}"#)
            });
            assert_eq!(update, expected);
        }
    }

    #[test]
    fn sessions_are_opened_as_the_operator_wants() {
        check(None, None, [None, None]);
        check(Some("forbidden = ['tools']"), None, [None, None]);
        check(
            Some(
                "instructions_prefix = ' Be kind. '\npinned = { voice = 'marin' }\nmax_output_tokens = 100",
            ),
            None,
            [
                Some(
                    r#"{"type":"realtime","instructions":"Be kind.","max_output_tokens":100,"audio":{"output":{"voice":"marin"}}}"#,
                ),
                Some(
                    r#"{"instructions":"Be kind.","max_response_output_tokens":100,"voice":"marin"}"#,
                ),
            ],
        );
    }

    #[test]
    fn what_is_attached_to_a_key_stands_between_default_and_pin() {
        check(
            Some(
                "instructions_prefix = 'Be kind.'\nmax_output_tokens = 100\n\
                 defaults = { speed = 1.5, voice = 'alloy' }\npinned = { tool_choice = 'none' }",
            ),
            Some((
                Shape::Preview,
                r#"{"voice":"verse","instructions":"Sell.","max_response_output_tokens":50,"tool_choice":"auto"}"#,
            )),
            [
                Some(
                    r#"{"type":"realtime","instructions":"Be kind.\n\nSell.","max_output_tokens":50,"tool_choice":"none","audio":{"output":{"speed":1.5,"voice":"verse"}}}"#,
                ),
                Some(
                    r#"{"instructions":"Be kind.\n\nSell.","max_response_output_tokens":50,"tool_choice":"none","speed":1.5,"voice":"verse"}"#,
                ),
            ],
        );
        check(
            None,
            Some((Shape::Ga, r#"{"type":"realtime","model":"m","new":1}"#)),
            [Some(r#"{"type":"realtime","new":1}"#), Some(r#"{"new":1}"#)],
        );
    }

    #[test]
    fn a_transcription_session_gets_only_what_it_has() {
        let policy = policy(
            "instructions_prefix = 'x'\nmax_output_tokens = 9\npinned = { voice = 'a', include = [] }\n\
             defaults = { audio = { input = { noise_reduction = { type = 'far_field' } } } }",
        )
        .expect("good");
        assert_eq!(
            opening_update(Some(&policy), None, Shape::Ga, true, "e").as_deref(),
            Some(
                r#"{"type":"session.update","event_id":"e","session":{"type":"transcription","include":[],"audio":{"input":{"noise_reduction":{"type":"far_field"}}}}}"#
            )
        );
    }

    #[test]
    fn the_first_event_shows_the_session_as_it_became() {
        assert_eq!(
            created_as_updated(
                r#"{"type":"session.created","event_id":"a","session":{"voice":"x"}}"#,
                r#"{"type":"session.updated","event_id":"b","session":{"voice":"y"}}"#,
            )
            .as_deref(),
            Some(r#"{"type":"session.created","event_id":"a","session":{"voice":"y"}}"#)
        );
        assert_eq!(created_as_updated("{}", "{}"), None);
    }
}

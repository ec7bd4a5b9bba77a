//! The built-in tool `press_keys`: the model presses telephone keys towards the caller's line, to get through another
//! system's menu or to type a number.
//!
//! Only some phone systems take keys on the media socket ([`Capabilities::keys_out`]); on all other calls the model is
//! told so. A session's tools are chosen before it is known whose call it will serve, so that the tool is there for
//! every call of an agent that has it.

use serde::Deserialize;

use crate::call::Digit;
use crate::ingress::Capabilities;
use crate::realtime::Tool;

/// The tool's name. No tool of an agent's own can have it.
pub(super) const PRESS_KEYS_TOOL: &str = "press_keys";

/// Most keys at once: more than any number or card has. At 100 ms of tone and as much pause (telephony reference 15) they
/// sound for about 6 s.
const MAX_KEYS: usize = 32;

/// The tool as a session has it.
pub(super) fn tool() -> Tool {
    Tool {
        name: PRESS_KEYS_TOOL.to_owned(),
        description: "Presses telephone keys (DTMF) towards the other end of the call, for \
                      example to choose from an automatic menu. Only when asked to."
            .to_owned(),
        parameters: serde_json::json!({
            "type": "object",
            "properties": {
                "digits": {
                    "type": "string",
                    "pattern": "^[0-9*#A-D]+$",
                    "description": "The keys in order: 0-9, *, #, A-D.",
                },
            },
            "required": ["digits"],
        }),
    }
}

/// Why no key was pressed. The texts are for the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeysError {
    /// The dialect has no word for it.
    #[error("the phone system of this call takes no key presses")]
    NotTaken,
    /// Not what the tool's parameters ask for.
    #[error("digits must be a text of 1 to {MAX_KEYS} of the keys 0-9, *, #, A-D")]
    Arguments,
}

#[derive(Deserialize)]
struct Arguments {
    digits: String,
}

/// The keys that the model wants pressed, if they can be. `arguments` is a JSON text.
pub(super) fn keys(arguments: &str, can: &Capabilities) -> Result<Vec<Digit>, KeysError> {
    if !can.keys_out {
        return Err(KeysError::NotTaken);
    }
    let Arguments { digits } = serde_json::from_str(arguments).map_err(|_| KeysError::Arguments)?;
    if !(1..=MAX_KEYS).contains(&digits.len()) {
        return Err(KeysError::Arguments);
    }
    let keys: Option<Vec<Digit>> = digits.chars().map(Digit::new).collect();
    keys.ok_or(KeysError::Arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_pressed_where_the_wire_takes_them() {
        let can = Capabilities {
            keys_out: true,
            ..Capabilities::OF_A_PROVIDER
        };
        let check = |arguments: &str, expected: Result<&str, KeysError>| {
            let keys = keys(arguments, &can);
            let keys = keys.map(|keys| keys.iter().map(ToString::to_string).collect::<String>());
            assert_eq!(keys, expected.map(str::to_owned), "{arguments}");
        };
        check(r#"{"digits":"0*#9"}"#, Ok("0*#9"));
        check(r#"{"digits":"ad"}"#, Ok("AD"));
        let most = format!(r#"{{"digits":"{}"}}"#, "1".repeat(MAX_KEYS));
        check(&most, Ok(&"1".repeat(MAX_KEYS)));
        let more = format!(r#"{{"digits":"{}"}}"#, "1".repeat(MAX_KEYS + 1));
        for bad in [
            "",
            "{}",
            "12",
            r#"{"digits":12}"#,
            r#"{"digits":""}"#,
            r#"{"digits":"1w2"}"#,
            r#"{"digits":"1é"}"#,
            &more,
        ] {
            check(bad, Err(KeysError::Arguments));
        }
        let cannot = Capabilities::OF_A_PROVIDER;
        let refused = keys(r#"{"digits":"1"}"#, &cannot);
        assert_eq!(refused, Err(KeysError::NotTaken));
    }
}

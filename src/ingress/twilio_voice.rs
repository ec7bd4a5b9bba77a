//! The webhook of a Twilio number: the form that Twilio posts, and the TwiML that answers it. Telnyx posts the same form, and
//! its TeXML differs in the stream's attributes.
//!
//! It does not verify the request's signature; [`VoiceWebhook::pairs`] has what that needs.

use std::fmt::Write;

/// Twilio posts some 30 fields; headers of SIP calls come on top (`SipHeader_...`).
const MAX_PAIRS: usize = 256;

/// A posted form is a few kilobytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Name and value of a `<Parameter>` together must stay under this (telephony reference 1.1).
const PARAMETER_LIMIT_CHARS: usize = 500;

/// A call that rings at a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoiceWebhook {
    /// The call.
    pub call_sid: String,
    /// The account that the number belongs to.
    pub account_sid: String,
    /// Who calls, as far as the network says.
    pub from: Option<String>,
    /// The number that was called.
    pub to: Option<String>,
    /// Every field as it was posted, those above included, decoded, in order of arrival: what the
    /// request's signature covers.
    pub pairs: Vec<(String, String)>,
}

/// Why a webhook's body cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// Larger than anything Twilio sends.
    #[error("the form is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// More fields than anything Twilio sends.
    #[error("the form has more than {MAX_PAIRS} fields")]
    TooManyFields,
    /// A field that cannot be done without.
    #[error("the form has no {field}")]
    MissingField {
        /// Which field.
        field: &'static str,
    },
    /// A field that says who calls whom came twice.
    #[error("the form has {field} twice")]
    DuplicateField {
        /// Which field.
        field: &'static str,
    },
}

impl VoiceWebhook {
    /// Reads an `application/x-www-form-urlencoded` body. Bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    ///
    /// If the form is oversized, or does not say once which call it is about.
    pub fn parse(body: &[u8]) -> Result<Self, WebhookError> {
        if body.len() > MAX_BODY_BYTES {
            return Err(WebhookError::TooLarge);
        }
        let pairs: Vec<(String, String)> = form_urlencoded::parse(body)
            .take(MAX_PAIRS + 1)
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        if pairs.len() > MAX_PAIRS {
            return Err(WebhookError::TooManyFields);
        }
        let required = |field| {
            single(&pairs, field)?
                .filter(|value| !value.is_empty())
                .ok_or(WebhookError::MissingField { field })
        };
        Ok(Self {
            call_sid: required("CallSid")?,
            account_sid: required("AccountSid")?,
            from: single(&pairs, "From")?,
            to: single(&pairs, "To")?,
            pairs,
        })
    }
}

fn single(pairs: &[(String, String)], field: &'static str) -> Result<Option<String>, WebhookError> {
    let mut values = pairs.iter().filter(|(name, _)| name == field);
    let first = values.next();
    if values.next().is_some() {
        return Err(WebhookError::DuplicateField { field });
    }
    Ok(first.map(|(_, value)| value.clone()))
}

/// Why TwiML cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TwimlError {
    /// Twilio refuses parameters of 500 characters and more, name and value together.
    #[error("the parameter {name} is {n_chars} characters long with its value, 499 are allowed")]
    ParameterTooLong {
        /// The parameter.
        name: String,
        /// Its length with its value.
        n_chars: usize,
    },
    /// A character that XML cannot carry, not even escaped.
    #[error("a control character in a parameter or URL")]
    ControlCharacter,
    /// Twilio drops query strings of stream URLs without a word (telephony reference 1.1).
    #[error("a stream URL with a query or fragment")]
    UrlWithQuery,
}

/// TwiML that answers the call and connects its audio, both ways, to `stream_url`.
///
/// The parameters arrive in the `start` message as `customParameters`.
///
/// # Errors
///
/// If Twilio would refuse the document or drop a part of it.
pub fn twiml_connect(stream_url: &str, parameters: &[(&str, &str)]) -> Result<String, TwimlError> {
    if stream_url.contains(['?', '#']) {
        return Err(TwimlError::UrlWithQuery);
    }
    let mut xml = format!("{XML_HEAD}<Response><Connect><Stream url=\"");
    escape(stream_url, &mut xml)?;
    xml.push_str("\">");
    for (name, value) in parameters {
        let n_chars = name.chars().count() + value.chars().count();
        if n_chars >= PARAMETER_LIMIT_CHARS {
            return Err(TwimlError::ParameterTooLong {
                name: (*name).to_owned(),
                n_chars,
            });
        }
        xml.push_str("<Parameter name=\"");
        escape(name, &mut xml)?;
        xml.push_str("\" value=\"");
        escape(value, &mut xml)?;
        xml.push_str("\"/>");
    }
    xml.push_str("</Stream></Connect></Response>");
    Ok(xml)
}

/// TeXML that answers a call of Telnyx and connects its audio, both ways, to `stream_url`. What we send is PCMU, as long as
/// nobody says anything else; who calls whom is in the stream's `start`.
///
/// # Errors
///
/// If XML cannot carry the address.
pub fn texml_connect(stream_url: &str) -> Result<String, TwimlError> {
    let mut xml = format!("{XML_HEAD}<Response><Connect><Stream url=\"");
    escape(stream_url, &mut xml)?;
    xml.push_str("\" bidirectionalMode=\"rtp\" bidirectionalCodec=\"PCMU\"/></Connect></Response>");
    Ok(xml)
}

/// What a caller hears who is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// The busy tone.
    Busy,
    /// The announcement that the number is not in service.
    Rejected,
}

/// TwiML that does not answer the call, so that it costs nothing.
#[must_use]
pub fn twiml_reject(reason: RejectReason) -> String {
    let reason = match reason {
        RejectReason::Busy => "busy",
        RejectReason::Rejected => "rejected",
    };
    format!("{XML_HEAD}<Response><Reject reason=\"{reason}\"/></Response>")
}

/// TwiML that answers the call, says something, and hangs up.
///
/// # Errors
///
/// If XML cannot carry it.
pub fn twiml_say(message: &str) -> Result<String, TwimlError> {
    let mut xml = format!("{XML_HEAD}<Response><Say>");
    escape(message, &mut xml)?;
    xml.push_str("</Say><Hangup/></Response>");
    Ok(xml)
}

const XML_HEAD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>"#;

/// Appends `text` as the inside of a double-quoted attribute.
fn escape(text: &str, xml: &mut String) -> Result<(), TwimlError> {
    for character in text.chars() {
        match character {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            '\'' => xml.push_str("&apos;"),
            // Unescaped, attribute normalisation makes spaces of them (XML 1.0 section 3.3.3).
            '\t' | '\n' | '\r' => {
                write!(xml, "&#{};", u32::from(character)).expect("writing to memory cannot fail")
            }
            // Outside of the characters of XML 1.0 (section 2.2).
            '\0'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}' => return Err(TwimlError::ControlCharacter),
            _ => xml.push(character),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_webhook_is_read() {
        let body = b"CallSid=CA01&AccountSid=AC01&From=%2B15550001111&To=%2B15550002222&CallerName=J%C3%BCrgen+M&Flag";
        let webhook = VoiceWebhook::parse(body).unwrap();
        assert_eq!(webhook.call_sid, "CA01");
        assert_eq!(webhook.account_sid, "AC01");
        assert_eq!(webhook.from.as_deref(), Some("+15550001111"));
        assert_eq!(webhook.to.as_deref(), Some("+15550002222"));
        assert_eq!(webhook.pairs.len(), 6);
        assert_eq!(
            webhook.pairs[4],
            ("CallerName".to_owned(), "Jürgen M".to_owned())
        );
        assert_eq!(webhook.pairs[5], ("Flag".to_owned(), String::new()));
    }

    #[test]
    fn unusable_webhooks_are_named() {
        let check = |body: &str, expected| {
            assert_eq!(VoiceWebhook::parse(body.as_bytes()), Err(expected));
        };
        let missing = |field| WebhookError::MissingField { field };
        check("", missing("CallSid"));
        check("CallSid=&AccountSid=A", missing("CallSid"));
        check("CallSid=C", missing("AccountSid"));
        check(
            "CallSid=C&AccountSid=A&CallSid=D",
            WebhookError::DuplicateField { field: "CallSid" },
        );
        check(
            "CallSid=C&AccountSid=A&From=1&From=2",
            WebhookError::DuplicateField { field: "From" },
        );
        check(&"a=b&".repeat(MAX_PAIRS + 1), WebhookError::TooManyFields);
        check(&"a".repeat(MAX_BODY_BYTES + 1), WebhookError::TooLarge);
    }

    #[test]
    fn twiml_connects_and_rejects() {
        assert_eq!(
            twiml_connect(
                "wss://voice.example.com/twilio/desk",
                &[("from", "+1555"), ("a&\"b\"", "<'\n>")]
            )
            .unwrap(),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Connect>\
             <Stream url=\"wss://voice.example.com/twilio/desk\">\
             <Parameter name=\"from\" value=\"+1555\"/>\
             <Parameter name=\"a&amp;&quot;b&quot;\" value=\"&lt;&apos;&#10;&gt;\"/>\
             </Stream></Connect></Response>"
        );
        assert_eq!(
            twiml_say("All lines are <busy>.").unwrap(),
            r#"<?xml version="1.0" encoding="UTF-8"?><Response><Say>All lines are &lt;busy&gt;.</Say><Hangup/></Response>"#
        );
        assert_eq!(twiml_say("\u{0}"), Err(TwimlError::ControlCharacter));
        assert_eq!(
            twiml_reject(RejectReason::Busy),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Reject reason=\"busy\"/></Response>"
        );
    }

    #[test]
    fn what_twilio_would_refuse_is_not_written() {
        let check = |url: &str, name: &str, value: &str, expected: Option<TwimlError>| {
            assert_eq!(twiml_connect(url, &[(name, value)]).err(), expected);
        };
        let too_long = |n_chars| {
            Some(TwimlError::ParameterTooLong {
                name: "n".to_owned(),
                n_chars,
            })
        };
        check("wss://a/b", "n", &"ü".repeat(498), None);
        check("wss://a/b", "n", &"ü".repeat(499), too_long(500));
        check("wss://a/b?t=1", "n", "", Some(TwimlError::UrlWithQuery));
        check(
            "wss://a/b",
            "n",
            "\u{1}",
            Some(TwimlError::ControlCharacter),
        );
    }

    proptest! {
        #[test]
        fn webhooks_are_total(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = VoiceWebhook::parse(&body);
        }

        #[test]
        fn values_stay_inside_their_attribute(value in any::<String>()) {
            if let Ok(xml) = twiml_connect("wss://a/b", &[("n", &value)]) {
                prop_assert_eq!(xml.matches('<').count(), 8);
                prop_assert_eq!(xml.matches('"').count(), 10);
            }
        }
    }
}

//! Reads the one Twilio message that comes fifty times a second, and no other.
//!
//! It knows the exact form of a `media` message of the caller's track and gives up on anything else.

use super::scan::{Scanner, once};

/// The parts of a `media` message that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Media<'a> {
    /// The stream that it says it belongs to.
    pub(super) stream_sid: Option<&'a str>,
    /// Its audio, still base64.
    pub(super) payload: &'a str,
}

/// The parts of `text`, if it is a `media` message of the caller's track in the usual form.
pub(super) fn media(text: &str) -> Option<Media<'_>> {
    let mut scanner = Scanner::new(text);
    let (mut event, mut stream_sid, mut payload) = (None, None, None);
    let mut sequence_number = None;
    scanner.object(|scanner, key| match key {
        "event" => once(&mut event, scanner.string()?),
        "sequenceNumber" | "sequence_number" => once(&mut sequence_number, scanner.scalar()?),
        "streamSid" | "stream_sid" => once(&mut stream_sid, scanner.string()?),
        "media" => once(&mut payload, media_body(scanner)?),
        _ => None,
    })?;
    (scanner.is_at_end() && event? == "media").then_some(Media {
        stream_sid,
        payload: payload?,
    })
}

/// The payload of a media body of the caller's track.
fn media_body<'a>(scanner: &mut Scanner<'a>) -> Option<&'a str> {
    let (mut track, mut chunk, mut timestamp, mut payload) = (None, None, None, None);
    scanner.object(|scanner, key| match key {
        "track" => once(&mut track, scanner.string()?),
        "chunk" => once(&mut chunk, scanner.scalar()?),
        "timestamp" => once(&mut timestamp, scanner.scalar()?),
        "payload" => once(&mut payload, scanner.base64()?),
        _ => None,
    })?;
    if track.is_some_and(|track| track != "inbound") {
        return None;
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(Option<&str>, &str)>) {
        let expected = expected.map(|(stream_sid, payload)| Media {
            stream_sid,
            payload,
        });
        assert_eq!(media(text), expected, "{text}");
    }

    #[test]
    fn usual_forms_are_read() {
        check(
            r#"{"event":"media","sequenceNumber":"4","streamSid":"MZ01","media":{"track":"inbound","chunk":"2","timestamp":"20","payload":"/38="}}"#,
            Some((Some("MZ01"), "/38=")),
        );
        check(
            r#"{"event": "media", "sequenceNumber": 4, "media": {"track": "inbound", "chunk": 2, "timestamp": 0, "payload": ""}, "streamSid": "MZ01"}"#,
            Some((Some("MZ01"), "")),
        );
        check(
            r#"{"event":"media","media":{"payload":"AA=="}}"#,
            Some((None, "AA==")),
        );
        check(
            r#"{"event":"media","sequence_number":"4","stream_sid":"s","media":{"payload":"AA=="}}"#,
            Some((Some("s"), "AA==")),
        );
    }

    #[test]
    fn anything_else_is_left_to_the_parser() {
        for text in [
            "",
            "{",
            "{}",
            r#"{"event":"mark","media":{"payload":"AA=="}}"#,
            r#"{"event":"media"}"#,
            r#"{"event":"media","media":{}}"#,
            r#"{"event":"media","media":{"track":"outbound","payload":"AA=="}}"#,
            r#"{"event":"media","media":{"payload":"\/w=="}}"#,
            r#"{"event":"media","event":"media","media":{"payload":"AA=="}}"#,
            r#"{"event":"media","media":{"payload":"AA==","payload":"AA=="}}"#,
            r#"{"event":"media","media":{"payload":"AA=="},"media":{"payload":"AA=="}}"#,
            r#"{"event":"media","stream_sid":"s","streamSid":"s","media":{"payload":"AA=="}}"#,
            r#"{"event":"media","media":{"payload":"AA=="}} x"#,
            r#"{"event":"media","media":{"payload":"AA=="},}"#,
            r#"{"event":"media","sequenceNumber":01,"media":{"payload":"AA=="}}"#,
            r#"{"event":"media","sequenceNumber":1.5,"media":{"payload":"AA=="}}"#,
            r#"{"event":"media","more":1,"media":{"payload":"AA=="}}"#,
            "{\"event\":\"media\",\"sequenceNumber\":\"\t\",\"media\":{\"payload\":\"AA==\"}}",
            "{\"event\":\"media\",\"streamSid\":\"M\n\",\"media\":{\"payload\":\"AA==\"}}",
        ] {
            check(text, None);
        }
    }
}

//! Reads the one Twilio message that comes fifty times a second, and no other.
//!
//! The scanner knows the exact form of a `media` message of the caller's track and gives up on
//! anything else: escapes, other keys, keys that come twice, numbers that are not plain. What it
//! accepts, the general parser accepts with the same meaning; what it refuses is not thereby wrong.

use memchr::memchr2;

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
    let mut scanner = Scanner { text, at: 0 };
    let (mut event, mut stream_sid, mut payload) = (None, None, None);
    let mut sequence_number = None;
    scanner.object(|scanner, key| match key {
        "event" => once(&mut event, scanner.string()?),
        "sequenceNumber" => once(&mut sequence_number, scanner.scalar()?),
        "streamSid" => once(&mut stream_sid, scanner.string()?),
        "media" => once(&mut payload, scanner.media_body()?),
        _ => None,
    })?;
    (scanner.at == text.len() && event? == "media").then_some(Media {
        stream_sid,
        payload: payload?,
    })
}

/// Fills a slot, unless it was filled before.
fn once<'a>(slot: &mut Option<&'a str>, value: &'a str) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// The payload of a media body of the caller's track.
    fn media_body(&mut self) -> Option<&'a str> {
        let (mut track, mut chunk, mut timestamp, mut payload) = (None, None, None, None);
        self.object(|scanner, key| match key {
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

    /// A non-empty object; `member` reads the value of each key.
    fn object(&mut self, mut member: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            member(self, key)?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// A string without escapes and control characters.
    fn string(&mut self) -> Option<&'a str> {
        let string = self.base64()?;
        string.bytes().all(|byte| byte >= 0x20).then_some(string)
    }

    /// A string without escapes. It may hold control characters, which are no JSON, so that audio need
    /// not be searched for them: the base64 decoder does not let them pass either.
    fn base64(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let rest = &self.text.as_bytes()[self.at..];
        let length = memchr2(b'"', b'\\', rest)?;
        if rest[length] == b'\\' {
            return None;
        }
        // Both ends lie beside ASCII quotes, thus on character borders.
        let string = &self.text[self.at..self.at + length];
        self.at += length + 1;
        Some(string)
    }

    /// A string, or a whole number of at most 15 digits.
    fn scalar(&mut self) -> Option<&'a str> {
        self.skip_space();
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) == Some(&b'"') {
            return self.string();
        }
        let rest = &bytes[self.at..];
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let leading_zero = length > 1 && rest[0] == b'0';
        if length == 0 || length > 15 || leading_zero {
            return None;
        }
        let number = &self.text[self.at..self.at + length];
        self.at += length;
        Some(number)
    }

    fn expect(&mut self, wanted: u8) -> Option<()> {
        (self.next()? == wanted).then_some(())
    }

    /// The next byte that is no space.
    fn next(&mut self) -> Option<u8> {
        self.skip_space();
        let byte = *self.text.as_bytes().get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn skip_space(&mut self) {
        while self.text.as_bytes().get(self.at) == Some(&b' ') {
            self.at += 1;
        }
    }
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

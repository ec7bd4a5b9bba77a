//! Whose trace a request belongs to: W3C Trace Context (Level 1, w3.org/TR/trace-context), read and written.

use std::fmt;

/// The header, and the custom parameter, that names the trace and the span.
pub const TRACEPARENT: &str = "traceparent";

/// The header with what vendors add to it.
pub const TRACESTATE: &str = "tracestate";

/// A `tracestate` that is longer is not passed on (section 3.3.1.5 asks for at least so much).
const MAX_STATE: usize = 512;

/// Entries of a `tracestate` (section 3.3.1.1).
const MAX_ENTRIES: usize = 32;

/// The flag that says that the caller may have recorded its part (section 3.2.2.5).
const SAMPLED: u8 = 1;

/// The id of a trace. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(u128);

impl TraceId {
    /// None for zero, which is no id.
    #[must_use]
    pub const fn new(id: u128) -> Option<Self> {
        if id == 0 { None } else { Some(Self(id)) }
    }

    /// The 16 bytes of it.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The id of a span. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(u64);

impl SpanId {
    /// None for zero, which is no id.
    #[must_use]
    pub const fn new(id: u64) -> Option<Self> {
        if id == 0 { None } else { Some(Self(id)) }
    }

    /// The 8 bytes of it.
    #[must_use]
    pub const fn bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Where in whose trace a request was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span of it that made the request.
    pub parent: SpanId,
    /// Whether whoever sent it records its part.
    pub is_sampled: bool,
    /// What vendors say beside it; empty for nothing.
    pub state: String,
}

/// It is not of the form that the specification has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no traceparent of W3C Trace Context")]
pub struct BadTraceparent;

impl TraceContext {
    /// Reads `traceparent` and all `tracestate` headers of a request. A bad `tracestate` is left out, as the
    /// specification wants it.
    ///
    /// # Errors
    ///
    /// If the `traceparent` is not of its form.
    pub fn parse<'a>(
        parent: &str,
        states: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, BadTraceparent> {
        let parent = parent.trim_matches([' ', '\t']);
        let (version, rest) = field(parent, 2)?;
        let (trace, rest) = field(after_dash(rest)?, 32)?;
        let (span, rest) = field(after_dash(rest)?, 16)?;
        let (flags, rest) = field(after_dash(rest)?, 2)?;
        // What a later version adds stands behind another dash; ff is no version (section 3.2.2.1).
        let is_whole = rest.is_empty() || (version != 0 && rest.starts_with('-'));
        if version == 0xff || !is_whole {
            return Err(BadTraceparent);
        }
        let span = u64::try_from(span).map_err(|_| BadTraceparent)?;
        Ok(Self {
            trace: TraceId::new(trace).ok_or(BadTraceparent)?,
            parent: SpanId::new(span).ok_or(BadTraceparent)?,
            is_sampled: flags & u128::from(SAMPLED) != 0,
            state: state(states),
        })
    }

    /// What a request of a sampled span is to carry.
    #[must_use]
    pub fn of_span(trace: TraceId, span: SpanId) -> Self {
        Self {
            trace,
            parent: span,
            is_sampled: true,
            state: String::new(),
        }
    }
}

impl fmt::Display for TraceContext {
    /// As a `traceparent`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = if self.is_sampled { SAMPLED } else { 0 };
        write!(f, "00-{}-{}-{flags:02x}", self.trace, self.parent)
    }
}

/// So many lower-case hex digits, and what comes after them.
fn field(text: &str, digits: usize) -> Result<(u128, &str), BadTraceparent> {
    let (digits, rest) = text.split_at_checked(digits).ok_or(BadTraceparent)?;
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !digits.bytes().all(is_hex) {
        return Err(BadTraceparent);
    }
    let value = u128::from_str_radix(digits, 16).map_err(|_| BadTraceparent)?;
    Ok((value, rest))
}

fn after_dash(text: &str) -> Result<&str, BadTraceparent> {
    text.strip_prefix('-').ok_or(BadTraceparent)
}

/// The entries of all headers as one; none if any of them is not of its form.
fn state<'a>(headers: impl IntoIterator<Item = &'a str>) -> String {
    let mut entries: Vec<&str> = Vec::new();
    for header in headers {
        let trimmed = header.split(',').map(|it| it.trim_matches([' ', '\t']));
        entries.extend(trimmed.filter(|it| !it.is_empty()));
    }
    let keys = entries.iter().map(|it| it.split('=').next());
    let keys: std::collections::BTreeSet<_> = keys.collect();
    let is_good = entries.len() <= MAX_ENTRIES && keys.len() == entries.len();
    let state = entries.join(",");
    if is_good && state.len() <= MAX_STATE && entries.iter().all(|it| is_entry(it)) {
        state
    } else {
        String::new()
    }
}

/// `key=value` (section 3.3.1.3).
fn is_entry(entry: &str) -> bool {
    let Some((key, value)) = entry.split_once('=') else {
        return false;
    };
    let is_in_key =
        |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/');
    let is_name = |part: &str, longest: usize| {
        (1..=longest).contains(&part.len()) && part.bytes().all(is_in_key)
    };
    let begins_well = key.starts_with(|it: char| it.is_ascii_lowercase() || it.is_ascii_digit());
    let is_key = match key.split_once('@') {
        Some((tenant, system)) => is_name(tenant, 241) && is_name(system, 14),
        None => is_name(key, 256) && key.starts_with(|it: char| it.is_ascii_lowercase()),
    };
    let is_in_value = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'=';
    let is_value = (1..=256).contains(&value.len()) && value.bytes().all(is_in_value);
    begins_well && is_key && is_value
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn parse(parent: &str) -> Option<(String, String, bool)> {
        let context = TraceContext::parse(parent, []).ok()?;
        let (trace, span) = (context.trace.to_string(), context.parent.to_string());
        Some((trace, span, context.is_sampled))
    }

    /// The examples of the specification: 3.2.3 and 3.2.4, and of the working group's own test suite
    /// (w3c/trace-context, test/test.py).
    #[test]
    fn what_the_specification_has_is_read() {
        let good = |text: &str, is_sampled: bool| {
            let expected = Some((TRACE.to_owned(), SPAN.to_owned(), is_sampled));
            assert_eq!(parse(text), expected, "{text}");
        };
        good(&format!("00-{TRACE}-{SPAN}-01"), true);
        good(&format!("00-{TRACE}-{SPAN}-00"), false);
        // Flags that nobody knows yet.
        good(&format!("00-{TRACE}-{SPAN}-ff"), true);
        good(&format!("00-{TRACE}-{SPAN}-fe"), false);
        // A version to come, with and without more.
        good(&format!("cc-{TRACE}-{SPAN}-01"), true);
        good(
            &format!("cc-{TRACE}-{SPAN}-01-what-the-future-brings"),
            true,
        );
        good(&format!(" 00-{TRACE}-{SPAN}-01\t"), true);
    }

    #[test]
    fn anything_else_is_not() {
        let zeros = "0".repeat(32);
        for text in [
            String::new(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-01."),
            format!("cc-{TRACE}-{SPAN}-01.what-the-future-brings"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-001"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}-{}-01", &SPAN[1..]),
            format!("0-{TRACE}-{SPAN}-01"),
            format!(".0-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-.0"),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            format!("00-ü{}-{SPAN}-01", &TRACE[2..]),
        ] {
            assert_eq!(parse(&text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for flags in ["00", "01"] {
            let text = format!("00-{TRACE}-{SPAN}-{flags}");
            let context = TraceContext::parse(&text, []).expect("good");
            assert_eq!(context.to_string(), text);
        }
    }

    #[test]
    fn a_tracestate_is_passed_on_or_left_out() {
        let check = |headers: &[&str], expected: &str| {
            let parent = format!("00-{TRACE}-{SPAN}-01");
            let context = TraceContext::parse(&parent, headers.iter().copied());
            assert_eq!(context.expect("good").state, expected, "{headers:?}");
        };
        check(&["rojo=00f067aa0ba902b7"], "rojo=00f067aa0ba902b7");
        check(&["foo=1 , bar=2", "baz=3"], "foo=1,bar=2,baz=3");
        check(&["foo=1,", ""], "foo=1");
        check(
            &["fw529a3039@dt=FfAb", "a*/_-=~ !"],
            "fw529a3039@dt=FfAb,a*/_-=~ !",
        );
        check(&["1a-2@foo=1"], "1a-2@foo=1");
        for bad in [
            "foo",
            "foo=1,foo=2",
            "FOO=1",
            "1a=1",
            "foo=",
            "foo=a=b",
            "foo@=1",
            "@foo=1",
            "foo@@b=1",
            "foo@b@c=1",
            "f o=1",
            "foo=é",
        ] {
            check(&[bad], "");
        }
        check(&[&format!("foo={}", "x".repeat(257))], "");
        let many: Vec<String> = (0..33).map(|n| format!("k{n}=v")).collect();
        check(&[&many.join(",")], "");
        check(&[&many[..32].join(",")], &many[..32].join(","));
    }
}

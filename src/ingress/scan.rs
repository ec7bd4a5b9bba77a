//! Reads JSON in its usual form without building anything, for the one message that comes fifty times a second.
//!
//! A scanner gives up on what is not usual: escapes, keys that come twice, numbers that are not plain. What it
//! accepts, the general parser accepts with the same meaning; what it refuses is not thereby wrong.

use memchr::memchr2;

/// Fills a slot, unless it was filled before.
pub(super) fn once<'a>(slot: &mut Option<&'a str>, value: &'a str) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

/// A place in a text.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Whether all of the text was read.
    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    /// `true`, `false` or `null`.
    pub(super) fn literal(&mut self) -> Option<&'a str> {
        self.skip_space();
        let rest = &self.text[self.at..];
        let mut literals = ["true", "false", "null"].into_iter();
        let literal = literals.find(|literal| rest.starts_with(literal))?;
        self.at += literal.len();
        Some(&rest[..literal.len()])
    }

    /// A non-empty object; `member` reads the value of each key.
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &'a str) -> Option<()>,
    ) -> Option<()> {
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
    pub(super) fn string(&mut self) -> Option<&'a str> {
        let string = self.base64()?;
        string.bytes().all(|byte| byte >= 0x20).then_some(string)
    }

    /// A string without escapes. It may hold control characters, which are no JSON, so that audio need
    /// not be searched for them: the base64 decoder does not let them pass either.
    pub(super) fn base64(&mut self) -> Option<&'a str> {
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
    pub(super) fn scalar(&mut self) -> Option<&'a str> {
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

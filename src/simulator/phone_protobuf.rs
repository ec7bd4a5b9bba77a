//! The phone's own reading and writing of protobuf: varints and length-delimited fields, which is all that its dialects
//! have. It shares nothing with the gateway's, so that an error of the one is not covered by the same error of the other.

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A number.
    Number(u64),
    /// A string, bytes or a message.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The bytes, if it has any.
    pub(crate) const fn bytes(self) -> Result<&'a [u8], &'static str> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) => Err("a number where bytes belong"),
        }
    }

    /// The text, if it is one.
    pub(crate) fn text(self) -> Result<&'a str, &'static str> {
        str::from_utf8(self.bytes()?).map_err(|_| "a string that is not UTF-8")
    }

    /// The number, if it is one.
    pub(crate) const fn number(self) -> Result<u64, &'static str> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Bytes(_) => Err("bytes where a number belongs"),
        }
    }
}

/// Appends a number, unless it is zero, which is the same as none.
pub(crate) fn put_number(field: u32, number: u64, out: &mut Vec<u8>) {
    if number > 0 {
        put_varint(u64::from(field) << 3, out);
        put_varint(number, out);
    }
}

/// Appends bytes, a string or a message.
pub(crate) fn put_bytes(field: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(field) << 3 | 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// The fields of a message, in order, with their numbers.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn fields(mut bytes: &[u8]) -> Result<Vec<(u64, Value<'_>)>, &'static str> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_| "a huge field")?;
                let (value, rest) = bytes.split_at_checked(length).ok_or("a field cut off")?;
                bytes = rest;
                Value::Bytes(value)
            }
            _ => return Err("a field that is neither a varint nor bytes"),
        };
        fields.push((key >> 3, value));
    }
    Ok(fields)
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn varint(bytes: &mut &[u8]) -> Result<u64, &'static str> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or("a number cut off")?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err("a number of more than 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        put_number(4, 16_000, &mut out);
        put_number(5, 0, &mut out);
        put_bytes(3, &[0; 200], &mut out);
        let expected = [(4, Value::Number(16_000)), (3, Value::Bytes(&[0; 200]))];
        assert_eq!(fields(&out).unwrap(), expected);
        put_number(1, u64::MAX, &mut out);
        assert_eq!(fields(&out).unwrap()[2], (1, Value::Number(u64::MAX)));
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        for bad in [
            &[0x12][..],
            &[0x12, 2, 0],
            &[0x08],
            &[0x08, 0x80],
            &[0x09, 0],
            &[0xff; 11],
        ] {
            assert!(fields(bad).is_err(), "{bad:x?}");
        }
    }
}

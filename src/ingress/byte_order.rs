//! The byte order of 16-bit samples, where a provider does not say which it is (telephony reference 14.4).

use super::swap_samples;

/// So many samples are looked at before it is said: 100 ms at 16 kHz.
const ENOUGH_SAMPLES: u32 = 1_600;

/// A sample is looked at only if it is this large in one of the readings at least: silence tells nothing.
const FLOOR: u16 = 200;

/// Which byte of a sample comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteOrder {
    /// As all others of these providers write them.
    Little,
    /// As RFC 2586 has it.
    Big,
    /// Little, until speech tells otherwise.
    Heard(Evidence),
}

/// Speech that is read in the wrong order is noise: neighbouring samples differ more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    n_samples: u32,
    /// Sums of the differences between neighbours, read either way.
    little: u64,
    big: u64,
}

impl Default for ByteOrder {
    fn default() -> Self {
        Self::Heard(Evidence::default())
    }
}

impl ByteOrder {
    /// The order of that name, as the address may say it.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "le" => Some(Self::Little),
            "be" => Some(Self::Big),
            "auto" => Some(Self::default()),
            _ => None,
        }
    }

    /// Makes samples from the wire little-endian, and learns from them.
    pub(super) fn read(&mut self, bytes: &mut [u8]) {
        if let Self::Heard(evidence) = self {
            evidence.hear(bytes);
            if evidence.n_samples >= ENOUGH_SAMPLES {
                *self = match evidence.big < evidence.little {
                    true => Self::Big,
                    false => Self::Little,
                };
            }
        }
        self.write(bytes);
    }

    /// Makes little-endian samples what the wire wants.
    pub(super) fn write(self, bytes: &mut [u8]) {
        if self == Self::Big {
            swap_samples(bytes);
        }
    }
}

impl Evidence {
    fn hear(&mut self, bytes: &[u8]) {
        let samples = bytes.as_chunks::<2>().0;
        for pair in samples.windows(2) {
            let little = [pair[0], pair[1]].map(i16::from_le_bytes);
            let big = [pair[0], pair[1]].map(i16::from_be_bytes);
            if little[1].unsigned_abs().min(big[1].unsigned_abs()) >= FLOOR {
                self.n_samples += 1;
                self.little += u64::from(little[0].abs_diff(little[1]));
                self.big += u64::from(big[0].abs_diff(big[1]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use super::*;

    /// Half a second of a 300 Hz tone at 16 kHz.
    fn tone(amplitude: f64) -> Vec<u8> {
        let sample = |n: u32| (amplitude * (f64::from(n) * 300.0 / 16_000.0 * TAU).sin()) as i16;
        (0..8_000).flat_map(|n| sample(n).to_le_bytes()).collect()
    }

    fn check(amplitude: f64, is_big: bool, expected: Option<ByteOrder>) {
        let (mut order, mut bytes) = (ByteOrder::default(), tone(amplitude));
        if is_big {
            swap_samples(&mut bytes);
        }
        for frame in bytes.chunks_mut(640) {
            order.read(frame);
        }
        let known = Some(order).filter(|order| !matches!(order, ByteOrder::Heard(_)));
        assert_eq!(known, expected, "{amplitude} {is_big}");
        if expected.is_some() {
            // From the decision on, what is read is the tone.
            assert_eq!(bytes[8_000..], tone(amplitude)[8_000..]);
        }
    }

    #[test]
    fn speech_tells_its_order() {
        check(8_000.0, false, Some(ByteOrder::Little));
        check(8_000.0, true, Some(ByteOrder::Big));
        check(20.0, true, None);
    }

    #[test]
    fn an_order_may_be_said() {
        let mut bytes = [1, 2, 3, 4];
        ByteOrder::named("be").unwrap().read(&mut bytes);
        assert_eq!(bytes, [2, 1, 4, 3]);
        ByteOrder::named("le").unwrap().read(&mut bytes);
        assert_eq!(bytes, [2, 1, 4, 3]);
        assert_eq!(ByteOrder::named("auto"), Some(ByteOrder::default()));
        assert_eq!(ByteOrder::named("BE"), None);
    }
}

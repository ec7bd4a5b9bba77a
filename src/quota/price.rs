//! What tokens cost.

use serde::Deserialize;

use crate::call::Usage;

/// One `[prices.MODEL]` table: money for a million tokens. What is left out costs nothing, but for what comes from the
/// cache: that costs as much as what does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Price {
    /// Text that is read.
    pub input_text: f64,
    /// Text that is read from the cache.
    pub cached_input_text: Option<f64>,
    /// Audio that is read.
    pub input_audio: f64,
    /// Audio that is read from the cache.
    pub cached_input_audio: Option<f64>,
    /// Images that are read.
    pub input_image: f64,
    /// Text that is written.
    pub output_text: f64,
    /// Audio that is written.
    pub output_audio: f64,
}

/// What something cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// In that currency.
    pub amount: f64,
    /// As the configuration names it.
    pub currency: String,
}

impl Price {
    /// What a response cost.
    #[must_use]
    pub fn of(&self, usage: &Usage) -> f64 {
        let cached_text = self.cached_input_text.unwrap_or(self.input_text);
        let cached_audio = self.cached_input_audio.unwrap_or(self.input_audio);
        let text = usage.input_text.saturating_sub(usage.cached_text);
        let audio = usage.input_audio.saturating_sub(usage.cached_audio);
        let millionths: f64 = [
            (text, self.input_text),
            (usage.cached_text, cached_text),
            (audio, self.input_audio),
            (usage.cached_audio, cached_audio),
            (usage.input_image, self.input_image),
            (usage.output_text, self.output_text),
            (usage.output_audio, self.output_audio),
        ]
        .into_iter()
        .map(|(n, price)| n as f64 * price)
        .sum();
        millionths / 1e6
    }

    /// The fields that are no prices.
    #[must_use]
    pub fn mistakes(&self) -> Vec<&'static str> {
        [
            ("input_text", Some(self.input_text)),
            ("cached_input_text", self.cached_input_text),
            ("input_audio", Some(self.input_audio)),
            ("cached_input_audio", self.cached_input_audio),
            ("input_image", Some(self.input_image)),
            ("output_text", Some(self.output_text)),
            ("output_audio", Some(self.output_audio)),
        ]
        .into_iter()
        .filter(|(_, price)| price.is_some_and(|it| !(it.is_finite() && it >= 0.0)))
        .map(|(field, _)| field)
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_token_has_its_price() {
        let price = Price {
            input_text: 4.0,
            cached_input_text: Some(0.4),
            input_audio: 32.0,
            cached_input_audio: None,
            input_image: 5.0,
            output_text: 16.0,
            output_audio: 64.0,
        };
        let check = |usage: Usage, expected: f64| {
            assert!((price.of(&usage) - expected).abs() < 1e-12);
        };
        check(Usage::default(), 0.0);
        // The sample of the reference (6.1).
        let sample = Usage {
            input_text: 119,
            input_audio: 13,
            cached_text: 64,
            output_text: 30,
            output_audio: 91,
            ..Usage::default()
        };
        let expected = 55.0 * 4.0 + 64.0 * 0.4 + 13.0 * 32.0 + 30.0 * 16.0 + 91.0 * 64.0;
        check(sample, expected / 1e6);
        let audio = Usage {
            input_audio: 1_000_000,
            cached_audio: 500_000,
            input_image: 1_000_000,
            ..Usage::default()
        };
        check(audio, 37.0);
        // A deployment that counts more from the cache than it read is not paid for it.
        let odd = Usage {
            cached_text: 10,
            ..Usage::default()
        };
        check(odd, 4.0 / 1e6);
        assert_eq!(
            Price {
                output_text: -1.0,
                cached_input_text: Some(f64::NAN),
                ..price
            }
            .mistakes(),
            ["cached_input_text", "output_text"]
        );
    }
}

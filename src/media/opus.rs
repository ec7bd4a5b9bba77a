//! Opus by libopus: raw packets of RFC 6716, mono, no container.
//!
//! Both directions run at the rate of the other leg (24 kHz for the Realtime API), which libopus does natively; the
//! 48 kHz of the RTP clock are a matter of timestamps only. The decoder fills gaps that it is told of; it does not
//! find them, nor does it reorder.

use std::fmt;
use std::time::Duration;

use audiopus::coder::{Decoder, Encoder, GenericCtl};
use audiopus::packet::Packet;
use audiopus::{Application, Bitrate, Channels, Error, ErrorCode, MutSignals};
use serde::{Deserialize, Serialize};

use super::{MediaError, OpusPacketError, SampleRate};

/// How replies are encoded for callers that speak Opus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpusSettings {
    /// Bits a second, 6,000 to 510,000.
    pub bitrate: u32,
    /// libopus' effort, 0 to 10. The encoder is most of what an Opus call costs: 2.8 ms of CPU a second at 0,
    /// 6.4 at 5, 11.9 at 10 (`costs`, chapter 4).
    pub complexity: u8,
    /// Add a coarse copy of each packet to the next. Takes bits from the voice and 27 % more CPU, and protects
    /// against a loss that a WebSocket does not have.
    pub fec: bool,
    /// Send packets of one or two bytes, or none for a while, during silence.
    pub dtx: bool,
}

impl Default for OpusSettings {
    fn default() -> Self {
        Self {
            bitrate: 24_000,
            complexity: 5,
            fec: false,
            dtx: false,
        }
    }
}

impl OpusSettings {
    /// Checks every setting against what libopus takes.
    ///
    /// # Errors
    /// [`MediaError::OpusSetting`] names the first one out of range.
    pub fn check(&self) -> Result<(), MediaError> {
        let refuse = |name, value| Err(MediaError::OpusSetting { name, value });
        if !(6_000..=510_000).contains(&self.bitrate) {
            return refuse("bitrate", self.bitrate);
        }
        if self.complexity > 10 {
            return refuse("complexity", self.complexity.into());
        }
        Ok(())
    }
}

/// The longest audio that one packet may hold (RFC 6716, section 3.2.5).
const MAX_PACKET: Duration = Duration::from_millis(120);
/// The longest packet of one 20 ms frame, in bytes (RFC 6716, section 3.2.1), with its TOC byte.
pub(crate) const MAX_PACKET_BYTES: usize = 1_276;
/// Concealment beyond this is a drone rather than speech: silence from here on.
const MAX_CONCEALMENT: Duration = Duration::from_millis(60);
/// A longer gap is a pause of the sender or a jump of its clock, and is not filled to its end.
const MAX_GAP: Duration = Duration::from_secs(2);
/// A frame size that libopus takes and that packets have by far most often.
const USUAL_PACKET: Duration = Duration::from_millis(20);
/// Packets up to this many bytes carry no audio: the sender pauses (DTX).
const MAX_DTX_BYTES: usize = 2;

/// Decodes one stream of packets to mono.
pub struct OpusDecoder {
    decoder: Decoder,
    rate: SampleRate,
    /// Packets missing before the next one.
    n_lost: u32,
    /// Length of the last packet, taken as the length of missing ones.
    packet: Duration,
}

impl OpusDecoder {
    /// A decoder that writes samples at `rate`.
    ///
    /// # Errors
    /// [`MediaError::UnsupportedRate`] at 44.1 kHz; [`MediaError::OpusLibrary`] if libopus cannot be set up.
    pub fn new(rate: SampleRate) -> Result<Self, MediaError> {
        let decoder = Decoder::new(opus_rate(rate)?, Channels::Mono)
            .map_err(failed_to("create a decoder"))?;
        Ok(Self {
            decoder,
            rate,
            n_lost: 0,
            packet: USUAL_PACKET,
        })
    }

    /// Decodes `packet` and appends its audio to `out`, after whatever covers the packets reported as lost.
    ///
    /// DTX packets give comfort noise. On an error nothing is appended, and a later good packet still covers the loss.
    ///
    /// # Errors
    /// [`MediaError::MalformedOpus`] if this is no Opus packet; any bytes may be passed.
    pub fn decode(&mut self, packet: &[u8], out: &mut Vec<i16>) -> Result<(), MediaError> {
        let duration = packet_duration(packet)?;
        let n_before = out.len();
        let outcome = self
            .fill_gap(packet, out)
            .and_then(|()| self.run(Some(packet), false, duration, out));
        match outcome {
            Ok(()) => {
                self.n_lost = 0;
                self.packet = duration;
            }
            Err(_) => out.truncate(n_before),
        }
        outcome
    }

    /// Says that `n_packets` did not arrive before the next one. Nothing is decoded until that comes.
    pub fn lost(&mut self, n_packets: u32) {
        self.n_lost = self.n_lost.saturating_add(n_packets);
    }

    /// Forgets the stream so far.
    pub fn reset(&mut self) {
        self.n_lost = 0;
        self.packet = USUAL_PACKET;
        let outcome = self.decoder.reset_state();
        debug_assert_eq!(outcome, Ok(()), "OPUS_RESET_STATE has no failing case");
    }

    /// Concealment first, silence when that has gone on for too long, and the last packet from the copy in `next`.
    fn fill_gap(&mut self, next: &[u8], out: &mut Vec<i16>) -> Result<(), MediaError> {
        if self.n_lost == 0 {
            return Ok(());
        }
        let gap = self.packet.saturating_mul(self.n_lost).min(MAX_GAP);
        let recovered = if has_fec(next) {
            self.packet
        } else {
            Duration::ZERO
        };
        let missing = gap.saturating_sub(recovered);
        let concealed = missing.min(MAX_CONCEALMENT);
        self.run(None, false, concealed, out)?;
        let n_silent = n_samples(missing.saturating_sub(concealed), self.rate);
        out.resize(out.len() + n_silent, 0);
        self.run(Some(next), true, recovered, out)
    }

    /// Appends exactly `duration` of audio: of `packet`, of the FEC copy in it, or concealment if there is none.
    fn run(
        &mut self,
        packet: Option<&[u8]>,
        fec: bool,
        duration: Duration,
        out: &mut Vec<i16>,
    ) -> Result<(), MediaError> {
        const STEP: &str = "decode a packet";
        if duration.is_zero() {
            return Ok(());
        }
        let start = out.len();
        out.resize(start + n_samples(duration, self.rate), 0);
        let signals = MutSignals::try_from(&mut out[start..]).map_err(failed_to(STEP))?;
        let packet = packet
            .map(Packet::try_from)
            .transpose()
            .map_err(failed_to(STEP))?;
        match self.decoder.decode(packet, signals, fec) {
            // What libopus writes fewer than asked for stays silent.
            Ok(_) => Ok(()),
            Err(Error::Opus(ErrorCode::InvalidPacket)) => Err(OpusPacketError::Corrupt.into()),
            Err(source) => Err(failed_to(STEP)(source)),
        }
    }
}

impl fmt::Debug for OpusDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpusDecoder({})", self.rate)
    }
}

/// Encodes one stream of 20 ms frames, mono.
pub struct OpusEncoder {
    encoder: Encoder,
    rate: SampleRate,
    lookahead: Duration,
}

impl OpusEncoder {
    /// An encoder for samples at `rate`.
    ///
    /// # Errors
    /// [`MediaError::UnsupportedRate`] at 44.1 kHz, [`MediaError::OpusSetting`] for a setting out of range,
    /// [`MediaError::OpusLibrary`] if libopus cannot be set up.
    pub fn new(rate: SampleRate, settings: OpusSettings) -> Result<Self, MediaError> {
        settings.check()?;
        let mut encoder = Encoder::new(opus_rate(rate)?, Channels::Mono, Application::Voip)
            .map_err(failed_to("create an encoder"))?;
        configure(&mut encoder, settings).map_err(failed_to("set up an encoder"))?;
        let n_lookahead = encoder
            .lookahead()
            .map_err(failed_to("set up an encoder"))?;
        Ok(Self {
            encoder,
            rate,
            lookahead: rate.duration_of(n_lookahead as usize),
        })
    }

    /// Encodes one frame of exactly 20 ms and appends the packet to `out`.
    ///
    /// # Errors
    /// [`MediaError::OpusLibrary`], for one if `pcm` is not 20 ms long.
    pub fn encode(&mut self, pcm: &[i16], out: &mut Vec<u8>) -> Result<(), MediaError> {
        debug_assert_eq!(pcm.len(), self.rate.hz() as usize / 50);
        let start = out.len();
        out.resize(start + MAX_PACKET_BYTES, 0);
        let encoded = self.encoder.encode(pcm, &mut out[start..]);
        out.truncate(start + encoded.unwrap_or(0));
        encoded.map(|_| ()).map_err(failed_to("encode a frame"))
    }

    /// How much later a sound leaves the decoder than it entered here, apart from waiting for a frame to fill.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.lookahead
    }

    /// Forgets the stream so far; the settings stay.
    pub fn reset(&mut self) {
        let outcome = self.encoder.reset_state();
        debug_assert_eq!(outcome, Ok(()), "OPUS_RESET_STATE has no failing case");
    }
}

impl fmt::Debug for OpusEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpusEncoder({})", self.rate)
    }
}

/// Loss in percent that the encoder prepares for when FEC is on. At 0 it would write no copies at all.
const EXPECTED_LOSS_PERCENT: u8 = 10;

fn configure(encoder: &mut Encoder, settings: OpusSettings) -> audiopus::Result<()> {
    // In range by `OpusSettings::check`.
    encoder.set_bitrate(Bitrate::BitsPerSecond(settings.bitrate.cast_signed()))?;
    encoder.set_complexity(settings.complexity)?;
    encoder.set_inband_fec(settings.fec)?;
    encoder.set_packet_loss_perc(if settings.fec {
        EXPECTED_LOSS_PERCENT
    } else {
        0
    })?;
    encoder.set_dtx(settings.dtx)
}

fn opus_rate(rate: SampleRate) -> Result<audiopus::SampleRate, MediaError> {
    audiopus::SampleRate::try_from(rate.hz().cast_signed())
        .map_err(|_| MediaError::UnsupportedRate(rate))
}

fn failed_to(step: &'static str) -> impl Fn(Error) -> MediaError {
    move |source| MediaError::OpusLibrary { step, source }
}

/// Exact for whole multiples of 2.5 ms, the grain of Opus.
fn n_samples(duration: Duration, rate: SampleRate) -> usize {
    let micros = duration.as_micros() as usize;
    micros * rate.hz() as usize / 1_000_000
}

/// How much audio a packet holds, from its first one or two bytes (RFC 6716, section 3.1 and 3.2).
///
/// # Errors
/// The requirement of section 3.4 that the packet breaks. Only libopus finds frame lengths that do not add up.
pub fn packet_duration(packet: &[u8]) -> Result<Duration, OpusPacketError> {
    let &toc = packet.first().ok_or(OpusPacketError::Empty)?;
    let n_frames = match toc & 0x03 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1).ok_or(OpusPacketError::NoFrameCount)? & 0x3F),
    };
    if n_frames == 0 {
        return Err(OpusPacketError::ZeroFrames);
    }
    let duration = frame_duration(toc) * n_frames;
    if duration > MAX_PACKET {
        return Err(OpusPacketError::TooLong);
    }
    Ok(duration)
}

/// The length of one frame, from the configuration number in the top five bits (RFC 6716, table 2).
fn frame_duration(toc: u8) -> Duration {
    let configuration = toc >> 3;
    let step = usize::from(configuration & 0x03);
    let micros = match configuration {
        // SILK.
        0..=11 => [10_000, 20_000, 40_000, 60_000][step],
        // Hybrid: two lengths in turn.
        12..=15 => [10_000, 20_000][step & 1],
        // CELT.
        _ => [2_500, 5_000, 10_000, 20_000][step],
    };
    Duration::from_micros(micros)
}

/// Whether a packet carries a copy of the one before it: the LBRR flag of its first SILK frame (RFC 6716,
/// section 4.2.3). Packets whose first frame does not follow the TOC byte (codes 2 and 3) count as having none.
fn has_fec(packet: &[u8]) -> bool {
    const FIRST_CELT_CONFIGURATION: u8 = 16;
    let [toc, flags, ..] = *packet else {
        return false;
    };
    if packet.len() <= MAX_DTX_BYTES {
        return false;
    }
    if toc >> 3 >= FIRST_CELT_CONFIGURATION || toc & 0x03 > 1 {
        return false;
    }
    // One voice activity flag for each 20 ms, then the LBRR flag; in stereo the same once more.
    let n_flags = frame_duration(toc).as_millis().div_ceil(20) as u32;
    let is_set = |position: u32| flags & (0x80 >> position) != 0;
    let stereo = toc & 0x04 != 0;
    is_set(n_flags) || (stereo && is_set(2 * n_flags + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tone::{Tone, fit_sine, level_dbfs, tone_level_dbfs};

    const RATE: SampleRate = SampleRate::HZ_24000;
    const FRAME: usize = 480;

    fn encode_all(pcm: &[i16], settings: OpusSettings) -> Vec<Vec<u8>> {
        let mut encoder = OpusEncoder::new(RATE, settings).unwrap();
        pcm.as_chunks::<FRAME>()
            .0
            .iter()
            .map(|frame| {
                let mut packet = Vec::new();
                encoder.encode(frame, &mut packet).unwrap();
                packet
            })
            .collect()
    }

    /// Decodes with the packets of `missing` reported as lost.
    fn decode_without(packets: &[Vec<u8>], missing: &[usize]) -> Vec<i16> {
        let mut decoder = OpusDecoder::new(RATE).unwrap();
        let mut out = Vec::new();
        for (n, packet) in packets.iter().enumerate() {
            if missing.contains(&n) {
                decoder.lost(1);
            } else {
                decoder.decode(packet, &mut out).unwrap();
            }
        }
        out
    }

    /// Something like a voice: a gliding pitch with harmonics that comes and goes.
    fn voice(n_samples: usize) -> Vec<i16> {
        let mut phase = 0.0_f64;
        (0..n_samples)
            .map(|n| {
                let t = n as f64 / f64::from(RATE.hz());
                phase += (140.0 + 40.0 * (5.0 * t).sin()) / f64::from(RATE.hz());
                let harmonics: f64 = (1..12)
                    .map(|k| (std::f64::consts::TAU * phase * f64::from(k)).sin() / f64::from(k))
                    .sum();
                (6_000.0 * harmonics * (0.6 + 0.4 * (23.0 * t).sin())) as i16
            })
            .collect()
    }

    #[test]
    fn a_tone_keeps_frequency_and_level() {
        fn check(rate: SampleRate) {
            let n_frame = rate.hz() as usize / 50;
            let pcm = Tone::sine(1_000.0, -10.0, rate).samples(n_frame * 50);
            let mut encoder = OpusEncoder::new(rate, OpusSettings::default()).unwrap();
            let mut decoder = OpusDecoder::new(rate).unwrap();
            let (mut packet, mut out) = (Vec::new(), Vec::new());
            for frame in pcm.chunks(n_frame) {
                packet.clear();
                encoder.encode(frame, &mut packet).unwrap();
                decoder.decode(&packet, &mut out).unwrap();
            }
            assert_eq!(out.len(), pcm.len());
            let steady = &out[out.len() / 2..];
            let level = tone_level_dbfs(steady, 1_000.0, rate);
            assert!((level + 10.0).abs() < 2.0, "{rate}: {level} dBFS");
            let snr = fit_sine(steady, 1_000.0, rate).snr_db();
            assert!(snr > 15.0, "{rate}: {snr} dB");
        }
        check(SampleRate::HZ_8000);
        check(SampleRate::HZ_16000);
        check(SampleRate::HZ_24000);
        check(SampleRate::HZ_48000);
    }

    #[test]
    fn rates_and_settings_out_of_range_are_refused() {
        let rate = SampleRate::HZ_44100;
        let refused = MediaError::UnsupportedRate(rate);
        assert_eq!(OpusDecoder::new(rate).unwrap_err(), refused);
        let settings = OpusSettings::default();
        assert_eq!(OpusEncoder::new(rate, settings).unwrap_err(), refused);
        fn check(settings: OpusSettings, name: &'static str, value: u32) {
            let refused = MediaError::OpusSetting { name, value };
            assert_eq!(OpusEncoder::new(RATE, settings).unwrap_err(), refused);
        }
        let bitrate = 5_999;
        check(
            OpusSettings {
                bitrate,
                ..settings
            },
            "bitrate",
            bitrate,
        );
        let complexity = 11;
        check(
            OpusSettings {
                complexity,
                ..settings
            },
            "complexity",
            11,
        );
    }

    #[test]
    fn fec_recovers_better_than_concealment() {
        // The pitch glides, so that repeating the last period, as concealment does, is wrong.
        let pcm = voice(FRAME * 60);
        let missing: Vec<usize> = (8..60).step_by(7).collect();
        let error_dbfs = |fec: bool| {
            let settings = OpusSettings {
                fec,
                ..OpusSettings::default()
            };
            let packets = encode_all(&pcm, settings);
            assert_eq!(packets[20..].iter().any(|packet| has_fec(packet)), fec);
            let whole = decode_without(&packets, &[]);
            let patched = decode_without(&packets, &missing);
            assert_eq!(whole.len(), patched.len());
            let error: Vec<i16> = missing
                .iter()
                .flat_map(|n| n * FRAME..(n + 1) * FRAME)
                .map(|n| whole[n].saturating_sub(patched[n]))
                .collect();
            level_dbfs(&error)
        };
        let (with_fec, without) = (error_dbfs(true), error_dbfs(false));
        assert!(
            with_fec < without - 3.0,
            "{with_fec} against {without} dBFS"
        );
    }

    #[test]
    fn a_gap_has_its_length_and_ends_in_silence() {
        fn check(fec: bool, n_lost: u32, n_frames_expected: usize) {
            let settings = OpusSettings {
                fec,
                ..OpusSettings::default()
            };
            let packets = encode_all(&voice(FRAME * 40), settings);
            let mut decoder = OpusDecoder::new(RATE).unwrap();
            let mut out = Vec::new();
            for packet in &packets[..20] {
                decoder.decode(packet, &mut out).unwrap();
            }
            decoder.lost(n_lost);
            out.clear();
            decoder.decode(&packets[25], &mut out).unwrap();
            assert_eq!(out.len(), n_frames_expected * FRAME, "{n_lost} lost");
            let n_recovered = usize::from(fec && has_fec(&packets[25]));
            let gap = &out[..(n_frames_expected - 1 - n_recovered) * FRAME];
            let (concealed, silent) = gap.split_at(gap.len().min(3 * FRAME));
            assert!(concealed.is_empty() || level_dbfs(concealed) > -50.0);
            assert!(silent.iter().all(|&sample| sample == 0));
        }
        check(false, 0, 1);
        check(false, 1, 2);
        check(false, 3, 4);
        check(false, 10, 11);
        check(true, 1, 2);
        check(true, 10, 11);
        // A jump of the sender's clock is not filled for hours.
        check(false, u32::MAX, 101);
        check(true, u32::MAX, 101);
    }

    #[test]
    fn dtx_gives_tiny_packets_and_quiet_frames() {
        let settings = OpusSettings {
            dtx: true,
            ..OpusSettings::default()
        };
        let mut pcm = voice(FRAME * 20);
        let mut seed = fastrand::Rng::with_seed(1);
        pcm.extend((0..FRAME * 80).map(|_| seed.i16(-20..20)));
        let packets = encode_all(&pcm, settings);
        let n_tiny = packets
            .iter()
            .filter(|packet| packet.len() <= MAX_DTX_BYTES)
            .count();
        assert!(n_tiny > 20, "{n_tiny}");
        let mut decoder = OpusDecoder::new(RATE).unwrap();
        let mut out = Vec::new();
        for packet in &packets {
            decoder.decode(packet, &mut out).unwrap();
        }
        assert_eq!(out.len(), pcm.len());
        let pause = &out[FRAME * 60..];
        assert!(level_dbfs(pause) < -50.0, "{}", level_dbfs(pause));
        assert!(pause.iter().any(|&sample| sample != 0), "comfort noise");
    }

    #[test]
    fn durations_come_from_the_first_bytes() {
        fn check(packet: &[u8], expected: Result<u64, OpusPacketError>) {
            let expected = expected.map(Duration::from_micros);
            assert_eq!(packet_duration(packet), expected, "{packet:02x?}");
        }
        check(&[], Err(OpusPacketError::Empty));
        check(&[0 << 3], Ok(10_000));
        check(&[3 << 3], Ok(60_000));
        check(&[(3 << 3) | 1], Ok(120_000));
        check(&[13 << 3], Ok(20_000));
        check(&[14 << 3], Ok(10_000));
        check(&[16 << 3], Ok(2_500));
        check(&[31 << 3], Ok(20_000));
        check(&[(31 << 3) | 3], Err(OpusPacketError::NoFrameCount));
        check(&[(31 << 3) | 3, 0xC0], Err(OpusPacketError::ZeroFrames));
        check(&[(31 << 3) | 3, 6], Ok(120_000));
        check(&[(31 << 3) | 3, 7], Err(OpusPacketError::TooLong));
        check(&[(16 << 3) | 3, 48], Ok(120_000));
        check(&[(16 << 3) | 3, 49], Err(OpusPacketError::TooLong));
    }

    /// Decodes after a loss, and expects either the announced length or nothing at all.
    fn check_total(packet: &[u8], n_lost: u32) {
        let mut decoder = OpusDecoder::new(RATE).unwrap();
        decoder.lost(n_lost);
        let mut out = vec![7; 3];
        let n_expected = match decoder.decode(packet, &mut out) {
            Ok(()) => {
                let duration = packet_duration(packet).unwrap();
                n_samples(USUAL_PACKET * n_lost + duration, RATE)
            }
            Err(MediaError::MalformedOpus(_)) => 0,
            Err(other) => panic!("{other}"),
        };
        assert_eq!(out.len(), 3 + n_expected, "{packet:02x?}");
        // The decoder lives on.
        decoder.decode(&[0], &mut out).unwrap();
    }

    #[test]
    fn every_packet_of_one_byte_is_decoded_or_refused() {
        for toc in 0..=u8::MAX {
            check_total(&[toc], 0);
            check_total(&[toc], 2);
        }
    }

    proptest! {
        #[test]
        fn random_packets_are_decoded_or_refused(
            packet in proptest::collection::vec(any::<u8>(), 0..400),
            n_lost in 0_u32..5,
        ) {
            check_total(&packet, n_lost);
        }
    }
}

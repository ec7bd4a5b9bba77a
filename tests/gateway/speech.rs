//! What is said arrives, whatever the codec.

use std::time::Duration;

use trunkline::media::{AudioFormat, Codec, OpusDecoder, OpusEncoder, OpusSettings, SampleRate};
use trunkline::simulator::judge::cross_correlation;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Act, SoftPhone, speech};

use crate::client::{Client, What};
use crate::harness::{CONFIG, World};

const DEPLOYMENTS: [&str; 3] = ["ga", "preview", "pass"];

/// Likeness that every waveform codec keeps, there and back.
const WAVEFORM: f64 = 0.95;

/// Says one sentence to the agent and returns how alike what comes back is.
async fn echo(world: &World, url: &str, dialect: Dialect, format: AudioFormat) -> f64 {
    let phone = SoftPhone::new(url, dialect)
        .and_then(|phone| phone.format(format))
        .expect("a good address")
        .script([
            Act::Say(speech::hours()),
            Act::WaitForReply {
                min_audio: Duration::from_millis(500),
                until_end: true,
                timeout: Duration::from_secs(20),
            },
            Act::HangUp,
        ]);
    let report = world.call(&phone).await;
    assert!(report.is_heard_both_ways(), "{report}");
    assert_eq!(report.violations.len(), 0, "{report}");
    assert_eq!(report.underruns.len(), 0, "{report}");
    let heard = report.audio.expect("audio was kept");
    let said = speech::hours().at_rate(heard.rate);
    cross_correlation(&said.samples, &heard.samples, heard.rate as usize).peak
}

async fn check_audio_dialect(codec: Codec, rates: &[SampleRate]) {
    let world = World::new("");
    for agent in DEPLOYMENTS {
        for rate in rates {
            let url = format!("ws://gateway/v1/audio/{agent}");
            let format = AudioFormat { codec, rate: *rate };
            let peak = echo(&world, &url, Dialect::Audio, format).await;
            println!("{agent} {format}: {peak:.4}");
            assert!(peak >= WAVEFORM, "{agent} {format}: {peak}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn through_mu_law_and_back() {
    let world = World::new("");
    for agent in DEPLOYMENTS {
        let url = format!("ws://gateway/twilio/media/{agent}");
        let peak = echo(&world, &url, Dialect::Twilio, AudioFormat::ULAW_8K).await;
        println!("{agent} twilio: {peak:.4}");
        assert!(peak >= WAVEFORM, "{agent}: {peak}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_pieces_of_several_messages() {
    for deployment in DEPLOYMENTS {
        for ms in [20, 40, 50, 200] {
            let agent = format!("[agents.a]\ndeployment = '{deployment}'\nappend = '{ms}ms'\n");
            let world = World::with_config(&format!("{CONFIG}\n{agent}"), "");
            let url = "ws://gateway/twilio/media/a";
            let peak = echo(&world, url, Dialect::Twilio, AudioFormat::ULAW_8K).await;
            assert!(peak >= WAVEFORM, "{agent}: {peak}");
            let session = world.simulator.sessions().pop().expect("a session");
            let piece = session.appended.audio / session.appended.n_appends as u32;
            // Whole messages of 20 ms.
            let expected = Duration::from_millis(u64::div_ceil(ms, 20) * 20);
            assert!(
                piece.abs_diff(expected) < Duration::from_millis(1),
                "{agent}: {piece:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn as_pcm_at_every_rate() {
    check_audio_dialect(Codec::Pcm16, &SampleRate::ALL).await;
}

#[tokio::test(start_paused = true)]
async fn as_mu_law() {
    check_audio_dialect(Codec::Ulaw, &[SampleRate::HZ_8000, SampleRate::HZ_16000]).await;
}

#[tokio::test(start_paused = true)]
async fn as_a_law() {
    check_audio_dialect(Codec::Alaw, &[SampleRate::HZ_8000, SampleRate::HZ_16000]).await;
}

#[tokio::test(start_paused = true)]
async fn as_g722() {
    check_audio_dialect(Codec::G722, &[SampleRate::HZ_16000]).await;
}

/// One direction of a call's Opus, 20 ms at a time.
struct Opus {
    encoder: OpusEncoder,
    frame_size: usize,
}

impl Opus {
    fn new(rate: SampleRate) -> Self {
        Self {
            encoder: OpusEncoder::new(rate, OpusSettings::default()).expect("libopus"),
            frame_size: rate.hz() as usize / 50,
        }
    }

    fn packets(&mut self, samples: &[i16]) -> Vec<Vec<u8>> {
        let mut encode = |samples: &[i16]| {
            let mut frame = samples.to_vec();
            frame.resize(self.frame_size, 0);
            let mut packet = Vec::new();
            self.encoder.encode(&frame, &mut packet).expect("20 ms");
            packet
        };
        samples.chunks(self.frame_size).map(&mut encode).collect()
    }
}

fn decoded<'a>(rate: SampleRate, packets: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<i16> {
    let mut decoder = OpusDecoder::new(rate).expect("libopus");
    let mut heard = Vec::new();
    for packet in packets {
        decoder.decode(packet, &mut heard).expect("an Opus packet");
    }
    heard
}

/// Opus keeps what is heard and not the waveform: at its default 24 kbit/s, applied there and back, it is
/// alone no more like the original than 0.82 to 0.86 (measured, 8 to 48 kHz).
const OPUS_WAVEFORM: f64 = 0.75;

/// What the way through the gateway may take from that: frames that begin elsewhere, and at 8 and
/// 16 kHz a resampling each way.
const OPUS_LOSS: f64 = 0.06;

/// Likeness of loudness over time, in steps of 10 ms, which Opus does keep.
const OPUS_LOUDNESS: f64 = 0.95;

/// The loudness of each 10 ms, its mean taken away.
fn loudness(samples: &[i16], rate: SampleRate) -> Vec<i16> {
    let rms = |step: &[i16]| {
        let energy: f64 = step.iter().map(|s| f64::from(*s).powi(2)).sum();
        (energy / step.len() as f64).sqrt()
    };
    let steps: Vec<f64> = samples.chunks(rate.hz() as usize / 100).map(rms).collect();
    let mean = steps.iter().sum::<f64>() / steps.len() as f64;
    steps.iter().map(|rms| (rms - mean) as i16).collect()
}

async fn check_opus(world: &World, agent: &str, rate: SampleRate) {
    let mut client = Client::connect(world.connect(), agent).await;
    client.start("opus", rate.hz()).await;
    let said = speech::hours().at_rate(rate.hz());
    let mut opus = Opus::new(rate);
    let pause = vec![0; 4 * rate.hz() as usize];
    client.say(&opus.packets(&said.samples)).await;
    client.say(&opus.packets(&pause)).await;
    let packets = client.seen.iter().filter_map(|seen| match &seen.what {
        What::Audio(packet) => Some(packet),
        _ => None,
    });
    let heard = decoded(rate, packets);
    let max_lag = rate.hz() as usize;
    let found = cross_correlation(&said.samples, &heard, max_lag);
    let codec = {
        let once = decoded(rate, &Opus::new(rate).packets(&said.samples));
        let twice = decoded(rate, &Opus::new(rate).packets(&once));
        cross_correlation(&said.samples, &twice, max_lag).peak
    };
    let start = usize::try_from(found.lag).unwrap_or(0);
    let end = heard.len().min(start + said.samples.len());
    let loud = cross_correlation(
        &loudness(&said.samples, rate),
        &loudness(&heard[start..end], rate),
        1,
    );
    println!(
        "{agent} opus {rate}: {:.4}, the codec alone {codec:.4}, loudness {:.4}",
        found.peak, loud.peak
    );
    assert!(found.peak >= OPUS_WAVEFORM, "{agent} {rate}: {found:?}");
    assert!(found.peak >= codec - OPUS_LOSS, "{agent} {rate}: {found:?}");
    assert!(loud.peak >= OPUS_LOUDNESS, "{agent} {rate}: {loud:?}");
}

#[tokio::test(start_paused = true)]
async fn as_opus() {
    let world = World::new("");
    for agent in DEPLOYMENTS {
        for rate in [
            SampleRate::HZ_8000,
            SampleRate::HZ_16000,
            SampleRate::HZ_24000,
            SampleRate::HZ_48000,
        ] {
            check_opus(&world, agent, rate).await;
        }
    }
}

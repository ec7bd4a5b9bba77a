//! What is said arrives, whatever the codec.

use std::time::Duration;

use trunkline::simulator::judge::cross_correlation;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Act, SoftPhone, speech};

use crate::harness::World;

/// Says one sentence to the agent and returns how alike what comes back is.
async fn echo(url: &str, dialect: Dialect) -> f64 {
    let world = World::new("");
    let phone = SoftPhone::new(url, dialect)
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
    let heard = report.audio.expect("audio was kept");
    let said = speech::hours().at_rate(heard.rate);
    cross_correlation(&said.samples, &heard.samples, heard.samples.len()).peak
}

#[tokio::test(start_paused = true)]
async fn through_mu_law_and_back() {
    let peak = echo("ws://gateway/twilio/media/ga", Dialect::Twilio).await;
    assert!(peak >= 0.95, "{peak}");
}

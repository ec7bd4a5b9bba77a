//! Callers by AudioSocket of whom nothing is heard: Asterisk sends no audio of a line that is quiet by its own measure.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use trunkline::call::EndReason;

use crate::harness::{CONFIG, World};

fn config(rate: &str) -> String {
    let settings = "[listener.audiosocket]\naddress = '127.0.0.1:0'\nagent = 'ga'";
    format!("{CONFIG}\n{settings}\n{rate}\n")
}

fn world(rate: &str) -> World {
    let mut world = World::with_config(&config(rate), "");
    world.is_audiosocket = true;
    world
}

/// A caller that has said its UUID.
async fn call(world: &World) -> DuplexStream {
    let mut line = world.connect();
    let uuid: Vec<u8> = [&[1, 0, 16][..], &[7; 16]].concat();
    line.write_all(&uuid).await.expect("room");
    line
}

async fn packet(line: &mut DuplexStream) -> Option<(u8, Vec<u8>)> {
    let kind = line.read_u8().await.ok()?;
    let mut payload = vec![0; line.read_u16().await.ok()?.into()];
    line.read_exact(&mut payload).await.ok()?;
    Some((kind, payload))
}

/// Whether any of the packets of the next so many seconds is louder than silence, and how many there are.
async fn listen(line: &mut DuplexStream, seconds: u64) -> (bool, usize) {
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut is_loud, mut n) = (false, 0);
    while let Ok(Some((kind, audio))) = tokio::time::timeout_at(until, packet(line)).await {
        assert_eq!((kind, audio.len()), (0x10, 320));
        is_loud |= audio.iter().any(|byte| *byte != 0);
        n += 1;
    }
    (is_loud, n)
}

#[tokio::test(start_paused = true)]
async fn who_only_presses_keys_is_there() {
    let world = world("");
    let mut line = call(&world).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    line.write_all(b"\x03\x00\x015\x03\x00\x01#")
        .await
        .expect("room");
    let (is_answered, n) = listen(&mut line, 20).await;
    assert!(is_answered);
    // The line is never quiet, one packet each 20 ms.
    assert!((990..=1_001).contains(&n), "{n}");
    line.write_all(&[0, 0, 0]).await.expect("room");
    assert_eq!(world.ended(1).await.end_reason, EndReason::CallerHangup);
    drop(line);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn who_says_and_presses_nothing_never_started() {
    let world = world("");
    let mut line = call(&world).await;
    let nothing = timeout(Duration::from_secs(4), packet(&mut line)).await;
    assert!(nothing.is_err());
    let ended = world.ended(1).await.end_reason;
    assert_eq!(ended, EndReason::CallerNeverStarted);
}

/// Asterisk's thread waits for the gateway's next packet (asterisk/asterisk#2089, telephony reference 9.6).
#[tokio::test(start_paused = true)]
async fn a_rate_that_is_told_is_spoken_at_once() {
    let world = world("rate = 8000");
    let mut line = call(&world).await;
    let (is_loud, n) = listen(&mut line, 2).await;
    assert!(!is_loud && (95..=101).contains(&n), "{n}");
    line.write_all(&[0, 0, 0]).await.expect("room");
    assert_eq!(world.ended(1).await.end_reason, EndReason::CallerHangup);
    drop(line);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn silence_is_sent_while_the_session_opens() {
    let (mut world, mut dialled) = World::scripted(&config("rate = 8000"), "", &["ga"]);
    world.is_audiosocket = true;
    let mut line = call(&world).await;
    let session = dialled[0].recv().await.expect("a dial");
    let (is_loud, n) = listen(&mut line, 2).await;
    assert!(!is_loud && (95..=101).contains(&n), "{n}");
    let simulator = Arc::clone(&world.simulator);
    TaskTracker::new().spawn(async move { simulator.serve_connection(session).await });
    let (is_loud, n) = listen(&mut line, 2).await;
    assert!(!is_loud && (95..=102).contains(&n), "{n}");
    line.write_all(&[0, 0, 0]).await.expect("room");
    assert_eq!(world.ended(1).await.end_reason, EndReason::CallerHangup);
    drop(line);
    world.assert_quiet().await;
}

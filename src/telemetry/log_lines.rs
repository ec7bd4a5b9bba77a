//! The log on its way out: lines are written by a thread of their own, so that nothing waits for a slow disk or for a
//! reader that has stopped. What finds no room, or cannot be written, is lost and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc, Describer};
use prometheus::proto::MetricFamily;

use super::catalogue::LOG_LINES_LOST;
use super::process::family;

/// Lines that may wait to be written; the longest silence of a reader that costs none, at 1,000 lines a second, is 16 s.
const MOST_WAITING: usize = 16 * 1024;

/// How long what still waits may take at the end of the process.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Between two lines that tell of lost ones.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Lost by this process, which has one log.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Where lines are put, never waiting. Clones lead to the same log.
#[derive(Clone, Debug)]
pub struct LogLines {
    lines: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

/// Its drop waits until what was put is written, but not for ever.
#[derive(Debug)]
pub struct LogEnd(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// Put and neither written nor lost.
    waiting: AtomicU64,
    lost: &'static AtomicU64,
}

impl LogLines {
    /// Begins to write to `out`.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had.
    pub fn to(out: impl Write + Send + 'static) -> io::Result<(Self, LogEnd)> {
        Self::counted(out, MOST_WAITING, &LOST)
    }

    fn counted(
        out: impl Write + Send + 'static,
        most_waiting: usize,
        lost: &'static AtomicU64,
    ) -> io::Result<(Self, LogEnd)> {
        let (lines, waiting) = sync_channel(most_waiting);
        let counts = Arc::new(Counts {
            waiting: AtomicU64::new(0),
            lost,
        });
        let writer = Writer {
            out,
            counts: Arc::clone(&counts),
            most_waiting,
            n_told: lost.load(Ordering::Relaxed),
            told_at: None,
        };
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.run(&waiting))?;
        let end = LogEnd(Arc::clone(&counts));
        Ok((Self { lines, counts }, end))
    }
}

/// A line at a time, as the formatter writes them.
impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Before it is seen by the thread, which counts down.
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        if self.lines.try_send(line.to_vec()).is_err() {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread's own.
struct Writer<W> {
    out: W,
    counts: Arc<Counts>,
    most_waiting: usize,
    /// Of the lost lines, those that the log tells of.
    n_told: u64,
    told_at: Option<Instant>,
}

impl<W: Write> Writer<W> {
    fn run(mut self, lines: &Receiver<Vec<u8>>) {
        while let Ok(line) = lines.recv() {
            let written = self.out.write_all(&line).and_then(|()| self.out.flush());
            match written {
                Ok(()) => self.tell_of_lost(),
                // A full disk, or nobody at the other end any more; the next line may fare better.
                Err(_) => drop(self.counts.lost.fetch_add(1, Ordering::Relaxed)),
            }
            self.counts.waiting.fetch_sub(1, Ordering::Release);
        }
    }

    /// Whoever reads the log should know that it has a gap. The line waits its turn like any other, and so for room.
    fn tell_of_lost(&mut self) {
        let n_lost = self.counts.lost.load(Ordering::Relaxed);
        let has_room = self.counts.waiting.load(Ordering::Relaxed) < self.most_waiting as u64 / 2;
        let is_soon = self.told_at.is_some_and(|at| at.elapsed() < TELL_EVERY);
        if n_lost == self.n_told || is_soon || !has_room {
            return;
        }
        tracing::warn!(
            lines = n_lost - self.n_told,
            "the log has a gap: lines found no room or could not be written"
        );
        self.n_told = n_lost;
        self.told_at = Some(Instant::now());
    }
}

impl Drop for LogEnd {
    fn drop(&mut self) {
        let until = Instant::now() + LAST_LINES;
        while self.0.waiting.load(Ordering::Acquire) > 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Tells how many lines were lost.
#[derive(Debug)]
pub(super) struct LogCollector(Desc);

impl LogCollector {
    pub(super) fn new() -> Self {
        let description = LOG_LINES_LOST.opts().describe();
        Self(description.expect("names are constants"))
    }
}

impl Collector for LogCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        family(LOG_LINES_LOST, LOST.load(Ordering::Relaxed) as f64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Writes nothing before it is told how the next line fares.
    struct Reader {
        fares: Receiver<io::Result<()>>,
        read: Arc<Mutex<String>>,
    }

    impl Write for Reader {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.fares.recv().expect("told")?;
            let mut read = self.read.lock().expect("no panic");
            read.push_str(std::str::from_utf8(line).expect("text"));
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Log {
        lines: LogLines,
        fare: Sender<io::Result<()>>,
        read: Arc<Mutex<String>>,
        lost: &'static AtomicU64,
        end: LogEnd,
    }

    fn log(most_waiting: usize) -> Log {
        let lost: &'static AtomicU64 = Box::leak(Box::default());
        let (fare, fares) = channel();
        let read = Arc::default();
        let reader = Reader {
            fares,
            read: Arc::clone(&read),
        };
        let (lines, end) = LogLines::counted(reader, most_waiting, lost).expect("a thread");
        Log {
            lines,
            fare,
            read,
            lost,
            end,
        }
    }

    #[test]
    fn who_writes_never_waits_and_what_has_no_room_is_counted() {
        let mut log = log(4);
        // One may be with the thread already, which waits for its reader.
        for n in 0..20 {
            log.lines.write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        let lost = log.lost.load(Ordering::Relaxed);
        assert!((15..=16).contains(&lost), "{lost}");
        let written = 20 - lost;
        for _ in 0..written {
            log.fare.send(Ok(())).unwrap();
        }
        drop(log.end);
        let read = log.read.lock().unwrap();
        assert_eq!(read.lines().count() as u64, written, "{read}");
        assert!(read.starts_with("0\n1\n2\n3\n"), "{read}");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_next_line_is_tried() {
        let mut log = log(16);
        let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
        for (line, fares) in [
            ("a\n", Ok(())),
            ("b\n", full()),
            ("c\n", full()),
            ("d\n", Ok(())),
        ] {
            log.lines.write_all(line.as_bytes()).unwrap();
            log.fare.send(fares).unwrap();
        }
        drop(log.end);
        assert_eq!(*log.read.lock().unwrap(), "a\nd\n");
        assert_eq!(log.lost.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_end_does_not_wait_for_a_reader_that_has_stopped() {
        let mut log = log(2);
        log.lines.write_all(b"a\n").unwrap();
        // Returns although nobody says how the line fares.
        drop(log.end);
        assert_eq!(*log.read.lock().unwrap(), "");
        drop(log.fare);
    }
}

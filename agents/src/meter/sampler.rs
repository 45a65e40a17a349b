//! The thread that reads the meter.
//!
//! A sensor bus can be slow or stuck, and the agent's one task must not wait for it. The thread reads at
//! a pace, and at once when it is asked to; what it read waits in a buffer of bounded size. A reading that
//! finds no room is dropped: totals are running totals, so the next one covers it. A meter that fails too
//! often is replaced by the next kind in the table, and after the last one by the engine's model. The thread
//! ends when its sampler is dropped; nobody waits for it, as it may hang in a read for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use moe2_engine::agent::MeterReading;
use moe2_model::Time;
use tokio::sync::mpsc;

use super::guard::{Guarded, Reading};
use super::{Chain, Meter};

/// Between readings while work runs: what a step of power within one leaves unknown is small.
const BUSY_EVERY: Duration = Duration::from_millis(100);
/// Between readings otherwise: idle power is learnt from them, and no counter wraps twice in between.
const IDLE_EVERY: Duration = Duration::from_secs(1);
/// Readings that may wait for the agent's task: seconds of its absence.
const WAITING: usize = 64;

/// What the thread found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Sample {
    /// The running total.
    Reading(MeterReading),
    /// No kind of meter works any more.
    Lost,
}

/// The way to the thread.
pub(crate) struct Sampler {
    now: SyncSender<()>,
    busy: Arc<AtomicBool>,
}

impl Sampler {
    /// Starts reading `meter`, and after it what is left of `chain`. `zero` is the engine's zero of time.
    pub(crate) fn start(
        meter: Box<dyn Meter>,
        chain: Chain,
        zero: Instant,
    ) -> std::io::Result<(Self, mpsc::Receiver<Sample>)> {
        let (now, asked) = sync_channel(1);
        let (samples, inbox) = mpsc::channel(WAITING);
        let busy = Arc::new(AtomicBool::new(false));
        let thread = Thread {
            meter: Guarded::new(meter, BUSY_EVERY),
            chain,
            zero,
            samples,
            busy: busy.clone(),
        };
        std::thread::Builder::new()
            .name("meter".to_owned())
            .spawn(move || thread.run(&asked))?;
        Ok((Self { now, busy }, inbox))
    }

    /// Reads as soon as possible.
    pub(crate) fn read_now(&self) {
        // Full: it is about to read anyway. Closed: it has said that all is lost.
        let _ = self.now.try_send(());
    }

    /// Sets the pace.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }
}

struct Thread {
    meter: Guarded,
    chain: Chain,
    zero: Instant,
    samples: mpsc::Sender<Sample>,
    busy: Arc<AtomicBool>,
}

impl Thread {
    fn run(mut self, asked: &Receiver<()>) {
        loop {
            match self.meter.read(self.now()) {
                Reading::Total(reading) => {
                    let _ = self.samples.try_send(Sample::Reading(reading));
                }
                Reading::Nothing => {}
                Reading::Failed(error) => {
                    tracing::warn!(%error, "the energy meter gave no reading: trying again");
                }
                Reading::Lost(error) => {
                    tracing::error!(%error, "the energy meter failed: the next kind is tried");
                    let Some(meter) = self.chain.next_meter() else {
                        tracing::error!("no energy meter is left: joules are modelled from now on");
                        // This one must arrive, and this thread has nothing else to do.
                        let _ = self.samples.blocking_send(Sample::Lost);
                        return;
                    };
                    self.meter = Guarded::new(meter, BUSY_EVERY);
                }
            }
            let busy = self.busy.load(Ordering::Relaxed);
            let pace = if busy { BUSY_EVERY } else { IDLE_EVERY };
            match asked.recv_timeout(pace) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn now(&self) -> Time {
        let micros = u64::try_from(self.zero.elapsed().as_micros()).unwrap_or(u64::MAX);
        Time::from_micros(micros)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Choice, MeterError, Place};
    use super::*;
    use moe2_model::{EnergySource, Figure, Joules, Seconds};

    /// Reads until it has failed, counting one joule a read.
    struct Scripted {
        good: u32,
        joules: f64,
        /// A read begins only when this says so, as on a bus that hangs.
        gate: Option<Receiver<()>>,
    }

    impl Meter for Scripted {
        fn source(&self) -> EnergySource {
            EnergySource::Ina3221
        }

        fn lag(&self) -> Seconds {
            Seconds::saturating(0.25)
        }

        fn read(&mut self, _now: Time) -> Result<Option<Figure>, MeterError> {
            if let Some(gate) = &self.gate {
                gate.recv()
                    .map_err(|_| MeterError::Dead { path: "x".into() })?;
            }
            if self.good == 0 {
                return Err(MeterError::Dead { path: "x".into() });
            }
            self.good -= 1;
            self.joules += 1.0;
            Ok(Some(Figure {
                joules: Joules::saturating(self.joules),
                error: Joules::ZERO,
                source: self.source(),
            }))
        }
    }

    fn scripted(good: u32, gate: Option<Receiver<()>>) -> Box<dyn Meter> {
        Box::new(Scripted {
            good,
            joules: 0.0,
            gate,
        })
    }

    fn nothing_else() -> Chain {
        let root = tempfile::tempdir().unwrap();
        Chain::new(Place::below(root.path()), Choice::Auto)
    }

    #[test]
    fn a_meter_that_fails_is_the_last_word_only_if_no_other_kind_is_left() {
        let (sampler, mut inbox) =
            Sampler::start(scripted(2, None), nothing_else(), Instant::now()).unwrap();
        sampler.set_busy(true);
        let mut joules = Vec::new();
        while let Some(Sample::Reading(reading)) = inbox.blocking_recv() {
            assert_eq!(reading.lag, Seconds::saturating(0.25));
            joules.push(reading.total.joules.get());
            sampler.read_now();
        }
        assert_eq!(joules, [1.0, 2.0]);
        assert_eq!(inbox.blocking_recv(), None, "the thread has ended");
    }

    #[test]
    fn the_next_kind_takes_over_from_one_that_fails() {
        let root = tempfile::tempdir().unwrap();
        super::super::sysfs::fixture(
            root.path(),
            &[
                ("sys/class/powercap/intel-rapl:0/name", "package-0"),
                ("sys/class/powercap/intel-rapl:0/energy_uj", "1000000"),
                (
                    "sys/class/powercap/intel-rapl:0/max_energy_range_uj",
                    "9000000",
                ),
            ],
        );
        let counter = root
            .path()
            .join("sys/class/powercap/intel-rapl:0/energy_uj");
        let chain = Chain::new(Place::below(root.path()), Choice::Auto);
        let (sampler, mut inbox) =
            Sampler::start(scripted(1, None), chain, Instant::now()).unwrap();
        sampler.set_busy(true);
        let mut microjoules = 1_000_000;
        let mut sources = Vec::new();
        while !sources.contains(&EnergySource::Rapl) {
            // It counts only once it has been seen to move.
            microjoules += 100;
            let whole = root.path().join("new");
            std::fs::write(&whole, microjoules.to_string()).unwrap();
            std::fs::rename(&whole, &counter).unwrap();
            sampler.read_now();
            match inbox.try_recv() {
                Ok(Sample::Reading(reading)) => sources.push(reading.total.source),
                Ok(Sample::Lost) => panic!("there is another kind: {sources:?}"),
                Err(_) => std::thread::yield_now(),
            }
        }
        assert_eq!(sources, [EnergySource::Ina3221, EnergySource::Rapl]);
    }

    #[test]
    fn whoever_asks_never_waits_for_a_bus_that_hangs_and_dropping_ends_the_thread() {
        let (open, gate) = std::sync::mpsc::channel();
        let (sampler, mut inbox) =
            Sampler::start(scripted(9_999, Some(gate)), nothing_else(), Instant::now()).unwrap();
        // Far more than the channel holds: this returns although nothing is read.
        for _ in 0..1_000 {
            sampler.read_now();
        }
        assert!(inbox.try_recv().is_err());
        open.send(()).unwrap();
        assert!(matches!(inbox.blocking_recv(), Some(Sample::Reading(_))));
        drop(sampler);
        // The read that was begun may end; then the thread does, and its side of the buffer closes.
        for _ in 0..4 {
            let _ = open.send(());
        }
        while inbox.blocking_recv().is_some() {}
    }

    #[test]
    fn readings_that_find_no_room_are_dropped_and_the_next_covers_them() {
        let (open, gate) = std::sync::mpsc::channel();
        let (sampler, mut inbox) =
            Sampler::start(scripted(9_999, Some(gate)), nothing_else(), Instant::now()).unwrap();
        sampler.set_busy(true);
        for _ in 0..WAITING + 5 {
            open.send(()).unwrap();
            // Each asks for the next, or finds that one is asked for.
            while sampler.now.try_send(()).is_err() {
                std::thread::yield_now();
            }
        }
        drop(sampler);
        drop(open);
        let mut last = 0.0;
        let mut kept = 0;
        while let Some(Sample::Reading(reading)) = inbox.blocking_recv() {
            last = reading.total.joules.get();
            kept += 1;
        }
        assert_eq!(kept, WAITING);
        assert_eq!(last, WAITING as f64);
    }
}

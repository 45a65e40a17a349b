//! What must hold after a soak: memory and descriptors are flat, and every request ended as documented.
//!
//! "Flat" has to be shown: an interval that is so wide that it could hide a leak fails as a leak does.

use serde_json::{Value, json};

use super::trend::{Trend, trend};
use crate::live::vitals::{Descriptors, Vitals};

/// Growth of memory that is none, bytes an hour: allocators round up, and pages are touched for the first time.
const MEMORY_NOISE: f64 = 1_048_576.0;
/// Upper end of the interval that must be excluded, bytes an hour; a gibibyte in ten days.
const MEMORY_MOST: f64 = 4.0 * MEMORY_NOISE;
/// The same for descriptors, an hour.
const OPEN_NOISE: f64 = 1.0;
const OPEN_MOST: f64 = 4.0;
/// Threads come and go with blocking work.
const THREADS: (f64, f64) = (1.0, 4.0);

/// What is judged by its trend: its name, its value, and what of it is noise and what too much an hour.
type Series = (&'static str, fn(&Vitals) -> u64, (f64, f64));

/// What was seen of one process.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) name: String,
    /// Under load and after the warm-up: seconds, and the look.
    pub(super) looks: Vec<(f64, Vitals)>,
    /// Without load, before and after.
    pub(super) rest: (Vitals, Vitals),
}

/// Judges one process: what is to be said about it, and what does not hold.
pub(super) fn judge(seen: &Seen, seed: u64) -> (Value, Vec<String>) {
    let mut wrong = Vec::new();
    let mut row = json!({"process": seen.name});
    let series: [Series; 4] = [
        ("anonymous", |v| v.anonymous, (MEMORY_NOISE, MEMORY_MOST)),
        ("rss", |v| v.resident, (MEMORY_NOISE, MEMORY_MOST)),
        ("fds", |v| v.open.all(), (OPEN_NOISE, OPEN_MOST)),
        ("threads", |v| v.threads, THREADS),
    ];
    for (what, of, limits) in series {
        let values: Vec<(f64, f64)> = seen.looks.iter().map(|(t, v)| (*t, of(v) as f64)).collect();
        let found = trend(&values, seed);
        let ends = [values.first(), values.last()].map(|end| end.map(|(_, value)| value));
        row[what] = json!({"first": ends[0], "last": ends[1], "per_hour": found.map(|t| t.slope),
            "low": found.map(|t| t.low), "high": found.map(|t| t.high)});
        wrong.extend(rising(found, limits).map(|why| format!("{} of {}: {why}", what, seen.name)));
    }
    let (before, after) = seen.rest;
    row["at_rest"] = json!({"before": before.row(), "after": after.row()});
    let kinds = |open: Descriptors| {
        [
            ("sockets", open.sockets),
            ("pipes", open.pipes),
            ("files", open.files),
            ("others", open.others),
        ]
    };
    for ((kind, began), (_, ended)) in kinds(before.open).into_iter().zip(kinds(after.open)) {
        if ended > began {
            let name = &seen.name;
            wrong.push(format!(
                "{kind} of {name}: {began} before the load, {ended} after it"
            ));
        }
    }
    (row, wrong)
}

/// Why a series is not flat.
fn rising(found: Option<Trend>, (noise, most): (f64, f64)) -> Option<String> {
    let Some(Trend { slope, low, high }) = found else {
        return Some("too few looks".to_owned());
    };
    if low > 0.0 && high > noise {
        return Some(format!(
            "grows by {slope:.0} an hour ({low:.0} to {high:.0})"
        ));
    }
    (high > most)
        .then(|| format!("could grow by {high:.0} an hour ({low:.0} to {high:.0}); not decided"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::Rng;

    const LOOK: Vitals = Vitals {
        resident: 40 << 20,
        proportional: 30 << 20,
        anonymous: 20 << 20,
        open: Descriptors {
            sockets: 9,
            pipes: 2,
            files: 8,
            others: 4,
        },
        threads: 6,
        cpu: 1.0,
    };

    /// Fifty minutes of looks: noise of a few pages that hangs together, and what `leak` adds after so many hours.
    fn seen(seed: u64, leak: impl Fn(f64, &mut Vitals)) -> Seen {
        let mut rng = Rng::new(seed);
        let mut noise = 0.0;
        let look = |n: u32| {
            noise = 0.8 * noise + 30_000.0 * rng.normal();
            let mut look = LOOK;
            look.anonymous = look.anonymous.saturating_add_signed(noise as i64);
            look.resident = look.resident.saturating_add_signed(noise as i64);
            look.open.sockets += rng.below(4) as u64;
            leak(f64::from(n) / 360.0, &mut look);
            (f64::from(n) * 10.0, look)
        };
        Seen {
            name: "p".to_owned(),
            looks: (0..300).map(look).collect(),
            rest: (LOOK, LOOK),
        }
    }

    fn wrong(seen: &Seen) -> Vec<String> {
        judge(seen, 1).1
    }

    #[test]
    fn noise_is_flat() {
        for seed in 0..20 {
            assert_eq!(wrong(&seen(seed, |_, _| {})), [""; 0], "seed {seed}");
        }
    }

    #[test]
    fn a_leak_is_seen_in_what_leaks_and_nowhere_else() {
        for seed in 0..20 {
            // A kilobyte every second.
            let heap = wrong(&seen(seed, |hours, v| {
                v.anonymous += (hours * 3_600.0 * 1_024.0) as u64;
            }));
            assert!(
                heap.len() == 1 && heap[0].contains("anonymous of p: grows"),
                "{heap:?}"
            );
            let open = wrong(&seen(seed, |hours, v| {
                v.open.sockets += (hours * 6.0) as u64
            }));
            assert!(
                open.len() == 1 && open[0].contains("fds of p: grows"),
                "{open:?}"
            );
            let threads = wrong(&seen(seed, |hours, v| v.threads += (hours * 6.0) as u64));
            assert!(
                threads.len() == 1 && threads[0].contains("threads of p"),
                "{threads:?}"
            );
        }
    }

    #[test]
    fn what_fills_up_once_is_no_leak() {
        let cache = wrong(&seen(1, |hours, v| {
            v.anonymous += (2e6 * (hours / 0.05).min(1.0)) as u64;
        }));
        assert_eq!(cache, [""; 0]);
    }

    #[test]
    fn noise_that_could_hide_a_leak_fails_as_well() {
        let mut loud = seen(1, |_, _| {});
        let mut rng = Rng::new(1);
        for (_, look) in &mut loud.looks {
            look.anonymous += rng.below(200 << 20) as u64;
        }
        let loud = wrong(&loud);
        assert!(
            loud.len() == 1 && loud[0].contains("anonymous of p"),
            "{loud:?}"
        );
        let mut short = seen(1, |_, _| {});
        short.looks.truncate(5);
        assert_eq!(wrong(&short).len(), 4);
    }

    #[test]
    fn what_is_open_after_the_load_was_open_before() {
        let mut left = seen(1, |_, _| {});
        left.rest.1.open.files += 1;
        let left = wrong(&left);
        assert_eq!(left, ["files of p: 8 before the load, 9 after it"]);
    }
}

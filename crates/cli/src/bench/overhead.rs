//! The coordinator's own time under steady load, with stub experts on a real agent over real QUIC.
//!
//! The load is open-loop: requests are due at fixed times whatever the answers do, and delays count
//! from when a request was due, so a stall is not hidden by the client waiting for it. The time from
//! a parsed request to its work written to QUIC comes from the coordinator's own histogram.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;

use moe2_cost::percentile;

use super::fleet;
use crate::client::Client;
use crate::out;
use crate::table::Table;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Requests per second.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// How long.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Print JSON with every sample.
    #[arg(long)]
    json: bool,
}

/// Connections; at 5 ms an answer each carries 200 requests per second at most.
const CONNECTIONS: usize = 16;

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let stub = "name = \"stub-a\"\nmodel = \"stub\"\nbackend = \"stub\"".to_owned();
    let running = fleet("overhead", vec![stub], 1)?;
    // One second of load that is not counted warms connections and allocators.
    load(running.api(), args.rate, 1)?;
    let before = histogram(running.admin())?;
    let samples = load(running.api(), args.rate, args.seconds)?;
    let after = histogram(running.admin())?;
    let own: Vec<(f64, f64)> = after
        .iter()
        .zip(&before)
        .map(|(a, b)| (a.0, a.1 - b.1))
        .collect();
    let (own50, own99) = (bucket_quantile(&own, 0.5), bucket_quantile(&own, 0.99));
    let at = |level| percentile(&samples, level).context("no request was answered");
    let (p50, p99) = (at(0.5)?, at(0.99)?);
    if args.json {
        let report = json!({"rate": args.rate, "seconds": args.seconds, "requests": samples.len(),
            "dispatch_s": {"p50_at_most": own50, "p99_at_most": own99, "buckets": own},
            "client_s": {"p50": p50, "p99": p99}, "client_samples_s": samples});
        out::json(&report)?;
        return Ok(());
    }
    let mut table = Table::new(&["TIME", "P50", "P99"]);
    let micros = |s: f64| format!("{:.0} µs", s * 1e6);
    table.row([
        "parsed request to QUIC (bucket's upper end)".into(),
        micros(own50),
        micros(own99),
    ]);
    table.row([
        "client, from when it was due (stub answers in 5 ms)".into(),
        micros(p50),
        micros(p99),
    ]);
    out::data(&format!(
        "{} requests at {}/s\n{table}",
        samples.len(),
        args.rate
    ));
    Ok(())
}

/// Seconds from when each request was due to its answer.
fn load(client: &Client, rate: u32, seconds: u32) -> anyhow::Result<Vec<f64>> {
    let total = (rate * seconds) as usize;
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now() + Duration::from_millis(50);
    let gap = Duration::from_secs(1) / rate;
    let workers: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (client, next) = (client.clone(), next.clone());
            thread::spawn(move || -> anyhow::Result<Vec<f64>> {
                let body = json!({"model": "auto", "temperature": 0,
                    "messages": [{"role": "user", "content": "Is it so?"}],
                    "structured_outputs": {"choice": ["yes", "no"]}});
                let mut samples = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= total {
                        return Ok(samples);
                    }
                    let due = began + gap * u32::try_from(n).unwrap_or(u32::MAX);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    client.post("/v1/chat/completions", &body)?;
                    samples.push(due.elapsed().as_secs_f64());
                }
            })
        })
        .collect();
    let mut samples = Vec::with_capacity(total);
    for worker in workers {
        let done = worker
            .join()
            .map_err(|_| anyhow::anyhow!("a load thread failed"))?;
        samples.extend(done?);
    }
    Ok(samples)
}

/// Upper end in seconds and cumulated count of every bucket.
fn histogram(client: &Client) -> anyhow::Result<Vec<(f64, f64)>> {
    let text = client.get_text("/metrics")?;
    let buckets: Vec<(f64, f64)> = text
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix("moe2_dispatch_duration_seconds_bucket{le=\"")?;
            let (upper, count) = rest.split_once("\"} ")?;
            let upper = if upper == "+Inf" {
                f64::INFINITY
            } else {
                upper.parse().ok()?
            };
            Some((upper, count.parse().ok()?))
        })
        .collect();
    (!buckets.is_empty())
        .then_some(buckets)
        .context("the coordinator exports no dispatch times")
}

/// Upper end of the bucket that holds this share of the observations.
fn bucket_quantile(buckets: &[(f64, f64)], share: f64) -> f64 {
    let total = buckets.last().map_or(0.0, |b| b.1);
    buckets
        .iter()
        .find(|b| b.1 >= total * share)
        .map_or(f64::NAN, |b| b.0)
}

//! The closed loop: a number of calls in flight, each followed by the next as soon as it is
//! answered.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// A call on its way. An error says what was wrong with the answer.
pub type Answer = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
/// Makes the calls of a worker by its number.
pub type Call = Arc<dyn Fn(usize) -> Answer + Send + Sync>;

/// The rate, the latencies in microseconds and the CPU times of one round.
#[derive(Clone, Copy, Default)]
pub struct Sample {
    pub rate: f64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    /// CPU time in microseconds a call.
    pub server_cpu: f64,
    pub postgres_cpu: f64,
}

/// Calls for so long, and gives the latencies in microseconds. The first error ends everything.
pub async fn run(call: &Call, in_flight: usize, time: Duration) -> Result<Sample, String> {
    let (began, failed) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let workers = (0..in_flight).map(|worker| {
        let (call, failed) = (call.clone(), failed.clone());
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while began.elapsed() < time && !failed.load(Ordering::Relaxed) {
                let sent = Instant::now();
                if let Err(error) = call(worker).await {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                latencies.push(micros(sent.elapsed()));
            }
            Ok(latencies)
        })
    });
    let workers: Vec<_> = workers.collect();
    let mut latencies = Vec::new();
    let mut error = None;
    for worker in workers {
        match worker.await.map_err(|error| error.to_string())? {
            Ok(more) => latencies.extend(more),
            Err(wrong) => error = error.or(Some(wrong)),
        }
    }
    if let Some(error) = error {
        return Err(error);
    }
    let rate = latencies.len() as f64 / began.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| percentile(&latencies, share));
    Ok(Sample { rate, p50, p99, p999, ..Sample::default() })
}

/// A percentile of sorted numbers.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

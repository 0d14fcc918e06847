//! Reloads certificates while the service runs, for new connections, all files together.

use std::{convert::Infallible, time::Duration};

use chrono::{TimeDelta, Utc};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Contents, End, Tls, TlsError, Usable};

/// How long before it expires a certificate is warned of, and how often.
const NOTICE: TimeDelta = TimeDelta::days(7);
const REMINDER: Duration = Duration::from_hours(12);

impl Tls {
    /// Reads the files periodically, for ever, and uses their contents when they have changed and
    /// can be served with. Exports when the certificates in use expire.
    ///
    /// Changes are detected by contents and not by notification: mounted secrets are replaced
    /// through symbolic links, which notifications miss. New contents must be the same in two
    /// readings in a row, so that half-written files are not used.
    pub async fn keep_current(mut self) -> Infallible {
        self.observe();
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut seen, mut fault, mut reminded) = (None, None, None::<Instant>);
        loop {
            if reminded.is_none_or(|at| at.elapsed() >= REMINDER) {
                self.ends.borrow().iter().for_each(End::remind);
                reminded = Some(Instant::now());
            }
            ticks.tick().await;
            match self.renew(&mut seen).await {
                Ok(false) => {}
                Ok(true) => (fault, reminded) = (None, None),
                Err(error) => {
                    let error = error.to_string();
                    if fault.as_ref() != Some(&error) {
                        tracing::warn!(
                            error,
                            "TLS certificates have changed and cannot be used: the former ones stay"
                        );
                        fault = Some(error);
                    }
                }
            }
        }
    }

    /// Returns whether new certificates are in use now. `seen` is what the last reading found, if
    /// that was new.
    async fn renew(&mut self, seen: &mut Option<Contents>) -> Result<bool, TlsError> {
        let contents = self.files.read().await?;
        if contents == self.contents {
            *seen = None;
            return Ok(false);
        }
        if seen.as_ref() != Some(&contents) {
            *seen = Some(contents);
            return Ok(false);
        }
        let Usable { config, ends } = self.files.check(&contents)?;
        self.contents = contents;
        self.ends.send_replace(ends);
        self.current.send_replace(config);
        tracing::info!("TLS certificates reloaded, for new connections");
        Ok(true)
    }
}

impl End {
    fn remind(&self) {
        let (option, end) = (self.option, self.at.to_rfc3339());
        let left = self.at - Utc::now();
        if left <= TimeDelta::zero() {
            tracing::warn!(option, end, "a TLS certificate has expired");
        } else if left <= NOTICE {
            tracing::warn!(
                option,
                end,
                days_left = left.num_days(),
                "a TLS certificate expires soon"
            );
        }
    }
}

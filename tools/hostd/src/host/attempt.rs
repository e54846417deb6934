//! A command's work on an instance: how far it is, what it waits for, and who else works on it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio::time::{sleep, timeout};

use crate::api::{Brought, Stage, StageReport, Until, Wait};
use crate::error::{HostError, HostResult};
use crate::patience::Patience;

use super::instance::Instance;
use super::{Host, Progress};

/// How often a client is told what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Longest wait for another command that works on the same instance. Closing a disk whose registry is gone
/// takes ten seconds; what takes longer may take any time.
const CHANGE_WITHIN: Duration = Duration::from_secs(15);

/// An attempt to make or start an instance.
pub(super) struct Attempt {
    pub(super) progress: Progress,
    pub(super) until: Until,
    pub(super) patience: Patience,
}

impl Attempt {
    pub(super) fn new(instance: &Instance, wait: Wait, progress: Progress) -> Self {
        let limit = Duration::from_secs(wait.limit_seconds);
        Self {
            progress,
            until: wait.until,
            patience: instance.hope.patience(instance.name.as_str(), limit),
        }
    }
}

impl Host {
    /// Does the `work` of a stage. Meanwhile the client is told why it waits, if it does.
    pub(super) async fn stage<T>(
        &self,
        progress: &Progress,
        stage: Stage,
        work: impl Future<Output = HostResult<T>>,
    ) -> HostResult<T> {
        self.stage_with(progress, stage, work, || None).await
    }

    /// The same, whose client is told every second how much was brought.
    pub(super) async fn stage_with<T>(
        &self,
        progress: &Progress,
        stage: Stage,
        work: impl Future<Output = HostResult<T>>,
        brought: impl Fn() -> Option<Brought>,
    ) -> HostResult<T> {
        progress.stage(stage);
        let counters = self.sources.counters();
        let (mut retries, mut told) = (counters.retries(), None);
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done.map_err(|error| error.stalled(told)),
                () = sleep(TELL_EVERY) => {}
            }
            // Without a fetch that failed just now, the reason is an old one.
            let before = std::mem::replace(&mut retries, counters.retries());
            let stall = counters.last_failure().filter(|_| retries > before);
            let is_new = stall.is_some() && stall != told;
            let brought = brought();
            if is_new || brought.is_some() {
                progress.report(StageReport {
                    stage,
                    seconds: progress.seconds(),
                    stall: stall.clone().filter(|_| is_new),
                    brought,
                });
            }
            if is_new {
                told = stall;
            }
        }
    }

    /// The right to change an instance, unless another command has it for long.
    pub(super) async fn right_to_change<'a>(
        &self,
        instance: &'a Arc<Instance>,
    ) -> HostResult<MutexGuard<'a, ()>> {
        let changing = timeout(CHANGE_WITHIN, instance.changing.lock()).await;
        let changing = changing.map_err(|_| HostError::Busy(instance.name.to_string()))?;
        // Whoever had it may have removed the instance.
        let current = self.get(&instance.name)?;
        match Arc::ptr_eq(&current, instance) {
            true => Ok(changing),
            false => Err(HostError::NoInstance(instance.name.to_string())),
        }
    }

    /// Closes the disk of an instance when the host ends; who waits for its content is given up.
    pub(super) async fn close(instance: Arc<Instance>) {
        let _given_up = instance.hope.give_up();
        // A command that does not come to its end loses its disk all the same.
        let _changing = timeout(CHANGE_WITHIN, instance.changing.lock()).await;
        let disk = instance.live().disk.take();
        if let Some(disk) = disk {
            // What was not flushed is in the system's page cache and outlives this process.
            let _ = disk.leave().await;
        }
    }
}

//! The pushes that are open: leases that end when their pusher says so or is not heard of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use shale_repo::Push;
use shale_wire::{Code, PushId};

use crate::access::Caller;
use crate::failure::Failure;
use crate::limits::WorkLimits;
use crate::settings::Clock;

/// Open pushes by id.
pub(crate) struct Pushes {
    open: Mutex<HashMap<PushId, Open>>,
    clock: Clock,
    limits: WorkLimits,
}

struct Open {
    push: Arc<Push>,
    owner: Caller,
    last_used: Instant,
}

impl Pushes {
    pub(crate) fn new(clock: Clock, limits: WorkLimits) -> Self {
        Self {
            open: Mutex::default(),
            clock,
            limits,
        }
    }

    /// Opens `push` under `id`, which must be random.
    pub(crate) fn open(&self, id: PushId, push: Push, owner: Caller) -> Result<(), Failure> {
        let mut open = self.swept();
        if open.len() >= self.limits.pushes {
            let detail = format!("{} pushes are open", open.len());
            return Err(Failure::new(Code::TooManyPushes, detail));
        }
        let entry = Open {
            push: Arc::new(push),
            owner,
            last_used: (self.clock)(),
        };
        open.insert(id, entry);
        Ok(())
    }

    /// The push of this id, in use until the guard is dropped.
    pub(crate) fn get(self: &Arc<Self>, id: &str, caller: &Caller) -> Result<PushInUse, Failure> {
        let mut open = self.swept();
        let id = known(&open, id, caller)?;
        let now = (self.clock)();
        // Known a moment ago, under the same lock.
        let entry = open.get_mut(&id).ok_or_else(not_found)?;
        entry.last_used = now;
        Ok(PushInUse {
            push: Arc::clone(&entry.push),
            id,
            pushes: Arc::clone(self),
        })
    }

    /// Ends a push. What still works for it finishes.
    pub(crate) fn end(&self, id: &str, caller: &Caller) -> Result<(), Failure> {
        let mut open = self.swept();
        let id = known(&open, id, caller)?;
        open.remove(&id);
        Ok(())
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.swept().len()
    }

    /// The pushes without those that were idle for too long. One that works is not idle.
    fn swept(&self) -> MutexGuard<'_, HashMap<PushId, Open>> {
        let now = (self.clock)();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, entry| {
            let idle = now.saturating_duration_since(entry.last_used);
            idle < self.limits.push_idle_time || Arc::strong_count(&entry.push) > 1
        });
        open
    }
}

/// Another caller's push is as unknown as one that never was.
fn known(open: &HashMap<PushId, Open>, id: &str, caller: &Caller) -> Result<PushId, Failure> {
    let id: PushId = id.parse().map_err(|_| not_found())?;
    match open.get(&id) {
        Some(entry) if entry.owner == *caller => Ok(id),
        _ => Err(not_found()),
    }
}

fn not_found() -> Failure {
    let detail = "the push has ended, was idle for too long, or the registry restarted; push again";
    Failure::new(Code::PushNotFound, detail)
}

/// A push that a request works with.
pub(crate) struct PushInUse {
    push: Arc<Push>,
    id: PushId,
    pushes: Arc<Pushes>,
}

impl std::ops::Deref for PushInUse {
    type Target = Push;

    fn deref(&self) -> &Push {
        &self.push
    }
}

impl Drop for PushInUse {
    fn drop(&mut self) {
        let now = (self.pushes.clock)();
        let open = self.pushes.open.lock();
        if let Some(entry) = open
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(&self.id)
        {
            entry.last_used = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use shale_files::MemoryFiles;
    use shale_model::MemoryIndex;
    use shale_repo::{Access, Repository};

    use super::*;

    struct World {
        repository: Arc<Repository>,
        seconds: Arc<AtomicU64>,
        pushes: Arc<Pushes>,
    }

    fn world() -> World {
        let files = Arc::new(MemoryFiles::new());
        Repository::init(&*files).unwrap();
        let index = Arc::new(MemoryIndex::new());
        let repository = Repository::open(files, index, Access::Shared).unwrap();
        let seconds = Arc::new(AtomicU64::new(0));
        let (ticks, start) = (Arc::clone(&seconds), Instant::now());
        let clock: Clock =
            Arc::new(move || start + Duration::from_secs(ticks.load(Ordering::SeqCst)));
        let limits = WorkLimits {
            pushes: 2,
            push_idle_time: Duration::from_secs(10),
            ..WorkLimits::default()
        };
        World {
            repository: Arc::new(repository),
            seconds,
            pushes: Arc::new(Pushes::new(clock, limits)),
        }
    }

    fn id(byte: u8) -> PushId {
        PushId::from_bytes([byte; 16])
    }

    #[test]
    fn an_idle_push_ends_and_a_working_one_does_not() {
        let world = world();
        let all = Caller::Anyone;
        let open = |byte| {
            world
                .pushes
                .open(id(byte), world.repository.push(), all.clone())
        };
        let pass = |seconds| world.seconds.fetch_add(seconds, Ordering::SeqCst);
        open(1).unwrap();
        open(2).unwrap();
        assert_eq!(open(3).unwrap_err().code, Code::TooManyPushes);
        let working = world.pushes.get(&id(1).to_string(), &all).unwrap();
        pass(11);
        assert_eq!(world.pushes.count(), 1);
        drop(working);
        pass(9);
        assert!(world.pushes.get(&id(1).to_string(), &all).is_ok());
        pass(10);
        assert_eq!(world.pushes.count(), 0);
        open(3).unwrap();
    }

    #[test]
    fn a_push_is_its_openers() {
        let world = world();
        let one = Caller::Token("one".into());
        world
            .pushes
            .open(id(1), world.repository.push(), one.clone())
            .unwrap();
        for other in [Caller::Anyone, Caller::Token("two".into())] {
            assert!(world.pushes.get(&id(1).to_string(), &other).is_err());
            assert!(world.pushes.end(&id(1).to_string(), &other).is_err());
        }
        world.pushes.end(&id(1).to_string(), &one).unwrap();
        assert!(world.pushes.get(&id(1).to_string(), &one).is_err());
        assert!(world.pushes.get("no id", &one).is_err());
    }
}

//! What is to be said about mounts.

use std::path::Path;
use std::sync::atomic::Ordering;

use shale_fusefs::is_mounted;

use crate::api::{Damaged, MountShown, ShownFace, ShownMountState};
use crate::keeper::KeptName;

use super::record::Shows;
use super::{MountState, Mounted, Mounts, machine_of};

impl Mounts {
    /// The last mount that was made on a directory.
    pub(crate) fn at(&self, directory: &Path) -> Option<KeptName> {
        let all = self.all();
        let there = all.iter().filter_map(|(name, mounted)| {
            let record = mounted.record.as_ref()?;
            let is_there = record.directory.as_deref() == Some(directory);
            is_there.then_some((record.origin.created, name))
        });
        there.max().map(|(_, name)| name.clone())
    }

    /// What is to be said about a mount.
    pub(crate) fn show(&self, name: &KeptName) -> Option<MountShown> {
        self.all().get(name)?.show(name)
    }

    /// All of them, in order of directory and machine, and those whose record cannot be read.
    pub(crate) fn show_all(&self) -> (Vec<MountShown>, Vec<Damaged>) {
        let all = self.all();
        let shown = all.iter().filter_map(|(name, mounted)| mounted.show(name));
        let mut shown: Vec<_> = shown.collect();
        let place = |of: &MountShown| (of.directory.clone(), of.machine.clone());
        shown.sort_by_key(place);
        let damaged = all.iter().filter_map(|(name, mounted)| {
            let MountState::Waits(reason) = &mounted.state else {
                return None;
            };
            let damaged = Damaged {
                name: name.to_string(),
                reason: reason.clone(),
            };
            mounted.record.is_none().then_some(damaged)
        });
        (shown, damaged.collect())
    }
}

impl Mounted {
    /// Whether it is not in its place any more, and only there for whoever still uses it.
    pub(super) fn is_detached(&self) -> bool {
        let directory = self.record.as_ref().and_then(|it| it.directory.as_ref());
        let is_away = directory.is_some_and(|directory| !is_mounted(directory));
        is_away && !matches!(self.state, MountState::Making)
    }

    fn show(&self, name: &KeptName) -> Option<MountShown> {
        let record = self.record.as_ref()?;
        let (requests, taken_over) = match &self.state {
            MountState::Served(serving) => {
                let counters = serving.session.counters();
                let counts = [&counters.requests, &counters.taken_over];
                counts.map(|count| count.load(Ordering::Relaxed)).into()
            }
            MountState::Making | MountState::Waits(_) => (0, 0),
        };
        let (shows, overlay) = match &record.shows {
            Shows::Tree => (ShownFace::Tree, None),
            Shows::Disk { overlay, .. } => (ShownFace::Disk, overlay.clone()),
        };
        let (state, trouble) = match &self.state {
            MountState::Waits(reason) => (ShownMountState::Waits, Some(reason.clone())),
            MountState::Making => (ShownMountState::Making, None),
            MountState::Served(_) if self.is_detached() => (ShownMountState::Unmounted, None),
            MountState::Served(_) => (ShownMountState::Served, None),
        };
        Some(MountShown {
            directory: record.directory.clone(),
            machine: machine_of(name).map(str::to_owned),
            reference: record.origin.reference.clone(),
            template: record.origin.template,
            shows,
            overlay,
            created: record.origin.created,
            requests,
            taken_over,
            state,
            trouble,
        })
    }
}

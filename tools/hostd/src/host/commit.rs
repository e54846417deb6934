//! What a guest wrote becomes a layer.

use std::sync::Arc;
use std::time::Duration;

use shale_image::identity::{Identity, Login, Network};
use shale_ingest::{Difference, Pushed, push_tree};
use shale_model::{Mtime, Reference, Template, TemplateLayer};
use shale_view::PlanFile;

use crate::api::{CommitWish, NewTemplate, Outcome, Stage};
use crate::compose::Composed;
use crate::error::{HostError, HostResult};
use crate::guest_disk::GuestDisk;
use crate::guest_tree::GuestTree;
use crate::impersonal::Impersonal;
use crate::name::InstanceName;
use crate::naming::{CHUNKER, name_template};
use crate::patience::Patience;
use crate::record::Record;
use crate::source::Source;
use crate::unchanged::Unchanged;

use super::still::Still;
use super::{Host, Progress};

impl Host {
    /// Makes a template of the machine's own and a layer of what its guest changed. What belongs to the machine alone,
    /// such as names and keys, is not in it.
    pub(super) async fn commit(
        self: &Arc<Self>,
        wish: CommitWish,
        progress: Progress,
    ) -> HostResult<Outcome> {
        let name = InstanceName::new(&wish.name)?;
        let instance = self.get(&name)?;
        // Held until the template is there: nobody may start or resume it meanwhile.
        let _changing = self.settled_to_change(&instance).await?;
        let still = self.stand_still(&instance).await?;
        // Whoever removes the machine ends it.
        let patience = instance.hope.patience(name.as_str(), Duration::MAX);
        let work = self.blocking(move |host| {
            let committed = host.commit_still(&name, still, &wish, &patience);
            // A read that was given up shows as a disk that cannot be read.
            committed.map_err(|error| patience.over().unwrap_or(error))
        });
        let new = self.stage(&progress, Stage::Commit, work).await?;
        Ok(Outcome::Committed(Box::new(new)))
    }

    /// Blocks.
    fn commit_still(
        &self,
        name: &InstanceName,
        still: Still,
        wish: &CommitWish,
        patience: &Patience,
    ) -> HostResult<NewTemplate> {
        let reference: Reference = wish.reference.parse()?;
        let origin = &still.record.origin;
        if wish.repository.address != origin.repository {
            return Err(HostError::OtherRepository {
                name: name.to_string(),
                repository: origin.repository.clone(),
            });
        }
        let source = self.sources.get(&origin.repository())?;
        let base = Base::new(&source, name, &still.record)?;
        let place = self.sources.open_to_write(&wish.repository)?;
        let catalog = place.catalog();
        let before = catalog.get_ref(&reference.name)?;
        let sink = place.sink()?;
        let disk = GuestDisk::new(still.disk, self.runtime.clone(), patience.clone());
        let unchanged = match (&base.plan, still.overlay) {
            (Some(plan), Some(overlay)) => {
                Some(Unchanged::new(&base.composed.tree, plan, overlay)?)
            }
            _ => None,
        };
        let mut guest = GuestTree::open(disk, unchanged)?;
        let mut changes = Difference::new(&mut guest, &base.itself.tree);
        let mut changes = Impersonal {
            source: &mut changes,
            template: &base.composed.tree,
            itself: &base.itself.tree,
            synthetic: &base.itself.synthetic,
        };
        let pushed = push_tree(&mut changes, &*sink, CHUNKER, &())?;
        let template = base.with_layer(&pushed, still.record.disk_bytes);
        let id = name_template(&*sink, &*catalog, &reference.name, before, &template)?;
        Ok(NewTemplate::new(&reference, id, &pushed))
    }
}

/// What an instance was made from.
struct Base {
    template: Template,
    /// The template as one tree.
    composed: Composed,
    /// The same with what makes the instance itself, but for its keys.
    itself: Composed,
    /// The plan of the instance, if this build would make the same.
    plan: Option<PlanFile>,
}

impl Base {
    /// Blocks.
    fn new(source: &Source, name: &InstanceName, record: &Record) -> HostResult<Self> {
        let composer = &source.composer;
        let image = composer.image(record.origin.template)?;
        let composed = composer.compose(&image.template)?;
        let itself = composer.compose_as(&image.template, &identity(name, record))?;
        let is_same = image.plan_id == record.origin.plan;
        Ok(Self {
            template: image.template,
            composed,
            itself,
            plan: is_same.then_some(image.plan),
        })
    }

    /// The template with one more layer. What fits on the machine's disk fits on the template's.
    fn with_layer(&self, pushed: &Pushed, disk_bytes: u64) -> Template {
        let mut layers = self.template.layers.clone();
        let made_on = layers.iter().map(|layer| layer.id).collect();
        layers.push(TemplateLayer {
            id: pushed.layer,
            made_on,
        });
        let mut machine = self.template.machine.clone();
        let plan = self.plan.as_ref();
        if plan.is_none_or(|plan| disk_bytes > plan.disk_bytes()) {
            machine.disk_bytes = disk_bytes;
        }
        Template::new(self.template.platform.clone(), layers, machine)
    }
}

/// An identity that changes the same files as that of the instance, and holds none of its secrets: what it wrote of
/// those never becomes part of a template.
fn identity(name: &InstanceName, record: &Record) -> Identity {
    Identity {
        hostname: name.to_string(),
        machine_id: [1; 16],
        ssh_host_keys: vec![],
        login: Some(Login {
            user: record.login.user.clone(),
            uid: None,
            authorized_keys: vec![],
        }),
        network: Network::Dhcp,
        time: Mtime {
            seconds: i64::try_from(record.origin.created).unwrap_or(i64::MAX),
            nanos: 0,
        },
    }
}

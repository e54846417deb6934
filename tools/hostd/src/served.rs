//! The disk of an instance, offered on its NBD socket for as long as the instance may run.

use std::path::Path;
use std::sync::Arc;

use shale_files::DirFiles;
use shale_model::{BlockDevice, PlanId};
use shale_nbd::{Access, Export, Exports, Server, Settings, listen_unix};
use shale_view::{Disk, Overlay, View, open_plan};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::dirs::boot_id;
use crate::error::{HostResult, system};
use crate::source::Source;

/// A disk with its server.
pub(crate) struct Served {
    disk: Arc<Disk>,
    overlay: Arc<Overlay>,
    end: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Served {
    /// Opens plan and overlay and listens on `socket`. Blocks; the server runs on `runtime`.
    pub(crate) fn open(
        source: &Source,
        plan: PlanId,
        overlay: &Path,
        socket: &Path,
        runtime: &Handle,
    ) -> HostResult<Self> {
        let plan_file = open_plan(&source.composer.plan_path(plan), plan)?;
        let boot =
            boot_id().map_err(system("read", Path::new("/proc/sys/kernel/random/boot_id")))?;
        let overlay = Overlay::open(&DirFiles::open(overlay)?, plan, boot)?;
        let overlay = Arc::new(overlay);
        let view = Arc::new(View::new(plan_file, source.reader.clone()));
        let disk = Arc::new(Disk::writable(view, overlay.clone()));
        let export = Export::new(disk.clone(), Access::ReadWrite);
        let server = Server::new(Exports::single(export)?, Settings::default());
        let listener = {
            let _inside = runtime.enter();
            listen_unix(socket)?
        };
        let (end, ended) = oneshot::channel();
        let server = runtime.spawn(async move {
            // The error is when the sender is gone, which means the same.
            let ended = async { drop(ended.await) };
            server.serve(listener, ended).await
        });
        Ok(Self {
            disk,
            overlay,
            end,
            server,
        })
    }

    /// The disk.
    pub(crate) fn device(&self) -> Arc<dyn BlockDevice> {
        self.disk.clone()
    }

    /// Ends the server when all that clients sent is answered, and makes what they wrote durable.
    pub(crate) async fn close(self) -> HostResult<()> {
        let _ = self.end.send(());
        // A server that failed has closed its connections too.
        let _ = self.server.await;
        let overlay = self.overlay;
        let flushed = tokio::task::spawn_blocking(move || overlay.flush()).await;
        match flushed {
            Ok(flushed) => Ok(flushed?),
            Err(_) => Err(crate::error::HostError::Interrupted),
        }
    }
}

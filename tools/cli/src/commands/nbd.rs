//! `shale nbd`: a template as a disk on an NBD socket.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use shale_hostd::Image;
use shale_model::Reference;
use shale_nbd::{Access, Export, Exports, Server, Settings, listen_unix};
use shale_view::{Disk, View};
use tokio::signal::unix::{SignalKind, signal};

use crate::context::{Context, resolve};
use crate::output::{note, parse_bytes};

/// Serve a template as a disk over NBD on a unix socket
///
/// Without --overlay the disk is read-only. With it, what clients write is kept in that directory; it is
/// made if it is missing, and found again by the next start. The server runs until it is ended by SIGINT or
/// SIGTERM; what was flushed also survives SIGKILL.
///
/// Examples:
///   shale nbd demo/base:12 --socket base.sock
///   shale nbd demo/base:12 --socket vm.sock --overlay vm.overlay --disk 10G
///   qemu-system-x86_64 -drive file=nbd+unix:///?socket=vm.sock,if=virtio,format=raw ...
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Nbd {
    /// The template
    reference: Reference,
    /// The socket to listen on; a stale one is replaced
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Directory for what clients write
    #[arg(long, value_name = "DIR")]
    overlay: Option<PathBuf>,
    /// Size of the disk and of its file system, when the overlay is made; at least that of the template
    #[arg(long, value_name = "SIZE", requires = "overlay", value_parser = parse_bytes)]
    disk: Option<u64>,
}

impl Nbd {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let place = context.place_of(&[&self.reference])?;
        let id = resolve(&*context.catalog(&place), &self.reference)?;
        let host = context.host(place)?;
        let image = host.composer.image(id)?;
        let view = |image: Image| Arc::new(View::new(image.plan, host.reader.clone()));
        let (disk, access) = match &self.overlay {
            None => (Disk::read_only(view(image)), Access::ReadOnly),
            Some(dir) => {
                let overlay = Arc::new(host.overlay(&image, dir, self.disk)?);
                (Disk::writable(view(image), overlay), Access::ReadWrite)
            }
        };
        let exports = Exports::single(Export::new(Arc::new(disk), access))?;
        context.runtime.block_on(async {
            let listener = listen_unix(&self.socket)?;
            let server = Server::new(exports, Settings::default());
            // Before anyone is told that it serves, and may end it.
            let mut terminate = signal(SignalKind::terminate()).context("watch signals")?;
            if !context.global.quiet {
                note!(
                    "serving {} on {}",
                    self.reference.name,
                    self.socket.display()
                );
            }
            let ended = async move {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
            };
            server.serve(listener, ended).await.context("serve NBD")
        })?;
        if !context.global.quiet {
            host.note_reads();
        }
        // Best effort: a socket that stays is replaced by the next start.
        let _ = std::fs::remove_file(&self.socket);
        Ok(())
    }
}

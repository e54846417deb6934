//! The slow link of one host, and its counters.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use shale_benches::proxy::{Link, Proxy, probe};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Prints what the link does on this machine.
pub(crate) fn print_link(runtime: &Runtime, link: Link) -> Result<()> {
    let measured = runtime.block_on(probe(link))?;
    println!(
        "link: {link}, measured {:.2} ms round trip, {:.0} Mbit/s",
        measured.round_trip.as_secs_f64() * 1e3,
        measured.bits_a_second / 1e6
    );
    Ok(())
}

/// A task that ends with its owner.
pub(crate) struct Task(tokio::task::JoinHandle<()>);

impl Task {
    /// A task of `runtime`.
    pub(crate) fn spawn(
        runtime: &Runtime,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self(runtime.spawn(task))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A proxy that nothing else goes through, so that its counters are those of one host.
pub(crate) struct Tunnel {
    proxy: Arc<Proxy>,
    pub(crate) address: SocketAddr,
    _serving: Task,
}

impl Tunnel {
    /// One to `to` over `link`.
    pub(crate) fn new(runtime: &Runtime, link: Link, to: SocketAddr) -> Result<Self> {
        let proxy = Proxy::new(link, to)?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let serving = proxy.clone();
        let serving = Task::spawn(runtime, async move {
            let _ = serving.serve(listener).await;
        });
        Ok(Self {
            proxy,
            address,
            _serving: serving,
        })
    }

    /// Bytes that came back through it so far.
    pub(crate) fn down_bytes(&self) -> u64 {
        self.proxy.traffic().down_bytes
    }
}

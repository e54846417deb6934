//! The service manager, where it started this process: systemd, or what speaks as it does (sd_notify(3),
//! sd_listen_fds(3)). Without one, nothing here does anything but watch signals.
#![expect(
    unsafe_code,
    reason = "variables are taken out of the environment, and open files taken over by their number"
)]

use std::ffi::{OsStr, OsString};
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::sync::{Mutex, PoisonError};
use std::{env, io};

use anyhow::Context as _;
use rustix::net::AddressFamily;
use rustix::net::sockopt::{socket_acceptconn, socket_domain};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::logging::{say_to_log, warn_in_log};

/// Where the service manager listens for notes.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// What the service manager gave this process.
#[derive(Debug)]
pub(crate) struct System {
    notify: Option<OsString>,
    /// Sockets that listen, until somebody takes them.
    listeners: Mutex<Vec<OwnedFd>>,
}

impl System {
    /// Takes all of it out of the environment, so that no child takes it for its own. Call it once, before there is
    /// another thread.
    pub(crate) fn take() -> Self {
        let notify = env::var_os(NOTIFY_SOCKET);
        // SAFETY: nobody reads the environment meanwhile, as there is no other thread.
        unsafe { env::remove_var(NOTIFY_SOCKET) };
        // SAFETY: as above.
        let given = unsafe { sd_notify::listen_fds_and_unset_env() };
        // Numbers that mean no open file are no sockets for us.
        let given = given.into_iter().flatten();
        // SAFETY: they were open when this process began, which has opened nothing at these numbers, and the variable
        // that names them is gone: nobody else owns them.
        let given = given.map(|number| unsafe { OwnedFd::from_raw_fd(number) });
        Self {
            notify,
            listeners: Mutex::new(given.collect()),
        }
    }

    /// The unix socket that the service manager listens on for this process.
    pub(crate) fn unix_listener(&self) -> io::Result<Option<UnixListener>> {
        let Some(listener) = self.listener(&[AddressFamily::UNIX]) else {
            return Ok(None);
        };
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        Ok(Some(listener))
    }

    /// The TCP socket that the service manager listens on for this process.
    pub(crate) fn tcp_listener(&self) -> io::Result<Option<TcpListener>> {
        let Some(listener) = self.listener(&[AddressFamily::INET, AddressFamily::INET6]) else {
            return Ok(None);
        };
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        Ok(Some(listener))
    }

    fn listener(&self, families: &[AddressFamily]) -> Option<OwnedFd> {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let fits = |socket: &OwnedFd| {
            let family = socket_domain(socket);
            family.is_ok_and(|family| families.contains(&family))
                && socket_acceptconn(socket).unwrap_or(false)
        };
        let found = listeners.iter().position(fits)?;
        Some(listeners.remove(found))
    }

    /// Tells that the service listens, and what it serves; then calls `reload` at each SIGHUP, until SIGINT or SIGTERM.
    ///
    /// `reload` says what is served from then on. One that fails changes nothing.
    pub(crate) async fn attend(
        &self,
        mut signals: Signals,
        status: String,
        reload: impl Fn() -> anyhow::Result<String>,
    ) {
        let mut status = status;
        self.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        while let Asked::Reload = signals.next().await {
            let mut begins = vec![NotifyState::Reloading];
            // Without the time, systemd from 253 on would end a service that reloads.
            begins.extend(NotifyState::monotonic_usec_now());
            self.tell(&begins);
            let said = match reload() {
                Ok(served) => {
                    status = served;
                    say_to_log(&format!("reloaded: {status}"));
                    status.clone()
                }
                Err(error) => {
                    warn_in_log(&format!("not reloaded: {error:#}"));
                    format!("{status}; not reloaded: {error:#}")
                }
            };
            // A note is lines.
            let said = said.replace('\n', " ");
            self.tell(&[NotifyState::Ready, NotifyState::Status(&said)]);
        }
    }

    /// Tells that the service ends.
    pub(crate) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// A manager that does not listen has no use for it.
    fn tell(&self, states: &[NotifyState<'_>]) {
        let Some(socket) = &self.notify else { return };
        let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
        let sent = address(socket)
            .and_then(|address| UnixDatagram::unbound()?.send_to_addr(lines.as_bytes(), &address));
        let _ = sent;
    }
}

/// The address of a path; one that begins with `@` has no file.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    }
}

/// The signals of a service.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// What a signal asks for.
enum Asked {
    End,
    Reload,
}

impl Signals {
    /// Watches them from now on.
    pub(crate) fn watch() -> anyhow::Result<Self> {
        let watch = |kind| signal(kind).context("watch signals");
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::End,
            _ = self.terminate.recv() => Asked::End,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

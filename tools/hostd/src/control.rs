//! The service's unix socket.

use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::Instrument;

use crate::api::{
    API_VERSION, Answer, Call, Caller, EventsWish, Failure, FailureKind, MAX_CALL_BYTES, Outcome,
    Request,
};
use crate::events::follow;
use crate::host::{Given, Host, Progress};
use crate::keeper::receive;

/// Clients at a time: a person has one, a script some. Others wait in the socket's queue.
const MAX_CLIENTS: u32 = 256;

/// How long a client may take to say what it wants.
const CALL_WITHIN: Duration = Duration::from_secs(10);

/// How long a service that ends waits for its clients: for what is answered at once, not for a guest's login.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// How long a client may take to mount: a helper program does it for who is not root.
const MOUNT_WITHIN: Duration = Duration::from_secs(60);

/// Longest reason of a client that cannot mount.
const MAX_REASON_BYTES: usize = 4096;

/// Wait after a failed `accept`: without it, a process that is out of file descriptors would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Serves clients of the host until `ended`.
///
/// Only clients of the user `uid`, who owns the service, and of root are listened to.
pub async fn serve_control(
    host: Arc<Host>,
    listener: UnixListener,
    uid: u32,
    ended: impl Future<Output = ()>,
) {
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS as usize));
    let accept = async {
        loop {
            let Ok(place) = clients.clone().acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                sleep(ACCEPT_RETRY).await;
                continue;
            };
            let allowed = stream
                .peer_cred()
                .is_ok_and(|peer| [0, uid].contains(&peer.uid()));
            let host = host.clone();
            tokio::spawn(async move {
                // A client that leaves early has nobody to be told.
                let _ = serve_client(host, stream, allowed).await;
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = ended => {}
    }
    // Whoever ended the service is still to be told so.
    let _ = timeout(ANSWERED_WITHIN, clients.acquire_many(MAX_CLIENTS)).await;
}

async fn serve_client(host: Arc<Host>, stream: UnixStream, allowed: bool) -> io::Result<()> {
    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
    // Random, so that a request is found in the logs of many services.
    let request = format!("{:016x}", fastrand::u64(..));
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader).take(MAX_CALL_BYTES);
    timeout(CALL_WITHIN, reader.read_until(b'\n', &mut line)).await??;
    let call = match parse(&line, allowed) {
        Ok(call) => call,
        Err(failure) => {
            let (uid, error) = (uid.unwrap_or_default(), &failure.message);
            tracing::warn!(request, uid, error, "a call is refused");
            return send(&mut writer, &failed(failure, &request)).await;
        }
    };
    let (what, machine) = (call.request.name(), call.request.machine());
    let span = tracing::info_span!("call", request, what, machine, uid);
    if let Request::Events(wish) = &call.request {
        return tell_events(&host, wish, (reader.into_inner(), writer), &request).await;
    }
    let (answers, mut queue) = mpsc::unbounded_channel();
    let id = Some(request.clone());
    let caller = Caller { uid, request: id };
    let (give, given) = oneshot::channel();
    let mut give = Some(give);
    let progress = Progress::new(answers.clone(), caller).with_mounts(given);
    // In a task of its own: a client that leaves does not stop it half way.
    let work = async move {
        let last = match host.handle(call.request, progress).await {
            Ok(outcome) => Answer::Done(outcome),
            Err(error) => failed(error.failure(), &request),
        };
        let _ = answers.send(last);
    };
    tokio::spawn(work.instrument(span));
    while let Some(answer) = queue.recv().await {
        send(&mut writer, &answer).await?;
        if let Answer::Mount(_) = answer
            && let Some(give) = give.take()
        {
            let stream: &UnixStream = reader.get_ref().get_ref().as_ref();
            let receive = || receive(stream.as_fd(), MAX_REASON_BYTES);
            let receive = stream.async_io(Interest::READABLE, receive);
            // The error is that the client went away: nothing is given.
            if let Ok(Ok(message)) = timeout(MOUNT_WITHIN, receive).await {
                let reason = String::from_utf8_lossy(&message.bytes).into_owned();
                let files = message.files;
                let _ = give.send(Given { files, reason });
            }
        }
    }
    writer.shutdown().await
}

/// Tells what happened, and happens until the client leaves or the service ends. A client that does not read waits for nobody but
/// itself.
async fn tell_events(
    host: &Host,
    wish: &EventsWish,
    (mut reader, writer): (impl AsyncBufReadExt + Unpin, OwnedWriteHalf),
    request: &str,
) -> io::Result<()> {
    let writer = tokio::sync::Mutex::new(writer);
    // It has nothing more to say: what comes is its end.
    let left = async { drop(reader.fill_buf().await) };
    let tell = |told| {
        let writer = &writer;
        async move { send(&mut *writer.lock().await, &Answer::Told(told)).await }
    };
    let done = follow(host.events(), wish, tell, left).await?;
    let last = match done {
        Ok(()) => Answer::Done(Outcome::Nothing),
        Err(failure) => failed(failure, request),
    };
    let mut writer = writer.into_inner();
    send(&mut writer, &last).await?;
    writer.shutdown().await
}

fn failed(failure: Failure, request: &str) -> Answer {
    let request = Some(request.to_owned());
    Answer::Failed(Failure { request, ..failure })
}

fn parse(line: &[u8], allowed: bool) -> Result<Call, Failure> {
    let failure = |kind, message: String, hint: Option<&str>| Failure {
        kind,
        message,
        hint: hint.map(str::to_owned),
        request: None,
    };
    if !allowed {
        let text = "the host service belongs to another user";
        return Err(failure(FailureKind::Denied, text.into(), None));
    }
    // The version first: of another version's request, nothing else may be understood.
    let value: serde_json::Value = serde_json::from_slice(line).map_err(|error| {
        failure(
            FailureKind::Invalid,
            format!("the call is no JSON: {error}"),
            None,
        )
    })?;
    let version = value["version"].as_u64();
    if version != Some(API_VERSION.into()) {
        let text = format!("the host service speaks version {API_VERSION}, the command another");
        let hint = "restart the service: `shale host stop`; guests run on meanwhile";
        return Err(failure(FailureKind::Conflict, text, Some(hint)));
    }
    serde_json::from_value(value).map_err(|error| {
        failure(
            FailureKind::Invalid,
            format!("the call is wrong: {error}"),
            None,
        )
    })
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

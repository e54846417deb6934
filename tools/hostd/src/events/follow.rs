//! Events told to one client.

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::task::spawn_blocking;

use crate::api::{Event, EventKind, EventsWish, Failure, FailureKind, Told};

use super::Events;

/// Tells the events of a wish, those that were before first; then, if it is to follow, those that come, until the service
/// ends or `left` is ready. `send` may take any time: what comes meanwhile waits for a while, and then is counted as lost.
///
/// # Errors
/// There are too many who follow: that is the inner result. Or the client is gone.
pub(crate) async fn follow<S>(
    events: &Arc<Events>,
    wish: &EventsWish,
    mut send: impl FnMut(Told) -> S,
    left: impl Future<Output = ()>,
) -> io::Result<Result<(), Failure>>
where
    S: Future<Output = io::Result<()>>,
{
    let place = events.followers.try_acquire();
    if wish.follow && place.is_err() {
        return Ok(Err(Failure {
            kind: FailureKind::Conflict,
            message: "as many follow the events of this host as can".into(),
            hint: Some("end one of the others: `shale events --follow`".into()),
            request: None,
        }));
    }
    // First: what comes while the earlier ones are read is told behind them.
    let mut feed = events.feed.subscribe();
    let mut last = 0;
    if wish.wants_earlier() {
        let this = events.clone();
        let kept = spawn_blocking(move || this.kept()).await;
        for event in kept.unwrap_or_default() {
            last = event.id;
            if wish.wants(&event) {
                send(Told::Event(event)).await?;
            }
        }
    }
    if !wish.follow {
        return Ok(Ok(()));
    }
    let mut left = std::pin::pin!(left);
    loop {
        let told = tokio::select! {
            told = feed.recv() => told,
            () = &mut left => return Ok(Ok(())),
        };
        match told {
            Ok(event) => {
                if event.id > last && wish.wants(&event) {
                    send(Told::Event(Event::clone(&event))).await?;
                }
                if event.what == EventKind::ServiceStopping {
                    return Ok(Ok(()));
                }
            }
            Err(RecvError::Lagged(events)) => send(Told::Lost { events }).await?,
            Err(RecvError::Closed) => return Ok(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Mutex;
    use std::time::UNIX_EPOCH;

    use shale_files::MemoryFiles;
    use tokio::sync::Notify;
    use tokio::task::yield_now;

    use super::super::{BEHIND, MAX_FOLLOWERS};
    use super::*;

    fn events() -> Arc<Events> {
        let files = Arc::new(MemoryFiles::new());
        Arc::new(Events::open(files, || UNIX_EPOCH).unwrap())
    }

    fn ids(told: &[Told]) -> Vec<u64> {
        let ids = told.iter().filter_map(|told| match told {
            Told::Event(event) => Some(event.id),
            Told::Lost { .. } => None,
        });
        ids.collect()
    }

    #[tokio::test]
    async fn earlier_events_come_first_and_each_comes_once() {
        let events = events();
        events.happened(Some("a"), EventKind::Starting);
        events.happened(Some("b"), EventKind::Starting);
        let told = Mutex::new(Vec::new());
        let wish = EventsWish {
            machine: Some("a".into()),
            after: Some(0),
            follow: true,
            ..EventsWish::default()
        };
        let end = Notify::new();
        let send = |new| {
            told.lock().unwrap().push(new);
            async { Ok(()) }
        };
        let more = async {
            // While the earlier ones are read, and after that.
            events.happened(Some("a"), EventKind::Paused);
            while told.lock().unwrap().len() < 2 {
                yield_now().await;
            }
            events.happened(Some("b"), EventKind::Paused);
            events.happened(Some("a"), EventKind::Resumed);
            while told.lock().unwrap().len() < 3 {
                yield_now().await;
            }
            end.notify_one();
        };
        let (done, ()) = tokio::join!(follow(&events, &wish, send, end.notified()), more);
        done.unwrap().unwrap();
        assert_eq!(ids(&told.lock().unwrap()), [1, 3, 5]);
    }

    #[tokio::test]
    async fn who_is_slow_is_told_how_many_events_are_lost_and_holds_nobody_up() {
        let events = events();
        let told = Mutex::new(Vec::new());
        let wish = EventsWish {
            follow: true,
            ..EventsWish::default()
        };
        let (busy, go_on) = (Notify::new(), Notify::new());
        let send = |new| {
            told.lock().unwrap().push(new);
            busy.notify_one();
            async {
                go_on.notified().await;
                Ok(())
            }
        };
        let many = BEHIND as u64 + 100;
        let tell = async {
            yield_now().await;
            events.happened(None, EventKind::ServiceReloaded);
            busy.notified().await;
            for _ in 0..many {
                events.happened(None, EventKind::ServiceReloaded);
            }
            for _ in 0..BEHIND + 1 {
                go_on.notify_one();
                busy.notified().await;
            }
        };
        tokio::select! {
            done = follow(&events, &wish, send, pending()) => panic!("{done:?}"),
            () = tell => {}
        }
        let told = told.into_inner().unwrap();
        assert_eq!(told[1], Told::Lost { events: 100 });
        assert!(
            ids(&told)
                .into_iter()
                .eq([1].into_iter().chain(102..=many + 1))
        );
    }

    #[tokio::test]
    async fn only_so_many_can_follow() {
        let events = events();
        let wish = EventsWish {
            follow: true,
            ..EventsWish::default()
        };
        let _places = events.followers.acquire_many(MAX_FOLLOWERS as u32).await;
        let send = |_| async { Ok(()) };
        let refused = follow(&events, &wish, send, pending()).await.unwrap();
        assert_eq!(refused.unwrap_err().kind, FailureKind::Conflict);
        let send = |_| async { Ok(()) };
        let once = follow(&events, &EventsWish::default(), send, pending()).await;
        once.unwrap().unwrap();
    }
}

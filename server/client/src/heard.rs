//! What was heard of a registry while its answers are waited for: a registry that takes connections and says nothing is told
//! apart from one that is slow long before its client gives up.

use std::sync::{Mutex, MutexGuard, PoisonError};

use shale_model::Silence;
use tokio::time::Instant;

/// When something good came last of a registry that is asked.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Questions that are not answered yet.
    open: usize,
    /// When something came last, or the first of them was asked; `None` while there are none.
    since: Option<Instant>,
    /// What the last attempt came to.
    failure: Option<String>,
}

/// A question that waits for its answer.
pub(crate) struct Asked<'a>(&'a Heard);

impl Heard {
    /// A question is asked, for as long as this lives.
    pub(crate) fn asked(&self) -> Asked<'_> {
        let mut state = self.state();
        state.open += 1;
        state.since.get_or_insert_with(Instant::now);
        Asked(self)
    }

    /// A part of a good answer came.
    pub(crate) fn came(&self) {
        let mut state = self.state();
        if state.since.is_some() {
            state.since = Some(Instant::now());
            state.failure = None;
        }
    }

    /// An attempt came to nothing.
    pub(crate) fn failed(&self, why: impl FnOnce() -> String) {
        let mut state = self.state();
        if state.since.is_some() {
            state.failure = Some(why());
        }
    }

    /// Since when nothing came, if something is waited for.
    pub(crate) fn silence(&self) -> Option<Silence> {
        let state = self.state();
        state.since.map(|since| Silence {
            time: since.elapsed(),
            failure: state.failure.clone(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open -= 1;
        if state.open == 0 {
            (state.since, state.failure) = (None, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_begins_with_a_question_and_ends_with_a_byte() {
        let second = Duration::from_secs(1);
        let heard = Heard::default();
        heard.failed(|| unreachable!("nobody waits"));
        heard.came();
        assert_eq!(heard.silence(), None);
        let first = heard.asked();
        advance(second).await;
        let second_question = heard.asked();
        advance(second).await;
        let silence = |seconds: u32, failure: Option<&str>| {
            let (time, failure) = (second * seconds, failure.map(str::to_owned));
            Some(Silence { time, failure })
        };
        assert_eq!(heard.silence(), silence(2, None));
        drop(first);
        heard.failed(|| "nobody is there".into());
        assert_eq!(heard.silence(), silence(2, Some("nobody is there")));
        heard.came();
        advance(second).await;
        assert_eq!(heard.silence(), silence(1, None));
        drop(second_question);
        assert_eq!(heard.silence(), None);
    }
}

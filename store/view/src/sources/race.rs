//! One question to several sources: one after the other, and side by side where one is slow.

use std::future::pending;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use shale_model::{BoxFuture, Fetch, SeamError, SeamResult, Trouble};
use tokio::time::{Instant, sleep_until};

use super::breaker::{Admission, SourceState};
use super::supplier::{Sent, Supplier};
use super::verdict::{NotRead, Verdicts};
use super::{Supply, Whom};
use crate::observe::Hedge;

/// A question that any source can be asked.
pub(super) trait Question: Sync {
    /// What a source answers.
    type Answer: Send;
    /// What is made of a good answer.
    type Good;

    /// Whether there is a point in asking.
    fn may_be_at(&self, supplier: &Supplier) -> bool;

    /// Asks.
    fn ask<'a>(&'a self, fetch: &'a dyn Fetch) -> BoxFuture<'a, SeamResult<Self::Answer>>;

    /// What an answer is worth, and how many bytes it has.
    fn judge(&self, answer: Self::Answer) -> (Judged<Self::Good>, u64);

    /// This mirror does not have what was asked for.
    fn is_not_at(&self, supplier: &Supplier);
}

/// What an answer is worth.
pub(super) enum Judged<T> {
    Good(T),
    /// The source does not have it.
    Lacks,
    /// The answer is wrong, for this reason.
    Wrong(String),
}

/// Whether somebody waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A read does: a second request may be sent.
    Waited,
    /// Nobody does yet.
    Ahead,
}

/// Why a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It is this source's turn.
    Turn,
    /// Another source has not answered yet; within the allowance.
    Hedge,
}

/// What happens when no answer comes.
#[derive(Debug, Clone, Copy)]
enum Alarm {
    /// A second request, if there is one left.
    Hedge(Instant),
    /// Those that were asked count as not answering, and the next one is asked.
    Late(Instant),
    /// Nothing: there is nobody else to ask.
    Never,
}

/// A request that was answered.
struct Done<'s, A> {
    index: usize,
    why: Why,
    sent: Sent<'s>,
    answer: SeamResult<A>,
}

/// A question on its way.
pub(super) struct Race<'s, Q: Question> {
    supply: &'s Supply,
    question: &'s Q,
    urgency: Urgency,
    turns: Turns,
    asked: FuturesUnordered<BoxFuture<'s, Done<'s, Q::Answer>>>,
    /// Those of them that count as not answering yet.
    pending: Vec<usize>,
    verdicts: Verdicts,
    timing: Timing,
}

/// Whose turn it is.
struct Turns {
    /// Whose turn it was already, mirrors first.
    over: Vec<bool>,
    /// Those of them that are left alone.
    refused: Vec<usize>,
}

struct Timing {
    begun: Instant,
    /// When the last source was asked.
    asked_at: Instant,
    alarm: Alarm,
}

impl<'s, Q: Question> Race<'s, Q> {
    pub(super) fn new(supply: &'s Supply, question: &'s Q, whom: Whom, urgency: Urgency) -> Self {
        let mirrors = supply.suppliers.len() - 1;
        let mut over = vec![whom == Whom::Registry; mirrors];
        over.push(false);
        if urgency == Urgency::Waited {
            supply.hedging().begins();
        }
        Self {
            supply,
            question,
            urgency,
            turns: Turns {
                over,
                refused: Vec::new(),
            },
            asked: FuturesUnordered::new(),
            pending: Vec::new(),
            verdicts: Verdicts::default(),
            timing: Timing {
                begun: Instant::now(),
                asked_at: Instant::now(),
                alarm: Alarm::Never,
            },
        }
    }

    /// The first good answer. Requests that are on their way by then are dropped.
    pub(super) async fn run(mut self) -> Result<Q::Good, NotRead> {
        while self.ask_next() {
            while !self.asked.is_empty() {
                let alarm = self.timing.alarm;
                tokio::select! {
                    biased;
                    Some(done) = self.asked.next() => {
                        if let Some(good) = self.judge(done) {
                            return Ok(good);
                        }
                    }
                    () = ring(alarm) => self.rang(),
                }
            }
        }
        for index in std::mem::take(&mut self.turns.refused) {
            let name = &self.supply.suppliers[index].name;
            let text = format!("{name} failed several times and is left alone for a while");
            let error = SeamError::new(Trouble::Unavailable, text);
            self.verdicts.unreached(error);
        }
        Err(self.verdicts.together())
    }

    /// Asks the source whose turn it is, if there is one.
    fn ask_next(&mut self) -> bool {
        let Some((index, admission)) = self.next() else {
            return false;
        };
        self.send(index, Why::Turn, admission);
        true
    }

    fn next(&mut self) -> Option<(usize, Admission)> {
        let registry = self.turns.over.len() - 1;
        while let Some(index) = self.turns.over.iter().position(|over| !over) {
            self.turns.over[index] = true;
            let supplier = &self.supply.suppliers[index];
            if index != registry && !self.question.may_be_at(supplier) {
                self.verdicts.lacks();
                continue;
            }
            match supplier.admit() {
                Admission::Refuse => self.turns.refused.push(index),
                admission => return Some((index, admission)),
            }
        }
        // The registry has what nobody else has; and to leave a source alone helps nobody where no other is better.
        let is_left = |index: &usize| *index == registry || self.verdicts.want_everybody();
        let last = self.turns.refused.iter().rposition(is_left)?;
        Some((self.turns.refused.remove(last), Admission::Refuse))
    }

    fn send(&mut self, index: usize, why: Why, admission: Admission) {
        let supplier = &self.supply.suppliers[index];
        let (question, sent) = (self.question, supplier.sent(admission));
        let (at, is_first) = (Instant::now(), self.pending.is_empty());
        self.timing.asked_at = at;
        self.pending.push(index);
        self.asked.push(Box::pin(async move {
            let answer = question.ask(&*supplier.fetch).await;
            Done {
                index,
                why,
                sent,
                answer,
            }
        }));
        let hedging = self.supply.hedging();
        self.timing.alarm = match self.urgency {
            Urgency::Ahead => Alarm::Late(at + hedging.late_ahead()),
            Urgency::Waited if is_first => Alarm::Hedge(at + hedging.delay()),
            Urgency::Waited => Alarm::Late(at + hedging.late()),
        };
    }

    /// No answer came in time.
    fn rang(&mut self) {
        match self.timing.alarm {
            Alarm::Hedge(_) => match self.second() {
                Some(index) => {
                    self.turns.over[index] = true;
                    self.supply.observer.hedged(Hedge::Sent);
                    self.send(index, Why::Hedge, Admission::Pass);
                }
                None => {
                    self.timing.alarm =
                        Alarm::Late(self.timing.asked_at + self.supply.hedging().late())
                }
            },
            Alarm::Late(_) => {
                let late = std::mem::take(&mut self.pending);
                if !self.ask_next() {
                    self.timing.alarm = Alarm::Never;
                    return;
                }
                for index in late {
                    self.supply.suppliers[index].failed((self.supply.random)());
                }
            }
            Alarm::Never => {}
        }
    }

    /// Who is asked besides: the next source that is well, or the same one over another connection.
    fn second(&self) -> Option<usize> {
        let well = |index: &usize| {
            let supplier = &self.supply.suppliers[*index];
            supplier.state() == SourceState::Asked && self.question.may_be_at(supplier)
        };
        let mut others = (0..self.turns.over.len()).filter(|index| !self.turns.over[*index]);
        let same = self.pending.first().copied();
        let second = others.find(well).or(same.filter(well))?;
        self.supply.hedging().may_send().then_some(second)
    }

    /// What an answer is good for.
    fn judge(&mut self, done: Done<'s, Q::Answer>) -> Option<Q::Good> {
        let Done {
            index, why, sent, ..
        } = done;
        let before = self.pending.iter().take_while(|other| **other != index);
        let slower: Vec<usize> = before.copied().collect();
        self.pending.retain(|pending| *pending != index);
        let supplier = &self.supply.suppliers[index];
        let random = self.supply.random;
        let answer = match done.answer {
            Ok(answer) => answer,
            Err(error) => {
                self.erred(index, sent, error);
                return None;
            }
        };
        match self.question.judge(answer) {
            (Judged::Good(good), bytes) => {
                if self.urgency == Urgency::Waited {
                    // Where another one was faster, the first had not come in this time.
                    self.supply.hedging().took(self.timing.begun.elapsed());
                }
                if why == Why::Hedge {
                    self.supply.observer.hedged(Hedge::Won);
                }
                // Asked before, and still no answer: one that does so every time is slow for nothing.
                for index in slower {
                    self.supply.suppliers[index].failed(random());
                }
                sent.succeeded(bytes);
                return Some(good);
            }
            (Judged::Lacks, bytes) => {
                sent.succeeded(bytes);
                self.verdicts.lacks();
            }
            (Judged::Wrong(reason), bytes) => {
                sent.failed(bytes, random());
                let text = match self.supply.suppliers.len() {
                    1 => reason,
                    _ => format!("{reason}, from {}", supplier.name),
                };
                let error = SeamError::new(Trouble::Integrity, text);
                self.verdicts.wrong(error);
            }
        }
        None
    }

    fn erred(&mut self, index: usize, sent: Sent<'_>, error: SeamError) {
        let supplier = &self.supply.suppliers[index];
        let is_registry = index == self.turns.over.len() - 1;
        let is_alone = self.turns.over.len() == 1;
        match error.trouble {
            Trouble::NotFound => {
                sent.succeeded(0);
                if !is_registry {
                    self.question.is_not_at(supplier);
                }
                self.verdicts.lacks();
            }
            // Bytes that no pack has, or beyond its end: another source may have been wrong about where they lie.
            Trouble::Integrity | Trouble::Invalid if !is_alone => {
                sent.failed(0, (self.supply.random)());
                self.verdicts.wrong(error);
            }
            Trouble::Denied | Trouble::Conflict | Trouble::Invalid if is_registry => {
                sent.succeeded(0);
                self.verdicts.registry(error);
            }
            _ => {
                sent.failed(0, (self.supply.random)());
                match is_registry {
                    true => self.verdicts.registry(error),
                    false => self.verdicts.unreached(error),
                }
            }
        }
    }
}

async fn ring(alarm: Alarm) {
    match alarm {
        Alarm::Hedge(at) | Alarm::Late(at) => sleep_until(at).await,
        Alarm::Never => pending().await,
    }
}

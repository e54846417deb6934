//! One request: sent, repeated while that may help, and its answer bounded in bytes and time.

use std::error::Error;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use shale_model::{SeamError, SeamResult, Trouble};
use shale_wire::limits::MAX_PROBLEM_BYTES;
use shale_wire::{Code, Problem};
use tokio::time::{Instant, sleep, timeout};

use crate::address::Address;
use crate::backoff::pause;
use crate::call::{Answer, Call, CallBody, NoAnswer, Pace, Why, WrongAnswer, time_for};
use crate::heard::Heard;
use crate::remote::Asks;
use crate::settings::{Deadlines, Settings, SetupError};
use crate::trust::{no_tls_config, tls_config};

/// Time for the head of an answer where the registry checks much before it answers: a pack of 1 GiB,
/// or a layer of millions of chunks.
const LARGE_ANSWER_TIME: Duration = Duration::from_secs(600);

/// A connection that was not used for this time is closed: before the registry does it, which would
/// cost a request.
const POOL_IDLE_TIME: Duration = Duration::from_secs(20);

/// Connections kept for the next requests.
const POOL_CONNECTIONS: usize = 64;

/// After this time without a byte the system asks whether the other side is still there.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);

/// The way to one registry.
pub(crate) struct Transport {
    client: Client,
    address: Address,
    deadlines: Deadlines,
    heard: Heard,
}

impl Transport {
    pub(crate) fn new(settings: Settings) -> Result<Self, SetupError> {
        let tls = match settings.address.is_encrypted() {
            true => tls_config(settings.trust),
            false => no_tls_config(),
        };
        let mut headers = HeaderMap::new();
        if let Some(token) = &settings.token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|_| SetupError::Token)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = Client::builder()
            .tls_backend_preconfigured(tls.map_err(SetupError::Tls)?)
            .user_agent(concat!("shale/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            // A redirect would take the token to another host.
            .redirect(Policy::none())
            .connect_timeout(settings.deadlines.connect)
            .pool_idle_timeout(POOL_IDLE_TIME)
            .pool_max_idle_per_host(POOL_CONNECTIONS)
            .tcp_keepalive(KEEPALIVE_TIME)
            .build()
            .map_err(SetupError::Client)?;
        Ok(Self {
            client,
            address: settings.address,
            deadlines: settings.deadlines,
            heard: Heard::default(),
        })
    }

    /// What was heard of the registry.
    pub(crate) fn heard(&self) -> &Heard {
        &self.heard
    }

    /// Asks until there is an answer or the time to give up has come.
    pub(crate) async fn answer(&self, call: &Call) -> SeamResult<Answer> {
        self.answer_to(call, Asks::Again).await
    }

    /// The same, asked so often.
    pub(crate) async fn answer_to(&self, call: &Call, asks: Asks) -> SeamResult<Answer> {
        let asked = match asks {
            Asks::Again => self.ask(call).await,
            Asks::Once => {
                let asked = self.heard_attempt(call).await;
                let attempts = 1;
                asked.map_err(|(why, _)| NoAnswer { why, attempts })
            }
        };
        asked.map_err(|no| no.into_seam(&call.action, &self.address))
    }

    /// The same, for those who know what to make of a problem.
    pub(crate) async fn ask(&self, call: &Call) -> Result<Answer, NoAnswer> {
        let started = Instant::now();
        for attempt in 0.. {
            let (why, asked) = match self.heard_attempt(call).await {
                Ok(answer) => return Ok(answer),
                Err(no) => no,
            };
            let again = match &why {
                Why::Silence(_) => true,
                Why::Problem(problem) | Why::Foreign(problem) => is_passing(problem),
                Why::Wrong(_) => false,
            };
            let patience = match (&why, call.pace) {
                // It is there, and others are before us: they upload no faster for our leaving.
                (Why::Problem(problem), Pace::Large) if problem.code == Code::Unavailable => {
                    LARGE_ANSWER_TIME
                }
                _ => self.deadlines.give_up,
            };
            let left = patience.saturating_sub(started.elapsed());
            let next = pause(attempt, fastrand::f64(), asked, left);
            match next.filter(|_| again) {
                Some(pause) => sleep(pause).await,
                None => {
                    let attempts = attempt + 1;
                    return Err(NoAnswer { why, attempts });
                }
            }
        }
        // The attempts of `u32` are not used up in the time to give up.
        let why = Why::Silence(SeamError::new(Trouble::Unavailable, call.action.clone()));
        Err(NoAnswer {
            why,
            attempts: u32::MAX,
        })
    }

    /// Asks once, and notes what comes of it.
    async fn heard_attempt(&self, call: &Call) -> Result<Answer, (Why, Option<Duration>)> {
        let asked = self.attempt(call).await;
        if let Err((why, _)) = &asked {
            self.heard.failed(|| why.to_string());
        }
        asked
    }

    /// Asks once. With an error comes the pause that the registry asked for.
    async fn attempt(&self, call: &Call) -> Result<Answer, (Why, Option<Duration>)> {
        let url = self.address.url(&call.path).map_err(|error| {
            let error = SeamError::caused(Trouble::Invalid, call.action.clone(), error);
            (Why::Wrong(error), None)
        })?;
        let mut request = self.client.request(call.method.clone(), url);
        request = request.headers(call.headers.clone());
        if !matches!(call.body, CallBody::Empty) {
            request = request.header(CONTENT_LENGTH, call.body.len());
            request = request.body(call.body.to_reqwest());
        }
        let head_time = match call.pace {
            Pace::Prompt => self.deadlines.connect + self.deadlines.first_byte,
            Pace::Large => LARGE_ANSWER_TIME,
        };
        let sent = timeout(head_time + time_for(call.body.len()), request.send()).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err((not_heard(call, error), None)),
            Err(_) => return Err((silence("no answer came in time"), None)),
        };
        let asked = retry_after(response.headers());
        self.judge(call, response).await.map_err(|why| (why, asked))
    }

    async fn judge(&self, call: &Call, response: Response) -> Result<Answer, Why> {
        let status = response.status();
        if status.is_success() {
            self.heard.came();
            let (status, headers) = (status.as_u16(), response.headers().clone());
            let body = self.body(response, call.max_answer).await?;
            return Ok(Answer {
                status,
                headers,
                body,
            });
        }
        if status.is_redirection() {
            let to = response
                .headers()
                .get(LOCATION)
                .and_then(|to| to.to_str().ok());
            let to = to
                .unwrap_or("nowhere")
                .chars()
                .take(200)
                .collect::<String>();
            let text = format!("it sends us to {to}; redirects are not followed");
            return Err(Why::Wrong(SeamError::new(Trouble::Failed, text)));
        }
        // What of an error cannot be read is told by its status.
        let body = self.body(response, MAX_PROBLEM_BYTES as u64).await;
        let problem = body.ok().and_then(|body| Problem::decode(&body));
        Err(match problem {
            Some(problem) => Why::Problem(problem),
            None => Why::Foreign(Problem::of_status(status.as_u16())),
        })
    }

    /// The body of an answer, at most `max` bytes.
    async fn body(&self, mut response: Response, max: u64) -> Result<Vec<u8>, Why> {
        let too_long = || {
            let wrong = WrongAnswer::saying(format!("it has more than {max} bytes"));
            Why::Wrong(SeamError::caused(
                Trouble::Integrity,
                "read the answer",
                wrong,
            ))
        };
        let announced = response.content_length();
        if announced.is_some_and(|len| len > max) {
            return Err(too_long());
        }
        let until = Instant::now() + self.deadlines.first_byte + time_for(max);
        // Room is taken for what was announced, which is bounded by what was asked for.
        let mut body = Vec::with_capacity(announced.unwrap_or(0) as usize);
        let is_good = response.status().is_success();
        loop {
            let until = until.min(Instant::now() + self.deadlines.idle);
            let piece = tokio::time::timeout_at(until, response.chunk()).await;
            match piece {
                Ok(Ok(Some(piece))) if body.len() as u64 + piece.len() as u64 > max => {
                    return Err(too_long());
                }
                Ok(Ok(Some(piece))) => {
                    if is_good {
                        self.heard.came();
                    }
                    body.extend_from_slice(&piece);
                }
                Ok(Ok(None)) => return Ok(body),
                Ok(Err(error)) => {
                    let text = "the answer was cut off";
                    let error = error.without_url();
                    return Err(Why::Silence(SeamError::caused(
                        Trouble::Unavailable,
                        text,
                        error,
                    )));
                }
                Err(_) => return Err(silence("the answer stopped half-way")),
            }
        }
    }
}

/// Whether the same question may be answered later.
fn is_passing(problem: &Problem) -> bool {
    let passing = [
        Code::Unavailable,
        Code::TooManyPushes,
        Code::TooSlow,
        Code::Failed,
    ];
    passing.contains(&problem.code)
}

fn silence(text: &str) -> Why {
    Why::Silence(SeamError::new(Trouble::Unavailable, text))
}

/// The request or its answer was lost. A certificate that is not believed does not get better.
fn not_heard(call: &Call, error: reqwest::Error) -> Why {
    let error = error.without_url();
    if let Some(rustls::Error::InvalidCertificate(_)) = tls_error(&error) {
        let text = "its certificate is not believed; pin its fingerprint if it is self-signed";
        return Why::Wrong(SeamError::caused(Trouble::Denied, text, error));
    }
    let text = format!("no answer to {} {}", call.method, call.path);
    Why::Silence(SeamError::caused(Trouble::Unavailable, text, error))
}

/// The TLS error among the causes of `error`. I/O errors wrap theirs without naming it as a source.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    let wrapped = error.downcast_ref::<std::io::Error>();
    let wrapped = wrapped.and_then(|error| error.get_ref());
    let wrapped = wrapped.and_then(|error| tls_error(error));
    wrapped.or_else(|| error.source().and_then(tls_error))
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

impl NoAnswer {
    /// The error of a seam that was doing `action` at the registry `address`.
    pub(crate) fn into_seam(self, action: &str, address: &Address) -> SeamError {
        let action = format!("{action} at {address}");
        match self.why {
            Why::Problem(problem) => problem.into_seam(&action),
            // What somebody else refuses or does not find says nothing of the registry, but that it was not
            // reached: whoever reads goes on waiting.
            Why::Foreign(problem) => SeamError {
                trouble: Trouble::Unavailable,
                ..problem.into_seam(&action)
            },
            Why::Wrong(error) => SeamError {
                action: format!("{action}: {}", error.action),
                ..error
            },
            Why::Silence(error) => SeamError {
                action: format!("{action}, {} times: {}", self.attempts, error.action),
                ..error
            },
        }
    }
}

//! The ways of a report: to UserHub while the sign-in waits, and into the queue.

use std::time::Duration;

use reqwest::StatusCode;
use tokio::time::Instant;

use crate::breaker::{Breaker, Change};
use crate::config::Config;
use crate::error::Error;
use crate::report::Report;
use crate::{http, promise, queue, userhub};

/// How much of the time for a report is left to the queue when UserHub has not taken it. A new connection to SQS, in the same
/// region, takes about 0.1 s with the processor time of 128 MB.
const QUEUE_TIME: Duration = Duration::from_millis(500);

/// How often a request is sent.
const ATTEMPTS_MAX: u32 = 2;

/// Where reports go. A wrong setting must not stop the function, because then every sign-in would fail. Its error becomes the
/// outcome of every report.
#[derive(Debug)]
pub struct Delivery {
    /// `None` if sign-ins are reported through the queue only.
    userhub: Option<Way<userhub::Client>>,
    /// `None` if there is no queue.
    queue: Option<Way<queue::Client>>,
}

/// What became of a report.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// UserHub took it.
    Reported(StatusCode),
    /// It waits in the queue. Contains why UserHub did not take it, if it was asked.
    Queued(Option<Error>),
    /// It will never arrive.
    Lost(Error),
}

/// What happened on the way, for the log. A panic leaves it as it was until then.
#[derive(Debug, Default, PartialEq)]
pub struct Progress {
    /// How often UserHub was asked.
    pub attempts: u32,
    /// How the circuit to UserHub changed.
    pub circuit: Option<Change>,
}

impl Delivery {
    /// Creates clients without connections.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let http = http::Client::new(config.extra_ca_certs);
        let client = |settings| userhub::Client::new(settings, http.clone()?);
        let userhub = config.userhub.map(|settings| Way::new(settings.and_then(client)));
        let client = |settings| Ok(queue::Client::new(settings, http.clone()?));
        let queue = config.queue.map(|settings| Way::new(settings.and_then(client)));
        Self { userhub, queue }
    }

    /// Takes a report to UserHub, or into the queue if there is one and UserHub may take the report later.
    pub async fn deliver(&self, report: &Report, deadline: Instant, progress: &mut Progress) -> Outcome {
        let mut not_taken = None;
        if self.userhub.is_some() {
            let queue_time = if self.queue.is_some() { QUEUE_TIME } else { Duration::ZERO };
            let deadline = deadline.checked_sub(queue_time).unwrap_or(deadline);
            match self.ask_userhub(report, deadline, progress).await {
                Ok(status) => return Outcome::Reported(status),
                Err(error) if !error.is_kept() || self.queue.is_none() => return Outcome::Lost(error),
                Err(error) => not_taken = Some(error),
            }
        }
        match self.put_into_queue(report, deadline).await {
            Ok(()) => Outcome::Queued(not_taken),
            Err(error) => Outcome::Lost(Error::Queue { queue: error.into(), userhub: not_taken.map(Box::new) }),
        }
    }

    /// Takes a report to UserHub.
    ///
    /// # Errors
    /// Why UserHub did not take it.
    pub async fn ask_userhub(
        &self,
        report: &Report,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<StatusCode, Error> {
        let Some(userhub) = &self.userhub else {
            return Err(Error::Settings("USERHUB_REPORT_VIA is queue, so this function does not ask UserHub".into()));
        };
        let send = async |client: &userhub::Client, new_connection, deadline| {
            client.send(report, new_connection, deadline).await
        };
        userhub.attempt(deadline, progress, Error::needs_another_connection, send).await
    }

    async fn put_into_queue(&self, report: &Report, deadline: Instant) -> Result<(), Error> {
        let Some(queue) = &self.queue else { return Err(Error::Settings("there is no queue".into())) };
        let is_worth_it = |error: &Error| error.needs_another_connection() || matches!(error, Error::Unavailable(..));
        let send = async |client: &queue::Client, _, deadline| client.send(report, deadline).await;
        queue.attempt(deadline, &mut Progress::default(), is_worth_it, send).await
    }
}

/// A client, and whether its server answers.
#[derive(Debug)]
struct Way<Client> {
    client: Result<Client, Error>,
    breaker: Breaker,
}

impl<Client> Way<Client> {
    fn new(client: Result<Client, Error>) -> Self {
        Self { client, breaker: Breaker::default() }
    }

    /// Sends a request, and a second one at once if the first one's error is worth it. `send` gets whether the request needs a new
    /// connection although the last one works, and its deadline.
    async fn attempt<T>(
        &self,
        deadline: Instant,
        progress: &mut Progress,
        is_worth_it: impl Fn(&Error) -> bool,
        send: impl AsyncFn(&Client, bool, Instant) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let client = self.client.as_ref().map_err(Clone::clone)?;
        let mut outcome = Err(Error::CircuitOpen);
        while let Some(limit) = self.breaker.admit() {
            progress.attempts += 1;
            let new_connection = outcome.as_ref().is_err_and(Error::is_answer);
            let start = Instant::now();
            let deadline_of_attempt = deadline.min(start + limit);
            let attempt = send(client, new_connection, deadline_of_attempt);
            outcome = promise::keep(deadline_of_attempt, attempt).await;
            let answered = outcome.as_ref().map_or_else(Error::is_answer, |_| true);
            progress.circuit = self.breaker.record(answered, start.elapsed()).or(progress.circuit);
            let is_worth_it = outcome.as_ref().is_err_and(&is_worth_it);
            if !is_worth_it || progress.attempts == ATTEMPTS_MAX || Instant::now() >= deadline {
                break;
            }
        }
        outcome
    }
}

//! Lambda's event source mapping on loopback: it hands the messages that SQS has to the queue's function
//! (<https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html>). A message that the function names as failed stays, and
//! becomes visible again when its visibility timeout is over. So does a whole batch if Lambda refuses to run the function.
//! On AWS that timeout is longer than the function's. Here it may be shorter, and a message whose batch is under way stays
//! invisible all the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use md5::{Digest, Md5};
use serde_json::{Value, json};

use crate::sqs::{Message, Queue};
use crate::{Function, REGION, Settings, Sqs};

/// As in the template: the most messages in a batch, and the most batches at the same time.
const BATCH_MAX: usize = 10;
const BATCHES_AT_ONCE: usize = 2;

/// The messages of a stand-in for SQS go to a function until this is dropped.
pub struct Mapping {
    queue: Arc<Queue>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    /// The processes that are idle.
    functions: Arc<Mutex<Vec<Function>>>,
}

impl Mapping {
    /// Starts a process for each batch that comes while the others are busy.
    pub fn start(sqs: &Sqs, visibility_timeout: Duration, settings: Settings) -> Self {
        let functions: Arc<Mutex<Vec<Function>>> = Arc::default();
        let idle = Arc::clone(&functions);
        let mut mapping = Self::with(sqs, visibility_timeout, move |event| {
            let function = idle.lock().unwrap().pop();
            let function = function.unwrap_or_else(|| settings.clone().start());
            let failed = function.report_batch(event).failed;
            idle.lock().unwrap().push(function);
            Some(failed)
        });
        mapping.functions = functions;
        mapping
    }

    /// Calls `invoke` with each batch's event. It returns the ids of the messages that failed, or `None` if Lambda refuses to
    /// run the function.
    pub fn with(
        sqs: &Sqs,
        visibility_timeout: Duration,
        invoke: impl Fn(&[u8]) -> Option<Vec<String>> + Send + Sync + 'static,
    ) -> Self {
        let (queue, stop, invoke) = (Arc::clone(&sqs.queue), Arc::new(AtomicBool::new(false)), Arc::new(invoke));
        let worker = |_| {
            let (queue, stop, invoke) = (Arc::clone(&queue), Arc::clone(&stop), Arc::clone(&invoke));
            thread::spawn(move || {
                while let Some((received_at, batch)) = queue.receive(&stop) {
                    let ids: Vec<_> = batch.iter().map(|record| record["messageId"].clone()).collect();
                    let event = json!({ "Records": batch }).to_string();
                    let failed = invoke(event.as_bytes());
                    let stays = |id: &str| failed.as_ref().is_none_or(|failed| failed.iter().any(|it| it == id));
                    queue.messages.lock().unwrap().retain_mut(|message| {
                        if ids.iter().any(|id| *id == message.id) {
                            message.visible_at = Some(received_at + visibility_timeout);
                            stays(&message.id)
                        } else {
                            true
                        }
                    });
                }
            })
        };
        let workers = (0..BATCHES_AT_ONCE).map(worker).collect();
        Self { queue, stop, workers, functions: Arc::default() }
    }

    /// Waits until no message is left, but not longer than `limit`. Returns how many are left.
    pub fn wait_until_empty(&self, limit: Duration) -> usize {
        let give_up = Instant::now() + limit;
        loop {
            let left = self.queue.messages.lock().unwrap().len();
            if left == 0 || Instant::now() > give_up {
                return left;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends the processes that [`Self::start`] started, after the batches they have. Returns all lines that they printed.
    pub fn end(mut self) -> Vec<String> {
        self.stop();
        let functions = std::mem::take(&mut *self.functions.lock().unwrap());
        functions.into_iter().flat_map(Function::end).collect()
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.queue.changed.notify_all();
        for worker in self.workers.drain(..) {
            let ended = worker.join();
            assert!(ended.is_ok() || thread::panicking(), "a batch failed");
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Queue {
    /// Waits for visible messages. Returns when, and their records, or `None` when it shall stop.
    fn receive(&self, stop: &AtomicBool) -> Option<(Instant, Vec<Value>)> {
        let mut messages = self.messages.lock().unwrap();
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let visible = messages.iter_mut().filter(|message| message.visible_at.is_some_and(|at| at <= now));
            let batch: Vec<_> = visible.take(BATCH_MAX).map(Message::receive).collect();
            if !batch.is_empty() {
                return Some((now, batch));
            }
            messages = self.changed.wait_timeout(messages, Duration::from_millis(10)).unwrap().0;
        }
        None
    }
}

impl Message {
    fn receive(&mut self) -> Value {
        self.visible_at = None;
        self.receives += 1;
        record(&self.id, &self.body, self.sent_at, self.receives)
    }
}

/// Lambda's event for messages that are received for the first time: id, body, and when each was sent.
pub fn sqs_event(messages: &[(&str, &str, SystemTime)]) -> Vec<u8> {
    let records: Vec<_> = messages.iter().map(|(id, body, sent_at)| record(id, body, *sent_at, 1)).collect();
    json!({ "Records": records }).to_string().into_bytes()
}

fn record(id: &str, body: &str, sent_at: SystemTime, receives: u32) -> Value {
    let milliseconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).expect("after 1970").as_millis().to_string();
    json!({
        "messageId": id,
        "receiptHandle": format!("AQEB{id}"),
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": receives.to_string(),
            "SentTimestamp": milliseconds(sent_at),
            "SenderId": "AROALOCALROLE:userhub-signin",
            "ApproximateFirstReceiveTimestamp": milliseconds(sent_at + Duration::from_millis(2)),
        },
        "messageAttributes": {},
        "md5OfBody": hex::encode(Md5::digest(body)),
        "eventSource": "aws:sqs",
        "eventSourceARN": format!("arn:aws:sqs:{REGION}:123456789012:userhub-signin"),
        "awsRegion": REGION,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sqs_with(messages: usize) -> Sqs {
        let sqs = Sqs::start();
        for number in 0..messages {
            sqs.put(&number.to_string());
        }
        sqs
    }

    fn records(event: &[u8]) -> Vec<Value> {
        let event: Value = serde_json::from_slice(event).unwrap();
        event["Records"].as_array().unwrap().clone()
    }

    #[test]
    fn hands_over_at_most_ten_at_once_and_deletes_what_did_not_fail() {
        let sqs = sqs_with(25);
        let sizes: Arc<Mutex<Vec<usize>>> = Arc::default();
        let seen = Arc::clone(&sizes);
        let mapping = Mapping::with(&sqs, Duration::from_mins(2), move |event| {
            let records = records(event);
            seen.lock().unwrap().push(records.len());
            let failed = records.iter().filter(|record| record["body"] == "7");
            Some(failed.map(|record| record["messageId"].as_str().unwrap().to_owned()).collect())
        });
        assert_eq!(mapping.wait_until_empty(Duration::from_millis(200)), 1);
        drop(mapping);
        assert_eq!(sqs.waiting(), ["7"]);
        let sizes = sizes.lock().unwrap();
        assert!(sizes.iter().all(|size| *size <= BATCH_MAX) && sizes.iter().sum::<usize>() == 25, "{sizes:?}");
    }

    #[test]
    fn what_stays_comes_back_after_the_visibility_timeout() {
        const TIMEOUT: Duration = Duration::from_millis(100);
        const SLACK: Duration = Duration::from_millis(20);
        let sqs = sqs_with(1);
        let receives: Arc<Mutex<Vec<(Instant, Value)>>> = Arc::default();
        let seen = Arc::clone(&receives);
        let mapping = Mapping::with(&sqs, TIMEOUT, move |event| {
            let record = records(event).remove(0);
            let mut seen = seen.lock().unwrap();
            seen.push((Instant::now(), record["attributes"]["ApproximateReceiveCount"].clone()));
            match seen.len() {
                1 => None,
                2 => {
                    drop(seen);
                    thread::sleep(3 * TIMEOUT); // it must not come again before the end
                    Some(vec![record["messageId"].as_str().unwrap().to_owned()])
                }
                _ => Some(Vec::new()),
            }
        });
        assert_eq!(mapping.wait_until_empty(Duration::from_secs(10)), 0);
        let receives = receives.lock().unwrap();
        assert_eq!(receives.iter().map(|(_, count)| count.clone()).collect::<Vec<_>>(), ["1", "2", "3"]);
        let pauses: Vec<_> = receives.windows(2).map(|pair| pair[1].0 - pair[0].0 + SLACK).collect();
        assert!(pauses[0] >= TIMEOUT && pauses[1] >= 3 * TIMEOUT, "{pauses:?}");
    }

    #[test]
    fn hands_over_two_batches_at_the_same_time() {
        let sqs = sqs_with(40);
        let busy = Arc::new(Mutex::new((0, 0)));
        let seen = Arc::clone(&busy);
        let mapping = Mapping::with(&sqs, Duration::from_mins(2), move |_| {
            let mut now_and_most = seen.lock().unwrap();
            now_and_most.0 += 1;
            now_and_most.1 = now_and_most.1.max(now_and_most.0);
            drop(now_and_most);
            thread::sleep(Duration::from_millis(20));
            seen.lock().unwrap().0 -= 1;
            Some(Vec::new())
        });
        assert_eq!(mapping.wait_until_empty(Duration::from_secs(10)), 0);
        assert_eq!(busy.lock().unwrap().1, BATCHES_AT_ONCE);
    }
}

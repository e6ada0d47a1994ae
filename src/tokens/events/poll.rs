//! Fetches security events from an issuer that does not push them (RFC 8936), one request after the other: each takes
//! along what became of the events before it, and waits at the issuer until there are new ones.

use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use serde_json::{Map, Value as Json, json};
use tokio::time::sleep;
use url::Url;

use crate::decide::ports::{Clock, EventSink, Told, Unheard};
use crate::domain::event::EventFlaw;
use crate::domain::time::Micros;
use crate::telemetry::{Telemetry, names};
use crate::tokens::fetch::{Fetcher, Post, Request};
use crate::tokens::issuers::Trusted;
use crate::tokens::json::{self, Bounds, Value};

/// Events that are asked for at a time.
const EVENTS_MAX: usize = 100;

/// Bytes of an answer: so many tokens of the longest kind fit.
const BODY_BYTES_MAX: usize = EVENTS_MAX * crate::tokens::TOKEN_BYTES_MAX + 64 * 1024;

const BOUNDS: Bounds = Bounds { depth: 8, members: 512, name_bytes: 1024 };

/// How long the issuer may wait for events. What has not come by then is no failure.
const PATIENCE: Duration = Duration::from_mins(1);

/// Between two requests of an issuer that does not wait.
const INTERVAL: Duration = Duration::from_secs(1);

/// After failures in a row, each twice as long as the one before.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// What became of the events of the answer before; sent until it has arrived.
#[derive(Default)]
struct Report {
    done: Vec<String>,
    refused: Vec<(String, EventFlaw)>,
}

/// What an issuer answers.
pub(in crate::tokens) struct Polled {
    /// The events, each with its id.
    events: Vec<(String, String)>,
    /// Whether there are more already.
    more: bool,
}

/// Follows what `trusted` has to tell, for ever; at once over where it is not to be asked.
pub(in crate::tokens) async fn follow(
    trusted: &Trusted,
    sink: &dyn EventSink,
    clock: &Arc<dyn Clock>,
    telemetry: &Telemetry,
) {
    let url = trusted.settings.events.as_ref().and_then(|events| events.poll.as_deref());
    // It was checked when the configuration was read; what it is under changed settings, each request says.
    let Some(Ok(url)) = url.map(Url::parse) else { return };
    let up = Up(telemetry.issuer_gauge(names::EVENT_POLL_UP, &trusted.name));
    let (mut report, mut rest, mut is_failing) = (Report::default(), REST.0, false);
    loop {
        let outcome = match poll(&trusted.fetcher, &url, &report, clock).await {
            Ok(polled) => {
                let all_heard = polled.heard_by(sink, &mut report).await;
                if all_heard { Ok(polled.wait()) } else { Err("what was told could not be written down".to_owned()) }
            }
            Err(why) => Err(why),
        };
        up.0.set(if outcome.is_ok() { 1.0 } else { 0.0 });
        match outcome {
            Ok(wait) => {
                if is_failing {
                    tracing::info!(issuer = %trusted.name, "an issuer's events can be fetched again");
                }
                (rest, is_failing) = (REST.0, false);
                sleep(wait).await;
            }
            Err(error) => {
                if !is_failing {
                    tracing::warn!(issuer = %trusted.name, %error, "an issuer's events cannot be fetched");
                }
                is_failing = true;
                sleep(rest).await;
                rest = (rest * 2).min(REST.1);
            }
        }
    }
}

/// Whether the issuer's events can be fetched, for as long as they are to be.
struct Up(Gauge);

impl Drop for Up {
    fn drop(&mut self) {
        // Series stay as long as the process; 0 would be an alert that nobody can end.
        self.0.set(f64::NAN);
    }
}

/// Asks once. An error is a sentence.
async fn poll(fetcher: &Fetcher, url: &Url, report: &Report, clock: &Arc<dyn Clock>) -> Result<Polled, String> {
    let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
    let post = Post { media_type: "application/json", body: report.request().to_string() };
    let request = Request { url, post: Some(post), headers, deadline: PATIENCE, bytes_max: BODY_BYTES_MAX };
    let asked_at = clock.steady();
    match fetcher.send(request).await {
        Ok(answer) => Polled::read(&answer.body).ok_or_else(|| "the answer holds no security events".to_owned()),
        // It waited for events as it was asked to.
        Err(error) if error.status.is_none() && clock.steady().since(asked_at) >= Micros::from(PATIENCE) => {
            Ok(Polled { events: Vec::new(), more: true })
        }
        Err(error) => Err(error.sentence),
    }
}

impl Report {
    /// RFC 8936 §2.2.
    fn request(&self) -> Json {
        let mut request = json!({ "maxEvents": EVENTS_MAX, "returnImmediately": false });
        if !self.done.is_empty() {
            request["ack"] = json!(self.done);
        }
        if !self.refused.is_empty() {
            let error = |flaw: &EventFlaw| json!({ "err": flaw.code(), "description": flaw.to_string() });
            let errors: Map<String, Json> = self.refused.iter().map(|(id, flaw)| (id.clone(), error(flaw))).collect();
            request["setErrs"] = Json::Object(errors);
        }
        request
    }
}

impl Polled {
    /// RFC 8936 §2.3; none: it is no such answer.
    pub(in crate::tokens) fn read(body: &[u8]) -> Option<Self> {
        let answer = json::object(body, BOUNDS).ok()?;
        let more = match answer.get("moreAvailable") {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(_) => return None,
        };
        let Some(Value::Object(sets)) = answer.get("sets") else { return None };
        let event = |(id, set): (&str, &Value<'_>)| match set {
            Value::String(set) => Some((id.to_owned(), set.clone().into_owned())),
            _ => None,
        };
        Some(Self { events: sets.members().map(event).collect::<Option<_>>()?, more })
    }

    /// Has `sink` do it all, and reports what became of it from now on. Whether each was done or refused: what is
    /// reported as neither, the issuer tells again.
    async fn heard_by(&self, sink: &dyn EventSink, report: &mut Report) -> bool {
        // What was reported before has arrived.
        *report = Report::default();
        let mut all_heard = true;
        for (id, set) in &self.events {
            match sink.hear(Told::Event(set)).get().await {
                Ok(()) => report.done.push(id.clone()),
                Err(Unheard::Refused(flaw)) => report.refused.push((id.clone(), flaw)),
                Err(Unheard::Away(_)) => all_heard = false,
            }
        }
        all_heard
    }

    /// Until the next request.
    fn wait(&self) -> Duration {
        if self.more || !self.events.is_empty() { Duration::ZERO } else { INTERVAL }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests, which wait for sockets in real time")]

    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;
    use crate::decide::ports::{Answer, Away, AwayCause};
    use crate::domain::event::Events;
    use crate::domain::issuer::Issuer;
    use crate::tokens::mint::{Bench, ISSUER, Signer, issuer_of};
    use crate::tokens::upkeep::liar::{Liar, Says};

    const PLACE: &str = "/poll";

    /// Refuses what says so, cannot write what says so, and does the rest.
    #[derive(Default)]
    struct Sink(Mutex<Vec<String>>);

    impl EventSink for Sink {
        fn hear<'a>(&'a self, told: Told<'a>) -> Answer<'a, Result<(), Unheard>> {
            let (Told::Event(text) | Told::Logout(text)) = told;
            self.0.lock().unwrap().push(text.to_owned());
            Answer::Now(match text {
                "bad" => Err(EventFlaw::Audience.into()),
                "away" => Err(Unheard::Away(Away { because: AwayCause::Deadline })),
                _ => Ok(()),
            })
        }
    }

    /// An issuer on loopback whose events are fetched, until the test is over.
    struct Fixture {
        liar: Liar,
        bench: Bench,
        sink: Arc<Sink>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    async fn fixture(says: Says) -> Fixture {
        let liar = Liar::start().await;
        liar.says(PLACE, says);
        let bench = Bench::new(vec![polled(Some(liar.url(PLACE)))]);
        let sink = Arc::<Sink>::default();
        let (tokens, heard_by) = (Arc::clone(&bench.tokens), Arc::clone(&sink));
        let task = tokio::spawn(async move { tokens.poll_events(&*heard_by).await });
        Fixture { liar, bench, sink, task }
    }

    fn polled(poll: Option<String>) -> Issuer {
        let events = Events { audiences: vec!["shop".to_owned()], poll };
        Issuer { events: Some(events), ..issuer_of([&Signer::ec("k")]) }
    }

    fn sets(sets: &Json) -> Says {
        Says::Text(json!({ "sets": sets }).to_string())
    }

    impl Fixture {
        fn asked(&self) -> Json {
            serde_json::from_str(&self.liar.heard(PLACE)).unwrap_or_default()
        }

        fn up(&self) -> Option<char> {
            let series = format!("tollgate_event_poll_up{{issuer=\"{ISSUER}\"}} ");
            self.bench.telemetry.render().lines().find_map(|line| line.strip_prefix(&series)?.chars().next())
        }
    }

    async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(10), "{what}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn each_request_says_what_became_of_the_events_before_it() {
        let fixture = fixture(sets(&json!({"1": "good", "2": "bad"}))).await;
        until("the events are asked for", || fixture.liar.visits(PLACE) > 0).await;
        until("they are acknowledged", || fixture.asked()["ack"] == json!(["1"])).await;
        assert_eq!(fixture.asked()["maxEvents"], 100);
        assert_eq!(fixture.asked()["setErrs"]["2"]["err"], "invalid_audience");
        fixture.liar.says(PLACE, sets(&json!({})));
        until("nothing is left to say", || fixture.asked().get("ack").is_none()).await;
        assert_eq!(fixture.up(), Some('1'));
        // With another configuration nobody asks any more.
        fixture.bench.tokens.adopt(vec![polled(None)]).unwrap();
        until("the end of asking", || fixture.up() == Some('N')).await;
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_not_acknowledged_and_the_issuer_gets_a_rest() {
        let fixture = fixture(sets(&json!({"1": "away", "2": "good"}))).await;
        until("it is told once more", || fixture.liar.visits(PLACE) > 1).await;
        assert_eq!(fixture.asked()["ack"], json!(["2"]));
        assert_eq!(fixture.up(), Some('0'));
        fixture.liar.says(PLACE, sets(&json!({"1": "good"})));
        until("it is acknowledged in the end", || fixture.asked()["ack"] == json!(["1"])).await;
        assert!(fixture.sink.0.lock().unwrap().len() >= 4);
        until("all is well", || fixture.up() == Some('1')).await;
    }

    #[tokio::test]
    async fn an_issuer_that_fails_is_asked_again_and_told_what_it_has_not_heard() {
        let fixture = fixture(sets(&json!({"1": "good"}))).await;
        until("it is acknowledged", || fixture.asked()["ack"] == json!(["1"])).await;
        fixture.liar.says(PLACE, Says::Status(500));
        until("the failure shows", || fixture.up() == Some('0')).await;
        let visits = fixture.liar.visits(PLACE);
        until("it is asked once more", || fixture.liar.visits(PLACE) > visits).await;
        assert_eq!(fixture.asked()["ack"], json!(["1"]), "nobody has heard it");
    }

    #[test]
    fn an_answer_is_what_the_protocol_says_or_nothing() {
        let read = |text: &str| Polled::read(text.as_bytes()).map(|polled| (polled.events.len(), polled.more));
        assert_eq!(read(r#"{"sets":{}}"#), Some((0, false)));
        assert_eq!(read(r#"{"sets":{"a":"x.y.z"},"moreAvailable":true}"#), Some((1, true)));
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"sets":[]}"#,
            r#"{"sets":{"a":5}}"#,
            r#"{"sets":{},"moreAvailable":"no"}"#,
            r#"{"sets":{"a":"x","a":"y"}}"#,
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}

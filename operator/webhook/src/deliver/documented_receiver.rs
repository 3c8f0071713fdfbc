//! The receiver in docs/webhooks.md does what the page says of it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rusqlite::Connection;
use tallylight_crds::{Action, Broadcast, BroadcastSpec, ContentType, Event, HookUrlSource};

use crate::{
    Body, Endpoint,
    http::{Client, Request},
};

/// The receiver as a process; killed when dropped.
struct Receiver {
    process: Child,
    endpoint: Endpoint,
}

impl Receiver {
    fn start(directory: &Path) -> Self {
        let script = directory.join("receiver.py");
        std::fs::write(&script, example()).unwrap();
        let database = directory.join("receiver.db");
        let mut process = Command::new("python3")
            .args([script.as_os_str(), "0".as_ref(), database.as_os_str()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 is there: `make test` installs it");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("it said {line:?}"));
        Self { process, endpoint: Endpoint::parse(url, HookUrlSource::Spec).unwrap() }
    }

    /// Sends an event, which must be answered with success.
    async fn send(&self, uid: &str, sequence: i64, content_type: ContentType) {
        let mut broadcast = Broadcast::new("studio", BroadcastSpec::default());
        broadcast.metadata.uid = Some(uid.into());
        let action = if sequence % 2 == 1 { Action::LiveStreamStarted } else { Action::LiveStreamEnded };
        let time = "2026-01-01T00:00:00Z".parse().unwrap();
        let event = Event { sequence, session: (sequence + 1) / 2, action, time, reason: None, vod: None };
        let request = Request {
            endpoint: &self.endpoint,
            body: Body::of(&broadcast, "LiveApp", &event, content_type),
            id: ledger::event_id(uid, &event),
            timestamp: time,
            timeout: Duration::from_secs(10),
        };
        let outcome = Client::new(&[]).unwrap().post(request).await;
        assert!(outcome.is_delivered(), "{outcome:?}");
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _killed = self.process.kill(); // it has ended by itself when this fails
        let _status = self.process.wait();
    }
}

#[tokio::test]
async fn the_receiver_in_the_documentation_takes_each_event_exactly_once() {
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(directory.path());
    for sequence in [1, 1, 2, 1, 2, 3] {
        receiver.send("a", sequence, ContentType::Form).await;
    }
    drop(receiver);
    let receiver = Receiver::start(directory.path());
    for (uid, sequence) in [("a", 3), ("a", 2), ("a", 4), ("b", 1), ("a", 4), ("b", 1), ("b", 2)] {
        receiver.send(uid, sequence, ContentType::Json).await;
    }
    let [started, ended] = ["liveStreamStarted studio", "liveStreamEnded studio"];
    assert_eq!(log(directory.path()), [started, ended, started, ended, started, ended]);
}

/// What the receiver did, in order.
fn log(directory: &Path) -> Vec<String> {
    let database = Connection::open(directory.join("receiver.db")).unwrap();
    let mut statement = database.prepare("SELECT line FROM log ORDER BY rowid").unwrap();
    let lines = statement.query_map([], |row| row.get(0)).unwrap();
    lines.map(|line| line.unwrap()).collect()
}

fn example() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/webhooks.md");
    let text = std::fs::read_to_string(page).unwrap();
    let (_, from) = text.split_once("```python\n").expect("the page has an example");
    let (example, _) = from.split_once("```\n").expect("the example ends");
    example.to_owned()
}

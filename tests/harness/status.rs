//! Status patches written by hand: what a node or an operator sends, and what a hostile one might.

use jiff::Timestamp;
use json_patch::Patch;
use kube::{
    Api, Client,
    api::{Patch as Body, PatchParams},
};
use serde_json::{Value, json};
use tallylight_crds::Broadcast;

/// A patch from its operations.
///
/// # Panics
/// When an operation is none.
#[must_use]
pub fn patch(operations: &[Value]) -> Patch {
    serde_json::from_value(Value::from(operations.to_vec())).expect("a JSON Patch")
}

/// The operations by which `node` opens session `ordinal` with `epoch`, in a ledger whose last event is `last`.
#[must_use]
pub fn claim(node: &str, ordinal: i64, epoch: i64, last: i64) -> Vec<Value> {
    let time = Timestamp::UNIX_EPOCH;
    let session = json!({
        "state": "Open", "ordinal": ordinal, "epoch": epoch, "node": node, "id": format!("{node}-{epoch}"),
        "protocol": "RTMP", "startTime": time,
    });
    let start = json!({"sequence": last + 1, "session": ordinal, "action": "liveStreamStarted", "time": time});
    vec![
        json!({"op": "replace", "path": "/status/session", "value": session}),
        json!({"op": "replace", "path": "/status/state", "value": "Live"}),
        append(&start),
        set("/status/hooks/lastSequence", last + 1),
    ]
}

/// The operations that end the open session `ordinal`.
#[must_use]
pub fn end(ordinal: i64, last: i64) -> Vec<Value> {
    let time = Timestamp::UNIX_EPOCH;
    let event = json!({
        "sequence": last + 1, "session": ordinal, "action": "liveStreamEnded", "time": time, "reason": "PublisherClosed",
    });
    vec![
        set("/status/session/state", "Ended"),
        set("/status/session/endTime", time.to_string()),
        set("/status/state", "Ended"),
        append(&event),
        set("/status/hooks/lastSequence", last + 1),
    ]
}

/// The operations that leave the open session `ordinal` of node `node` to whoever has its publisher next, with `epoch`.
#[must_use]
pub fn park(ordinal: i64, epoch: i64) -> Vec<Value> {
    let session = json!({
        "state": "Open", "ordinal": ordinal, "epoch": epoch, "protocol": "RTMP", "startTime": Timestamp::UNIX_EPOCH,
        "away": {"since": "1970-01-01T00:01:00Z", "until": "1970-01-01T00:01:30Z", "reason": "PublisherLost"},
    });
    vec![
        json!({"op": "replace", "path": "/status/session", "value": session}),
        json!({"op": "replace", "path": "/status/state", "value": "Reconnecting"}),
    ]
}

/// The operations by which `node` goes on with a session whose publisher is away.
#[must_use]
pub fn resume(node: &str, ordinal: i64, epoch: i64) -> Vec<Value> {
    claim(node, ordinal, epoch, 0).into_iter().take(2).collect()
}

/// The operations that end the session `ordinal`, whose publisher is away, with `epoch`.
#[must_use]
pub fn expire(ordinal: i64, epoch: i64, last: i64) -> Vec<Value> {
    let since = json!("1970-01-01T00:01:00Z");
    let mut operations = end(ordinal, last);
    operations.push(json!({"op": "remove", "path": "/status/session/away"}));
    operations.push(set("/status/session/epoch", epoch));
    operations.push(set("/status/session/endTime", since));
    operations
}

/// The operations that acknowledge the first pending event.
#[must_use]
pub fn ack(sequence: i64) -> Vec<Value> {
    vec![set("/status/hooks/ackedSequence", sequence), json!({"op": "remove", "path": "/status/hooks/pending/0"})]
}

/// Appends an event to the log.
#[must_use]
pub fn append(event: &Value) -> Value {
    json!({"op": "add", "path": "/status/hooks/pending/-", "value": event})
}

/// Sets a member.
#[must_use]
pub fn set(path: &str, value: impl Into<Value>) -> Value {
    json!({"op": "add", "path": path, "value": value.into()})
}

/// Sends the operations to a Broadcast's status, asking for strict validation.
///
/// # Errors
/// As the API server answers.
pub async fn send(client: &Client, namespace: &str, name: &str, operations: &[Value]) -> kube::Result<Broadcast> {
    let broadcasts = Api::<Broadcast>::namespaced(client.clone(), namespace);
    let parameters = PatchParams::default().validation_strict();
    broadcasts.patch_status(name, &parameters, &Body::Json::<()>(patch(operations))).await
}

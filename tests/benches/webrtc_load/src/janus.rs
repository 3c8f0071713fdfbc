//! Joins a mountpoint of Janus' streaming plugin, which makes the offer.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    http,
    peer::{Making, Peer},
};

/// Answers of other kinds that may come before an offer: an acknowledgement, and events.
const MOST_EVENTS: usize = 10;

pub(crate) fn join(making: &Making, root: &str, light: bool) -> Result<Peer> {
    let session = format!("{root}/{}", id(&ask(root, &json!({"janus": "create", "transaction": "1"}))?)?);
    let attach = json!({"janus": "attach", "plugin": "janus.plugin.streaming", "transaction": "2"});
    let handle = format!("{session}/{}", id(&ask(&session, &attach)?)?);
    let watch = json!({"janus": "message", "body": {"request": "watch", "id": 1}, "transaction": "3"});
    let offer = || {
        ask(&handle, &watch)?;
        for _ in 0..MOST_EVENTS {
            let event: Value = serde_json::from_str(&http::get(&format!("{session}?maxev=1"))?)?;
            if let Some(offer) = event.pointer("/jsep/sdp").and_then(Value::as_str) {
                return Ok(offer.to_owned());
            }
        }
        bail!("Janus makes no offer")
    };
    Peer::answering(making, light, offer, |answer| {
        let start = json!({"janus": "message", "body": {"request": "start"}, "transaction": "4",
            "jsep": {"type": "answer", "sdp": answer}});
        ask(&handle, &start).map(|_| ())
    })
}

fn ask(url: &str, message: &Value) -> Result<Value> {
    Ok(serde_json::from_str(&http::post(url, "application/json", &message.to_string())?)?)
}

fn id(answer: &Value) -> Result<u64> {
    answer.pointer("/data/id").and_then(Value::as_u64).with_context(|| format!("no id in {answer}"))
}

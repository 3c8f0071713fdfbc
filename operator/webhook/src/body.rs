//! The body of a hook: Ant Media Server's published fields under its own names, then ours, in a fixed order.
//!
//! It is made from the Broadcast and the ledger alone: nothing that a publisher sends (its URL's parameters, its stream's
//! metadata) gets here, so no publisher can write a field of a hook.

use std::collections::BTreeMap;

use serde::Serialize;
use tallylight_crds::{Broadcast, ContentType, Event};

/// A body and its `Content-Type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    pub content_type: &'static str,
    pub text: String,
}

impl Body {
    /// Says an event of a Broadcast in the words of `app`'s webhooks. A blank name or category is left out.
    #[must_use]
    pub fn of(broadcast: &Broadcast, app: &str, event: &Event, content_type: ContentType) -> Self {
        let fields = Fields::of(broadcast, app, event);
        match content_type {
            ContentType::Form => {
                Self { content_type: "application/x-www-form-urlencoded; charset=UTF-8", text: fields.form() }
            }
            ContentType::Json => Self { content_type: "application/json; charset=UTF-8", text: json(&fields) },
        }
    }
}

/// Every field, in the order of the wire.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    id: &'a str,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vod_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vod_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'a str>,
    app: &'a str,
    /// Milliseconds since 1970, as a string: Ant Media Server sends it so.
    timestamp: String,
    /// Of a recording, in milliseconds, as a string: as Ant Media Server sends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<String, String>,
    event_id: String,
    /// Whose `sequence` it is: a Broadcast that was deleted and made again counts from 1 again, under the same `id`.
    #[serde(rename = "broadcastUID")]
    broadcast_uid: &'a str,
    session: i64,
    sequence: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl<'a> Fields<'a> {
    fn of(broadcast: &'a Broadcast, app: &'a str, event: &'a Event) -> Self {
        let uid = broadcast.metadata.uid.as_deref().unwrap_or_default();
        let vod = event.vod.as_ref();
        // Those of a recording have neither, as Ant Media Server's.
        let of_stream = |text: Option<&'a str>| not_blank(text).filter(|_| vod.is_none());
        Self {
            id: broadcast.stream_id(),
            action: event.action.as_str(),
            vod_name: vod.map(|vod| vod.name.as_str()),
            vod_id: vod.map(|vod| vod.id.as_str()),
            stream_name: of_stream(broadcast.spec.name.as_deref()),
            category: of_stream(broadcast.spec.category.as_deref()),
            app,
            timestamp: event.time.as_millisecond().to_string(),
            duration: vod.and_then(|vod| vod.duration_milliseconds).map(|duration| duration.to_string()),
            metadata: &broadcast.spec.metadata,
            event_id: ledger::event_id(uid, event).to_string(),
            broadcast_uid: uid,
            session: event.session,
            sequence: event.sequence,
            reason: event.reason.map(tallylight_crds::Reason::as_str),
        }
    }

    fn form(&self) -> String {
        let Self {
            id,
            action,
            vod_name,
            vod_id,
            stream_name,
            category,
            app,
            timestamp,
            duration,
            metadata,
            event_id,
            broadcast_uid,
            session,
            sequence,
            reason,
        } = self;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("id", id).append_pair("action", action);
        let named = [("vodName", vod_name), ("vodId", vod_id), ("streamName", stream_name), ("category", category)];
        form.extend_pairs(named.into_iter().filter_map(|(name, value)| Some((name, (*value)?))));
        form.append_pair("app", app).append_pair("timestamp", timestamp);
        if let Some(duration) = duration {
            form.append_pair("duration", duration);
        }
        if !metadata.is_empty() {
            form.append_pair("metadata", &json(metadata));
        }
        form.append_pair("eventId", event_id)
            .append_pair("broadcastUID", broadcast_uid)
            .append_pair("session", &session.to_string())
            .append_pair("sequence", &sequence.to_string());
        if let Some(reason) = reason {
            form.append_pair("reason", reason);
        }
        form.finish()
    }
}

fn not_blank(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.trim().is_empty())
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("strings, integers and maps of strings are JSON")
}

#[cfg(test)]
mod tests {
    use tallylight_crds::{Action, Reason, Vod};

    use super::*;

    fn full() -> Broadcast {
        let mut broadcast = minimal();
        broadcast.spec.stream_id = Some("Studio_1".into());
        broadcast.spec.name = Some("Çağrı 日本 & Söhne = \"Gut\"".into());
        broadcast.spec.category = Some("news/sport".into());
        broadcast.spec.metadata =
            [("room", "1"), ("lang", "日本語"), ("a&b=c", "x\r\ny")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        broadcast
    }

    fn minimal() -> Broadcast {
        let mut broadcast = Broadcast::new("studio-1", tallylight_crds::BroadcastSpec::default());
        broadcast.metadata.uid = Some("0b6ae9f0-4f7e-4c0e-9b67-2f6a4b6d8a11".into());
        broadcast
    }

    fn started() -> Event {
        Event {
            sequence: 16,
            session: 3,
            action: Action::LiveStreamStarted,
            time: "2026-03-14T15:09:26.535Z".parse().unwrap(),
            reason: None,
            vod: None,
        }
    }

    fn vod_ready() -> Event {
        let vod = Vod {
            id: "studio-1-o7p5mf5p5r".into(),
            name: "Studio_1-20260314-150926-1.mp4".into(),
            duration_milliseconds: Some(61_250),
        };
        Event { sequence: 18, action: Action::VodReady, vod: Some(vod), ..started() }
    }

    fn vod_failed() -> Event {
        let vod = vod_ready().vod.map(|vod| Vod { duration_milliseconds: None, ..vod });
        Event { action: Action::VodFailed, vod, ..vod_ready() }
    }

    fn ended() -> Event {
        Event { sequence: 17, action: Action::LiveStreamEnded, reason: Some(Reason::PublisherLost), ..started() }
    }

    fn say(broadcast: &Broadcast, event: &Event, content_type: ContentType) -> String {
        let body = Body::of(broadcast, "LiveApp", event, content_type);
        format!("{}\n\n{}", body.content_type, body.text)
    }

    #[test]
    fn every_body_is_as_it_was() {
        for (of, broadcast) in [("minimal", minimal()), ("full", full())] {
            let recorded = [("vod_ready", vod_ready()), ("vod_failed", vod_failed())];
            for (what, event) in [("started", started()), ("ended", ended())].into_iter().chain(recorded) {
                for content_type in [ContentType::Form, ContentType::Json] {
                    let name = format!("{what}_{of}_{content_type:?}").to_lowercase();
                    insta::assert_snapshot!(name, say(&broadcast, &event, content_type));
                }
            }
        }
    }

    #[test]
    fn a_form_parses_back_to_what_was_meant() {
        let mut broadcast = full();
        broadcast.spec.name = Some("a&id=victim\r\naction=vodReady\0+%00 ü".into());
        let body = Body::of(&broadcast, "LiveApp", &started(), ContentType::Form);
        assert!(body.text.is_ascii(), "a form is ASCII");

        let fields: Vec<(String, String)> = form_urlencoded::parse(body.text.as_bytes()).into_owned().collect();

        let value = |name: &str| {
            let found: Vec<&String> = fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v).collect();
            assert_eq!(found.len(), 1, "{name} once");
            found[0].clone()
        };
        assert_eq!(value("id"), "Studio_1");
        assert_eq!(value("action"), "liveStreamStarted");
        assert_eq!(Some(value("streamName")), broadcast.spec.name);
        let metadata: BTreeMap<String, String> = serde_json::from_str(&value("metadata")).unwrap();
        assert_eq!(metadata, broadcast.spec.metadata);
    }

    #[test]
    fn a_blank_name_is_left_out() {
        let mut broadcast = minimal();
        broadcast.spec.name = Some(" \t".into());
        broadcast.spec.category = Some(String::new());
        let json = Body::of(&broadcast, "LiveApp", &started(), ContentType::Json).text;
        let fields: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(fields.get("streamName"), None);
        assert_eq!(fields.get("category"), None);
    }

    #[test]
    fn form_and_json_say_the_same() {
        for event in [ended(), vod_ready()] {
            let json = Body::of(&full(), "LiveApp", &event, ContentType::Json).text;
            let json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
            let form = Body::of(&full(), "LiveApp", &event, ContentType::Form).text;
            let form: BTreeMap<String, String> = form_urlencoded::parse(form.as_bytes()).into_owned().collect();
            let json: BTreeMap<String, String> = json
                .into_iter()
                .map(|(name, value)| (name, value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
                .collect();
            assert_eq!(form, json);
        }
    }
}

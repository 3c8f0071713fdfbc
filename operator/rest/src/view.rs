//! A Broadcast as Ant Media Server shows one: its fields, its order, its nulls (2.2 and before, whose fields later versions
//! kept). What has no counterpart has the value that theirs has by default.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use serde::Serialize;
use tallylight_crds::{Broadcast, BroadcastState};

use crate::router::Application;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct View {
    stream_id: String,
    status: &'static str,
    r#type: &'static str,
    publish_type: Option<&'static str>,
    name: Option<String>,
    description: Option<String>,
    publish: bool,
    /// Creation, milliseconds since 1970.
    date: i64,
    planned_start_date: i64,
    planned_end_date: i64,
    /// Of the latest session, milliseconds.
    duration: i64,
    end_point_list: Option<()>,
    public_stream: bool,
    is360: bool,
    #[serde(rename = "listenerHookURL")]
    listener_hook_url: Option<String>,
    category: Option<String>,
    ip_addr: Option<()>,
    username: Option<()>,
    password: Option<()>,
    quality: Option<()>,
    speed: f64,
    stream_url: Option<()>,
    /// Their spelling.
    origin_adress: Option<String>,
    mp4_enabled: i64,
    #[serde(rename = "webMEnabled")]
    web_m_enabled: i64,
    #[serde(rename = "expireDurationMS")]
    expire_duration_ms: i64,
    #[serde(rename = "rtmpURL")]
    rtmp_url: String,
    zombi: bool,
    pending_packet_size: i64,
    hls_viewer_count: i64,
    #[serde(rename = "webRTCViewerCount")]
    web_rtc_viewer_count: i64,
    rtmp_viewer_count: i64,
    start_time: i64,
    received_bytes: i64,
    bitrate: i64,
    user_agent: &'static str,
    latitude: Option<()>,
    longitude: Option<()>,
    altitude: Option<()>,
    main_track_stream_id: Option<()>,
    sub_track_stream_ids: Option<()>,
    absolute_start_time_ms: i64,
    #[serde(rename = "webRTCViewerLimit")]
    web_rtc_viewer_limit: i64,
    hls_viewer_limit: i64,
    /// The text of a JSON object.
    meta_data: Option<String>,
}

impl View {
    /// Shows a Broadcast of an application. `rtmp` is `host` or `host:port` for publishers.
    pub(crate) fn of(broadcast: &Broadcast, app_name: &str, app: &Application, rtmp: &str, now: Timestamp) -> Self {
        let status = broadcast.status_or_default();
        let spec = &broadcast.spec;
        let session = &status.session;
        let id = broadcast.stream_id();
        let start = session.start_time;
        let duration = start.map_or(0, |start| session.end_time.unwrap_or(now).duration_since(start).as_millis());
        Self {
            stream_id: id.to_owned(),
            status: match status.state {
                BroadcastState::Idle => "created",
                BroadcastState::Live | BroadcastState::Reconnecting => "broadcasting",
                BroadcastState::Ended => "finished",
            },
            r#type: "liveStream",
            publish_type: session.protocol.map(tallylight_crds::Protocol::as_str),
            name: spec.name.clone(),
            description: spec.description.clone(),
            publish: true,
            // A store keeps it in whole seconds, though its answer to a creation may be finer.
            date: broadcast.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second() * 1000),
            planned_start_date: 0,
            planned_end_date: 0,
            duration: i64::try_from(duration.max(0)).unwrap_or(i64::MAX),
            end_point_list: None,
            public_stream: true,
            is360: false,
            listener_hook_url: spec.listener_hook_url.clone().or_else(|| app.listener_hook_url.clone()),
            category: spec.category.clone(),
            ip_addr: None,
            username: None,
            password: None,
            quality: None,
            speed: 0.0,
            stream_url: None,
            origin_adress: session.address.as_deref().map(host),
            mp4_enabled: 0,
            web_m_enabled: 0,
            expire_duration_ms: 0,
            rtmp_url: format!("rtmp://{rtmp}/{app_name}/{id}"),
            zombi: broadcast.is_ephemeral(),
            pending_packet_size: 0,
            hls_viewer_count: 0,
            web_rtc_viewer_count: 0,
            rtmp_viewer_count: 0,
            start_time: start.map_or(0, Timestamp::as_millisecond),
            received_bytes: 0,
            bitrate: 0,
            user_agent: "N/A",
            latitude: None,
            longitude: None,
            altitude: None,
            main_track_stream_id: None,
            sub_track_stream_ids: None,
            absolute_start_time_ms: start.map_or(0, Timestamp::as_millisecond),
            web_rtc_viewer_limit: -1,
            hls_viewer_limit: -1,
            meta_data: (!spec.metadata.is_empty()).then(|| serde_json::json!(spec.metadata).to_string()),
        }
    }
}

/// The host of a node's address, which has a port where the node relays.
fn host(address: &str) -> String {
    if let Ok(socket) = address.parse::<SocketAddr>() {
        return socket.ip().to_string();
    }
    let is_ip = address.parse::<IpAddr>().is_ok();
    let name = address.rsplit_once(':').map(|(name, _)| name).filter(|_| !is_ip);
    name.unwrap_or(address).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_port() {
        for (address, shown) in [
            ("10.0.0.7", "10.0.0.7"),
            ("10.0.0.7:5081", "10.0.0.7"),
            ("fd00::7", "fd00::7"),
            ("[fd00::7]:5081", "fd00::7"),
            ("media-1.media:5081", "media-1.media"),
        ] {
            assert_eq!(host(address), shown);
        }
    }
}

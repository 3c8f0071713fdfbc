//! Recordings as Ant Media Server's VoDs: list, count, look at one, delete one; and start or stop to record what is on air.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use ledger::{Key, Recordings, Store};
use serde::{Deserialize, Serialize};
use tallylight_crds::{
    Broadcast, RECORD_ANNOTATION, Recording, RecordingFormat, RecordingMode, RecordingSettings, RecordingState,
    StreamId, object_name,
};

use crate::{
    result::{done, fail, undone},
    router::{Application, Config, Failure, Segments, Shared, find, segments, within},
};

/// Most VoDs of one answer, as Ant Media Server's pages have it; a larger size gets as many. Also the most that one request deletes.
const MAX_PAGE: usize = 50;

/// A recording as Ant Media Server shows a VoD: its fields, its order, its nulls.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    stream_name: Option<()>,
    vod_name: String,
    stream_id: String,
    /// Milliseconds since 1970, as all times here.
    creation_date: i64,
    start_time: i64,
    /// Milliseconds.
    duration: i64,
    file_size: i64,
    file_path: String,
    vod_id: String,
    r#type: &'static str,
    preview_file_path: Option<()>,
    process_status: &'static str,
    process_start_time: i64,
    process_end_time: i64,
    description: Option<()>,
    metadata: Option<()>,
    longitude: Option<()>,
    latitude: Option<()>,
    altitude: Option<()>,
}

impl View {
    fn of(recording: &Recording) -> Self {
        let (spec, status) = (&recording.spec, recording.status_or_default());
        let created = recording.metadata.creation_timestamp.as_ref();
        Self {
            stream_name: None,
            vod_name: spec.file_name.clone(),
            stream_id: spec.stream_id.clone(),
            // A store keeps it in whole seconds, though its answer to a creation may be finer.
            creation_date: created.map_or(0, |time| time.0.as_second() * 1000),
            start_time: spec.start_time.as_millisecond(),
            duration: status.duration_milliseconds.unwrap_or(0),
            file_size: status.bytes.unwrap_or(0),
            file_path: format!("streams/{}", spec.file_name),
            vod_id: recording.metadata.name.clone().unwrap_or_default(),
            r#type: "streamVod",
            preview_file_path: None,
            process_status: match status.state {
                RecordingState::Recording => "inqueue",
                RecordingState::Finalizing | RecordingState::Uploading => "processing",
                RecordingState::Ready => "finished",
                RecordingState::Failed => "failed",
            },
            process_start_time: 0,
            process_end_time: 0,
            description: None,
            metadata: None,
            longitude: None,
            latitude: None,
            altitude: None,
        }
    }
}

/// What a list has, and in which order; an empty value is as good as none.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ListQuery {
    #[serde(rename = "streamId")]
    stream_id: Option<String>,
    search: Option<String>,
    #[serde(default)]
    sort_by: SortBy,
    #[serde(default)]
    order_by: OrderBy,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SortBy {
    Name,
    #[default]
    #[serde(alias = "")]
    Date,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OrderBy {
    #[default]
    #[serde(alias = "")]
    Asc,
    Desc,
}

pub(crate) async fn list<S: Store + Recordings>(
    State(config): Shared<S>,
    path: Segments<(String, String, String)>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    let (app, offset, size) = segments(path)?;
    let app = (config.applications)(&app).ok_or(Failure::UnknownApplication)?;
    let number = |text: &str| text.parse::<usize>().map_err(|_no_number| Failure::Page);
    let (offset, size) = (number(&offset)?, number(&size)?.min(MAX_PAGE));
    let ListQuery { stream_id, search, sort_by, order_by } = query.map_err(|_unreadable| Failure::Page)?.0;
    let stream = stream_id.filter(|id| !id.is_empty());
    let mut all = ready(&config.store, &app, stream.as_deref(), &search.unwrap_or_default()).await?;
    match sort_by {
        SortBy::Name => all.sort_by(|a, b| a.spec.file_name.cmp(&b.spec.file_name)),
        SortBy::Date => all.sort_by_key(|it| it.spec.start_time),
    }
    match order_by {
        OrderBy::Asc => {}
        OrderBy::Desc => all.reverse(),
    }
    let page: Vec<View> = all.iter().skip(offset).take(size).map(View::of).collect();
    Ok(Json(page).into_response())
}

#[derive(Serialize)]
struct Count {
    number: usize,
}

pub(crate) async fn count<S: Store + Recordings>(
    State(config): Shared<S>,
    app: Segments<String>,
) -> Result<Response, Failure> {
    count_found(&config, &segments(app)?, "").await
}

pub(crate) async fn count_of<S: Store + Recordings>(
    State(config): Shared<S>,
    path: Segments<(String, String)>,
) -> Result<Response, Failure> {
    let (app, search) = segments(path)?;
    count_found(&config, &app, &search).await
}

async fn count_found<S: Store + Recordings>(config: &Config<S>, app: &str, search: &str) -> Result<Response, Failure> {
    let app = (config.applications)(app).ok_or(Failure::UnknownApplication)?;
    let number = ready(&config.store, &app, None, search).await?.len();
    Ok(Json(Count { number }).into_response())
}

pub(crate) async fn show<S: Store + Recordings>(
    State(config): Shared<S>,
    path: Segments<(String, String)>,
) -> Result<Response, Failure> {
    let (app, id) = segments(path)?;
    let app = (config.applications)(&app).ok_or(Failure::UnknownApplication)?;
    Ok(match of_id(&config.store, &app, &id).await? {
        Some(recording) => Json(View::of(&recording)).into_response(),
        // Ant Media Server answers without a body.
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

pub(crate) async fn delete<S: Store + Recordings>(
    State(config): Shared<S>,
    path: Segments<(String, String)>,
) -> Result<Response, Failure> {
    let (app, id) = segments(path)?;
    let app = (config.applications)(&app).ok_or(Failure::UnknownApplication)?;
    Ok(match delete_one(&config.store, &app, &id).await? {
        Deleted::Yes => done(None, None),
        Deleted::Unknown => undone("no VoD has that id"),
    })
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct IdsQuery {
    #[serde(default)]
    ids: String,
}

/// Deletes several, whose ids are joined by commas.
pub(crate) async fn delete_many<S: Store + Recordings>(
    State(config): Shared<S>,
    app: Segments<String>,
    query: Result<Query<IdsQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    let app = (config.applications)(&segments(app)?).ok_or(Failure::UnknownApplication)?;
    let ids = query.map_err(|_unreadable| Failure::Ids)?.0.ids;
    let ids: Vec<&str> = ids.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
    if ids.is_empty() || ids.len() > MAX_PAGE {
        return Err(Failure::Ids);
    }
    let mut unknown = 0_usize;
    for id in &ids {
        match delete_one(&config.store, &app, id).await? {
            Deleted::Yes => {}
            Deleted::Unknown => unknown += 1,
        }
    }
    Ok(match unknown {
        0 => done(None, None),
        _ => undone(&format!("{unknown} of {} ids are of no VoD; the others are deleted", ids.len())),
    })
}

enum Deleted {
    Yes,
    Unknown,
}

async fn delete_one<S: Recordings>(store: &S, app: &Application, id: &str) -> Result<Deleted, Failure> {
    let Some(recording) = of_id(store, app, id).await? else { return Ok(Deleted::Unknown) };
    let uid = recording.metadata.uid.as_deref().unwrap_or_default();
    match within(store.delete_recording(&Key::of_recording(&recording), uid)).await {
        Ok(()) | Err(Failure::Store(ledger::Error::NotFound)) => {}
        Err(failure) => return Err(failure),
    }
    tracing::info!(recording = %Key::of_recording(&recording), "recording.delete_asked");
    Ok(Deleted::Yes)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RecordQuery {
    record_type: Option<String>,
}

/// Starts to record a Broadcast that is recorded on demand, or stops.
pub(crate) async fn record<S: Store + Recordings>(
    State(config): Shared<S>,
    path: Segments<(String, String, String)>,
    query: Result<Query<RecordQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    let (app, id, wanted) = segments(path)?;
    let app = (config.applications)(&app).ok_or(Failure::UnknownApplication)?;
    let value = match wanted.as_str() {
        "true" => Some("true"),
        "false" => None,
        _ => return Ok(fail(StatusCode::NOT_FOUND, "the path must end in recording/true or recording/false")),
    };
    let record_type = query.map_err(|_unreadable| Failure::Page)?.0.record_type;
    let Some(broadcast) = find(&config.store, &app, &id).await? else {
        return Ok(undone("no broadcast has that id"));
    };
    let settings = settings(&config.store, &app, &broadcast).await?;
    if let Some(obstacle) = obstacle(&settings, record_type.as_deref()) {
        return Ok(undone(obstacle));
    }
    within(config.store.annotate(&broadcast, RECORD_ANNOTATION, value)).await?;
    tracing::info!(broadcast = %Key::of(&broadcast), asked = value.is_some(), "recording.asked");
    let stopped = if value.is_none() { growing(&config.store, &broadcast).await? } else { None };
    Ok(done(None, stopped.as_deref()))
}

async fn settings<S: Store>(store: &S, app: &Application, broadcast: &Broadcast) -> Result<RecordingSettings, Failure> {
    let pool = within(store.pool(&app.namespace, &app.pool)).await?;
    Ok(RecordingSettings::of(broadcast, &pool.map(|pool| pool.spec).unwrap_or_default()))
}

/// Why nobody can start or stop to record it.
fn obstacle(settings: &RecordingSettings, record_type: Option<&str>) -> Option<&'static str> {
    match settings.mode {
        RecordingMode::Off => return Some("recording is off; set spec.recording.mode to OnDemand"),
        RecordingMode::On => {
            return Some(
                "it is always recorded while it is on air; to start and stop, set spec.recording.mode to OnDemand",
            );
        }
        RecordingMode::OnDemand => {}
    }
    let is_kept = match settings.format {
        RecordingFormat::Mp4 => record_type.is_none_or(|it| it.eq_ignore_ascii_case("mp4")),
        RecordingFormat::Hls => record_type.is_none(),
    };
    (!is_kept).then_some("recordType must be that of spec.recording.format, or left out")
}

/// The recording that is under way.
async fn growing<S: Recordings>(store: &S, broadcast: &Broadcast) -> Result<Option<String>, Failure> {
    let key = Key::of(broadcast);
    let all = within(store.recordings_of(&key.namespace, Some(&key.name))).await?;
    let is_it = |recording: &&Recording| {
        recording.state() == RecordingState::Recording
            && Some(&recording.spec.broadcast.uid) == broadcast.metadata.uid.as_ref()
    };
    Ok(all.iter().filter(is_it).max_by_key(|it| it.spec.start_time).and_then(|it| it.metadata.name.clone()))
}

/// The application's recordings that can be fetched, by name; of one stream, when it is named, and with that text in the id, the
/// name or the stream's id, in letters of either case.
async fn ready<S: Recordings>(
    store: &S,
    app: &Application,
    stream: Option<&str>,
    search: &str,
) -> Result<Vec<Recording>, Failure> {
    let search = search.to_lowercase();
    let has_it = |text: &str| text.to_lowercase().contains(&search);
    let object = match stream.map(StreamId::parse) {
        Some(Ok(id)) => Some(object_name(&id)),
        Some(Err(_)) => return Ok(Vec::new()),
        None => None,
    };
    let mut all = within(store.recordings_of(&app.namespace, object.as_deref())).await?;
    let is_vod = |recording: &Recording| {
        recording.spec.pool == app.pool
            && recording.state() == RecordingState::Ready
            && !recording.is_leaving()
            && stream.is_none_or(|stream| stream == recording.spec.stream_id)
            && (has_it(&recording.spec.stream_id)
                || has_it(&recording.spec.file_name)
                || recording.metadata.name.as_deref().is_some_and(has_it))
    };
    all.retain(is_vod);
    all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name)); // what follows keeps the order of equals: pages fit together
    Ok(all)
}

async fn of_id<S: Recordings>(store: &S, app: &Application, id: &str) -> Result<Option<Recording>, Failure> {
    let is_name =
        (1..=63).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !is_name {
        return Ok(None);
    }
    let key = Key { namespace: app.namespace.clone(), name: id.to_owned() };
    let found = within(store.recording(&key)).await?;
    Ok(found.filter(|recording| recording.spec.pool == app.pool && !recording.is_leaving()))
}

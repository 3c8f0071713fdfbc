//! From a parsed request to the Broadcast that it asks for.

use tallylight_crds::{
    Broadcast, BroadcastSpec, HOOKS_FINALIZER, HookUrlSource, InvalidHookUrl, StreamId, hook_url, object_name,
};

use crate::{input::Create, router::Application};

/// Why a request asks for no Broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// Ant Media Server's own words, and the remedy.
    #[error("Stream id is not valid. It must be 1 to 253 characters of A-Z, a-z, 0-9, '_', '.' and '-'")]
    StreamId,
    #[error("listenerHookURL {0}")]
    HookUrl(#[from] InvalidHookUrl),
}

/// Makes the Broadcast of a request in an application. Its id is the request's, or else `new_id`.
pub(crate) fn broadcast(request: Create, new_id: &str, app: &Application) -> Result<Broadcast, Error> {
    let Create { stream_id, name, description, category, listener_hook_url, metadata } = request;
    if let Some(url) = &listener_hook_url {
        hook_url(url, HookUrlSource::Spec)?;
    }
    let id = StreamId::parse(stream_id.as_deref().unwrap_or(new_id)).map_err(|_invalid| Error::StreamId)?;
    let object = object_name(&id);
    let spec = BroadcastSpec {
        pool: app.pool.clone(),
        stream_id: (object != id.as_str()).then(|| id.to_string()),
        name,
        description,
        category,
        metadata,
        listener_hook_url,
        ..BroadcastSpec::default()
    };
    let mut broadcast = Broadcast::new(&object, spec);
    broadcast.metadata.namespace = Some(app.namespace.clone());
    broadcast.metadata.finalizers = Some(vec![HOOKS_FINALIZER.to_owned()]);
    Ok(broadcast)
}

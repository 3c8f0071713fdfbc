//! What must hold of the parser of REST requests for any bytes; as `rtmp_targets.rs` is run.

use rest::input::{self, Create};
use serde_json::json;

/// The body of a request to create a broadcast.
pub(crate) fn rest_json(body: &[u8]) {
    match input::parse(body) {
        Ok(create) => {
            holds_its_limits(&create);
            assert_eq!(input::parse(&again(&create)), Ok(create), "what was understood is understood again");
        }
        Err(invalid) => assert!(invalid.to_string().len() < 200, "an answer names a field and repeats no value"),
    }
}

fn holds_its_limits(create: &Create) {
    let Create { stream_id, name, description, category, listener_hook_url, metadata } = create;
    for (text, most) in [(stream_id, 253), (name, 256), (description, 4096), (category, 256), (listener_hook_url, 2048)]
    {
        assert!(text.as_ref().is_none_or(|text| !text.trim().is_empty() && text.chars().count() <= most));
    }
    assert!(metadata.len() <= 32);
    assert!(metadata.iter().all(|(name, value)| name.chars().count() <= 64 && value.chars().count() <= 1024));
}

/// The request as a client would send it.
fn again(create: &Create) -> Vec<u8> {
    let Create { stream_id, name, description, category, listener_hook_url, metadata } = create;
    json!({
        "streamId": stream_id,
        "name": name,
        "description": description,
        "category": category,
        "listenerHookURL": listener_hook_url,
        "metaData": metadata,
    })
    .to_string()
    .into_bytes()
}

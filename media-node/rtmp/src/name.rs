//! Splits what a client calls an application or a stream into a name, a query and a key.
//!
//! The key comes as `rtmp://host/app/id?key=…`, as OBS's stream key `id?key=…`, or with the application,
//! `rtmp://host/app?key=…`. Percent-encoding is decoded; a `+` stays a plus, as keys are often base64.

use std::fmt;

/// Longest application or stream name with its query that is looked at, in bytes. Names are at most a few hundred
/// bytes and keys shorter; a longer one is cut off as [`None`] and so refused.
pub const MAX_NAME_BYTES: usize = 2048;

/// Most parameters of one query that are kept; those after are ignored, as no client of ours needs more than a few.
pub const MAX_PARAMETERS: usize = 16;

/// A stream key. `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// Wraps a key.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key itself, to be compared and never printed.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The decoded parameters of a query string. `Debug` prints their names and hides their values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`. A parameter without `=` has an empty value.
    pub fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).take(MAX_PARAMETERS);
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decode(name), percent_decode(value))
                })
                .collect(),
        )
    }

    /// The first value of the parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The value of `key`, unless it is empty.
    pub fn key(&self) -> Option<Key> {
        self.get("key").filter(|key| !key.is_empty()).map(Key::new)
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, _)| (name, "***"))).finish()
    }
}

/// A name and the query that followed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// The part before `?`, decoded, without slashes at its ends.
    pub name: String,
    /// The part after `?`.
    pub query: Query,
}

impl Name {
    /// Splits `name?query`. `None` when it is longer than [`MAX_NAME_BYTES`].
    pub fn parse(raw: &str) -> Option<Self> {
        if raw.len() > MAX_NAME_BYTES {
            return None;
        }
        let (name, query) = raw.split_once('?').unwrap_or((raw, ""));
        Some(Self { name: percent_decode(name.trim_matches('/')), query: Query::parse(query) })
    }
}

/// Decodes `%xx`; what is no such triple stays as it is, and bytes that are no UTF-8 become U+FFFD.
fn percent_decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        match (byte, ahead.next().and_then(hex), ahead.next().and_then(hex)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high << 4 | low);
                bytes = ahead;
            }
            _ => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_stream_key_is_split_off_and_decoded() {
        let name = Name::parse("stream-1?key=a%2Fb%3d&x").unwrap();

        assert_eq!(name.name, "stream-1");
        assert_eq!(name.query.key(), Some(Key::new("a/b=")));
        assert_eq!(name.query.get("x"), Some(""));
    }

    #[test]
    fn a_plus_is_part_of_a_key() {
        assert_eq!(Query::parse("key=a+b%2B").key(), Some(Key::new("a+b+")));
    }

    #[test]
    fn slashes_around_a_name_do_not_count() {
        assert_eq!(Name::parse("/LiveApp/").unwrap().name, "LiveApp");
        assert_eq!(Name::parse("LiveApp/?key=k").unwrap().name, "LiveApp");
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(percent_decode("100%"), "100%");
        assert_eq!(percent_decode("%zz%4"), "%zz%4");
        assert_eq!(percent_decode("%ff"), "\u{fffd}");
    }

    #[test]
    fn an_empty_key_is_no_key() {
        assert_eq!(Query::parse("key=").key(), None);
    }

    #[test]
    fn a_name_beyond_the_limit_is_refused_and_parameters_beyond_it_are_dropped() {
        assert_eq!(Name::parse(&"x".repeat(MAX_NAME_BYTES + 1)), None);
        let query = format!("{}key=k", "a=1&".repeat(MAX_PARAMETERS));
        assert_eq!(Query::parse(&query).key(), None);
    }

    #[test]
    fn debug_output_hides_keys_and_values() {
        let text = format!("{:?} {:?}", Name::parse("id?key=hunter2&token=hunter3").unwrap(), Key::new("hunter4"));

        assert!(!text.contains("hunter"), "{text}");
        assert!(text.contains("***") && text.contains("token"), "{text}");
    }
}

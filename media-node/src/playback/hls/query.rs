//! Delivery directives: what a player says in its request for a playlist (RFC 8216bis §6.2.5).

use mux::playlist::Delta;

/// A playlist that has at least this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Awaited {
    /// Number of a segment.
    pub(crate) segment: u64,
    /// A part of it; without one all of the segment is awaited.
    pub(crate) part: Option<u32>,
}

/// What a player wants of a playlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reload {
    /// The answer waits for this.
    pub(crate) awaited: Option<Awaited>,
    pub(crate) delta: Delta,
}

/// Directives that are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("_HLS_msn and _HLS_part are whole numbers, each given once")]
    Number,
    #[error("_HLS_part needs _HLS_msn")]
    PartAlone,
    #[error("_HLS_skip is YES or v2")]
    Skip,
}

impl Reload {
    /// Reads the query of a request. What is no directive is left alone.
    ///
    /// # Errors
    /// When a directive is none.
    pub(crate) fn parse(query: &str) -> Result<Self, Invalid> {
        let (mut segment, mut part, mut delta) = (None, None, Delta::Full);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "_HLS_msn" if segment.is_none() => segment = Some(number(&value)?),
                "_HLS_part" if part.is_none() => part = Some(number(&value)?),
                "_HLS_msn" | "_HLS_part" => return Err(Invalid::Number),
                "_HLS_skip" if matches!(&*value, "YES" | "v2") => delta = Delta::Skip,
                "_HLS_skip" => return Err(Invalid::Skip),
                _ => {}
            }
        }
        let awaited = match (segment, part) {
            (None, Some(_)) => return Err(Invalid::PartAlone),
            (None, None) => None,
            (Some(segment), part) => Some(Awaited { segment, part }),
        };
        Ok(Self { awaited, delta })
    }

    /// The query that says so.
    pub(crate) fn query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(Awaited { segment, part }) = self.awaited {
            query.append_pair("_HLS_msn", &segment.to_string());
            if let Some(part) = part {
                query.append_pair("_HLS_part", &part.to_string());
            }
        }
        if self.delta == Delta::Skip {
            query.append_pair("_HLS_skip", "YES");
        }
        query.finish()
    }
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, Invalid> {
    // a sign is no digit, though `parse` takes one
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| is_number).ok_or(Invalid::Number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn directives_are_read_and_the_rest_is_left_alone() {
        let reload = Reload::parse("token=a%20b&_HLS_msn=7&_HLS_part=2&_HLS_skip=YES&_HLS_report=x").unwrap();

        assert_eq!(reload, Reload { awaited: Some(Awaited { segment: 7, part: Some(2) }), delta: Delta::Skip });
        assert_eq!(Reload::parse("").unwrap(), Reload { awaited: None, delta: Delta::Full });
        assert_eq!(Reload::parse("_HLS_msn=7").unwrap().awaited, Some(Awaited { segment: 7, part: None }));
    }

    #[test]
    fn directives_that_are_none_are_refused() {
        for query in
            ["_HLS_msn=", "_HLS_msn=-1", "_HLS_msn=+1", "_HLS_msn=1&_HLS_msn=1", "_HLS_msn=99999999999999999999"]
        {
            assert_eq!(Reload::parse(query), Err(Invalid::Number), "{query}");
        }
        assert_eq!(Reload::parse("_HLS_part=1"), Err(Invalid::PartAlone));
        assert_eq!(Reload::parse("_HLS_skip=NO"), Err(Invalid::Skip));
    }

    proptest! {
        #[test]
        fn no_query_is_too_odd(query in ".*") {
            let _read = Reload::parse(&query);
        }

        #[test]
        fn what_is_written_is_read(segment: u64, part: Option<u32>, awaits: bool, skips: bool) {
            let delta = if skips { Delta::Skip } else { Delta::Full };
            let reload = Reload { awaited: awaits.then_some(Awaited { segment, part }), delta };
            prop_assert_eq!(Reload::parse(&reload.query()), Ok(reload));
        }
    }
}

//! Where a client connects: an RTMP URL, taken apart.

use std::fmt;

/// `rtmp[s]://host[:port]/app/stream[?query]`, taken apart. `Debug` hides queries, as keys are in them.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    tls: bool,
    host: String,
    port: u16,
    app: String,
    stream: String,
}

/// Why a text is no [`Target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The scheme is another.
    #[error("an RTMP URL begins with rtmp:// or rtmps://")]
    Scheme,
    /// The host is missing, or holds a user name and password.
    #[error("an RTMP URL names a host, and no user")]
    Host,
    /// The port is no number from 1 to 65535.
    #[error("the port of an RTMP URL is a number from 1 to 65535")]
    Port,
    /// The application or stream is missing.
    #[error("an RTMP URL ends with an application and a stream, as in rtmp://host/LiveApp/stream1")]
    Path,
}

impl Target {
    /// Takes a URL apart. The first path segment is the application; all that follows is the stream with its query.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let (tls, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("rtmp") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("rtmps") => (true, rest),
            Some(_) | None => return Err(TargetError::Scheme),
        };
        let (authority, path) = rest.split_once('/').ok_or(TargetError::Path)?;
        let (host, port) = split_port(authority)?;
        let port = match port {
            None if tls => 443,
            None => 1935,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(TargetError::Port)?,
        };
        let (app, stream) = path.split_once('/').ok_or(TargetError::Path)?;
        if app.is_empty() || stream.is_empty() {
            return Err(TargetError::Path);
        }
        Ok(Self { tls, host: host.to_owned(), port, app: app.to_owned(), stream: stream.to_owned() })
    }

    /// Whether the connection is to be TLS.
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// The host to connect to; an IPv6 address is without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port; 1935 or, with TLS, 443 when the URL has none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The application as it is sent, with its query.
    pub(crate) fn app(&self) -> &str {
        &self.app
    }

    /// The stream name as it is sent, with its query.
    pub(crate) fn stream(&self) -> &str {
        &self.stream
    }

    /// The URL of the application.
    pub(crate) fn tc_url(&self) -> String {
        format!("{}{}", self.origin(), self.app)
    }

    fn origin(&self) -> String {
        let scheme = if self.tls { "rtmps" } else { "rtmp" };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        format!("{scheme}://{open}{}{close}:{}/", self.host, self.port)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/{}", self.origin(), hidden(&self.app), hidden(&self.stream))
    }
}

/// Hides a query.
fn hidden(name: &str) -> String {
    name.split_once('?').map_or_else(|| name.to_owned(), |(name, _)| format!("{name}?***"))
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), TargetError> {
    if authority.contains('@') {
        return Err(TargetError::Host);
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or(TargetError::Host)?)),
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() { Err(TargetError::Host) } else { Ok((host, port)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let target = Target::parse("rtmp://example.test/LiveApp/stream1?key=k/k").unwrap();

        assert_eq!((target.tls(), target.host(), target.port()), (false, "example.test", 1935));
        assert_eq!((target.app(), target.stream()), ("LiveApp", "stream1?key=k/k"));
        assert_eq!(target.tc_url(), "rtmp://example.test:1935/LiveApp");
    }

    #[test]
    fn an_address_with_a_port_and_tls_is_understood() {
        let target = Target::parse("RTMPS://[::1]:8443/a/b").unwrap();

        assert_eq!((target.tls(), target.host(), target.port()), (true, "::1", 8443));
        assert_eq!(target.tc_url(), "rtmps://[::1]:8443/a");
        assert_eq!(Target::parse("rtmps://h/a/b").unwrap().port(), 443);
    }

    #[test]
    fn what_is_no_rtmp_url_says_what_is_wrong() {
        assert_eq!(Target::parse("http://h/a/b"), Err(TargetError::Scheme));
        assert_eq!(Target::parse("h/a/b"), Err(TargetError::Scheme));
        assert_eq!(Target::parse("rtmp:///a/b"), Err(TargetError::Host));
        assert_eq!(Target::parse("rtmp://u:p@h/a/b"), Err(TargetError::Host));
        assert_eq!(Target::parse("rtmp://h:0/a/b"), Err(TargetError::Port));
        assert_eq!(Target::parse("rtmp://[::1]x/a/b"), Err(TargetError::Host));
        assert_eq!(Target::parse("rtmp://h/a"), Err(TargetError::Path));
        assert_eq!(Target::parse("rtmp://h/a/"), Err(TargetError::Path));
        assert_eq!(Target::parse("rtmp://h"), Err(TargetError::Path));
    }

    #[test]
    fn debug_output_hides_the_key() {
        let text = format!("{:?}", Target::parse("rtmp://h/a?key=one/b?key=two").unwrap());

        assert_eq!(text, "rtmp://h:1935/a?***/b?***");
    }
}

//! Why a request was refused, and how each reason is said on the wire.

/// Why the driver refuses a connect, publish or play, or ends an accepted one.
///
/// The text that a client sees never tells more than the variant does, and holds nothing that the client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// This server has no such application.
    UnknownApp,
    /// No such stream, or for a player: it is not live.
    UnknownStream,
    /// The key is missing or wrong.
    Denied,
    /// Somebody else publishes this stream.
    AlreadyPublishing,
    /// The server cannot take it now: the store does not answer, it is full or it is shutting down.
    Unavailable,
    /// An operator ended the session.
    Stopped,
}

/// The request that a [`Refusal`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Connect,
    Publish,
    Play,
}

impl Refusal {
    /// The status code (RTMP 1.0 §7.2; Flash Media Server's list) of this refusal as an answer to `request`.
    pub(crate) fn code(self, request: Request) -> &'static str {
        match request {
            Request::Connect => match self {
                Self::UnknownApp
                | Self::UnknownStream
                | Self::Denied
                | Self::AlreadyPublishing
                | Self::Unavailable
                | Self::Stopped => code::CONNECT_REJECTED,
            },
            Request::Publish => match self {
                Self::AlreadyPublishing => code::PUBLISH_BAD_NAME,
                Self::UnknownApp | Self::UnknownStream | Self::Denied => code::PUBLISH_DENIED,
                Self::Unavailable | Self::Stopped => code::PUBLISH_FAILED,
            },
            Request::Play => match self {
                Self::UnknownApp | Self::UnknownStream => code::PLAY_STREAM_NOT_FOUND,
                Self::Denied | Self::AlreadyPublishing | Self::Unavailable | Self::Stopped => code::PLAY_FAILED,
            },
        }
    }

    /// A sentence for the person at the encoder.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::UnknownApp => "no such application; check the path of the server URL",
            Self::UnknownStream => "no such stream; check its name",
            Self::Denied => "the stream key is missing or wrong; give it as ?key=",
            Self::AlreadyPublishing => "the stream is already being published",
            Self::Unavailable => "the server cannot take the stream now; try again",
            Self::Stopped => "the stream was stopped by its operator",
        }
    }
}

/// Status codes as the field writes them.
pub mod code {
    /// The connection is accepted.
    pub const CONNECT_SUCCESS: &str = "NetConnection.Connect.Success";
    /// The connection is refused.
    pub const CONNECT_REJECTED: &str = "NetConnection.Connect.Rejected";
    /// A command that the server does not know.
    pub const CALL_FAILED: &str = "NetConnection.Call.Failed";
    /// The publisher may send.
    pub const PUBLISH_START: &str = "NetStream.Publish.Start";
    /// Somebody else publishes under this name.
    pub const PUBLISH_BAD_NAME: &str = "NetStream.Publish.BadName";
    /// The publisher may not use this name.
    pub const PUBLISH_DENIED: &str = "NetStream.Publish.Denied";
    /// The publish cannot begin or go on.
    pub const PUBLISH_FAILED: &str = "NetStream.Publish.Failed";
    /// The publisher ended the stream.
    pub const UNPUBLISH_SUCCESS: &str = "NetStream.Unpublish.Success";
    /// The playlist was reset, sent before [`PLAY_START`].
    pub const PLAY_RESET: &str = "NetStream.Play.Reset";
    /// Media follows.
    pub const PLAY_START: &str = "NetStream.Play.Start";
    /// No more media follows.
    pub const PLAY_STOP: &str = "NetStream.Play.Stop";
    /// The publisher of the played stream is gone.
    pub const PLAY_UNPUBLISH_NOTIFY: &str = "NetStream.Play.UnpublishNotify";
    /// There is no such stream.
    pub const PLAY_STREAM_NOT_FOUND: &str = "NetStream.Play.StreamNotFound";
    /// The play cannot begin or go on.
    pub const PLAY_FAILED: &str = "NetStream.Play.Failed";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_the_code_that_encoders_and_players_know() {
        assert_eq!(Refusal::UnknownApp.code(Request::Connect), "NetConnection.Connect.Rejected");
        assert_eq!(Refusal::AlreadyPublishing.code(Request::Publish), "NetStream.Publish.BadName");
        assert_eq!(Refusal::Denied.code(Request::Publish), "NetStream.Publish.Denied");
        assert_eq!(Refusal::UnknownStream.code(Request::Publish), "NetStream.Publish.Denied");
        assert_eq!(Refusal::Unavailable.code(Request::Publish), "NetStream.Publish.Failed");
        assert_eq!(Refusal::UnknownStream.code(Request::Play), "NetStream.Play.StreamNotFound");
        assert_eq!(Refusal::Denied.code(Request::Play), "NetStream.Play.Failed");
    }
}

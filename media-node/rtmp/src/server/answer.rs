//! What the server writes.

use super::Session;
use crate::amf0::{Value, object};
use crate::connection::MESSAGE_STREAM;
use crate::status::{self, Refusal, code};

/// User control events (§7.1.7).
const STREAM_BEGIN: u16 = 0;
const STREAM_EOF: u16 = 1;

/// Enhanced RTMP v2 `FourCcInfoMask`: the server forwards the codec and neither decodes nor encodes it.
const CAN_FORWARD: f64 = 4.0;

/// Enhanced RTMP v2 `capsEx`: multitrack (2) and ModEx (4) pass through.
const CAPS_EX: f64 = 6.0;

impl Session {
    pub(super) fn answer_connect(&mut self, transaction: f64, object_encoding: f64) {
        let any_codec = || object([("*", Value::from(CAN_FORWARD))]);
        let properties = object([
            ("fmsVer", Value::from("FMS/3,5,7,7009")),
            ("capabilities", Value::from(31.0)),
            ("mode", Value::from(1.0)),
            ("fourCcList", Value::StrictArray(vec![Value::from("*")])),
            ("videoFourCcInfoMap", any_codec()),
            ("audioFourCcInfoMap", any_codec()),
            ("capsEx", Value::from(CAPS_EX)),
        ]);
        let information = object([
            ("level", Value::from("status")),
            ("code", Value::from(code::CONNECT_SUCCESS)),
            ("description", Value::from("connected")),
            ("objectEncoding", Value::from(object_encoding)),
        ]);
        self.connection.write_command(0, "_result", transaction, &[properties, information]);
    }

    pub(super) fn answer_publish(&mut self) {
        if std::mem::take(&mut self.fc_publish) {
            let information = status("status", code::PUBLISH_START, "the stream may begin");
            self.connection.write_command(MESSAGE_STREAM, "onFCPublish", 0.0, &[Value::Null, information]);
        }
        self.answer_status("status", code::PUBLISH_START, "the stream may begin");
    }

    pub(super) fn answer_play(&mut self) {
        self.connection.write_user_control(STREAM_BEGIN, MESSAGE_STREAM);
        self.answer_status("status", code::PLAY_RESET, "the stream is reset");
        self.answer_status("status", code::PLAY_START, "the stream begins");
    }

    pub(super) fn answer_play_ended(&mut self) {
        self.answer_status("status", code::PLAY_UNPUBLISH_NOTIFY, "the publisher is gone");
        self.answer_status("status", code::PLAY_STOP, "the stream has ended");
        self.connection.write_user_control(STREAM_EOF, MESSAGE_STREAM);
    }

    pub(super) fn refuse(&mut self, request: status::Request, refusal: Refusal) {
        self.answer_status("error", refusal.code(request), refusal.description());
    }

    /// Answers a call with nothing but its success, if the client waits for an answer.
    pub(super) fn answer_result(&mut self, transaction: f64, result: Value) {
        if transaction != 0.0 {
            self.connection.write_command(0, "_result", transaction, &[Value::Null, result]);
        }
    }

    pub(super) fn answer_error(&mut self, transaction: f64, code: &str, description: &str) {
        let information = status("error", code, description);
        self.connection.write_command(0, "_error", transaction, &[Value::Null, information]);
    }

    /// Writes `onStatus` on the message stream: GStreamer's sink does not look for it on stream 0.
    pub(super) fn answer_status(&mut self, level: &str, code: &str, description: &str) {
        let information = status(level, code, description);
        self.connection.write_command(MESSAGE_STREAM, "onStatus", 0.0, &[Value::Null, information]);
    }

    pub(super) fn answer_fc(&mut self, name: &str, code: &str, description: &str) {
        let information = status("status", code, description);
        self.connection.write_command(0, name, 0.0, &[Value::Null, information]);
    }
}

fn status(level: &str, code: &str, description: &str) -> Value {
    object([("level", Value::from(level)), ("code", Value::from(code)), ("description", Value::from(description))])
}

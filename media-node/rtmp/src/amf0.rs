//! AMF 0 values of commands and data messages.
//!
//! Not scuffle-amf0, which is the oracle of the tests only: on hostile input it recurses without a limit and reserves
//! as many entries as a 32-bit count says, and it takes the count of an ECMA array as exact, where encoders write 0 and
//! mean "until the end marker" (which it does not know).

use bytes::{BufMut, BytesMut};

/// Deepest nesting of objects and arrays. `connect` and metadata have two or three levels.
pub const MAX_DEPTH: usize = 8;

/// Most values in one message, counted through all levels. A value of one byte costs about 40 here, so this bounds a
/// message's values to some tens of kilobytes.
pub const MAX_VALUES: usize = 1024;

/// An AMF 0 value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number or, without its time zone, a date.
    Number(f64),
    /// A boolean.
    Boolean(bool),
    /// A string, short or long, or an XML document. Bytes that are no UTF-8 became U+FFFD.
    String(String),
    /// An object, typed or not.
    Object(Vec<(String, Self)>),
    /// An associative array.
    EcmaArray(Vec<(String, Self)>),
    /// An array.
    StrictArray(Vec<Self>),
    /// Null.
    Null,
    /// Undefined.
    Undefined,
}

/// Why bytes are no AMF 0 values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes end inside a value.
    #[error("the value is cut off")]
    CutOff,
    /// A marker that AMF 0 does not have or that stands for nothing in RTMP.
    #[error("marker {0} is no value")]
    Marker(u8),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("values are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// More values than [`MAX_VALUES`].
    #[error("there are more than {MAX_VALUES} values")]
    TooMany,
}

mod marker {
    pub(super) const NUMBER: u8 = 0;
    pub(super) const BOOLEAN: u8 = 1;
    pub(super) const STRING: u8 = 2;
    pub(super) const OBJECT: u8 = 3;
    pub(super) const NULL: u8 = 5;
    pub(super) const UNDEFINED: u8 = 6;
    pub(super) const ECMA_ARRAY: u8 = 8;
    pub(super) const OBJECT_END: u8 = 9;
    pub(super) const STRICT_ARRAY: u8 = 10;
    pub(super) const DATE: u8 = 11;
    pub(super) const LONG_STRING: u8 = 12;
    pub(super) const XML: u8 = 15;
    pub(super) const TYPED_OBJECT: u8 = 16;
}

/// Reads all values of a message.
pub fn decode(bytes: &[u8]) -> Result<Vec<Value>, Error> {
    let mut decoder = Decoder { bytes, values: 0 };
    let mut values = Vec::new();
    while !decoder.bytes.is_empty() {
        values.push(decoder.value(0)?);
    }
    Ok(values)
}

impl Value {
    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// The number of a number.
    pub fn as_number(&self) -> Option<f64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    /// The member `name` of an object or associative array.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) | Self::EcmaArray(members) => {
                members.iter().find(|(key, _)| key == name).map(|(_, value)| value)
            }
            Self::Number(_)
            | Self::Boolean(_)
            | Self::String(_)
            | Self::StrictArray(_)
            | Self::Null
            | Self::Undefined => None,
        }
    }

    /// Appends the value to `output`.
    pub fn encode(&self, output: &mut BytesMut) {
        match self {
            Self::Number(number) => {
                output.put_u8(marker::NUMBER);
                output.put_f64(*number);
            }
            Self::Boolean(value) => output.put_slice(&[marker::BOOLEAN, u8::from(*value)]),
            Self::String(text) => encode_string(text, output),
            Self::Object(members) => {
                output.put_u8(marker::OBJECT);
                encode_members(members, output);
            }
            Self::EcmaArray(members) => {
                output.put_u8(marker::ECMA_ARRAY);
                output.put_u32(u32::try_from(members.len()).unwrap_or(u32::MAX));
                encode_members(members, output);
            }
            Self::StrictArray(values) => {
                output.put_u8(marker::STRICT_ARRAY);
                output.put_u32(u32::try_from(values.len()).unwrap_or(u32::MAX));
                values.iter().for_each(|value| value.encode(output));
            }
            Self::Null => output.put_u8(marker::NULL),
            Self::Undefined => output.put_u8(marker::UNDEFINED),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

/// Makes an object of names and values.
pub fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Object(members.map(|(name, value)| (name.to_owned(), value)).into())
}

fn encode_string(text: &str, output: &mut BytesMut) {
    match u16::try_from(text.len()) {
        Ok(length) => {
            output.put_u8(marker::STRING);
            output.put_u16(length);
        }
        Err(_) => {
            output.put_u8(marker::LONG_STRING);
            output.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        }
    }
    output.put_slice(text.as_bytes());
}

fn encode_members(members: &[(String, Value)], output: &mut BytesMut) {
    for (name, value) in members {
        // a name longer than its length field can say cannot be written; we make none
        let Ok(length) = u16::try_from(name.len()) else {
            continue;
        };
        output.put_u16(length);
        output.put_slice(name.as_bytes());
        value.encode(output);
    }
    output.put_slice(&[0, 0, marker::OBJECT_END]);
}

struct Decoder<'a> {
    bytes: &'a [u8],
    values: usize,
}

impl<'a> Decoder<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        self.values = self.values.saturating_add(1);
        if self.values > MAX_VALUES {
            return Err(Error::TooMany);
        }
        if depth > MAX_DEPTH {
            return Err(Error::TooDeep);
        }
        let [marker] = self.array()?;
        match marker {
            marker::NUMBER => Ok(Value::Number(f64::from_be_bytes(self.array()?))),
            marker::BOOLEAN => self.array().map(|[byte]| Value::Boolean(byte != 0)),
            marker::STRING => self.short_string().map(Value::String),
            marker::OBJECT => self.members(depth).map(Value::Object),
            marker::NULL => Ok(Value::Null),
            marker::UNDEFINED => Ok(Value::Undefined),
            marker::ECMA_ARRAY => {
                // the count is a hint that encoders set to 0 or one too many; the end marker decides
                let _count: [u8; 4] = self.array()?;
                self.members(depth).map(Value::EcmaArray)
            }
            marker::STRICT_ARRAY => self.strict_array(depth),
            marker::DATE => {
                let milliseconds = f64::from_be_bytes(self.array()?);
                let _time_zone: [u8; 2] = self.array()?;
                Ok(Value::Number(milliseconds))
            }
            marker::LONG_STRING | marker::XML => {
                let length = u32::from_be_bytes(self.array()?);
                self.text(length as usize).map(Value::String)
            }
            marker::TYPED_OBJECT => {
                self.short_string()?;
                self.members(depth).map(Value::Object)
            }
            other => Err(Error::Marker(other)),
        }
    }

    fn members(&mut self, depth: usize) -> Result<Vec<(String, Value)>, Error> {
        let mut members = Vec::new();
        loop {
            if let [0, 0, marker::OBJECT_END, rest @ ..] = self.bytes {
                self.bytes = rest;
                return Ok(members);
            }
            let name = self.short_string()?;
            members.push((name, self.value(depth.saturating_add(1))?));
        }
    }

    fn strict_array(&mut self, depth: usize) -> Result<Value, Error> {
        let count = u32::from_be_bytes(self.array()?);
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(depth.saturating_add(1))?);
        }
        Ok(Value::StrictArray(values))
    }

    fn short_string(&mut self) -> Result<String, Error> {
        let length = u16::from_be_bytes(self.array()?);
        self.text(usize::from(length))
    }

    fn text(&mut self, length: usize) -> Result<String, Error> {
        let (text, rest) = self.bytes.split_at_checked(length).ok_or(Error::CutOff)?;
        self.bytes = rest;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (array, rest) = self.bytes.split_first_chunk::<N>().ok_or(Error::CutOff)?;
        self.bytes = rest;
        Ok(*array)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scuffle_amf0::Amf0Value;
    use scuffle_amf0::decoder::Amf0Decoder;

    use super::*;

    #[test]
    fn a_command_is_decoded() {
        let bytes =
            b"\x02\x00\x07connect\x00\x3f\xf0\0\0\0\0\0\0\x03\x00\x03app\x02\x00\x04live\x00\x00\x09\x05\x06\x01\x01";

        assert_eq!(
            decode(bytes),
            Ok(vec![
                Value::from("connect"),
                Value::from(1.0),
                object([("app", Value::from("live"))]),
                Value::Null,
                Value::Undefined,
                Value::Boolean(true),
            ])
        );
    }

    #[test]
    fn the_count_of_an_ecma_array_is_only_a_hint() {
        for count in [0_u8, 1, 9] {
            let bytes = [&[8, 0, 0, 0, count][..], b"\x00\x01a\x05\x00\x00\x09"].concat();
            assert_eq!(decode(&bytes), Ok(vec![Value::EcmaArray(vec![("a".to_owned(), Value::Null)])]));
        }
    }

    #[test]
    fn dates_xml_and_typed_objects_are_taken_as_what_they_resemble() {
        let bytes = b"\x0b\x40\0\0\0\0\0\0\0\x00\x00\x0f\0\0\0\x01x\x10\x00\x01T\x00\x00\x09\x0c\0\0\0\x01y";

        assert_eq!(
            decode(bytes),
            Ok(vec![Value::from(2.0), Value::from("x"), Value::Object(Vec::new()), Value::from("y")])
        );
    }

    #[test]
    fn a_long_string_keeps_its_length() {
        let text = Value::String("x".repeat(70_000));
        assert_eq!(decode(&encoded(&text)), Ok(vec![text]));
    }

    #[test]
    fn nesting_counts_and_lengths_are_limited() {
        assert_eq!(decode(&b"\x03\x00\x01a".repeat(100)), Err(Error::TooDeep));
        assert_eq!(decode(&[5; MAX_VALUES + 1]), Err(Error::TooMany));
        assert_eq!(decode(&[&[10, 0xFF, 0xFF, 0xFF, 0xFF][..], &[5; 5000]].concat()), Err(Error::TooMany));
        assert_eq!(decode(b"\x0c\xff\xff\xff\xffabc"), Err(Error::CutOff));
        assert_eq!(decode(b"\x11\x0a"), Err(Error::Marker(0x11)), "an AMF 3 value");
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(value in value(Value::EcmaArray)) {
            prop_assert_eq!(decode(&encoded(&value)), Ok(vec![value]));
        }

        #[test]
        fn another_decoder_reads_what_was_encoded(value in value(Value::Object)) {
            // without ECMA arrays: it takes their end marker for the next value
            let bytes = encoded(&value);
            if let Ok(theirs) = Amf0Decoder::from_slice(&bytes).decode_value() {
                prop_assert!(same(&value, &theirs), "{value:?} but {theirs:?}");
            } else {
                prop_assert!(false, "not decoded: {value:?}");
            }
        }

        #[test]
        fn any_bytes_are_values_or_an_error(bytes in prop::collection::vec(prop_oneof![0_u8..18, any::<u8>()], 0..200)) {
            if let Ok(values) = decode(&bytes) {
                prop_assert!(values.len() <= bytes.len());
            }
        }
    }

    /// Values of all kinds, with `array` for associative arrays.
    fn value(array: fn(Vec<(String, Value)>) -> Value) -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            (-1e9_f64..1e9).prop_map(Value::Number),
            any::<bool>().prop_map(Value::Boolean),
            ".{0,20}".prop_map(Value::String),
            Just(Value::Null),
        ];
        leaf.prop_recursive(4, 60, 6, move |inner| {
            let members = prop::collection::btree_map("[a-z]{1,9}", inner.clone(), 0..6)
                .prop_map(|members| members.into_iter().collect::<Vec<_>>());
            prop_oneof![
                members.clone().prop_map(Value::Object),
                members.prop_map(array),
                prop::collection::vec(inner, 0..6).prop_map(Value::StrictArray),
            ]
        })
    }

    fn encoded(value: &Value) -> BytesMut {
        let mut output = BytesMut::new();
        value.encode(&mut output);
        output
    }

    fn same(ours: &Value, theirs: &Amf0Value<'_>) -> bool {
        match (ours, theirs) {
            (Value::Number(ours), Amf0Value::Number(theirs)) => ours == theirs,
            (Value::Boolean(ours), Amf0Value::Boolean(theirs)) => ours == theirs,
            (Value::String(ours), Amf0Value::String(theirs)) => ours.as_str() == theirs.as_str(),
            (Value::Null | Value::Undefined, Amf0Value::Null) => true,
            (Value::Object(ours) | Value::EcmaArray(ours), Amf0Value::Object(theirs)) => {
                ours.len() == theirs.len()
                    && ours
                        .iter()
                        .all(|(name, ours)| theirs.get(&name.as_str().into()).is_some_and(|theirs| same(ours, theirs)))
            }
            (Value::StrictArray(ours), Amf0Value::Array(theirs)) => {
                ours.len() == theirs.len() && ours.iter().zip(theirs.iter()).all(|(ours, theirs)| same(ours, theirs))
            }
            (
                Value::Number(_)
                | Value::Boolean(_)
                | Value::String(_)
                | Value::Object(_)
                | Value::EcmaArray(_)
                | Value::StrictArray(_)
                | Value::Null
                | Value::Undefined,
                _,
            ) => false,
        }
    }
}

//! The boxes before all fragments: what the tracks are.

use std::fmt;

use bytes::Bytes;
use mp4_atom::{
    Dinf, Dref, DrefEntry, FourCC, Ftyp, Hdlr, Mdhd, Mdia, Minf, Moov, Mvex, Mvhd, Smhd, Stbl, Stco, Stsd, Tkhd, Trak,
    Trex, Url, Vmhd,
};

use crate::codec::{Codec, Config, Format};

/// The movie's own ticks a second: video's, so that a file's edit lists can say any of its times.
pub(crate) const MOVIE_TIMESCALE: u32 = 90_000;

/// What an output begins with: the tracks of all fragments until the next one.
pub struct Init {
    number: u32,
    tracks: Vec<Track>,
    ftyp: Bytes,
    moov: Moov,
    bytes: Bytes,
}

/// One track of the output.
#[derive(Clone, Debug)]
pub struct Track {
    /// From 1.
    pub(crate) id: u32,
    config: Config,
}

impl Init {
    pub(crate) fn new(number: u32, configs: &[Config]) -> Self {
        let tracks: Vec<_> = (1..).zip(configs).map(|(id, config)| Track { id, config: config.clone() }).collect();
        let moov = Moov {
            mvhd: Mvhd {
                creation_time: 0,
                modification_time: 0,
                timescale: MOVIE_TIMESCALE,
                duration: 0,
                rate: 1.into(),
                volume: 1.into(),
                matrix: mp4_atom::Matrix::default(),
                next_track_id: u32::try_from(tracks.len()).unwrap_or(u32::MAX).saturating_add(1),
            },
            meta: None,
            mvex: Some(Mvex { mehd: None, trex: tracks.iter().map(Track::trex).collect() }),
            trak: tracks.iter().map(Track::trak).collect(),
            udta: None,
            ainf: None,
        };
        let mut bytes = encode(&ftyp());
        let ftyp = bytes.len();
        bytes.extend(encode(&moov));
        let bytes = Bytes::from(bytes);
        Self { number, tracks, ftyp: bytes.slice(..ftyp), moov, bytes }
    }

    /// Counts the inits of one muxer, from 0.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Video before audio.
    #[must_use]
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// The initialization segment.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Value of a `CODECS` attribute (RFC 6381), as `avc1.640028,mp4a.40.2`.
    #[must_use]
    pub fn codecs(&self) -> String {
        self.tracks.iter().map(|track| track.config.rfc6381()).collect::<Vec<_>>().join(",")
    }

    /// Width and height of the pictures, in pixels.
    #[must_use]
    pub fn resolution(&self) -> Option<(u16, u16)> {
        self.tracks.iter().find_map(|track| match track.config.format() {
            Format::Video { width, height } => Some((width, height)),
            Format::Audio { .. } => None,
        })
    }

    pub(crate) fn ftyp(&self) -> &Bytes {
        &self.ftyp
    }

    pub(crate) fn moov(&self) -> &Moov {
        &self.moov
    }
}

impl fmt::Debug for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Init").field("number", &self.number).field("tracks", &self.tracks).finish_non_exhaustive()
    }
}

impl Track {
    /// The codec.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.config.codec()
    }

    /// The configuration of its decoder.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn trex(&self) -> Trex {
        Trex { track_id: self.id, default_sample_description_index: 1, ..Trex::default() }
    }

    fn trak(&self) -> Trak {
        let (handler, width, height, volume) = match self.config.format() {
            Format::Video { width, height } => (b"vide", width, height, 0),
            Format::Audio { .. } => (b"soun", 0, 0, 1),
        };
        let is_video = handler == b"vide";
        Trak {
            tkhd: Tkhd {
                track_id: self.id,
                enabled: true,
                in_movie: true,
                volume: volume.into(),
                width: width.into(),
                height: height.into(),
                ..Tkhd::default()
            },
            mdia: Mdia {
                mdhd: Mdhd { timescale: self.config.timescale(), language: "und".to_owned(), ..Mdhd::default() },
                hdlr: Hdlr { handler: FourCC::new(handler), name: String::new() },
                minf: Minf {
                    vmhd: is_video.then(Vmhd::default),
                    smhd: (!is_video).then(Smhd::default),
                    dinf: Dinf { dref: Dref { entries: vec![DrefEntry::Url(Url::default())] } },
                    stbl: Stbl {
                        stsd: Stsd { codecs: vec![self.config.entry()] },
                        stco: Some(Stco::default()),
                        ..Stbl::default()
                    },
                    ..Minf::default()
                },
            },
            ..Trak::default()
        }
    }
}

fn ftyp() -> Ftyp {
    Ftyp {
        major_brand: FourCC::new(b"iso6"),
        minor_version: 0,
        compatible_brands: [b"iso6", b"isom", b"mp41"].map(FourCC::new).to_vec(),
    }
}

/// Encodes boxes of ours.
pub(crate) fn encode(atom: &impl mp4_atom::Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    atom.encode(&mut bytes).expect("sample entries were encoded before, and nothing else can fail");
    bytes
}

//! Streams as encoders send them: FLV files of ffmpeg, and what Enhanced RTMP makes of other codecs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use media_core::{Kind, MediaTime, Packet, Role, Timescale, Track};
use mp4_atom::{Any, Codec, Header, Moof, Moov, ReadAtom as _, ReadFrom as _};
use tests::{flv, media::CLAPS};

use crate::tools;

/// Bars and a tone, five seconds of 25 frames a second.
pub(crate) const VIDEO: &str = "-f lavfi -i testsrc2=size=320x180:rate=25";
pub(crate) const TONE: &str = "-f lavfi -i sine=frequency=440:sample_rate=48000";
pub(crate) const H264: &str =
    "-pix_fmt yuv420p -c:v libx264 -preset ultrafast -bf 3 -b_strategy 0 -g 50 -sc_threshold 0";
pub(crate) const AAC: &str = "-c:a aac -b:a 64k";

/// A stream, and the file that it was made of.
pub(crate) struct Clip {
    pub(crate) source: PathBuf,
    pub(crate) packets: Vec<Packet>,
}

/// A clip of five seconds that ffmpeg writes as FLV.
pub(crate) fn flv(folder: &Path, arguments: &[&str]) -> Result<Clip> {
    long_flv(folder, 5, arguments)
}

/// A clip of so many seconds.
pub(crate) fn long_flv(folder: &Path, seconds: u32, arguments: &[&str]) -> Result<Clip> {
    let source = folder.join("source.flv");
    tools::ffmpeg(&[arguments, &[&format!("-t {seconds}")]].concat(), &source)?;
    Ok(Clip { packets: flv::packets(&source)?, source })
}

/// So many seconds of flashes and beeps.
pub(crate) fn claps(folder: &Path, seconds: u32) -> Result<Clip> {
    long_flv(folder, seconds, &[CLAPS[0], CLAPS[1], H264, AAC])
}

/// A clip in a codec of Enhanced RTMP: ffmpeg writes it as MP4 with a fragment a frame, which are sent as the tags that
/// the specification says.
pub(crate) fn enhanced(folder: &Path, arguments: &[&str]) -> Result<Clip> {
    let source = folder.join("source.mp4");
    let fragments = "-t 5 -movflags delay_moov+frag_every_frame+default_base_moof -video_track_timescale 1000";
    tools::ffmpeg(&[arguments, &[fragments]].concat(), &source)?;
    Ok(Clip { packets: tags(&fs::read(&source)?)?, source })
}

fn tags(file: &[u8]) -> Result<Vec<Packet>> {
    let (mut file, mut packets, mut tracks) = (file, Vec::new(), Vec::new());
    let mut frames = Vec::new();
    while let Some(header) = Option::<Header>::read_from(&mut file)? {
        match header.kind.as_ref() {
            b"moov" => {
                tracks = Moov::read_atom(&header, &mut file)?.trak.iter().map(Source::new).collect::<Result<_>>()?
            }
            b"moof" => frames = Moof::read_atom(&header, &mut file)?.traf,
            b"mdat" => {
                let mut body = mp4_atom::Mdat::read_atom(&header, &mut file)?.data.into_iter();
                for traf in &frames {
                    let source = tracks.iter().find(|track| track.id == traf.tfhd.track_id).context("a known track")?;
                    let trun = traf.trun.first().context("a run")?;
                    let mut time = traf.tfdt.as_ref().context("a time")?.base_media_decode_time;
                    for sample in &trun.samples {
                        let size = sample.size.or(traf.tfhd.default_sample_size).context("a size")?;
                        let data: Vec<u8> = body.by_ref().take(size as usize).collect();
                        let flags = sample.flags.or(traf.tfhd.default_sample_flags).unwrap_or(0);
                        packets.push(source.frame(time, sample.cts.unwrap_or(0), flags & 0x1_0000 == 0, &data));
                        time += u64::from(sample.duration.or(traf.tfhd.default_sample_duration).context("a duration")?);
                    }
                }
            }
            _ => drop(Any::read_atom(&header, &mut file)?),
        }
    }
    packets.sort_by_key(|packet: &Packet| packet.time.as_millis());
    let headers = tracks.iter().map(Source::header);
    Ok(headers.chain(packets).collect())
}

struct Source {
    id: u32,
    timescale: u64,
    /// What the file's edit list cuts off at its begin, in ticks.
    cut: u64,
    kind: Kind,
    four_cc: &'static [u8; 4],
    record: Vec<u8>,
}

impl Source {
    fn new(trak: &mp4_atom::Trak) -> Result<Self> {
        let (kind, four_cc, record) = match trak.mdia.minf.stbl.stsd.codecs.first().context("a codec")? {
            Codec::Hvc1(entry) => (Kind::Video, b"hvc1", body(&entry.hvcc)?),
            Codec::Hev1(entry) => (Kind::Video, b"hvc1", body(&entry.hvcc)?),
            Codec::Av01(entry) => (Kind::Video, b"av01", body(&entry.av1c)?),
            // without the version and the flags of the box
            Codec::Vp09(entry) => (Kind::Video, b"vp09", body(&entry.vpcc)?.split_off(4)),
            Codec::Opus(entry) => (Kind::Audio, b"Opus", opus_head(&entry.dops)),
            other => bail!("{other:?} was not expected"),
        };
        let timescale = trak.mdia.mdhd.timescale.into();
        let edits = trak.edts.iter().filter_map(|edits| edits.elst.as_ref()).flat_map(|list| &list.entries);
        let cut = edits.filter_map(|edit| edit.media_time).next().unwrap_or(0);
        Ok(Self { id: trak.tkhd.track_id, timescale, cut, kind, four_cc, record })
    }

    fn header(&self) -> Packet {
        self.packet(0, Role::Header, &[&[0x90], &self.four_cc[..], &self.record].concat())
    }

    fn frame(&self, time: u64, composition: i64, key: bool, data: &[u8]) -> Packet {
        let millis = |ticks: i64| ticks * 1_000 / i64::try_from(self.timescale).unwrap();
        let composition =
            if self.four_cc == b"hvc1" { millis(composition).to_be_bytes()[5..].to_vec() } else { vec![] };
        let first = match self.kind {
            Kind::Audio | Kind::Data => 0x91,
            Kind::Video if key => 0x91,
            Kind::Video => 0xA1,
        };
        let tag = [&[first], &self.four_cc[..], &composition, data].concat();
        // RTMP has no times below zero
        let time = self.timescale + time - self.cut;
        self.packet(millis(i64::try_from(time).unwrap()), Role::Dependent, &tag)
    }

    fn packet(&self, millis: i64, role: Role, tag: &[u8]) -> Packet {
        let payload = Bytes::copy_from_slice(tag);
        Packet::new(Track::first(self.kind), MediaTime::new(millis, Timescale::MILLIS), role, payload)
    }
}

fn body(atom: &impl mp4_atom::Encode) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    atom.encode(&mut bytes)?;
    Ok(bytes.split_off(8))
}

/// RFC 7845 §5.1.
fn opus_head(dops: &mp4_atom::Dops) -> Vec<u8> {
    [
        &b"OpusHead\x01"[..],
        &[dops.output_channel_count],
        &dops.pre_skip.to_le_bytes(),
        &dops.input_sample_rate.to_le_bytes(),
        &dops.output_gain.to_le_bytes(),
        &[0],
    ]
    .concat()
}
